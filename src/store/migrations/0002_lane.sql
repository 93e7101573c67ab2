-- One repository's way to main: who owns it, what is under way, what has been judged, what has landed.
CREATE TABLE leases (
  repo TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL,              -- fencing token; rises with each acquire and reclaim, never falls
  holder TEXT,                         -- NULL: free
  holder_task TEXT,
  since INTEGER,
  expires_at INTEGER
) STRICT;

CREATE TABLE windows (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,                  -- land | deploy | rollback
  repo TEXT NOT NULL,
  task TEXT NOT NULL REFERENCES tasks (id),
  sha TEXT NOT NULL,
  expected TEXT,
  lease_epoch INTEGER NOT NULL,
  job TEXT,
  opened_at INTEGER NOT NULL,
  closed_at INTEGER,
  outcome TEXT
) STRICT;
CREATE UNIQUE INDEX one_open_window ON windows (repo, kind, task) WHERE closed_at IS NULL;
CREATE INDEX windows_of_task ON windows (task, opened_at);

CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  gate TEXT NOT NULL,
  repo TEXT NOT NULL,
  base TEXT NOT NULL,
  head TEXT NOT NULL,
  tree TEXT NOT NULL,
  settings_hash TEXT NOT NULL,
  env_hash TEXT NOT NULL,
  outcome TEXT NOT NULL,               -- passed | failed | could_not_run
  report_path TEXT,
  report_sha256 TEXT,
  findings TEXT,
  task TEXT REFERENCES tasks (id),
  at INTEGER NOT NULL,
  expires_at INTEGER
) STRICT;
CREATE INDEX verdicts_by_evidence ON verdicts (gate, repo, head, base, tree, settings_hash, env_hash);
CREATE INDEX verdicts_of_task ON verdicts (task, id);

CREATE TABLE landings (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repo TEXT NOT NULL,
  task TEXT NOT NULL UNIQUE REFERENCES tasks (id),  -- one life lands at most once
  key TEXT NOT NULL,
  generation INTEGER NOT NULL,
  sha TEXT NOT NULL,
  tree TEXT NOT NULL,
  base TEXT NOT NULL,
  proof TEXT NOT NULL,
  at INTEGER NOT NULL,
  chain TEXT NOT NULL                  -- SHA-256 over the previous line's chain value and this line
) STRICT;
CREATE INDEX landings_of_repo ON landings (repo, id);

CREATE TABLE coverage_baseline (
  repo TEXT PRIMARY KEY,
  revision INTEGER NOT NULL,
  covered INTEGER NOT NULL,
  total INTEGER NOT NULL,
  sha TEXT NOT NULL,
  set_by TEXT NOT NULL,
  reason TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;

CREATE TABLE repo_modes (
  repo TEXT PRIMARY KEY,
  mode TEXT NOT NULL,                  -- running | draining | paused
  who TEXT NOT NULL,
  why TEXT NOT NULL,
  since INTEGER NOT NULL
) STRICT;
