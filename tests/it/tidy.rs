//! What keeps the source tidy, held by tests: the order of the rooms, the length of files, and the
//! names of metrics in everything that is written about them.

mod circles;
mod floors;
mod metric_names;
mod paths;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

/// Path of the repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory of the repository, with their text; none if it does not exist.
fn files(dir: &str, wanted: impl Fn(&str) -> bool) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![repository().join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // What is built there is nobody's text.
                dirs.extend((!path.ends_with("target")).then_some(path));
            } else if wanted(&path.to_string_lossy()) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(repository()).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Rust files below a directory.
fn rust_files(dir: &str) -> Vec<(PathBuf, String)> {
    let found = files(dir, |path| Path::new(path).extension().is_some_and(|end| end == "rs"));
    assert!(!found.is_empty(), "no source below {dir}");
    found
}

/// Module path of a source file: `src/linalg/gram.rs` is `linalg::gram`.
fn module(path: &Path) -> Vec<String> {
    let below = path.strip_prefix("src").unwrap().with_extension("");
    let parts = below.iter().map(|part| part.to_string_lossy().into_owned());
    parts.filter(|part| part != "lib").collect()
}
