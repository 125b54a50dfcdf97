//! Where a command may look and where it may write.

use std::path::Path;

use super::failure::Failure;

/// That a root is a directory that can be looked at.
pub(super) fn check_root(root: &Path) -> Result<(), Failure> {
    match std::fs::metadata(root) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => {
            Err(Failure::unreadable(root, "found a file, expected a directory that holds runs"))
        }
        Err(e) => {
            Err(Failure::unreadable(root, &format!("{e}, expected a directory that holds runs")))
        }
    }
}

/// That a path, which need not be there, is not below a root.
pub(super) fn check_outside(what: &str, path: Option<&Path>, root: &Path) -> Result<(), Failure> {
    let resolved = |path: &Path| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (there, found) =
            absolute.ancestors().find_map(|a| Some((a, a.canonicalize().ok()?)))?;
        Some(found.join(absolute.strip_prefix(there).ok()?))
    };
    let Some(path) = path else { return Ok(()) };
    let is_below = resolved(path).zip(resolved(root)).is_some_and(|(p, root)| p.starts_with(root));
    if is_below {
        let (path, root) = (path.display(), root.display());
        return Err(Failure::usage(format!(
            "{what} {path} lies below the watched directory {root}, expected one outside of it"
        )));
    }
    Ok(())
}
