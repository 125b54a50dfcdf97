//! Whether what was opened is what came to rest.
//!
//! A save waits in the queue after a scan has seen it quiet. A writer that has begun anew since then may
//! stall, and what is read meanwhile is torn although nothing changes while it is read.

use std::path::Path;

use crate::checkpoint::{Manifest, ReadError, SourceFile};
use crate::watch::{FileStamp, SettledSave};

/// The stamp that a scan took of a file of this save.
fn stamp_of<'a>(save: &'a SettledSave, path: &Path) -> Option<&'a FileStamp> {
    let below = path.strip_prefix(&save.path).ok()?;
    // The save is this one file.
    let name = if below == Path::new("") { save.path.file_name()?.as_ref() } else { below };
    save.files.iter().find(|stamp| Path::new(&stamp.name) == name)
}

/// # Errors
/// [`ReadError::Changed`] for a file that is not the one, or not as, the scan saw it. Device and change
/// time do not count: a link or a `chmod` makes no other content.
pub(super) fn expect_settled(manifest: &Manifest, save: &SettledSave) -> Result<(), ReadError> {
    let files = manifest.files.iter().chain(&manifest.sidecars);
    let mut seen = files.filter_map(|file| Some((file, stamp_of(save, &file.path)?)));
    let is_other = |(SourceFile { identity, .. }, stamp): &(&SourceFile, &FileStamp)| {
        let same = (identity.ino, identity.size) == (stamp.ino, stamp.size);
        !same || identity.mtime_ns != i128::from(stamp.mtime_ns)
    };
    seen.find(is_other)
        .map_or(Ok(()), |(file, _)| Err(ReadError::Changed { path: file.path.clone() }))
}

/// Whether no weights of an earlier save are younger than all of it was when it was measured.
pub(super) fn is_unchanged_since(manifest: &Manifest, modified_ns: Option<i64>) -> bool {
    let newest = manifest.files.iter().map(|file| file.identity.mtime_ns).max();
    modified_ns.is_none_or(|at| newest <= Some(at.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::time::Duration;

    use super::*;
    use crate::checkpoint;
    use crate::watch::FileKind;

    fn write(path: &Path, value: u8) {
        let header = r#"{"w":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend([value; 4]);
        fs::write(path, bytes).unwrap();
    }

    fn settled(path: &Path, file: &Path) -> SettledSave {
        let stat = fs::metadata(file).unwrap();
        let ns = |s: i64, ns: i64| s * 1_000_000_000 + ns;
        let stamp = FileStamp {
            name: file.file_name().unwrap().to_str().unwrap().to_owned(),
            kind: FileKind::Weights,
            dev: stat.dev(),
            ino: stat.ino(),
            size: stat.size(),
            mtime_ns: ns(stat.mtime(), stat.mtime_nsec()),
            ctime_ns: ns(stat.ctime(), stat.ctime_nsec()),
            nlink: 1,
        };
        SettledSave {
            run: "run".into(),
            run_path: "run".into(),
            path: path.to_owned(),
            step: Some(7),
            sequence: 0,
            version: 1,
            supersedes: false,
            in_place: false,
            files: vec![stamp],
            waited: Duration::ZERO,
        }
    }

    #[test]
    fn a_save_that_was_written_over_since_it_came_to_rest_is_told() {
        for (run, file) in [("run/checkpoint-7", "model.safetensors"), ("plain", "m-7.safetensors")]
        {
            let root = tempfile::tempdir().unwrap();
            let directory = root.path().join(run);
            let path = directory.join(file);
            fs::create_dir_all(&directory).unwrap();
            write(&path, 1);
            let save = settled(if run == "plain" { &path } else { &directory }, &path);
            let before = checkpoint::open(&save.path).unwrap();
            expect_settled(&before, &save).unwrap();
            let modified_ns = save.files.iter().map(|file| file.mtime_ns).max();
            assert!(is_unchanged_since(&before, modified_ns));
            // A link and other permissions are no other content.
            fs::hard_link(&path, root.path().join("kept")).unwrap();
            expect_settled(&checkpoint::open(&save.path).unwrap(), &save).unwrap();
            // In place, to the same length.
            write(&path, 2);
            let later = save.files[0].mtime_ns + 1_000_000_000;
            let later = std::time::UNIX_EPOCH + Duration::from_nanos(later.cast_unsigned());
            fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
            let now = checkpoint::open(&save.path).unwrap();
            let told = expect_settled(&now, &save);
            assert!(matches!(told, Err(ReadError::Changed { path: changed }) if changed == path));
            assert!(!is_unchanged_since(&now, modified_ns));
            assert!(is_unchanged_since(&now, None));
        }
    }
}
