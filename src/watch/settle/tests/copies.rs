//! What is a copy of a save that was handed out.

use super::*;

/// A save of one file, with an inode of its own for each mtime.
fn one(name: &str, size: u64, at_ms: i64) -> FoundSave {
    let stamp = file(name, size, at_ms * 1_000_000);
    let ino = stamp.ino * 1_000_000 + u64::try_from(at_ms).unwrap();
    save(&format!("/w/run/{name}"), &[FileStamp { ino, ..stamp }])
}

fn names(moments: &[Moment]) -> Vec<String> {
    let mut settler = Settler::new(SettleRules::default());
    let mut handed = Vec::new();
    for (at, saves, hints) in moments {
        let now = Duration::from_millis(*at);
        settler.observe(now, &found(saves), hints);
        for save in settler.take_settled(now) {
            handed.push(names::escape(save.path.file_name().unwrap()));
        }
    }
    handed
}

#[test]
fn a_copy_written_with_its_original_is_not_counted() {
    let numbered = one("epoch=0-step=5.ckpt", 500_000, 1_000);
    let times = [3_000, 20_000, 33_000, 40_000, 63_000, 70_000];
    let check = |other: FoundSave, expected: &[&str]| {
        assert_eq!(names(&steady(&times, &[numbered.clone(), other])), expected);
    };
    check(one("last.ckpt", 500_000, 1_500), &["epoch=0-step=5.ckpt"]);
    check(one("last.ckpt", 502_000, 1_500), &["epoch=0-step=5.ckpt"]);
    check(one("best.ckpt", 500_000, 900), &["epoch=0-step=5.ckpt"]);
    // Of another size, of another time, or of other weights.
    check(one("last.ckpt", 510_000, 1_500), &["epoch=0-step=5.ckpt", "last.ckpt"]);
    check(one("last.ckpt", 500_000, 40_000), &["epoch=0-step=5.ckpt", "last.ckpt"]);
    check(one("last_ema.ckpt", 500_000, 1_500), &["epoch=0-step=5.ckpt", "last_ema.ckpt"]);
    check(one("other.ckpt", 500_000, 1_500), &["epoch=0-step=5.ckpt", "other.ckpt"]);
}

#[test]
fn an_alias_written_again_is_a_save_of_its_own() {
    let numbered = one("epoch=0-step=5.ckpt", 500_000, 1_000);
    let mut moments =
        steady(&[3_000, 33_000, 35_000], &[numbered.clone(), one("last.ckpt", 500_000, 1_500)]);
    moments.extend(steady(&[40_000, 71_000], &[numbered, one("last.ckpt", 500_000, 20_000)]));
    assert_eq!(names(&moments), ["epoch=0-step=5.ckpt", "last.ckpt"]);
}

#[test]
fn a_link_whose_other_name_is_gone_is_not_counted_again() {
    let numbered = one("checkpoint-5.pth.tar", 9, 1_000);
    let mut best = numbered.clone();
    best.path = "/w/run/model_best.pth.tar".into();
    best.files[0].name = "model_best.pth.tar".into();
    (best.step, best.run, best.in_place) = (None, "run/model_best".into(), true);
    let mut moments = steady(&[3_000, 33_000], &[numbered]);
    moments.extend(steady(&[40_000, 80_000, 120_000], &[best]));
    assert_eq!(names(&moments), ["checkpoint-5.pth.tar"]);
}

#[test]
fn of_aliases_alone_the_last_counts() {
    let both = [one("best.pt", 9, 1_000), one("last.pt", 9, 1_001)];
    assert_eq!(names(&steady(&[3_000, 33_000, 63_000, 93_000], &both)), ["last.pt"]);
    let best = [one("best.pt", 9, 1_000)];
    assert_eq!(names(&steady(&[3_000, 33_000], &best)), ["best.pt"]);
}
