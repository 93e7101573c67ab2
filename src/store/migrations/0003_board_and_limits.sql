-- The built-in board, spending per day, and the memory of the restart policy.
CREATE TABLE board_items (
  id TEXT PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  title TEXT NOT NULL,
  body TEXT NOT NULL,
  repo TEXT NOT NULL,
  state TEXT NOT NULL,
  priority INTEGER NOT NULL,
  extra TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE board_transitions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  item TEXT NOT NULL REFERENCES board_items (id),
  from_state TEXT,
  to_state TEXT NOT NULL,
  by TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;

CREATE TABLE board_comments (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  item TEXT NOT NULL REFERENCES board_items (id),
  key TEXT NOT NULL,
  text TEXT NOT NULL,
  at INTEGER NOT NULL,
  UNIQUE (item, key)
) STRICT;

CREATE TABLE limits (
  run TEXT NOT NULL PRIMARY KEY,
  scope TEXT NOT NULL,
  day INTEGER NOT NULL,                -- days since the Unix epoch, UTC
  tokens INTEGER NOT NULL,
  cost_micro_usd INTEGER NOT NULL,
  settled INTEGER NOT NULL             -- 0: reserved, 1: as reported
) STRICT;
CREATE INDEX limits_of_day ON limits (scope, day);

CREATE TABLE restarts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX restarts_of ON restarts (name, at);
