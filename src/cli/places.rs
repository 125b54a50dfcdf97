//! Where a command may look and where it may write.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::Failure;
use weightvane::config::Settings;
use weightvane::disk::within;
use weightvane::remote;

/// How long a file system may take for an answer. One that hangs does not keep a daemon from starting:
/// it may come back, and there are others.
const PATIENCE: Duration = Duration::from_secs(2);

/// That a root is a directory that can be looked at.
pub(super) fn check_root(root: &Path) -> Result<(), Failure> {
    if remote::is_remote(root) {
        // Nothing is asked of it here: a store that is not to be reached now may be later.
        return remote::check(root).map_err(|e| Failure::unreadable(root, &e.to_string()));
    }
    let asked = root.to_owned();
    let Some(found) = within(PATIENCE, move || std::fs::metadata(asked)) else { return Ok(()) };
    match found {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => {
            Err(Failure::unreadable(root, "found a file, expected a directory that holds runs"))
        }
        Err(e) => {
            Err(Failure::unreadable(root, &format!("{e}, expected a directory that holds runs")))
        }
    }
}

/// That nothing is written below a root: it would look like a save, and disturb the trainer's rotation.
pub(super) fn check_written(settings: &Settings, roots: &[PathBuf]) -> Result<(), String> {
    let written = [
        ("state_dir", settings.state_dir.as_deref()),
        ("textfile", settings.textfile.as_deref()),
        ("pin_dir", settings.pin_dir()),
    ];
    if let (Some(pins), Some(state)) = (settings.pin_dir(), &settings.state_dir)
        && pins == state
    {
        return Err(format!("pin_dir {} is the state directory, expected another", pins.display()));
    }
    if let Some(pins) = settings.pin_dir() {
        let within = |root: &&PathBuf| {
            !remote::is_remote(root) && check_outside("", Some(root), pins).is_err()
        };
        if let Some(root) = roots.iter().find(within) {
            return Err(format!(
                "pin_dir {} holds the watched directory {}, expected one of its own",
                pins.display(),
                root.display()
            ));
        }
    }
    let each = || roots.iter().flat_map(|root| written.map(|(what, path)| (what, path, root)));
    each().try_for_each(|(what, path, root)| check_outside(what, path, root))
}

/// That a path, which need not be there, is not below a root.
pub(super) fn check_outside(what: &str, path: Option<&Path>, root: &Path) -> Result<(), String> {
    let resolved = |path: &Path| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let asked = absolute.clone();
        let found = within(PATIENCE, move || {
            let mut above = asked.ancestors();
            let (there, found) = above.find_map(|a| Some((a, a.canonicalize().ok()?)))?;
            Some(found.join(asked.strip_prefix(there).ok()?))
        });
        // Without an answer the path counts as it is written.
        found.unwrap_or(Some(absolute))
    };
    let Some(path) = path else { return Ok(()) };
    if remote::is_remote(path) {
        return Err(format!(
            "{what} {}: found an object store, expected a local path",
            path.display()
        ));
    }
    if remote::is_remote(root) {
        return Ok(());
    }
    let is_below = resolved(path).zip(resolved(root)).is_some_and(|(p, root)| p.starts_with(root));
    if is_below {
        let (path, root) = (path.display(), root.display());
        return Err(format!(
            "{what} {path} lies below the watched directory {root}, expected one outside of it"
        ));
    }
    Ok(())
}
