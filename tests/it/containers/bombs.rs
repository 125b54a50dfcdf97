//! Small files that claim to be large, deep or endless.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compress, Compression, FlushCompress};

use super::fixtures;
use super::hostile::kind;

/// A zip archive of one deflated entry.
fn archive(name: &str, stored: &[u8], n_bytes: u32) -> Vec<u8> {
    let n_stored = u32::try_from(stored.len()).unwrap();
    let n_name = u16::try_from(name.len()).unwrap();
    let local = [
        b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0".as_slice(),
        &n_stored.to_le_bytes(),
        &n_bytes.to_le_bytes(),
        &n_name.to_le_bytes(),
        b"\0\0",
        name.as_bytes(),
        stored,
    ]
    .concat();
    let central = [
        b"PK\x01\x02\x14\0\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0".as_slice(),
        &n_stored.to_le_bytes(),
        &n_bytes.to_le_bytes(),
        &n_name.to_le_bytes(),
        &[0; 16],
        name.as_bytes(),
    ]
    .concat();
    let end = [
        b"PK\x05\x06\0\0\0\0\x01\0\x01\0".as_slice(),
        &u32::try_from(central.len()).unwrap().to_le_bytes(),
        &u32::try_from(local.len()).unwrap().to_le_bytes(),
        b"\0\0",
    ];
    [local, central, end.concat()].concat()
}

/// A deflate stream of an array of zeros of that shape, in blocks that all look the same.
fn zeros(shape: &str, n_mib: usize) -> (Vec<u8>, u32) {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let n_text = u16::try_from(text.len()).unwrap();
    let head = [b"\x93NUMPY\x01\0".as_slice(), &n_text.to_le_bytes(), text.as_bytes()].concat();
    let mut stream = Compress::new(Compression::best(), false);
    let mut block = |bytes: &[u8]| {
        let mut out = Vec::with_capacity(bytes.len() + 4096);
        stream.compress_vec(bytes, &mut out, FlushCompress::Full).unwrap();
        out
    };
    let first = block(&head);
    let mib = vec![0; 1 << 20];
    let repeated = block(&mib).repeat(n_mib);
    let n_bytes = u32::try_from(head.len() + (n_mib << 20)).unwrap();
    ([first, repeated, vec![3, 0]].concat(), n_bytes)
}

fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn check(case: &str, name: &str, bytes: &[u8], expected: &str) {
    let (_dir, path) = written(name, bytes);
    assert_eq!(kind(&path), expected, "{case}");
}

#[test]
fn deflated_zeros_are_not_inflated_without_end() {
    let (stream, n_bytes) = zeros("(32768, 32512)", 4064);
    assert!(u64::from(n_bytes) > 900 * stream.len() as u64);
    check("4 GiB of zeros", "w.npz", &archive("w.npy", &stream, n_bytes), "not weights");
    let (stream, n_bytes) = zeros("(64, 4096)", 1);
    check("an array cut short", "w.npy", b"\x93NUMPY\x01\0", "incomplete");
    check("no array", "w.npy", &[0; 64], "malformed");
    check("a matrix of zeros", "w.npz", &archive("w.npy", &stream, n_bytes), "ok");
    check("a size that lies", "w.npz", &archive("w.npy", &stream, n_bytes - 4), "malformed");
    let (stream, n_bytes) = zeros("(1073741824, 1073741824)", 1);
    check("a shape that lies", "w.npz", &archive("w.npy", &stream, n_bytes), "malformed");
    let (_dir, path) = written("w.npz", &archive("w.npy", &stream[..40], n_bytes));
    assert_eq!(kind(&path), "malformed", "a stream that ends early");
}

/// The front of a GGUF file with these counts, and what follows.
fn gguf(n_tensors: u64, n_values: u64, rest: &[u8]) -> Vec<u8> {
    let counts = [n_tensors.to_le_bytes(), n_values.to_le_bytes()].concat();
    [b"GGUF\x03\0\0\0".as_slice(), &counts, rest].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|n| n.to_le_bytes()).collect();
    let rank = u32::try_from(dims.len() / 8).unwrap();
    [
        text(name),
        rank.to_le_bytes().to_vec(),
        dims,
        kind.to_le_bytes().to_vec(),
        offset.to_le_bytes().to_vec(),
    ]
    .concat()
}

#[test]
fn gguf_headers_that_lie() {
    let list = |kind: u32, n: u64| {
        [&text("k")[..], &9_u32.to_le_bytes(), &kind.to_le_bytes(), &n.to_le_bytes()].concat()
    };
    let nested = [list(9, 1), 9_u32.to_le_bytes().repeat(3 << 16)].concat();
    let two = |a: Vec<u8>, b: Vec<u8>| gguf(2, 0, &[a, b, vec![0; 512]].concat());
    let one = |of: Vec<u8>| gguf(1, 0, &[of, vec![0; 512]].concat());
    let many = u64::MAX;
    for (case, bytes, expected) in [
        ("counts", gguf(many, many, &[0; 64]), "malformed"),
        ("a list of 2^63 numbers", gguf(0, 1, &list(4, 1 << 63)), "malformed"),
        ("a list of 2^60 texts", gguf(0, 1, &list(8, 1 << 60)), "incomplete"),
        ("lists in lists", gguf(0, 1, &nested), "malformed"),
        ("a long name", gguf(0, 1, &many.to_le_bytes()), "malformed"),
        ("no tensors", gguf(0, 0, &[0; 8]), "not weights"),
        ("big-endian", [b"GGUF\0\0\0\x03".as_slice(), &[0; 64]].concat(), "not weights"),
        ("version 1", [b"GGUF\x01\0\0\0".as_slice(), &[0; 64]].concat(), "malformed"),
        ("overlap", two(tensor("a", &[64], 0, 0), tensor("b", &[64], 0, 32)), "malformed"),
        ("one name", two(tensor("a", &[8], 0, 0), tensor("a", &[8], 0, 32)), "malformed"),
        ("between", one(tensor("a", &[8], 0, 4)), "malformed"),
        ("2^64 elements", one(tensor("a", &[1 << 32, 1 << 32], 0, 0)), "malformed"),
        ("far away", one(tensor("a", &[8], 0, many & !31)), "incomplete"),
        ("half a block", one(tensor("a", &[33], 8, 0)), "malformed"),
        ("five dimensions", one(tensor("a", &[1; 5], 0, 0)), "malformed"),
        ("bytes behind", one(tensor("a", &[8], 0, 0)), "malformed"),
        ("a type to come", one(tensor("a", &[8], 99, 0)), "not weights"),
    ] {
        check(case, "w.gguf", &bytes, expected);
    }
    // A vocabulary of empty texts, longer than any header may be.
    let (_dir, path) = written("w.gguf", &gguf(0, 1, &list(8, 1 << 40)));
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_len(200 << 20).unwrap();
    assert_eq!(kind(&path), "malformed");
}

/// A file of h5py in which something was changed.
fn changed(act: impl Fn(&mut Vec<u8>)) -> (tempfile::TempDir, std::path::PathBuf) {
    let mut bytes = fs::read(fixtures().join("keras_weights/save.weights.h5")).unwrap();
    act(&mut bytes);
    written("w.h5", &bytes)
}

fn places(bytes: &[u8], mark: &[u8]) -> Vec<usize> {
    (0..bytes.len() - 8).filter(|at| bytes[*at..].starts_with(mark)).collect()
}

#[test]
fn hdf5_structures_that_lie() {
    let check = |case: &str, expected: &str, act: &dyn Fn(&mut Vec<u8>)| {
        let (_dir, path) = changed(act);
        assert_eq!(kind(&path), expected, "{case}");
    };
    let trees = |bytes: &[u8]| places(bytes, b"TREE");
    check("a tree below itself", "malformed", &|bytes| {
        for at in trees(bytes) {
            bytes[at + 32..at + 40].copy_from_slice(&(at as u64).to_le_bytes());
        }
    });
    check("a tree of 65 535 children", "malformed", &|bytes| {
        for at in trees(bytes) {
            bytes[at + 6..at + 8].copy_from_slice(&[0xff, 0xff]);
        }
    });
    check("names beyond the file", "malformed", &|bytes| {
        for at in places(bytes, b"HEAP") {
            bytes[at + 8..at + 16].copy_from_slice(&(1_u64 << 62).to_le_bytes());
        }
    });
    check("names without an end", "malformed", &|bytes| {
        for at in places(bytes, b"HEAP") {
            let data =
                usize::try_from(u64::from_le_bytes(bytes[at + 24..at + 32].try_into().unwrap()));
            bytes[data.unwrap()..][..88].fill(b'a');
        }
    });
    check("everything in one group", "not weights", &|bytes| {
        let root = bytes[64..72].to_vec();
        for at in places(bytes, b"SNOD") {
            bytes[at + 16..at + 24].copy_from_slice(&root);
        }
        // All names but the first of each table are left, and lead to groups.
        for at in places(bytes, b"SNOD") {
            bytes[at + 6..at + 8].copy_from_slice(&[1, 0]);
        }
    });
    check("longer than it says", "incomplete", &|bytes| bytes.push(0));
    check("zeros in front", "incomplete", &|bytes| bytes[..8].fill(0));
    check("another mark", "malformed", &|bytes| bytes[1] = b'X');
}

#[test]
fn an_archive_of_keras_that_lies() {
    let bytes = fs::read(fixtures().join("keras_archive/save.keras")).unwrap();
    let at = *places(&bytes, b"config.json").first().unwrap();
    let mut other = bytes.clone();
    other[at + 12] = b'}';
    check("a description that is none", "w.keras", &other, "ok");
    check("another archive", "w.keras", &archive("a", &[3, 0], 0), "not weights");
    let mut file = tempfile::Builder::new().suffix(".keras").tempfile().unwrap();
    file.write_all(b"PK\x03\x04").unwrap();
    assert_eq!(kind(Path::new(file.path())), "incomplete");
}
