//! Hard links to good saves, so that rotation cannot take them.
//!
//! Below the directory for pins each run has `newest/step-N/`, its last good saves, of which the older
//! go as newer ones come, and `kept/step-N/`, those before an anomaly. What lies there says all;
//! nothing is remembered over a restart.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use tracing::{debug, info, warn};

use crate::watch::{FileKind, FileStamp, SettledSave};

/// Good saves linked while all is well: a frozen matrix is known one save late, so the last and the
/// one before.
const N_NEWEST: usize = 2;

/// Saves before an anomaly that are kept; of more, the oldest goes.
const N_KEPT: usize = 3;

/// Files of one save that are linked, and depth of its directories.
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 4;

/// Warnings remembered, so that each is told once.
const MAX_TOLD: usize = 1000;

/// What is to be done for a run.
#[derive(Debug)]
pub(super) struct PinOrder {
    /// The directory for pins.
    pub(super) dir: PathBuf,
    /// Name of the run.
    pub(super) run: String,
    /// Step of the save.
    pub(super) step: u64,
    /// A good save to be linked, or else the one linked at this step is to be kept.
    pub(super) save: Option<SettledSave>,
}

impl PinOrder {
    /// The run's own part of the directory. Names come from directories, but `/` and `..` must lead
    /// nowhere else.
    fn home(&self) -> PathBuf {
        let normal = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let below: PathBuf = Path::new(&self.run).components().filter(normal).collect();
        self.dir.join(below)
    }

    fn name(&self) -> String {
        format!("step-{}", self.step)
    }
}

/// Carries out orders.
#[derive(Debug, Default)]
pub(super) struct Pinner {
    told: HashSet<String>,
}

impl Pinner {
    pub(super) fn carry_out(&mut self, order: &PinOrder) {
        let (run, step) = (&order.run, order.step);
        let result = match &order.save {
            Some(save) if save.in_place => {
                Err(io::Error::other("it is rewritten in place, and a link changes with it"))
            }
            Some(save) => link(order, save),
            None => keep(order),
        };
        match result {
            Ok(path) => debug!(run, step, ?path, "save pinned"),
            // Rotation was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound && order.save.is_some() => {
                debug!(run, step, %error, "save not pinned");
            }
            Err(error) => {
                let error = explained(&error);
                if self.told.len() < MAX_TOLD && self.told.insert(format!("{run} {error}")) {
                    warn!(run, step, error, "save not pinned");
                }
            }
        }
    }
}

fn explained(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::CrossesDevices => {
            "pin_dir is on another file system, expected that of the run".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("{error}; expected the user of the training job, or write access to its files")
        }
        io::ErrorKind::NotFound => "there is no link to it".to_owned(),
        _ => error.to_string(),
    }
}

/// Links a save under `newest`, whole or not at all.
fn link(order: &PinOrder, save: &SettledSave) -> io::Result<PathBuf> {
    let newest = order.home().join("newest");
    let made = newest.join(order.name());
    fs::create_dir_all(&newest)?;
    // Left by a daemon that was killed, or of a step that training came to once more.
    for left in [newest.join("unfinished"), made.clone()] {
        remove(&left)?;
    }
    let unfinished = newest.join("unfinished");
    fs::create_dir(&unfinished)?;
    let linked = link_all(save, &unfinished).and_then(|()| fs::rename(&unfinished, &made));
    if let Err(error) = linked {
        remove(&unfinished)?;
        return Err(error);
    }
    keep_last(&newest, N_NEWEST)?;
    Ok(made)
}

fn link_all(save: &SettledSave, into: &Path) -> io::Result<()> {
    let is_dir = fs::symlink_metadata(&save.path)?.is_dir();
    let name = save.path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    if !is_dir {
        // A file of its own, with what lies beside it.
        let parent = save.path.parent().unwrap_or(&save.path);
        for file in &save.files {
            fs::hard_link(parent.join(&file.name), into.join(&file.name))?;
        }
        return check(save, into);
    }
    let own = into.join(name);
    let mut n_left = MAX_FILES;
    link_below(&save.path, &own, MAX_DEPTH, &mut n_left)?;
    check(save, &own)
}

fn link_below(from: &Path, to: &Path, depth: usize, n_left: &mut usize) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        *n_left = n_left.checked_sub(1).ok_or_else(|| {
            io::Error::other(format!("it has more than {MAX_FILES} files, expected fewer"))
        })?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        if kind.is_file() {
            fs::hard_link(entry.path(), to.join(&name))?;
        } else if kind.is_dir() && depth > 0 {
            link_below(&entry.path(), &to.join(&name), depth - 1, n_left)?;
        }
    }
    Ok(())
}

/// That what was linked is what was measured.
fn check(save: &SettledSave, at: &Path) -> io::Result<()> {
    for file in save.files.iter().filter(|file| file.kind == FileKind::Weights) {
        let found = fs::metadata(at.join(&file.name))?;
        let mtime_ns = found.mtime() * 1_000_000_000 + found.mtime_nsec();
        let FileStamp { dev, ino, size, .. } = *file;
        if (found.dev(), found.ino(), found.size(), mtime_ns) != (dev, ino, size, file.mtime_ns) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "changed since it was measured"));
        }
    }
    Ok(())
}

/// Moves a linked save to those that are kept, and tells it.
fn keep(order: &PinOrder) -> io::Result<PathBuf> {
    let home = order.home();
    let (from, kept) = (home.join("newest").join(order.name()), home.join("kept"));
    let to = kept.join(order.name());
    // Another anomaly has the same last good save.
    if !from.exists() && to.exists() {
        return Ok(to);
    }
    fs::symlink_metadata(&from)?;
    fs::create_dir_all(&kept)?;
    remove(&to)?;
    fs::rename(&from, &to)?;
    keep_last(&kept, N_KEPT)?;
    let (run, step) = (&order.run, order.step);
    info!(run, step, path = ?to, "the last good save is kept from rotation");
    Ok(to)
}

/// Removes all but the `n` linked last.
fn keep_last(dir: &Path, n: usize) -> io::Result<()> {
    let mut steps: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("step-") {
            steps.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    steps.sort();
    steps.truncate(steps.len().saturating_sub(n));
    steps.iter().try_for_each(|(_, path)| remove(path))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stays_below_the_directory() {
        let home = |run: &str| {
            let order = PinOrder { dir: "/pins".into(), run: run.into(), step: 1, save: None };
            order.home()
        };
        assert_eq!(home("a/b"), Path::new("/pins/a/b"));
        for run in ["/", "../../etc", "/etc", "./.."] {
            assert!(home(run).starts_with("/pins"), "{run}");
            assert!(!home(run).components().any(|part| part == Component::ParentDir), "{run}");
        }
    }
}
