-- Under which key the lines of what landed are kept: a fall is named by them, and a person may set the baseline to them.
ALTER TABLE coverage_history ADD COLUMN measurement TEXT;
