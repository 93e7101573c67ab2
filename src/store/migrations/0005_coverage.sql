-- By what the baseline was measured, and every measurement that landed and every mark that was set, for good.
ALTER TABLE coverage_baseline ADD COLUMN step TEXT NOT NULL DEFAULT 'set';
ALTER TABLE coverage_baseline ADD COLUMN measured_by TEXT;    -- NULL: compared with any measurement
ALTER TABLE coverage_baseline ADD COLUMN measurement TEXT;    -- under which key its lines are kept
ALTER TABLE coverage_baseline ADD COLUMN excluded INTEGER;
ALTER TABLE coverage_baseline ADD COLUMN format TEXT;
ALTER TABLE coverage_baseline ADD COLUMN tool TEXT;
ALTER TABLE coverage_baseline ADD COLUMN configuration TEXT;

CREATE TABLE coverage_history (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repo TEXT NOT NULL,
  at INTEGER NOT NULL,
  step TEXT NOT NULL,                -- first | raised | kept | removal | measured-again | set
  covered INTEGER NOT NULL,          -- what was measured, or set
  total INTEGER NOT NULL,
  excluded INTEGER,
  sha TEXT NOT NULL,
  task TEXT,                         -- NULL: set by a person
  set_by TEXT NOT NULL,
  reason TEXT NOT NULL,
  format TEXT,
  tool TEXT,
  configuration TEXT,
  revision INTEGER,                  -- the baseline as it was afterwards; NULL: there was none
  baseline_covered INTEGER,
  baseline_total INTEGER
) STRICT;
CREATE INDEX coverage_history_of_repo ON coverage_history (repo, id);
CREATE UNIQUE INDEX one_landing_one_measurement ON coverage_history (task) WHERE task IS NOT NULL;
CREATE TRIGGER coverage_history_is_not_changed BEFORE UPDATE ON coverage_history
  BEGIN SELECT RAISE(ABORT, 'coverage_history is append-only'); END;
CREATE TRIGGER coverage_history_is_not_removed BEFORE DELETE ON coverage_history
  BEGIN SELECT RAISE(ABORT, 'coverage_history is append-only'); END;

INSERT INTO coverage_history (repo, at, step, covered, total, sha, set_by, reason, revision, baseline_covered, baseline_total)
  SELECT repo, at, step, covered, total, sha, set_by, reason, revision, covered, total FROM coverage_baseline;
