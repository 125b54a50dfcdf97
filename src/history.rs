//! What a run's saves say together: which of them are unusual.
//!
//! A save becomes a [`Point`]; [`judge`] looks at the last points of a run and says what begins and
//! what ends with the newest. It reads no clock and no file: the same points give the same anomalies.
//! A [`Store`] keeps measurements and anomalies in SQLite.

mod chronicle;
mod judge;
mod kind;
mod point;
mod profile;
mod reference;
mod stall;
mod store;
mod summary;
mod track;

pub use chronicle::{Chronicle, News};
pub use judge::{HORIZON, Judged, MAX_OPEN, judge};
pub use kind::{Anomaly, Jump, Kind, Rules, Severity, Subject};
pub use point::{MatrixPoint, Optimizer, PairPoint, Place, Point, conserved_ln_gaps};
pub use profile::{HeadProfile, PairProfile, Profile};
pub use reference::{Compared, deviation};
pub use store::{
    Archive, ArchivedRun, FILE, Opened, Record, SaveKey, SaveOutcome, Store, StoreError, StoredAge,
    StoredProfile, StoredRun, StoredSave, TableLine, export, tables,
};
pub use summary::Summary;
