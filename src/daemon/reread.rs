//! The past of the runs, layer by layer, read from the store after the start and beside the work: a start
//! does not wait for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use tracing::{debug, warn};

use super::trail::{Past, past};
use super::{Event, error_text, guard, priority};
use crate::history::{Archive, StoreError};

/// What was read of one run.
#[derive(Debug)]
pub(super) struct Reread {
    pub(super) run: String,
    pub(super) past: Past,
}

/// Reads the past of runs, given by their names and recorded paths.
pub(super) type Reader = Box<dyn FnOnce(Vec<(String, String)>) + Send>;

/// Reads from the store in `dir`, on a thread of its own. A past that cannot be read is one without
/// layers.
pub(super) fn reader(dir: &Path, events: SyncSender<Event>, stop: Arc<AtomicBool>) -> Reader {
    let dir: PathBuf = dir.to_owned();
    Box::new(move |runs| {
        let read = move || {
            priority::lowest();
            match guard::caught(|| read(&dir, runs, &events, &stop)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    debug!(error = error_text(&error), "the past is shown without layers");
                }
                Err(panic) => warn!(panic, "internal error, the past is shown without layers"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("reread".into()).spawn(read) {
            warn!(%error, "the past is shown without layers");
        }
    })
}

fn read(
    dir: &Path,
    runs: Vec<(String, String)>,
    events: &SyncSender<Event>,
    stop: &AtomicBool,
) -> Result<(), StoreError> {
    let archive = Archive::open(dir)?;
    let is_stopped = || stop.load(Ordering::Relaxed);
    for (run, path) in runs {
        let past = past(archive.profiles(&path, &is_stopped)?);
        let reread = Box::new(Reread { run, past });
        if is_stopped() || events.send(Event::Reread(reread)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
