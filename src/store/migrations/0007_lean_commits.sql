-- A commit rewrites one small row and appends to the ends of tables. What a life is given once moves to rows of its own,
-- pins being shared by all tasks of one setting; the journal of a task is a chain from its last entry backwards; effects
-- are found by their order. So no index has a place of its own for every task, which each commit would write anew.

CREATE TABLE pins (
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  policy TEXT NOT NULL,
  UNIQUE (pipeline, policy)
) STRICT;

CREATE TABLE briefs (
  task TEXT PRIMARY KEY REFERENCES tasks (id),
  title TEXT NOT NULL,
  body TEXT NOT NULL,
  pins INTEGER NOT NULL REFERENCES pins (id)
) STRICT;

-- Rows that are no JSON of a task stay as they are, without a brief: each is shown as unreadable, alone.
CREATE TABLE movable AS SELECT id FROM tasks
  WHERE CASE WHEN json_valid(body) THEN json_type(body, '$.title') = 'text' AND json_type(body, '$.body') = 'text'
    AND json_type(body, '$.pipeline') = 'object' AND json_type(body, '$.policy') = 'object' ELSE 0 END;
INSERT INTO pins (pipeline, policy)
  SELECT DISTINCT t.body -> '$.pipeline', t.body -> '$.policy' FROM movable m JOIN tasks t ON t.id = m.id;
INSERT INTO briefs (task, title, body, pins)
  SELECT t.id, t.body ->> '$.title', t.body ->> '$.body', p.id FROM movable m JOIN tasks t ON t.id = m.id
    JOIN pins p ON p.pipeline = t.body -> '$.pipeline' AND p.policy = t.body -> '$.policy';
UPDATE tasks SET body = json_remove(body, '$.title', '$.body', '$.pipeline', '$.policy')
  WHERE id IN (SELECT id FROM movable);
DROP TABLE movable;

ALTER TABLE tasks DROP COLUMN state;         -- the body has it
ALTER TABLE tasks ADD COLUMN journal_last INTEGER;
UPDATE tasks SET journal_last = (SELECT max(seq) FROM journal WHERE task = tasks.id);
DROP INDEX tasks_of_repo;
CREATE INDEX tasks_of_repo ON tasks (repo);

CREATE TABLE journal_chained (
  seq INTEGER PRIMARY KEY,             -- given by the writer, which only counts up; pruning keeps the newest
  at INTEGER NOT NULL,
  task TEXT REFERENCES tasks (id),
  prev INTEGER,                        -- the same task's entry before this one
  key TEXT,
  generation INTEGER,
  repo TEXT,
  stage TEXT,
  kind TEXT NOT NULL,
  text TEXT NOT NULL,
  data TEXT
) STRICT;
INSERT INTO journal_chained (seq, at, task, prev, key, generation, repo, stage, kind, text, data)
  SELECT seq, at, task, CASE WHEN task IS NOT NULL THEN lag(seq) OVER (PARTITION BY task ORDER BY seq) END,
    key, generation, repo, stage, kind, text, data FROM journal;
DROP TABLE journal;
ALTER TABLE journal_chained RENAME TO journal;

CREATE TABLE outbox_by_order (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL,                   -- unique: made of task, version and number, and a version is committed once
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
INSERT INTO outbox_by_order (id, key, task, kind, payload, created_at, attempts, next_at, last_error, settled_at, settled_as)
  SELECT id, key, task, kind, payload, created_at, attempts, next_at, last_error, settled_at, settled_as FROM outbox;
DROP TABLE outbox;
ALTER TABLE outbox_by_order RENAME TO outbox;
CREATE INDEX outbox_open ON outbox (id, task, kind) WHERE settled_at IS NULL;
