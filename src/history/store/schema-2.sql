-- Version 2: what the trainer logged as `eval_NAME`, by NAME, at each save; its first loss; the size of
-- what biases add to a law's gap.
-- Summaries also hold `ln_commutator` by pair, `ln_update` and `ln_norm` of the whole.

CREATE TABLE evaluations (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (save, metric)
) WITHOUT ROWID;

ALTER TABLE saves ADD COLUMN first_loss REAL;

ALTER TABLE pairs ADD COLUMN law_bias REAL;
