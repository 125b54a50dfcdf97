-- Version 4: how large what an adapter adds is beside the base model's weight.

ALTER TABLE matrices ADD COLUMN base_ratio REAL;
