//! What runs are called over all roots.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::metrics::MAX_LABEL_BYTES;

/// Names of runs over all roots: the path below the root, and the root's own name before it where
/// another root holds a run of that name.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashMap<String, (usize, PathBuf)>,
}

impl Names {
    pub(super) fn of(&mut self, root: usize, root_path: &Path, run: &str, path: &Path) -> String {
        let here = (root, path.to_owned());
        let base = root_path
            .file_name()
            .map_or_else(|| "root".into(), |n| n.to_string_lossy().into_owned());
        let numbered = (2..).map(|i| format!("{base}-{i}/{run}"));
        let candidates = [run.to_owned(), format!("{base}/{run}")].into_iter().chain(numbered);
        for name in candidates.map(short) {
            let holder = self.taken.entry(name.clone()).or_insert_with(|| here.clone());
            if *holder == here {
                return name;
            }
        }
        short(run.to_owned())
    }

    /// Gives a run the name that it had before the start; says whether it is free.
    pub(super) fn take(&mut self, name: &str, root: usize, path: &Path) -> bool {
        let here = (root, path.to_owned());
        *self.taken.entry(name.to_owned()).or_insert_with(|| here.clone()) == here
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.taken.remove(name);
    }
}

/// A name that fits a label: of a longer one the start, and a number that tells it from others of that
/// start.
fn short(name: String) -> String {
    if name.len() <= MAX_LABEL_BYTES {
        return name;
    }
    let mark = format!("…{:016x}", xxh3_64(name.as_bytes()));
    let end = name.floor_char_boundary(MAX_LABEL_BYTES - mark.len());
    format!("{}{mark}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let root = Path::new("/data");
        let mut names = Names::default();
        let long = |end: &str| format!("{}{end}", "ä/".repeat(200));
        let mut of = |run: &str| names.of(0, root, run, &root.join(run));
        let (a, b) = (of(&long("a")), of(&long("b")));
        assert!(a.len() <= MAX_LABEL_BYTES && a.starts_with("ä/ä/"), "{a}");
        assert_ne!(a, b);
        assert_eq!(of(&long("a")), a, "the same each time");
        assert_eq!(of(&"x".repeat(MAX_LABEL_BYTES)).len(), MAX_LABEL_BYTES);
    }

    #[test]
    fn two_roots_may_hold_runs_of_one_name() {
        let mut names = Names::default();
        let (a, b) = (Path::new("/data/a"), Path::new("/data/b"));
        assert_eq!(names.of(0, a, "run", &a.join("run")), "run");
        assert_eq!(names.of(1, b, "run", &b.join("run")), "b/run");
        assert_eq!(names.of(0, a, "run", &a.join("run")), "run");
        assert_eq!(names.of(1, b, "run", &b.join("run")), "b/run");
        assert!(names.take("b/run", 1, &b.join("run")) && !names.take("run", 1, &b.join("run")));
        names.forget("run");
        assert_eq!(names.of(1, b, "run", &b.join("other")), "run");
    }
}
