//! What is kept of each run's last save, in the state directory and of bounded size, so that a
//! restart does not begin every search anew.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::{debug, info, warn};
use xxhash_rust::xxh3::xxh3_128;

use super::error_text;
use crate::diagnostics::{Baseline, Options, Origin, PersistError};

/// The directory below the state directory. All that is in it is ours.
const DIR: &str = "warm";

/// End of a file that is being written.
const UNFINISHED: &str = "unfinished";

/// Kept files. Used by the worker's thread alone.
#[derive(Debug)]
pub(super) struct Warm {
    dir: PathBuf,
    /// Whether the last write failed and that was told.
    failing: bool,
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Persist(#[from] PersistError),
    #[error("cannot be written")]
    Io(#[from] io::Error),
}

/// What a kept baseline is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It is that of the save before.
    Compare,
    /// It is that of an earlier save or of the very same one: searches may start from it, but no
    /// change is measured against it.
    Start,
    Nothing,
}

impl Warm {
    /// The files below a state directory; what a write that was cut off left there is removed.
    pub(super) fn open(state: &Path) -> Self {
        let dir = state.join(DIR);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && !is_kept(&path) {
                let _ = fs::remove_file(path);
            }
        }
        Self { dir, failing: false }
    }

    /// What was kept of a run, if it is of use for this save. A file that cannot be used is told once
    /// and removed.
    pub(super) fn load(
        &self,
        limit: u64,
        save: &Origin,
        previous: Option<&Origin>,
        in_place: bool,
        options: &Options,
    ) -> Option<Baseline> {
        let path = self.path(&save.run);
        let bytes = match read(&path, limit) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(?path, %error, "kept start not read, the search begins anew");
                remove(&path);
                return None;
            }
        };
        match Baseline::from_bytes(&bytes, options) {
            Ok((baseline, origin)) => {
                let used = usage(&origin, save, previous, in_place);
                debug!(?path, ?used, of = origin.save, "read what was kept");
                match used {
                    Use::Compare => Some(baseline),
                    Use::Start => Some(baseline.starts_only()),
                    Use::Nothing => None,
                }
            }
            Err(error) => {
                let error = error_text(&error);
                warn!(?path, error, "kept start not usable and removed, the search begins anew");
                remove(&path);
                None
            }
        }
    }

    /// Keeps a save's baseline in place of the run's last one. A disk that refuses is told once.
    pub(super) fn keep(
        &mut self,
        limit: u64,
        baseline: &Baseline,
        origin: &Origin,
        options: &Options,
    ) {
        let path = self.path(&origin.run);
        match self.write(&path, limit, baseline, origin, options) {
            Ok(()) if self.failing => {
                self.failing = false;
                info!(path = ?self.dir, "starts of searches are kept again");
            }
            Ok(()) => {}
            Err(error) => {
                let (error, dir) = (error_text(&error), &self.dir);
                if self.failing {
                    debug!(path = ?dir, error, "start of the next search not kept");
                } else {
                    warn!(path = ?dir, error, "start of the next search not kept");
                }
                self.failing = true;
            }
        }
    }

    fn write(
        &self,
        path: &Path,
        limit: u64,
        baseline: &Baseline,
        origin: &Origin,
        options: &Options,
    ) -> Result<(), KeepError> {
        fs::create_dir_all(&self.dir)?;
        let unfinished = path.with_extension(UNFINISHED);
        let written = baseline.write(&unfinished, origin, options).map_err(KeepError::from);
        let placed = written.and_then(|()| {
            let size = fs::metadata(&unfinished)?.len();
            self.make_room(path, size, limit)?;
            if size > limit {
                debug!(
                    run = origin.run,
                    size, limit, "start of the next search not kept: too large"
                );
                remove(path);
                return Ok(fs::remove_file(&unfinished)?);
            }
            File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, path)?;
            Ok(File::open(&self.dir)?.sync_all()?)
        });
        if placed.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        placed
    }

    /// Removes the files modified longest ago, until one of `size` fits in place of `path`.
    fn make_room(&self, path: &Path, size: u64, limit: u64) -> io::Result<()> {
        let mut others: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let (other, about) = (entry.path(), entry.metadata()?);
            if is_kept(&other) && other != path {
                others.push((about.modified()?, about.len(), other));
            }
        }
        others.sort();
        let mut total: u64 = others.iter().map(|(_, size, _)| size).sum();
        // One that is too large for all of the room takes none.
        let wanted = if size > limit { 0 } else { size };
        for (_, size, other) in others {
            if total.saturating_add(wanted) <= limit {
                break;
            }
            fs::remove_file(other)?;
            total -= size;
        }
        Ok(())
    }

    fn path(&self, run: &str) -> PathBuf {
        self.dir.join(format!("{:032x}.safetensors", xxh3_128(run.as_bytes())))
    }
}

fn is_kept(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default();
    let digits = name.strip_suffix(b".safetensors").unwrap_or_default();
    digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!(?path, %error, "not removed");
    }
}

/// A regular file of at most `limit` bytes.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() || about.len() > limit {
        let found = if about.is_file() { "larger than warm_limit" } else { "no regular file" };
        return Err(io::Error::other(format!("found one {found}, expected a kept file")));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As the table of runs does with what it remembers: only what was kept of the save before is
/// compared with. Of a save rewritten in place that is the content before.
fn usage(found: &Origin, save: &Origin, previous: Option<&Origin>, in_place: bool) -> Use {
    if found.run != save.run {
        return Use::Nothing;
    }
    let is_before = if in_place {
        found.save == save.save && found.modified_ns < save.modified_ns
    } else {
        Some(found) == previous
    };
    match is_before {
        true => Use::Compare,
        false if found == save => Use::Start,
        false if found.step.is_some() && found.step < save.step => Use::Start,
        false => Use::Nothing,
    }
}

#[cfg(test)]
mod tests;
