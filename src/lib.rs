//! weightvane watches the checkpoints of a training job and measures, from the weights alone, how
//! the layers of the network line up.
//!
//! # The house
//! A room names only rooms on lower floors; `tests/it/tidy.rs` holds it so.
//!
//! | floor | room | what it is |
//! |---|---|---|
//! | 7 | [`daemon`] | scan loop, run table, CPU worker, HTTP (the only async code), demo |
//! | 6 | [`config`] | YAML to checked `Settings` and architecture rules (the only reading of user input) |
//! | 5 | [`metrics`] | `CATALOG` of families, exposition (text 0.0.4, OpenMetrics, gzip) |
//! | 4 | [`history`] | the saves of a run together: which of them are unusual (pure), and all of them in SQLite |
//! | 3 | [`diagnostics`] | a checkpoint and its layer graph to a `Report` |
//! | 2 | [`model`] | names, shapes and rules to a `LayerGraph` |
//! | 1 | [`checkpoint`] | bytes to named tensors, by positioned reads |
//! | 1 | [`watch`] | events and scans to settled saves; no parsing |
//! | 0 | [`linalg`] | what is measured of matrices; pure |
//! | 0 | [`remote`] | objects of S3 and its kin: lists, versions, ranges |
//! | 0 | [`disk`] | file systems of others: looked at without a trace, never trusted to answer |
//! | 0 | [`sandbox`] | what the process may still do once it has started, held by the kernel |
//!
//! # The data's way
//! event → `Settler` → `SettledSave` → `Manifest` → `LayerGraph` → worker: tensor → f32 matrix →
//! `Measurement` → `Report` → `Exposition` → `GET /metrics`.
//!
//! # Invariants
//! 1. `linalg`, `model` and `watch::settle` do no I/O and read no clock. Same weights and settings
//!    give the same numbers.
//! 2. A scrape computes nothing and touches no disk.
//! 3. Reading a checkpoint executes nothing, never panics on any bytes, needs bounded memory, and
//!    maps no foreign file.
//! 4. We never write, lock or hold files in a training directory. Default: one worker thread at
//!    the lowest CPU and I/O priority.
//! 5. Incomplete is not corrupt; vanished is normal; unreadable is not corrupt.
//! 6. Every queue, loop and size is bounded.
//! 7. A number comes with its chance level or its error where it has one.

pub mod checkpoint;
pub mod config;
pub mod daemon;
pub mod diagnostics;
pub mod disk;
pub mod history;
pub mod linalg;
pub mod metrics;
pub mod model;
pub mod remote;
pub mod sandbox;
pub mod watch;
