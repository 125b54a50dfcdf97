//! The runs below a root, divided among several daemons; and marks of their end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use weightvane::watch::{FoundSave, ScanLimits, Shard, scan};

use super::{add, lines, look, tree};

fn part(root: &Path, ordinal: u32, total: u32) -> Vec<FoundSave> {
    let shard = Shard::new(ordinal, total).unwrap();
    let outcome = scan(root, &ScanLimits { shard, ..ScanLimits::default() });
    assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
    outcome.saves
}

/// Runs of every layout, forty of them.
fn many() -> Vec<String> {
    let layouts = [
        "hf-I/checkpoint-1/model.safetensors",
        "hf-I/checkpoint-2/model.safetensors",
        "hf-I/model.safetensors",
        "files-I/model-1.safetensors",
        "files-I/model-2.safetensors",
        "files-I/ema-1.safetensors",
        "files-I/best.safetensors",
        "orbax-I/5/_CHECKPOINT_METADATA",
        "orbax-I/5/default/manifest.ocdbt",
        "orbax-I/5/default/d/0123abcd",
        "deepspeed-I/global_step7/mp_rank_00_model_states.pt",
        "deepspeed-I/latest",
        "nemo-I/model--val=0.5-step=9/weights/__0_0.distcp",
        "nemo-I/model--val=0.5-step=9/weights/.metadata",
    ];
    let each = (0..8).flat_map(|i| layouts.map(|path| path.replace('I', &i.to_string())));
    each.collect()
}

#[test]
fn every_save_is_found_by_one_daemon_as_if_it_were_alone() {
    let paths = many();
    let (_temp, root) = tree(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    // One file in two runs that different daemons measure: it counts in the first alone, as ever.
    let linked = |i| format!("linked-{i}/step-1.safetensors");
    add(&root, &linked(0));
    for i in 1..8 {
        fs::create_dir(root.join(format!("linked-{i}"))).unwrap();
        fs::hard_link(root.join(linked(0)), root.join(linked(i))).unwrap();
    }
    let whole = look(&root);
    assert!(whole.saves.len() > 60, "{:#?}", lines(&root, &whole));
    assert_eq!(whole.saves.iter().filter(|save| save.run.starts_with("linked-")).count(), 1);
    for total in [1, 2, 3, 7] {
        let mut found: Vec<FoundSave> = (0..total).flat_map(|i| part(&root, i, total)).collect();
        found.sort_by(|a, b| (&a.run, a.step, &a.path).cmp(&(&b.run, b.step, &b.path)));
        assert_eq!(found, whole.saves, "of {total}");
    }
}

#[test]
fn runs_of_one_directory_stay_together() {
    let paths = many();
    let (_temp, root) = tree(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    let mut of_directory = BTreeMap::new();
    for ordinal in 0..5 {
        for save in part(&root, ordinal, 5).iter().filter(|save| save.run.starts_with("files-")) {
            let shard = of_directory.entry(save.path.parent().unwrap().to_owned());
            assert_eq!(*shard.or_insert(ordinal), ordinal, "{save:?}");
        }
    }
    assert_eq!(of_directory.len(), 8);
}

#[test]
fn end_marks_are_found_where_runs_may_be_and_nowhere_else() {
    let (_temp, root) = tree(&[
        "a/checkpoint-1/model.safetensors",
        "a/.weightvane-ended",
        "b/c/.weightvane-ended",
        "a/checkpoint-1/.weightvane-ended",
        "d/.weightvane-ended/",
    ]);
    std::os::unix::fs::symlink("/etc/hostname", root.join("b/.weightvane-ended")).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
    let mark = fs::File::options().write(true).open(root.join("a/.weightvane-ended")).unwrap();
    mark.set_modified(at).unwrap();
    let outcome = look(&root);
    assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
    let mut marks = outcome.end_marks;
    marks.sort_by(|a, b| a.directory.cmp(&b.directory));
    // What lies in a save says nothing: above `run_path` is what counts.
    marks.retain(|mark| !mark.directory.ends_with("checkpoint-1"));
    let places: Vec<_> = marks.iter().map(|m| m.directory.strip_prefix(&root).unwrap()).collect();
    assert_eq!(places, [Path::new("a"), Path::new("b/c")]);
    assert_eq!(marks[0].mtime_ns, 1_700_000_000_000_000_001);
    assert_eq!(outcome.saves.len(), 1);
}
