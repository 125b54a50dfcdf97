-- Version 3: which expert of its layer, and which stack of a model with several (`encoder`, `vision`).

ALTER TABLE matrices ADD COLUMN stack TEXT;
ALTER TABLE matrices ADD COLUMN expert INTEGER;
ALTER TABLE pairs ADD COLUMN stack TEXT;
ALTER TABLE pairs ADD COLUMN expert INTEGER;
