//! What the names of files and directories say, and nothing else: no file is looked at here.
//!
//! - [`formats`]: which files hold weights, which are never opened, which lie below a save;
//! - [`markers`]: signs of unfinished, of finished and of deleted work;
//! - [`steps`]: the step that a name states, and the run that it belongs to;
//! - [`aliases`]: second names of a save.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

mod aliases;
mod formats;
mod markers;
mod steps;

pub(super) use aliases::{AliasRank, alias_rank, may_be_copy};
pub(super) use formats::{
    is_alone, is_data, is_foreign, is_optimizer_shard, is_together, is_weights, kind_of,
    orbax_kind, rank_of, shard, stem, with_endings,
};
pub(super) use markers::{
    END_MARK, has_late_marker, is_commit, is_hidden_mark, is_ignored, is_of_ranks, is_orbax_mark,
    is_part, is_pointer, is_trainer_directory, pointed_step, unfinished,
};
pub(super) use steps::{directory_step, file_step, plain_number};

/// What a file of a save is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// Tensors.
    Weights,
    /// The list of shards, `*.index.json`, or of chunks, `manifest.ocdbt`.
    Index,
    /// Where the tensors of a distributed checkpoint lie: `.metadata`, or `__r.metadata` of a rank.
    Metadata,
    /// The model's `config.json`.
    Config,
    /// The trainer's `trainer_state.json`.
    TrainerState,
    /// A small file that the saver writes when all weights are there.
    Marker,
}

/// A name for people and labels: bytes that are not UTF-8, and characters that end a line or turn the
/// reading order round, are spelled out, and so is what they are spelled with, so that two names that
/// differ stay different.
pub(super) fn escape(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            let is_odd = matches!(c, '\\' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || is_odd { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}

/// What a run is called by its path below the root.
#[must_use]
pub fn run_name(below: &Path) -> String {
    below.iter().map(escape).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_stay_different() {
        assert_eq!(escape(OsStr::from_bytes(b"a\xff\n")), "a\\xff\\n");
        assert_eq!(escape(OsStr::new("läuft")), "läuft");
        let names: [&[u8]; 6] =
            [b"a\n", b"a\\n", b"a\xff", b"a\\xff", "a\u{202e}".as_bytes(), b"a\\u{202e}"];
        let escaped = names.map(|name| escape(OsStr::from_bytes(name)));
        let different: std::collections::BTreeSet<&String> = escaped.iter().collect();
        assert_eq!(different.len(), names.len(), "{escaped:?}");
    }
}
