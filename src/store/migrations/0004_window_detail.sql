-- What the one who opened a window has to know again after a crash: the proof to record, the deploy it takes back.
ALTER TABLE windows ADD COLUMN detail TEXT;
