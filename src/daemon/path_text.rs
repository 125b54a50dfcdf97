//! Paths as text that leads back to them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// `path` as it is, but for bytes that are not UTF-8: such a byte is `\xHH`, and the backslash of what
/// looks like that and is not is `\x5c`. So two paths that differ stay different.
pub(super) fn encode(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find('\\') {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            text.push_str(if byte(rest.as_bytes()).is_some() { "\\x5c" } else { "\\" });
            rest = &rest[1..];
        }
        text.push_str(rest);
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}

/// The path that [`encode`] made this text of.
pub(super) fn decode(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let coded = byte(rest);
        bytes.push(coded.unwrap_or(first));
        rest = if coded.is_some() { &rest[CODED..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

/// Length of `\xHH`.
const CODED: usize = 4;

/// The byte that `\xHH` at the start stands for.
fn byte(text: &[u8]) -> Option<u8> {
    let digits = text.get(..CODED)?.strip_prefix(b"\\x")?;
    let is_ours = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let digits = digits.iter().all(is_ours).then(|| std::str::from_utf8(digits).ok())??;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_path_comes_back_and_no_two_have_one_text() {
        let paths: [&[u8]; 10] = [
            b"/runs/a",
            "/läufe/ü".as_bytes(),
            b"/r/m\xff",
            b"/r/m\xfe",
            b"/r/m\\xff",
            b"/r/m\\x5cxff",
            b"/r/\\",
            b"/r/\\x",
            b"/r/\\xFF",
            b"/r/\\\\xfe\xc3",
        ];
        let paths = paths.map(|bytes| Path::new(OsStr::from_bytes(bytes)));
        let texts = paths.map(encode);
        for (path, text) in paths.iter().zip(&texts) {
            assert_eq!(decode(text), *path, "{text}");
        }
        let different: std::collections::BTreeSet<&String> = texts.iter().collect();
        assert_eq!(different.len(), texts.len(), "{texts:?}");
        assert_eq!((texts[1].as_str(), texts[2].as_str()), ("/läufe/ü", "/r/m\\xff"));
    }
}
