-- Version 5: checksums of what was written. Of a run, a counter and an anomaly each of its own row; of a
-- save `digest` of its row, summaries and evaluations, `details_digest` of all its other rows but
-- `skipped`. NULL: not known. Whoever adds a column to these tables sets them to NULL.

ALTER TABLE runs ADD COLUMN digest INTEGER;
ALTER TABLE counters ADD COLUMN digest INTEGER;
ALTER TABLE anomalies ADD COLUMN digest INTEGER;
ALTER TABLE saves ADD COLUMN digest INTEGER;
ALTER TABLE saves ADD COLUMN details_digest INTEGER;
