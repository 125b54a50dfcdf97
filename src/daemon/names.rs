//! What runs are called over all roots.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

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
        for name in candidates {
            let holder = self.taken.entry(name.clone()).or_insert_with(|| here.clone());
            if *holder == here {
                return name;
            }
        }
        run.to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

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
