//! From events and scans to settled saves. Names, sizes and times are looked at and no content, but
//! for the few bytes of the text files that name a run's last save.
//!
//! A scan ([`scan`]) is the truth, an event ([`Watcher`]) only a reason to scan sooner: inotify loses
//! files written right after `mkdir`, its queue overflows, and network file systems send nothing.
//! [`Settler`] decides when a save is complete. It is pure: the time is an argument.
//!
//! One root is watched by one loop, in this order, so that a hint is never newer than the scan. A
//! loop that wakes more often has to keep the hints until the next [`Settler::observe`].
//!
//! ```no_run
//! # use std::{path::Path, time::{Duration, Instant}};
//! # use weightvane::watch::{ScanLimits, SettleRules, Settler, Watcher, scan};
//! let root = Path::new("runs");
//! let start = Instant::now();
//! let mut watcher = Watcher::new(root, &ScanLimits::default());
//! let mut settler = Settler::new(SettleRules::default());
//! let mut hints = Vec::new();
//! loop {
//!     let outcome = scan(root, &ScanLimits::default());
//!     settler.observe(start.elapsed(), &outcome, &hints);
//!     for save in settler.take_settled(start.elapsed()) {
//!         // analyse `save`; when it reads as incomplete or changed: `settler.give_back(..)`
//!     }
//!     let scan_interval = start.elapsed() + Duration::from_secs(60);
//!     let until = settler.next_deadline().map_or(scan_interval, |at| at.min(scan_interval));
//!     hints = watcher.wait(until.saturating_sub(start.elapsed()));
//! }
//! ```

mod events;
mod ground;
mod hint;
mod inbox;
mod names;
mod save;
mod scan;
mod settle;
mod settled;
mod shard;

pub use events::{WatchMode, Watcher, network_file_system};
pub use hint::FileEvent;
pub use names::{FileKind, run_name};
pub use save::{FileStamp, FoundSave, Pointer};
pub use scan::{EndMark, ScanError, ScanLimits, ScanOutcome, scan};
pub use settle::{GiveBack, PendingSave, PendingState, SettleCounters, SettleRules, Settler};
pub use settled::SettledSave;
pub use shard::{MAX_SHARDS, Shard, holder};
