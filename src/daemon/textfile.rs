//! `node_exporter`'s textfile collector: a file replaced as a whole.

use std::io::{self, Write as _};
use std::path::Path;

/// Replaces `file` by `text`: readers see the old or the new content, never half of one.
///
/// # Errors
/// When the directory cannot be written.
pub fn write(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().ok_or_else(|| io::Error::other("expected the path of a file"))?;
    // The collector reads `*.prom` only, so the unfinished file is invisible to it.
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(".tmp");
    let unfinished = file.with_file_name(unfinished);
    let mut out = std::fs::File::create(&unfinished)?;
    out.write_all(text.as_bytes())?;
    drop(out);
    std::fs::rename(&unfinished, file)
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
    }
}
