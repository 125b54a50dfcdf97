//! Files replaced as a whole, for `node_exporter`'s textfile collector and others.

use std::io::{self, Write as _};
use std::path::Path;

/// Replaces `file` by `text`: readers see the old or the new content, never half of one.
///
/// # Errors
/// When the directory cannot be written.
pub fn write(file: &Path, text: &str) -> io::Result<()> {
    replace(file, |out| out.write_all(text.as_bytes()))
}

/// Replaces `file` by what `fill` writes. Where that fails, the old content stays and nothing is left
/// beside it.
///
/// # Errors
/// Those of `fill`, or when the directory cannot be written.
pub fn replace(
    file: &Path,
    fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    // A link is followed: it is the file that is replaced.
    let resolved = file.canonicalize();
    let file = resolved.as_deref().unwrap_or(file);
    if file.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::other("found something else, expected a regular file or none"));
    }
    let name = file.file_name().ok_or_else(|| io::Error::other("expected the path of a file"))?;
    // The collector reads `*.prom` only, so the unfinished file is invisible to it.
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(".tmp");
    let unfinished = file.with_file_name(unfinished);
    let mut out = io::BufWriter::new(std::fs::File::create(&unfinished)?);
    let written = fill(&mut out).and_then(|()| out.flush());
    drop(out);
    let replaced = written.and_then(|()| std::fs::rename(&unfinished, file));
    if replaced.is_err() {
        // What failed counts, not that it cannot be tidied up.
        let _ = std::fs::remove_file(&unfinished);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.prom");
        for text in ["a 1\n", "b 2\n"] {
            write(&file, text).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(Path::new("/"), "").is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, "b 2\n").unwrap();
        assert!(link.is_symlink() && !file.is_symlink());
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(write(&link, "").is_err() && link.is_symlink(), "a device stays a device");
        std::fs::remove_file(&link).unwrap();
        let failed = replace(&file, |out| {
            out.write_all(b"c 3\n")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "b 2\n", "the old one stays");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
