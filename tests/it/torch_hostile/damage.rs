//! Real files, cut short and with single bytes changed.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use tempfile::tempdir;
use weightvane::checkpoint::open;

use super::verdict;
use crate::support::tests_dir;

const REAL: [&str; 2] =
    ["fixtures/formats/torch_protocol4/ckpt.pt", "fixtures/formats/legacy_nested/ckpt.pt"];

#[test]
fn every_beginning_of_a_file_is_not_taken_for_the_whole() {
    for real in REAL {
        let content = fs::read(tests_dir(real)).unwrap();
        let dir = tempdir().unwrap();
        let path = dir.path().join("model.pt");
        fs::write(&path, &content).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let mut n_incomplete = 0;
        for n in (0..content.len()).rev() {
            file.set_len(n as u64).unwrap();
            let found = verdict(&open(&path));
            assert_ne!(found, "weights", "{real} cut to {n} bytes");
            n_incomplete += usize::from(found == "incomplete");
        }
        assert!(
            n_incomplete * 10 > content.len() * 9,
            "{real}: {n_incomplete} of {} are incomplete",
            content.len()
        );
    }
}

/// Reads what the file lists, whatever that is.
fn read_all(path: &Path) {
    let result = open(path);
    verdict(&result);
    if let Ok(manifest) = result {
        for tensor in manifest.tensors.iter().filter(|tensor| tensor.dtype.is_float()) {
            manifest.read(tensor).expect("what is listed can be read");
        }
    }
}

#[test]
fn a_changed_byte_ends_in_a_verdict() {
    for real in REAL {
        let content = fs::read(tests_dir(real)).unwrap();
        let dir = tempdir().unwrap();
        let path = dir.path().join("model.pt");
        fs::write(&path, &content).unwrap();
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        let mut put = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        let tail = content.len() - 1024;
        for at in (0..2048).chain(tail..content.len()) {
            for change in [0x01, 0x20, 0x80, 0xff] {
                put(at, content[at] ^ change);
                read_all(&path);
            }
            put(at, content[at]);
        }
    }
}
