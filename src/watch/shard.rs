//! Which of several daemons over the same roots a run belongs to.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// Most daemons that share roots: more would list directories that all of them list.
pub const MAX_SHARDS: u32 = 1024;

/// One of several daemons over the same roots, and how many they are.
///
/// A run belongs to one of them by the path, below the root, of the directory that holds its saves
/// (empty where that is the root itself or lies above it): `jump(XXH3-64(path), total)`, where `jump`
/// is the consistent hash of Lamping and Veach. So it is the same after a restart and wherever the
/// root is mounted, runs that share a directory stay together with the links and copies among them,
/// and of n + 1 daemons instead of n the new one takes its part from all others and nothing else moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    ordinal: u32,
    total: u32,
}

impl Default for Shard {
    /// The only one.
    fn default() -> Self {
        Self { ordinal: 0, total: 1 }
    }
}

impl Shard {
    /// The one with this number, counted from 0; `None` unless it is below `total` and `total` at most
    /// [`MAX_SHARDS`].
    #[must_use]
    pub fn new(ordinal: u32, total: u32) -> Option<Self> {
        (ordinal < total && total <= MAX_SHARDS).then_some(Self { ordinal, total })
    }

    /// Its number, from 0.
    #[must_use]
    pub fn ordinal(self) -> u32 {
        self.ordinal
    }

    /// How many they are.
    #[must_use]
    pub fn total(self) -> u32 {
        self.total
    }

    /// Whether the runs that have their saves in this directory are its own.
    #[must_use]
    pub fn has(self, root: &Path, holder: &Path) -> bool {
        if self.total == 1 {
            return true;
        }
        let below = holder.strip_prefix(root).unwrap_or(Path::new(""));
        jump(xxh3_64(below.as_os_str().as_encoded_bytes()), self.total) == self.ordinal
    }
}

/// The directory that holds the saves of a run, by the run's path and that of one of its saves.
#[must_use]
pub fn holder<'a>(run_path: &'a Path, save: &'a Path) -> &'a Path {
    if save.starts_with(run_path) { run_path } else { save.parent().unwrap_or(save) }
}

/// The bucket of a key among `n`: as `n` grows, keys only move into the new one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "buckets are small, and the quotient is one of two numbers below 2^32"
)]
fn jump(mut key: u64, n: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0_u64);
    while next < u64::from(n) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let of_two = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * of_two) as u64;
    }
    bucket as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard_of(path: &str, total: u32) -> u32 {
        let root = Path::new("/mnt/runs");
        let holder = root.join(path);
        let mut mine = (0..total).filter(|i| Shard::new(*i, total).unwrap().has(root, &holder));
        let shard = mine.next().unwrap();
        assert_eq!(mine.next(), None, "{path} belongs to one of {total}");
        shard
    }

    /// Computed with Python's xxhash and jump-consistent-hash.
    #[test]
    fn others_compute_the_same_shard() {
        for (path, wanted) in [
            ("", [0, 0, 0, 241]),
            ("run", [1, 1, 6, 904]),
            ("team/llama-7b", [0, 0, 0, 529]),
            ("läuft", [1, 1, 1, 1]),
            ("a/b/c/seed-3", [1, 1, 5, 954]),
        ] {
            assert_eq!([2, 3, 8, 1000].map(|total| shard_of(path, total)), wanted, "{path}");
        }
    }

    #[test]
    fn runs_are_spread_evenly_and_a_new_shard_takes_its_part_from_all() {
        let paths: Vec<String> = (0..4000).map(|i| format!("team/run-{i}")).collect();
        let mut counts = [0_u32; 4];
        let mut n_moved = 0;
        for path in &paths {
            let (before, after) = (shard_of(path, 3), shard_of(path, 4));
            assert!(before == after || after == 3, "{path} moved from {before} to {after}");
            n_moved += u32::from(before != after);
            counts[after as usize] += 1;
        }
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
        assert_eq!(n_moved, counts[3]);
    }

    #[test]
    fn the_mount_does_not_count_and_the_root_is_one_place() {
        let has = |root: &str, holder: &str| {
            let all = (0..8).map(|i| Shard::new(i, 8).unwrap());
            all.map(|shard| shard.has(Path::new(root), Path::new(holder))).collect::<Vec<_>>()
        };
        assert_eq!(has("/mnt/a", "/mnt/a/x/run"), has("/data", "/data/x/run"));
        assert_eq!(has("/mnt/a/", "/mnt/a/x/run"), has("s3://bucket/p", "s3://bucket/p/x/run"));
        // A root that is a run, or a save whose run is around it.
        assert_eq!(has("/mnt/a", "/mnt/a"), has("/mnt/a/step-5", "/mnt/a"));
        assert!(Shard::default().has(Path::new("/mnt/a"), Path::new("/mnt/a/x")));
    }

    #[test]
    fn only_sound_numbers_are_a_shard() {
        assert_eq!(Shard::new(0, 1), Some(Shard::default()));
        assert!(Shard::new(MAX_SHARDS - 1, MAX_SHARDS).is_some());
        for (ordinal, total) in [(0, 0), (1, 1), (3, 3), (0, MAX_SHARDS + 1)] {
            assert_eq!(Shard::new(ordinal, total), None, "{ordinal} of {total}");
        }
    }

    #[test]
    fn runs_of_plain_files_are_held_by_their_directory() {
        let of = |run: &str, save: &str| {
            holder(Path::new(run), Path::new(save)).to_string_lossy().into_owned()
        };
        assert_eq!(of("r/run", "r/run/checkpoint-5"), "r/run");
        assert_eq!(of("r/ema", "r/ema-5.pt"), "r", "beside `r/model-5.pt`");
        assert_eq!(of("r/run", "r/run"), "r/run", "rewritten in place");
    }
}
