//! Single files by hand: accepted, malformed, incomplete, something else.

use super::{WEIGHTS, check, dir_with, file_of};

/// Name of the case, the file, and the class that is expected.
type Case = (&'static str, Vec<u8>, &'static str);

const MIB16: u64 = 16 << 20;

fn check_all(cases: &[Case]) {
    for (case, bytes, expected) in cases {
        let dir = dir_with(&[(WEIGHTS, bytes)]);
        let _ = check(case, &dir.path().join(WEIGHTS), expected);
    }
}

/// A header with one tensor.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

/// The header of a valid file with 24 bytes of data.
fn ok() -> String {
    one("F32", "[2,3]", "[0,24]")
}

/// Tensors `a` and `b` of 8 bytes at these places.
fn two(a: &str, b: &str) -> String {
    let entry = |offsets| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
    format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b))
}

/// Two tensors of these names, as JSON strings.
fn names(a: &str, b: &str) -> String {
    two("[0,8]", "[8,16]").replace("\"a\"", a).replace("\"b\"", b)
}

/// A shape of so many ones.
fn ones(n: usize) -> String {
    format!("[{}1]", "1,".repeat(n - 1))
}

/// A valid header with more text in the description of its tensor.
fn in_entry(more: &str) -> String {
    ok().replace(r#""dtype""#, &format!(r#"{more},"dtype""#))
}

fn with_metadata(text: &str) -> String {
    ok().replacen('{', &format!(r#"{{"__metadata__":{text},"#), 1)
}

fn many_keys(n: usize) -> String {
    let keys: Vec<String> = (0..n).map(|i| format!(r#""{i}":"""#)).collect();
    format!("{{{}}}", keys.join(","))
}

fn long_name(n: usize) -> String {
    ok().replace("\"w\"", &format!("\"{}\"", "n".repeat(n)))
}

/// A file that states this length of its header and has the valid one, without data.
fn length(n: u64) -> Vec<u8> {
    [&n.to_le_bytes()[..], ok().as_bytes()].concat()
}

#[test]
fn what_the_format_allows_is_accepted() {
    check_all(&[
        ("valid", file_of(ok(), 24), "ok"),
        ("no tensors", file_of("{}", 0), "ok"),
        ("scalar", file_of(one("F32", "[]", "[0,4]"), 4), "ok"),
        ("no elements", file_of(one("F32", "[0,5]", "[0,0]"), 0), "ok"),
        ("padded with spaces", file_of(format!("{}     ", ok()), 24), "ok"),
        ("file order is not place order", file_of(two("[8,16]", "[0,8]"), 16), "ok"),
        ("metadata", file_of(with_metadata(r#"{"a":"b"}"#), 24), "ok"),
        ("metadata null", file_of(with_metadata("null"), 24), "ok"),
        ("unknown key", file_of(in_entry(r#""later":[{"a":1}]"#), 24), "ok"),
        ("rank 64", file_of(one("F32", &ones(64), "[0,4]"), 4), "ok"),
        ("sub-byte", file_of(one("F4", "[4]", "[0,2]"), 2), "ok"),
        ("name of 4096 bytes", file_of(long_name(4096), 24), "ok"),
        ("hostile name", file_of(ok().replace("\"w\"", r#""a\n\u0000\"b""#), 24), "ok"),
    ]);
}

#[test]
fn lengths_tell_malformed_from_incomplete() {
    check_all(&[
        ("empty file", vec![], "incomplete"),
        ("seven bytes", vec![1; 7], "incomplete"),
        ("header not there", length(100)[..8].to_vec(), "incomplete"),
        ("header longer than the file", length(10_000), "incomplete"),
        ("header of 16 MiB announced", length(MIB16), "incomplete"),
        ("data not there", file_of(ok(), 0), "incomplete"),
        ("one byte short", file_of(ok(), 23), "incomplete"),
        ("header length 0", length(0), "malformed"),
        ("header of 16 MiB and one byte", length(MIB16 + 1), "malformed"),
        ("header of 2^63", length(1 << 63), "malformed"),
        ("header of 2^64 - 1", length(u64::MAX), "malformed"),
        ("header of 2^64 - 8", length(u64::MAX - 7), "malformed"),
        ("one byte of 0xff", vec![0xff; 8], "malformed"),
        ("trailing byte", file_of(ok(), 25), "malformed"),
        ("trailing MiB", file_of(ok(), 24 + (1 << 20)), "malformed"),
    ]);
}

#[test]
fn each_name_stands_once() {
    check_all(&[
        ("duplicate tensor", file_of(names("\"a\"", "\"a\""), 16), "malformed"),
        ("duplicate tensor, escaped", file_of(names("\"a\"", r#""\u0061""#), 16), "malformed"),
        (
            "nonsense first copy",
            file_of(names("\"a\"", "\"a\"").replacen("[0,8]", "[8,16]", 1), 16),
            "malformed",
        ),
        ("duplicate dtype", file_of(in_entry(r#""dtype":"F32""#), 24), "malformed"),
        ("duplicate shape", file_of(in_entry(r#""shape":[6]"#), 24), "malformed"),
        (
            "duplicate offsets, escaped",
            file_of(in_entry(r#""\u0064ata_offsets":[0,24]"#), 24),
            "malformed",
        ),
        ("duplicate metadata", file_of(with_metadata(r#"{},"__metadata__":{}"#), 24), "malformed"),
        ("duplicate metadata key", file_of(with_metadata(r#"{"a":"b","a":"c"}"#), 24), "malformed"),
        ("metadata of numbers", file_of(with_metadata(r#"{"a":1}"#), 24), "malformed"),
        ("65537 metadata keys", file_of(with_metadata(&many_keys(65_537)), 24), "malformed"),
        ("65536 metadata keys", file_of(with_metadata(&many_keys(65_536)), 24), "ok"),
        ("metadata is a list", file_of(with_metadata("[]"), 24), "malformed"),
    ]);
}

#[test]
fn places_tile_the_data() {
    check_all(&[
        ("hole", file_of(two("[0,8]", "[9,17]"), 17), "malformed"),
        ("hole at the start", file_of(one("F32", "[1]", "[4,8]"), 8), "malformed"),
        ("overlap", file_of(two("[0,8]", "[4,12]"), 12), "malformed"),
        ("same place", file_of(two("[0,8]", "[0,8]"), 8), "malformed"),
        ("reversed", file_of(one("F32", "[1]", "[4,0]"), 4), "malformed"),
        ("reversed from 0", file_of(two("[0,8]", "[8,0]"), 8), "malformed"),
        (
            "end wraps",
            file_of(one("U8", "[18446744073709551615]", "[0,18446744073709551615]"), 0),
            "malformed",
        ),
        (
            "length equation wraps",
            file_of(one("U8", "[18446744073709551000]", "[0,18446744073709551000]"), 616),
            "malformed",
        ),
    ]);
}

#[test]
fn shapes_and_types_give_the_size() {
    check_all(&[
        ("product wraps", file_of(one("F32", "[4294967296,4294967296]", "[0,0]"), 0), "malformed"),
        ("bits wrap", file_of(one("F64", "[288230376151711744]", "[0,0]"), 0), "malformed"),
        (
            "empty with huge dims",
            file_of(one("F32", "[0,9223372036854775808,9223372036854775808]", "[0,0]"), 0),
            "malformed",
        ),
        ("dim of 2^64", file_of(one("F32", "[18446744073709551616]", "[0,4]"), 4), "malformed"),
        ("rank 65", file_of(one("F32", &ones(65), "[0,4]"), 4), "malformed"),
        ("rank 100 000", file_of(one("F32", &ones(100_000), "[0,4]"), 4), "malformed"),
        ("negative dim", file_of(one("F32", "[-1]", "[0,4]"), 4), "malformed"),
        ("float dim", file_of(one("F32", "[1.0]", "[0,4]"), 4), "malformed"),
        ("exponent dim", file_of(one("F32", "[1e0]", "[0,4]"), 4), "malformed"),
        ("text dim", file_of(one("F32", "[\"1\"]", "[0,4]"), 4), "malformed"),
        ("shape is a number", file_of(one("F32", "1", "[0,4]"), 4), "malformed"),
        ("three offsets", file_of(one("F32", "[1]", "[0,4,4]"), 4), "malformed"),
        ("one offset", file_of(one("F32", "[1]", "[0]"), 4), "malformed"),
        ("negative offset", file_of(one("F32", "[1]", "[-4,0]"), 4), "malformed"),
        ("lower-case type", file_of(one("f32", "[1]", "[0,4]"), 4), "malformed"),
        ("unknown type", file_of(one("F128", "[1]", "[0,16]"), 16), "malformed"),
        ("bytes do not fit shape", file_of(one("F32", "[2]", "[0,4]"), 4), "malformed"),
        ("bytes do not fit type", file_of(one("F64", "[1]", "[0,4]"), 4), "malformed"),
        ("half a byte", file_of(one("F4", "[3]", "[0,2]"), 2), "malformed"),
    ]);
}

#[test]
fn only_the_json_of_a_header_is_one() {
    let mut non_utf8 = ok().into_bytes();
    non_utf8[2] = 0xff;
    check_all(&[
        ("no dtype", file_of(r#"{"w":{"shape":[1],"data_offsets":[0,4]}}"#, 4), "malformed"),
        ("no shape", file_of(r#"{"w":{"dtype":"F32","data_offsets":[0,4]}}"#, 4), "malformed"),
        ("no offsets", file_of(r#"{"w":{"dtype":"F32","shape":[1]}}"#, 4), "malformed"),
        ("entry is a list", file_of(r#"{"w":["F32",[1],[0,4]]}"#, 4), "malformed"),
        ("name of 4097 bytes", file_of(long_name(4097), 24), "malformed"),
        ("not UTF-8", file_of(non_utf8, 24), "malformed"),
        ("lone surrogate", file_of(ok().replace("\"w\"", r#""\ud800""#), 24), "malformed"),
        ("JSON ends early", file_of(&ok()[..ok().len() - 1], 24), "malformed"),
        ("JSON goes on", file_of(format!("{}{{}}", ok()), 24), "malformed"),
        ("zeros for a header", file_of([0; 64], 0), "malformed"),
        ("a list", file_of("[]", 0), "malformed"),
        ("depth bomb", file_of("[".repeat(1 << 20), 0), "malformed"),
        (
            "depth bomb in an entry",
            file_of(format!("{{\"w\":{}", "{\"a\":".repeat(1 << 18)), 0),
            "malformed",
        ),
        (
            "long nonsense",
            file_of(format!("{{\"w\":\"{}\"}}", "x".repeat(1 << 20)), 0),
            "malformed",
        ),
        (
            "git-lfs pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(),
            "not a checkpoint",
        ),
        ("torch zip", [b"PK\x03\x04", &[0xff; 60][..]].concat(), "not a checkpoint"),
    ]);
}
