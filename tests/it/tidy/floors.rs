//! A room names only rooms on lower floors.

use super::paths::mentions;
use super::{module, rust_files};

/// The table of `src/lib.rs`.
const FLOORS: &[(&str, u32)] = &[
    ("linalg", 0),
    ("remote", 0),
    ("disk", 0),
    ("sandbox", 0),
    ("checkpoint", 1),
    ("watch", 1),
    ("model", 2),
    ("diagnostics", 3),
    ("history", 4),
    ("metrics", 5),
    ("config", 6),
    ("daemon", 7),
    ("cli", 8),
    ("main", 8),
];

fn floor(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// What a file of a room names that it must not.
fn faults(module: &[String], text: &str) -> Vec<String> {
    let room = &module[0];
    let own = floor(room).unwrap_or_else(|| panic!("`{room}` has no floor"));
    let mut faults = Vec::new();
    for mention in mentions(module, text) {
        let Some(other) = mention.to.first().filter(|other| *other != room) else { continue };
        match floor(other) {
            // The command line is a crate of its own, whose root is `main`.
            Some(_) if room == "main" || (room == "cli" && other == "main") => {}
            Some(floor) if floor < own => {}
            Some(floor) => {
                faults.push(format!("`{room}` (floor {own}) names `{other}` (floor {floor})"));
            }
            None => faults.push(format!("`{room}` names `{other}`, which is no room")),
        }
    }
    faults
}

#[test]
fn rooms_name_only_lower_rooms() {
    let mut all = Vec::new();
    for (path, text) in rust_files("src") {
        let module = module(&path);
        if !module.is_empty() {
            let told = faults(&module, &text).into_iter();
            all.extend(told.map(|fault| format!("{}: {fault}", path.display())));
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn the_table_of_the_library_is_the_one_that_is_held() {
    let source = std::fs::read_to_string(super::repository().join("src/lib.rs")).unwrap();
    let rooms: Vec<_> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert!(!rooms.is_empty());
    for room in rooms {
        let floor = floor(room).unwrap_or_else(|| panic!("`{room}` has no floor"));
        let row = format!("//! | {floor} | [`{room}`] |");
        assert!(source.contains(&row), "src/lib.rs lacks the row `{row}`");
    }
}

#[test]
fn what_breaks_the_order_is_found() {
    let check = |module: &[&str], text: &str, wanted: &[&str]| {
        let module: Vec<String> = module.iter().map(|&part| part.to_owned()).collect();
        let found = faults(&module, text);
        assert_eq!(found.len(), wanted.len(), "{module:?} {text}: {found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.contains(wanted), "{found} lacks {wanted}");
        }
    };
    // A higher room, however it is named.
    check(&["model"], "use crate::daemon::Daemon;", &["`daemon` (floor 7)"]);
    check(&["model", "chain"], "use crate::{linalg, config::Settings};", &["`config` (floor 6)"]);
    check(
        &["model", "chain"],
        "fn f(x: super::super::metrics::Family) {}",
        &["`metrics` (floor 5)"],
    );
    check(&["linalg"], "fn f() { weightvane::model::g() }", &["`model` (floor 2)"]);
    check(&["linalg"], "mod tests { use crate::model::Rule; }", &["`model`"]);
    // Two rooms of one floor.
    check(&["linalg"], "use crate::watch::Settler;", &["`watch` (floor 1)"]);
    check(
        &["watch", "scan"],
        "let x = crate::checkpoint::open(path);",
        &["`checkpoint` (floor 1)"],
    );
    // What is no room.
    check(&["daemon"], "use crate::util::x;", &["`util`, which is no room"]);
    check(&["daemon"], "use crate::cli;", &["`cli` (floor 8)"]);
    // Lower rooms and the own one.
    check(&["daemon", "job"], "use crate::{watch, daemon::http}; use super::queue;", &[]);
    check(&["cli", "watch"], "use super::failure; use weightvane::daemon::Daemon;", &[]);
    check(&["main"], "fn main() { cli::run() }", &[]);
}
