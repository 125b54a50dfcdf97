//! What is packaged beside the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weightvane::config::{Confinement, Settings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weightvane");

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

#[test]
fn the_service_starts_from_the_defaults_and_reads_nothing_but_its_roots() {
    let settings = Settings::load(&packaged("weightvane.yaml")).unwrap();
    assert_eq!(settings, Settings { sandbox: Confinement::All, ..Settings::default() });
}

#[test]
fn the_changelog_is_that_of_this_version() {
    let changelog = fs::read_to_string(packaged("changelog")).unwrap();
    let first = changelog.lines().next().unwrap();
    assert!(first.starts_with(concat!("weightvane (", env!("CARGO_PKG_VERSION"), ") ")), "{first}");
}

/// The settings of a unit, without comments.
fn directives(unit: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(packaged(unit)).unwrap();
    let is_said = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines().filter(is_said).map(str::to_owned).collect()
}

/// Two files, as `systemd-analyze security` and people read them one by one; held to be the same.
#[test]
fn both_services_are_hardened_alike() {
    let (system, user) = (directives("weightvane.service"), directives("weightvane@.service"));
    let differing = system.symmetric_difference(&user);
    let keys: BTreeSet<&str> = differing.filter_map(|line| line.split('=').next()).collect();
    let expected = [
        "After",
        "Also",
        "AmbientCapabilities",
        "CapabilityBoundingSet",
        "Description",
        "ExecStart",
        "Group",
        "IPAddressAllow",
        "PrivateNetwork",
        "PrivateUsers",
        "Requires",
        "RestrictAddressFamilies",
        "StateDirectory",
        "User",
        "Wants",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
}

#[test]
fn manual_pages_and_completions_are_those_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(PROGRAM).arg("generate").arg(dir.path()).output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let help = |args: &[&str]| {
        let out = Command::new(PROGRAM).args(args).arg("--help").output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let (main, all) = (read("man/weightvane.1"), help(&[]));
    let commands = all.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let commands: Vec<&str> = commands
        .lines()
        .filter_map(|line| {
            line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty())
        })
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"watch") && !commands.contains(&"generate"), "{commands:?}");
    let mut pages = fs::read_dir(dir.path().join("man")).unwrap().count();
    for command in commands {
        let page = read(&format!("man/weightvane-{command}.1"));
        let help = help(&[command]);
        let entries = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        for option in entries.flat_map(str::split_whitespace).filter_map(|w| w.strip_prefix("--")) {
            let option = option.trim_matches(|c: char| !c.is_alphanumeric());
            let escaped = option.replace('-', "\\-");
            assert!(page.contains(&escaped), "the page of {command} lacks --{option}");
            for shell in ["bash/weightvane", "zsh/_weightvane", "fish/weightvane.fish"] {
                assert!(read(shell).contains(option), "{shell} lacks {command} --{option}");
            }
        }
        assert!(main.contains(&format!("weightvane\\-{}", command.replace('-', "\\-"))), "{main}");
        pages -= 1;
    }
    assert_eq!(pages, 1, "a page of its own for each command, and one for all");
    for shell in ["bash/weightvane", "zsh/_weightvane", "fish/weightvane.fish"] {
        assert!(!read(shell).contains("generate"), "{shell} has what is for packagers");
    }
    let syntax = Command::new("bash").arg("-n").arg(dir.path().join("bash/weightvane")).status();
    assert!(syntax.unwrap().success());
}
