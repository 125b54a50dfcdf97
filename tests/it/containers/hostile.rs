//! Files that are cut, changed or made to harm: an error of the right kind, soon and in little memory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use weightvane::checkpoint::{OpenError, open};

use super::{READ, fixtures};

/// What F15 grants a file.
const LONGEST: Duration = Duration::from_secs(2);

/// Opens a file and reads all of it; the kind of the error, in time.
pub(super) fn kind(path: &Path) -> &'static str {
    let since = Instant::now();
    let result = open(path);
    if let Ok(manifest) = &result {
        for tensor in &manifest.tensors {
            let _ = manifest.hash(tensor, &mut |_| {});
        }
    }
    let took = since.elapsed();
    assert!(took < LONGEST, "{took:?} for {}", path.display());
    match result {
        Ok(_) => "ok",
        Err(OpenError::Incomplete { .. }) => "incomplete",
        Err(OpenError::Malformed { .. }) => "malformed",
        Err(OpenError::NotWeights { .. }) => "not weights",
        Err(error) => panic!("{error}"),
    }
}

/// A file of that name with those bytes, and what it is taken for.
fn of_bytes(name: &str, bytes: &[u8]) -> &'static str {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    kind(&path)
}

#[test]
fn a_file_that_ends_early_is_never_taken() {
    for (name, file, format, _) in READ {
        let bytes = fs::read(fixtures().join(name).join(file)).unwrap();
        // GGUF may leave the padding behind its last tensor away.
        let n_needed = bytes.len() - if format == "gguf" { 32 } else { 1 };
        let dense = (0..300).chain(n_needed.saturating_sub(200)..n_needed);
        for end in dense.chain((0..n_needed).step_by(131)) {
            let found = of_bytes(file, &bytes[..end]);
            assert!(matches!(found, "incomplete" | "malformed"), "{name} of {end} bytes: {found}");
        }
    }
}

#[test]
fn a_changed_byte_never_panics() {
    for (name, file, ..) in READ {
        let bytes = fs::read(fixtures().join(name).join(file)).unwrap();
        // In the front every byte; structures of HDF5 and zip lie all over the file.
        let front = 0..400.min(bytes.len());
        let all = (400..bytes.len()).step_by(if name.starts_with("gguf") { 97 } else { 17 });
        for at in front.chain(all) {
            let mut changed = bytes.clone();
            changed[at] ^= [0x01, 0x80, 0xff, 0x10][at % 4];
            of_bytes(file, &changed);
        }
    }
}
