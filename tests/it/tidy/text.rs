//! What no source file holds.

use super::paths::code;
use super::{repository, rust_files};

/// Most lines of a file.
const MAX_LINES: usize = 500;

/// Words of unfinished work; put together here, so that this file does not hold them.
const UNFINISHED: &[&str] = &[
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unim", "plemented!"),
    concat!("#[ig", "nore"),
];

fn faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let n_lines = text.lines().count();
    if n_lines > MAX_LINES {
        faults.push(format!("{n_lines} lines, expected at most {MAX_LINES}"));
    }
    let unfinished = UNFINISHED.iter().filter(|word| text.contains(**word));
    faults.extend(unfinished.map(|word| format!("holds `{word}`")));
    let keyword = concat!("un", "safe");
    if code(text).split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == keyword) {
        faults.push(format!("holds `{keyword}`"));
    }
    faults
}

#[test]
fn files_are_short_finished_and_safe() {
    let mut all = Vec::new();
    for (path, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        all.extend(faults(&text).into_iter().map(|fault| format!("{}: {fault}", path.display())));
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn long_unfinished_and_unsafe_files_are_found() {
    assert!(faults("fn f() {}\n").is_empty());
    assert_eq!(faults(&"\n".repeat(MAX_LINES + 1)).len(), 1);
    for word in UNFINISHED {
        assert_eq!(faults(&format!("fn f() {{}} // {word}\n")).len(), 1, "{word}");
    }
    assert_eq!(faults(concat!("fn f() { un", "safe { g() } }")).len(), 1);
    assert!(faults(concat!("// nothing un", "safe\n#![forbid(un", "safe_code)]")).is_empty());
}

/// Of the crates that can map a file only memmap2 is here, for memory without one, and only our own
/// code can call it, in which `unsafe` is forbidden: so is mapping a file.
#[test]
fn no_crate_maps_files() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let names: Vec<_> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert!(names.contains(&"\"safetensors\""));
    let mapping: Vec<_> = names.into_iter().filter(|name| name.contains("mmap")).collect();
    assert_eq!(mapping, ["\"memmap2\""]);
    let users = lock.matches("\n \"memmap2\"").count();
    assert_eq!(users, 1, "others than weightvane use memmap2");
    let root = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    assert!(root.contains("unsafe_code = \"forbid\""));
}
