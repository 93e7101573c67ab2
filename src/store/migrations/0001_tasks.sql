-- Tasks and what happens to them. Times are milliseconds since the Unix epoch; JSON columns hold domain values.
CREATE TABLE tasks (
  id TEXT PRIMARY KEY,
  key TEXT NOT NULL,                   -- natural key; `<original>~cancelled~<id>` once cancelled
  orig_key TEXT NOT NULL,
  generation INTEGER NOT NULL,
  repo TEXT NOT NULL,
  tracker_item TEXT,                   -- natural key of the tracker, tombstoned like `key`
  orig_tracker_item TEXT,
  branch TEXT NOT NULL,                -- tombstoned like `key`
  orig_branch TEXT NOT NULL,
  stage TEXT NOT NULL,
  status TEXT NOT NULL,
  state TEXT NOT NULL,
  body TEXT NOT NULL,
  version INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  has_turn INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  cancel_requested_at INTEGER,
  cancel_requested_by TEXT,
  cancel_requested_source TEXT,
  cancelled_at INTEGER,
  done_at INTEGER,
  UNIQUE (orig_key, generation)
) STRICT;
CREATE UNIQUE INDEX one_live_task_per_key ON tasks (key) WHERE done_at IS NULL AND cancelled_at IS NULL;
CREATE UNIQUE INDEX one_live_task_per_item ON tasks (tracker_item)
  WHERE tracker_item IS NOT NULL AND done_at IS NULL AND cancelled_at IS NULL;
CREATE INDEX tasks_of_repo ON tasks (repo, status);

-- Each transition id of a tracker starts at most one life; `task` is NULL for one that was ignored for good.
CREATE TABLE consumed_transitions (
  id TEXT PRIMARY KEY,
  task TEXT REFERENCES tasks (id),
  at INTEGER NOT NULL
) STRICT;

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;

CREATE TABLE journal (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  task TEXT REFERENCES tasks (id),
  key TEXT,
  generation INTEGER,
  repo TEXT,
  stage TEXT,
  kind TEXT NOT NULL,
  text TEXT NOT NULL,
  data TEXT
) STRICT;
CREATE INDEX journal_of_task ON journal (task, seq);

CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  task TEXT NOT NULL REFERENCES tasks (id),
  kind TEXT NOT NULL,
  payload TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  next_at INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  settled_at INTEGER,
  settled_as TEXT                      -- sent | superseded | abandoned
) STRICT;
CREATE INDEX outbox_open ON outbox (task, kind, id) WHERE settled_at IS NULL;

CREATE TABLE inbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  source TEXT NOT NULL,
  dedupe TEXT NOT NULL,                -- hash of the content: a retry has a new delivery id, not a new content
  body TEXT NOT NULL,
  received_at INTEGER NOT NULL,
  processed_at INTEGER,
  note TEXT,
  UNIQUE (source, dedupe)
) STRICT;
CREATE INDEX inbox_open ON inbox (id) WHERE processed_at IS NULL;

CREATE TABLE runs (
  id TEXT PRIMARY KEY,
  task TEXT NOT NULL REFERENCES tasks (id),
  stage TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  kind TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER,
  outcome TEXT,
  usage TEXT,
  log_dir TEXT
) STRICT;
CREATE INDEX runs_of_task ON runs (task, started_at);

CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  task TEXT REFERENCES tasks (id),
  run TEXT,
  kind TEXT NOT NULL,
  status TEXT NOT NULL,                -- prepared | running | ended | cancelled | lost
  epoch INTEGER NOT NULL,
  lane TEXT,                           -- set: `epoch` is the lease's of this repository, else the task's
  record TEXT NOT NULL,
  prepared_at INTEGER NOT NULL,
  going_at INTEGER,
  ended_at INTEGER,
  exit TEXT
) STRICT;
CREATE INDEX jobs_of_task ON jobs (task, prepared_at);
CREATE INDEX jobs_live ON jobs (status) WHERE status IN ('prepared', 'running');

CREATE TABLE receipt_lines (
  task TEXT NOT NULL REFERENCES tasks (id),
  step TEXT NOT NULL,
  at INTEGER NOT NULL,
  line TEXT NOT NULL,
  PRIMARY KEY (task, step)
) STRICT;
