//! What there is to tell of: on disk, and in the history.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::order::{Past, past};
use super::{BackfillError, BackfillRequest, FailedSave, FailureKind};
use crate::daemon::error_text;
use crate::daemon::names::Names;
use crate::daemon::path_text;
use crate::daemon::runs::{absolute, stored_in};
use crate::history::{Archive, ArchivedRun, StoreError};
use crate::watch::{
    PendingState, ScanLimits, ScanOutcome, SettleRules, SettledSave, Settler, scan,
};

/// A run and its past.
#[derive(Debug)]
pub(super) struct PastRun {
    /// As the daemon calls it.
    pub(super) name: String,
    /// Name below the root.
    pub(super) below: String,
    pub(super) path: PathBuf,
    pub(super) past: Past,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) runs: Vec<PastRun>,
    pub(super) failed: Vec<FailedSave>,
    pub(super) is_truncated: bool,
}

/// Runs and saves below the root, found and named as the daemon does, and those of the history.
pub(super) fn find(
    request: &BackfillRequest,
    archive: Option<&Archive>,
) -> Result<Found, BackfillError> {
    let BackfillRequest { root, settings, until_ms, shard, .. } = request;
    let limits =
        ScanLimits { max_depth: settings.max_depth, shard: *shard, ..ScanLimits::default() };
    let mut outcome = scan(root, &limits);
    if let Some(at) = outcome.errors.iter().position(|error| error.path() == root) {
        return Err(outcome.errors.swap_remove(at).into());
    }
    let (on_disk, failed) = settled(&outcome);
    let mut archived = archived_runs(archive, root)?;
    let mut names = Names::default();
    let mut taken = BTreeSet::new();
    let mut runs = Vec::new();
    for ((below, path), saves) in on_disk {
        let known = archived.remove(&absolute(&path));
        let name = known.as_ref().map(|run| run.name.clone());
        let name = name.filter(|name| !taken.contains(name));
        let name = name.unwrap_or_else(|| names.of(0, root, &below, &path));
        taken.insert(name.clone());
        let stored = stored_saves(archive, known.as_ref())?;
        runs.push(PastRun { name, below, path, past: past(saves, stored, *until_ms) });
    }
    // Runs of which nothing is left on disk.
    let top = path_text::decode(&absolute(root));
    for (path, run) in archived {
        let stored = stored_saves(archive, Some(&run))?;
        let place = path_text::decode(&path);
        let is_ours = shard.has(&top, stored_in(&path, &stored, &place));
        if is_ours && place.starts_with(&top) && taken.insert(run.name.clone()) {
            let past = past(Vec::new(), stored, *until_ms);
            runs.push(PastRun { name: run.name, below: String::new(), path: place, past });
        }
    }
    Ok(Found { runs, failed, is_truncated: outcome.truncated })
}

/// Name below the root and path of a run.
type Which = (String, PathBuf);

/// The saves on disk, each content once, by run; and what cannot be one. Nothing is waited for: what
/// is not whole shows when it is read.
fn settled(outcome: &ScanOutcome) -> (BTreeMap<Which, Vec<SettledSave>>, Vec<FailedSave>) {
    let none = Duration::ZERO;
    let rules =
        SettleRules { quiet: none, settle: none, max_pending: usize::MAX, ..SettleRules::local() };
    let mut settler = Settler::new(rules);
    settler.observe(none, outcome, &[]);
    let mut runs: BTreeMap<Which, Vec<SettledSave>> = BTreeMap::new();
    for save in settler.take_settled(none) {
        runs.entry((save.run.clone(), save.run_path.clone())).or_default().push(save);
    }
    let unseen = outcome.errors.iter().map(|error| FailedSave {
        path: error.path().to_owned(),
        kind: FailureKind::Unreadable,
        why: error_text(error),
    });
    let empty = settler.pending().into_iter().map(|save| FailedSave {
        why: match save.state {
            PendingState::NoWeights => format!(
                "{}: no weight file, expected one of a format that is read",
                save.path.display()
            ),
            PendingState::Writing | PendingState::Returned(_) => format!(
                "{}: no mark of a complete save, expected what its framework writes last",
                save.path.display()
            ),
        },
        path: save.path,
        kind: FailureKind::Incomplete,
    });
    let failed = unseen.chain(empty).collect();
    (runs, failed)
}

/// The runs of the history below a root, by path.
fn archived_runs(
    archive: Option<&Archive>,
    root: &Path,
) -> Result<BTreeMap<String, ArchivedRun>, StoreError> {
    let Some(archive) = archive else { return Ok(BTreeMap::new()) };
    let root = absolute(root);
    let mut runs = archive.runs()?;
    // A root that is itself a save belongs to the run around it.
    runs.retain(|run| {
        Path::new(&run.path).starts_with(&root) || Path::new(&root).starts_with(&run.path)
    });
    Ok(runs.into_iter().map(|run| (run.path.clone(), run)).collect())
}

fn stored_saves(
    archive: Option<&Archive>,
    run: Option<&ArchivedRun>,
) -> Result<Vec<crate::history::StoredSave>, StoreError> {
    match archive.zip(run) {
        Some((archive, run)) => archive.measured(run),
        None => Ok(Vec::new()),
    }
}
