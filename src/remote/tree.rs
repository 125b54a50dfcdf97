//! What lies below a prefix, directory by directory, in as few requests as can be.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::place::Place;
use super::{Entry, RemoteError, Stat, client};

/// Objects below a root up to which all are listed at once: ten requests, where a request for every
/// directory is one for every save and run.
const MAX_FLAT: usize = 10_000;
/// Entries of one directory.
const MAX_DIRECTORY: usize = 65_536;

/// What lay below a root while it was looked at.
#[derive(Debug)]
pub struct Tree {
    root: Place,
    /// All directories, by their path below the root; `None` if there is too much for that, or a key
    /// that is no path.
    flat: Option<BTreeMap<String, Vec<Entry>>>,
}

impl Tree {
    /// Looks at what lies below `root`.
    ///
    /// # Errors
    /// [`RemoteError::Refused`].
    pub fn below(root: &Path) -> Result<Self, RemoteError> {
        let root = Place::of(root)?;
        let flat = match client::list_all(&root, MAX_FLAT) {
            Ok(objects) => objects.map(|objects| directories(&objects)),
            // Whoever made such a key may not keep us from all others.
            Err(RemoteError::Refused(error)) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        Ok(Self { root, flat })
    }

    /// What lies directly below a directory.
    ///
    /// # Errors
    /// [`RemoteError::Refused`].
    pub fn list(&self, directory: &Path) -> Result<Vec<Entry>, RemoteError> {
        match &self.flat {
            Some(flat) => Ok(self.below_root(flat, directory)?.to_vec()),
            None => super::list(directory, MAX_DIRECTORY),
        }
    }

    fn below_root<'a>(
        &self,
        flat: &'a BTreeMap<String, Vec<Entry>>,
        directory: &Path,
    ) -> Result<&'a [Entry], RemoteError> {
        let key = Place::of(directory)?.key;
        let below = key.strip_prefix(&self.root.key).unwrap_or_default().trim_start_matches('/');
        Ok(flat.get(below).map(Vec::as_slice).unwrap_or_default())
    }

    /// The version of an object.
    ///
    /// # Errors
    /// [`RemoteError::Missing`].
    pub fn stat(&self, path: &Path) -> Result<Stat, RemoteError> {
        let Some(flat) = &self.flat else { return super::head(path) };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let entries = self.below_root(flat, path.parent().unwrap_or(path))?;
        let at = entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok();
        let found = at.and_then(|at| entries.get(at)?.stat);
        found.ok_or(RemoteError::Missing)
    }
}

/// The directories that keys stand for, with their entries in the order of names.
fn directories(objects: &[(String, Stat)]) -> BTreeMap<String, Vec<Entry>> {
    let mut found: BTreeMap<String, BTreeMap<String, Option<Stat>>> = BTreeMap::new();
    for (key, stat) in objects.iter().filter(|(key, _)| !key.is_empty()) {
        let (directory, name) = key.rsplit_once('/').unwrap_or(("", key));
        // A prefix of the same name is what is looked into.
        found
            .entry(directory.to_owned())
            .or_default()
            .entry(name.to_owned())
            .or_insert(Some(*stat));
        let mut below = directory;
        while !below.is_empty() {
            let (above, name) = below.rsplit_once('/').unwrap_or(("", below));
            let known = found.entry(above.to_owned()).or_default().insert(name.to_owned(), None);
            if known == Some(None) {
                break;
            }
            below = above;
        }
    }
    let entries = |names: BTreeMap<String, Option<Stat>>| {
        names.into_iter().map(|(name, stat)| Entry { name, stat }).collect()
    };
    found.into_iter().map(|(directory, names)| (directory, entries(names))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: Stat = Stat { size: 1, modified: 2, tag: 3 };

    fn tree(keys: &[&str]) -> Tree {
        let objects: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), STAT)).collect();
        let root = Place::of(Path::new("s3://b/runs")).unwrap();
        Tree { root, flat: Some(directories(&objects)) }
    }

    #[test]
    fn keys_make_directories() {
        let tree = tree(&["a/checkpoint-1/m", "a/checkpoint-1/c", "a/x", "b", "b/y/z", ""]);
        let list = |path: &str| {
            let entries = tree.list(Path::new(path)).unwrap();
            entries.into_iter().map(|e| (e.name, e.stat.is_some())).collect::<Vec<_>>()
        };
        let some = |names: &[(&str, bool)]| -> Vec<(String, bool)> {
            names.iter().map(|(name, file)| ((*name).to_owned(), *file)).collect()
        };
        assert_eq!(list("s3://b/runs"), some(&[("a", false), ("b", false)]));
        assert_eq!(list("s3://b/runs/a/"), some(&[("checkpoint-1", false), ("x", true)]));
        assert_eq!(list("s3://b/runs/a/checkpoint-1"), some(&[("c", true), ("m", true)]));
        assert_eq!(list("s3://b/runs/b"), some(&[("y", false)]));
        assert_eq!(list("s3://b/runs/none"), []);
    }

    #[test]
    fn objects_have_a_version() {
        let tree = tree(&["a/x"]);
        let stat = |path: &str| tree.stat(Path::new(path)).ok();
        assert_eq!(stat("s3://b/runs/a/x"), Some(STAT));
        assert_eq!((stat("s3://b/runs/a"), stat("s3://b/runs/a/y")), (None, None));
    }
}
