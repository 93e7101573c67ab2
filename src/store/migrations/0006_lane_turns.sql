-- Tries to land: what the lane's order and its figures are counted from. The newest of each repository are kept.
CREATE TABLE lane_turns (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repo TEXT NOT NULL,
  task TEXT NOT NULL REFERENCES tasks (id),
  key TEXT NOT NULL,
  ready_at INTEGER NOT NULL,           -- since when it was ready, over turns that kept its place
  queued_at INTEGER NOT NULL,
  began_at INTEGER NOT NULL,
  ended_at INTEGER NOT NULL,
  end TEXT NOT NULL,                   -- landed | sent-back | deferred | could-not-run | needs-person | awaits-person | stopped | left
  facts TEXT NOT NULL
) STRICT;
CREATE INDEX lane_turns_of_repo ON lane_turns (repo, id);
