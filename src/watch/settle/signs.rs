//! What says that a save is complete, and what says that it is not.

use super::entry::{Entry, Heard, RunState, is_numbered_directory};
use crate::watch::names::{self, FileKind};
use crate::watch::save::{FileStamp, FoundSave, Pointer};

/// Whether the files say of themselves that the save is not, or no longer, one; no wait changes that.
pub(super) fn is_barred(entry: &Entry) -> bool {
    entry.deleting || entry.found.lacks_required()
}

/// Whether there is a sign that all of it is written; see [`Settler`](super::Settler).
pub(super) fn has_sign<'a>(
    entry: &Entry,
    run: Option<&RunState>,
    mut pointers: impl Iterator<Item = &'a Pointer>,
    whole_files: bool,
) -> bool {
    let found = &entry.found;
    let newest = found.newest_weights_ns().filter(|_| !entry.shrunk && found.looks_complete());
    let Some(newest) = newest else { return false };
    let not_older = |kind| found.file(kind).is_some_and(|file| file.mtime_ns >= newest);
    let is_linked = || found.weights().all(|file| file.nlink > 1);
    if entry.heard == Heard::Finished || not_older(FileKind::TrainerState) || is_linked() {
        return true;
    }
    if pointers.any(|pointer| pointer.covers(found, newest)) {
        return true;
    }
    if found.step.zip(run).is_some_and(|(step, run)| run.is_superseded(step, newest)) {
        return true;
    }
    let name = found.path.file_name().map(names::escape).unwrap_or_default();
    let expects_trainer = names::is_trainer_directory(&name)
        || (is_numbered_directory(found) && run.is_some_and(|run| run.has_trainer_state));
    // Uploads run side by side: a small record may be there before the weights, and as whole.
    let has_record = whole_files && entry.handed.is_none() && found.has_trainer_state();
    let is_closed = entry.heard == Heard::Closed || (whole_files && entry.is_whole());
    (!expects_trainer || has_record) && (is_closed || is_marked(found, &name, newest))
}

/// Whether what the saver writes last of this directory is there and not older than the weights.
fn is_marked(found: &FoundSave, name: &str, newest_ns: i64) -> bool {
    let stands = |file: &&FileStamp| file.mtime_ns >= newest_ns;
    let has_more_to_come = names::has_late_marker(name)
        || found.files.iter().any(|file| file.name.starts_with("model_and_optim/"));
    found.files.iter().filter(stands).any(|file| match file.kind {
        FileKind::Marker => !file.name.contains('/'),
        // That of a rank does not say how many ranks there are.
        FileKind::Metadata => !has_more_to_come && names::rank_of(&file.name).is_none(),
        // A stale one lies in a directory that is written over; Orbax has one for every process.
        FileKind::Index => !found.in_place && file.name.ends_with(".index.json"),
        FileKind::Weights | FileKind::Config | FileKind::TrainerState => false,
    })
}
