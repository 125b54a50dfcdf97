//! Hard links to good saves, so that rotation cannot take them.
//!
//! Below the directory for pins each run has `newest/step-N/`, its last good saves, of which the older
//! go as newer ones come, and `kept/step-N/`, those before an anomaly. What lies there says all;
//! nothing is remembered over a restart.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::{debug, info, warn};

use crate::watch::{FileKind, FileStamp, SettledSave};

/// Good saves linked while all is well: a frozen matrix is known one save late, so the last and the
/// one before.
pub(super) const N_NEWEST: usize = 2;

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
    /// What.
    pub(super) what: PinWhat,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum PinWhat {
    /// These, by step, are the last good saves: they alone are to be linked as such.
    Newest(Vec<(u64, SettledSave)>),
    /// The save of this step is to be kept, from its link or from where it lies, if it still does.
    Keep { step: u64, save: Option<SettledSave> },
    /// A save that cannot be kept so.
    InPlace(PathBuf),
}

impl PinOrder {
    /// The run's own part of the directory. Names come from directories of strangers: no `/` in them may
    /// lead elsewhere, nor into the part of another run.
    fn home(&self) -> PathBuf {
        let name = self.run.replace('%', "%25").replace('/', "%2F");
        let hidden = name.strip_prefix('.').map(|rest| format!("%2E{rest}"));
        self.dir.join(hidden.unwrap_or(name))
    }
}

/// Carries out orders.
#[derive(Debug, Default)]
pub(super) struct Pinner {
    told: HashSet<String>,
}

impl Pinner {
    pub(super) fn carry_out(&mut self, order: &PinOrder) {
        let (run, dir) = (&order.run, &order.dir);
        match &order.what {
            PinWhat::Newest(saves) => {
                if let Err(error) = newest(order, saves) {
                    self.once(order, &explained(&error));
                }
            }
            PinWhat::InPlace(path) => {
                let path = path.display();
                self.once(
                    order,
                    &format!("{path} is rewritten in place, and a link changes with it"),
                );
            }
            PinWhat::Keep { step, save } => match keep(order, *step, save.as_ref()) {
                Ok(None) => {}
                Ok(Some(path)) => {
                    info!(run, step, ?path, "the last good save is kept from rotation");
                }
                Err(error) => {
                    let error = explained(&error);
                    warn!(run, step, pin_dir = ?dir, error, "the last good save cannot be kept");
                }
            },
        }
    }

    /// Tells of a failure that will come again with every save.
    fn once(&mut self, order: &PinOrder, error: &str) {
        let PinOrder { dir, run, .. } = order;
        if self.told.len() < MAX_TOLD && self.told.insert(format!("{run} {error}")) {
            warn!(run, pin_dir = ?dir, error, "good saves cannot be pinned");
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
        io::ErrorKind::NotFound => "it is gone, and no link to it was made".to_owned(),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            format!("{error}; expected pin_dir to be a directory")
        }
        _ => error.to_string(),
    }
}

fn name(step: u64) -> String {
    format!("step-{step}")
}

/// Links these saves, and unlinks all others that were the newest once.
fn newest(order: &PinOrder, saves: &[(u64, SettledSave)]) -> io::Result<()> {
    let newest = order.home().join("newest");
    for (step, save) in saves {
        match link(&newest, *step, save) {
            // Rotation was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                debug!(run = order.run, step, %error, "save not pinned");
            }
            other => other.map(drop)?,
        }
    }
    for entry in fs::read_dir(&newest)? {
        let entry = entry?;
        let is_wanted = saves.iter().any(|(step, _)| entry.file_name() == name(*step).as_str());
        if entry.file_name().to_string_lossy().starts_with("step-") && !is_wanted {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Links a save below a directory, whole or not at all, unless it is linked there already.
fn link(below: &Path, step: u64, save: &SettledSave) -> io::Result<PathBuf> {
    let made = below.join(name(step));
    if check(save, &made).is_ok() {
        return Ok(made);
    }
    fs::create_dir_all(below)?;
    // Left by a daemon that was killed, or of a step that training came to once more.
    let unfinished = below.join("unfinished");
    remove(&unfinished)?;
    remove(&made)?;
    fs::create_dir(&unfinished)?;
    let linked = link_all(save, &unfinished)
        .and_then(|()| check(save, &unfinished))
        .and_then(|()| fs::rename(&unfinished, &made));
    if let Err(error) = linked {
        remove(&unfinished)?;
        return Err(error);
    }
    Ok(made)
}

fn link_all(save: &SettledSave, into: &Path) -> io::Result<()> {
    if fs::symlink_metadata(&save.path)?.is_dir() {
        let mut n_left = MAX_FILES;
        return link_below(&save.path, &into.join(own_name(save)), MAX_DEPTH, &mut n_left);
    }
    // A file of its own, with what lies beside it.
    let parent = save.path.parent().unwrap_or(&save.path);
    save.files
        .iter()
        .try_for_each(|file| fs::hard_link(parent.join(&file.name), into.join(&file.name)))
}

fn own_name(save: &SettledSave) -> &OsStr {
    save.path.file_name().unwrap_or_default()
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

/// That what is linked at a place is what was measured.
fn check(save: &SettledSave, at: &Path) -> io::Result<()> {
    let own = at.join(own_name(save));
    let at = if own.is_dir() { own } else { at.to_owned() };
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

/// Keeps a save; where, unless it is kept already.
fn keep(order: &PinOrder, step: u64, save: Option<&SettledSave>) -> io::Result<Option<PathBuf>> {
    let home = order.home();
    let (from, kept) = (home.join("newest").join(name(step)), home.join("kept"));
    let to = kept.join(name(step));
    let is_linked = from.exists() && save.is_none_or(|save| check(save, &from).is_ok());
    if is_linked {
        fs::create_dir_all(&kept)?;
        remove(&to)?;
        fs::rename(&from, &to)?;
    } else if to.exists() && save.is_none_or(|save| check(save, &to).is_ok()) {
        // Another anomaly has the same last good save.
        return Ok(None);
    } else {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        link(&kept, step, save.ok_or_else(gone)?)?;
    }
    keep_last(&kept, N_KEPT)?;
    Ok(Some(to))
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
    fn each_run_has_a_part_of_its_own_below_the_directory() {
        let home = |run: &str| {
            let what = PinWhat::Newest(Vec::new());
            PinOrder { dir: "/pins".into(), run: run.into(), what }.home()
        };
        let runs = ["a", "a/newest", "a/kept", "a%2Fkept", "/", "..", ".", "../../etc", "./.."];
        let homes: HashSet<PathBuf> = runs.into_iter().map(home).collect();
        assert_eq!(homes.len(), runs.len());
        assert!(homes.iter().all(|home| home.parent() == Some(Path::new("/pins"))), "{homes:?}");
        assert_eq!(home("a/b"), Path::new("/pins/a%2Fb"));
    }
}
