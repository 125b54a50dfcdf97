-- History of weightvane, version 1. Steps, counts and sizes are integers, times are seconds since 1970,
-- names of columns are those of `weightvane analyze --format json`. What is not known is NULL.

-- One directory of saves.
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    architecture TEXT,
    -- Place of the last save that was judged.
    judged_segment INTEGER,
    judged_step INTEGER
);

-- One save that was measured, or that cannot be.
CREATE TABLE saves (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    modified_ns INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    saved_at REAL,
    analyzed_at REAL NOT NULL,
    analysis_seconds REAL NOT NULL,
    -- Times that training went back to an earlier step before this save.
    segment INTEGER NOT NULL,
    -- Step, or the number of the save where it has none.
    place INTEGER NOT NULL,
    -- The same parts as the daemon orders saves by: name's step, order of first sight.
    age_segment INTEGER NOT NULL,
    age_step INTEGER,
    sequence INTEGER NOT NULL,
    step INTEGER,
    -- `analyzed`, or why not: `malformed`, `limit`, `internal`.
    state TEXT NOT NULL,
    error TEXT,
    -- Whether the rows of matrices, pairs and heads are still kept.
    has_details INTEGER NOT NULL,
    checkpoint TEXT,
    format TEXT,
    architecture TEXT,
    parameters INTEGER,
    nan INTEGER,
    inf INTEGER,
    -- From the trainer's own record, or declared in the configuration.
    train_loss REAL,
    learning_rate REAL,
    grad_norm REAL,
    optimizer TEXT,
    weight_decay REAL,
    momentum REAL,
    global_step INTEGER,
    max_steps INTEGER,
    UNIQUE (run, path, modified_ns, size_bytes)
);
CREATE INDEX saves_by_place ON saves (run, segment, place);

CREATE TABLE matrices (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    layer INTEGER,
    role TEXT NOT NULL,
    rows INTEGER NOT NULL,
    cols INTEGER NOT NULL,
    dtype TEXT NOT NULL,
    spectrum TEXT,
    numerical_rank INTEGER,
    nan INTEGER NOT NULL,
    inf INTEGER NOT NULL,
    frobenius_norm REAL,
    spectral_norm REAL,
    stable_rank REAL,
    effective_rank REAL,
    spectral_entropy REAL,
    update_ratio REAL,
    update_ratio_stderr REAL,
    PRIMARY KEY (save, position)
) WITHOUT ROWID;

-- How far the leading k-dimensional output subspace turned since the save before.
CREATE TABLE rotations (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    matrix INTEGER NOT NULL,
    k INTEGER NOT NULL,
    ratio REAL,
    PRIMARY KEY (save, matrix, k)
) WITHOUT ROWID;

CREATE TABLE pairs (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    pair TEXT NOT NULL,
    kind TEXT NOT NULL,
    layer INTEGER,
    head INTEGER,
    head_group INTEGER,
    writer TEXT NOT NULL,
    reader TEXT NOT NULL,
    dim INTEGER NOT NULL,
    law TEXT NOT NULL,
    norm_between INTEGER NOT NULL,
    gram_correlation REAL,
    gram_cosine REAL,
    commutator REAL,
    commutator_vs_chance REAL,
    composition REAL,
    gap REAL,
    gap_ratio REAL,
    gap_diagonal_ratio REAL,
    gap_shape REAL,
    flag_correlation REAL,
    law_gap REAL,
    law_bias REAL,
    gram_correlation_stderr REAL,
    gram_cosine_stderr REAL,
    commutator_stderr REAL,
    commutator_vs_chance_stderr REAL,
    composition_stderr REAL,
    gap_ratio_stderr REAL,
    PRIMARY KEY (save, position)
) WITHOUT ROWID;

CREATE TABLE overlaps (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    pair INTEGER NOT NULL,
    k INTEGER NOT NULL,
    ratio REAL NOT NULL,
    chance REAL NOT NULL,
    excess REAL NOT NULL,
    z REAL NOT NULL,
    angle_min REAL NOT NULL,
    angle_mean REAL NOT NULL,
    angle_max REAL NOT NULL,
    basis REAL,
    cut_ok INTEGER NOT NULL,
    PRIMARY KEY (save, pair, k)
) WITHOUT ROWID;

CREATE TABLE heads (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer INTEGER NOT NULL,
    projection TEXT NOT NULL,
    heads INTEGER NOT NULL,
    overlap_mean REAL,
    overlap_max REAL,
    overlap_chance REAL,
    overlap_excess REAL,
    effective_heads REAL,
    overlap_stderr REAL,
    PRIMARY KEY (save, position)
) WITHOUT ROWID;

CREATE TABLE classifiers (
    save INTEGER PRIMARY KEY REFERENCES saves (id) ON DELETE CASCADE,
    classes INTEGER NOT NULL,
    simplex_deviation REAL,
    simplex_deviation_vs_chance REAL,
    equinorm REAL,
    equiangle REAL
);

-- What was not measured; of the newest save of a run alone.
CREATE TABLE skipped (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (save, position)
) WITHOUT ROWID;

-- Of each save, kept as long as the save: `alignment_mean` by pair, `ln_gap` by layer and pair.
CREATE TABLE summaries (
    save INTEGER NOT NULL REFERENCES saves (id) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    layer INTEGER,
    pair TEXT NOT NULL,
    value REAL NOT NULL
);
CREATE INDEX summaries_by_save ON summaries (save);

CREATE TABLE anomalies (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    layer INTEGER,
    pair TEXT,
    head INTEGER,
    name TEXT NOT NULL,
    segment INTEGER NOT NULL,
    onset_step INTEGER NOT NULL,
    before REAL,
    after REAL,
    z REAL,
    last_good_step INTEGER,
    resolved_step INTEGER
);
CREATE INDEX anomalies_by_run ON anomalies (run, resolved_step);

-- Counters go on after a restart; without a run they are the daemon's.
CREATE TABLE counters (
    run INTEGER NOT NULL DEFAULT 0,
    name TEXT NOT NULL,
    label TEXT NOT NULL DEFAULT '',
    value REAL NOT NULL,
    PRIMARY KEY (run, name, label)
) WITHOUT ROWID;
