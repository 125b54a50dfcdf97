//! The fuzz targets (`tests/fuzz`) by an ordinary compiler: each is fed its seeds, what fuzzers found, and
//! mutations of both by a fixed generator.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use crate::support::tests_dir;

#[path = "../fuzz/src/targets.rs"]
mod targets;

/// Mutations of every target.
const N_MUTATIONS: usize = 600;
/// Bytes of an input that is mutated.
const MAX_INPUT: usize = 48 << 10;
/// Longest time for one input, on a busy machine and without optimisation.
const PATIENCE: Duration = Duration::from_secs(30);
/// Numbers at which bounds are missed.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 62,
    u64::MAX >> 1,
    u64::MAX,
];

/// Seeds of a target: name and bytes.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let packed = fs::read(tests_dir("fuzz/seeds").join(target)).expect("every target has seeds");
    let mut rest = packed.as_slice();
    let mut found = Vec::new();
    while let Some((lengths, after)) = rest.split_first_chunk::<6>() {
        let [a, b, c, d, e, f] = *lengths;
        let (name, after) = after.split_at(usize::from(u16::from_le_bytes([a, b])));
        let (data, after) = after.split_at(u32::from_le_bytes([c, d, e, f]) as usize);
        found.push((String::from_utf8(name.to_vec()).unwrap(), data.to_vec()));
        rest = after;
    }
    let read = |directory: PathBuf| {
        let entries = fs::read_dir(directory).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
    };
    found.extend(read(tests_dir("fuzz/found").join(target)));
    if target == "rules" {
        found.extend(read(tests_dir("../config/architectures")));
    }
    found.sort();
    found
}

/// Changes an input a little, as those who write fuzzers do: a bit, a number, a piece less or twice, a
/// piece of another.
fn mutate(random: &mut impl Rng, mut input: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..random.random_range(1..5) {
        let n = input.len();
        let at = random.random_range(0..=n);
        let end = random.random_range(at..=(at + 64).min(n));
        match random.random_range(0..7) {
            0 | 1 if at < n => input[at] ^= 1 << random.random_range(0..8),
            2 => {
                let number = EDGES.choose(random).unwrap().to_le_bytes();
                let width = *[1, 2, 4, 8].choose(random).unwrap();
                let place = input.iter_mut().skip(at).zip(&number[..width]);
                place.for_each(|(to, from)| *to = *from);
            }
            3 => drop(input.drain(at..end)),
            4 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            5 if !other.is_empty() => {
                let from = random.random_range(0..other.len());
                let to = random.random_range(from..=(from + 128).min(other.len()));
                input.splice(at..end, other[from..to].iter().copied());
            }
            6 => input.truncate(at),
            _ => input.insert(at, random.random()),
        }
    }
    input
}

fn feed(target: &str, bench: &targets::Bench, name: &str, input: &[u8]) {
    let began = Instant::now();
    let fed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        targets::feed(target, bench, input);
    }));
    let lasts = began.elapsed();
    if fed.is_err() || lasts > PATIENCE {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-found"));
        fs::write(&kept, input).unwrap();
        panic!("{target}: of {name}, {lasts:?}; the input is kept in {}", kept.display());
    }
}

fn replay(target: &str) {
    let bench = targets::Bench::new();
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        feed(target, &bench, name, seed);
    }
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let small: Vec<_> = seeds.iter().filter(|(_, seed)| seed.len() <= MAX_INPUT).collect();
    for _ in 0..N_MUTATIONS {
        let [(name, seed), (_, other)] = [(); 2].map(|()| *small.choose(&mut random).unwrap());
        let input = mutate(&mut random, seed.clone(), other);
        feed(target, &bench, name, &input);
    }
}

/// One test a target, so that they share the cores and each has a name.
macro_rules! replays {
    ($($target:ident),*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed_and_built() {
            let replayed = [$(stringify!($target)),*];
            let targets = targets::TARGETS.map(|(name, _)| name);
            assert_eq!(replayed, targets);
            let manifest = fs::read_to_string(tests_dir("fuzz/Cargo.toml")).unwrap();
            for target in targets {
                assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
                let source = tests_dir("fuzz/targets").join(format!("{target}.rs"));
                let source = fs::read_to_string(source).unwrap();
                assert!(source.contains(&format!("feed(\"{target}\"")), "{target}");
            }
        }
    };
}

replays!(
    safetensors,
    index,
    records,
    pickle,
    legacy,
    zip,
    distributed,
    deepspeed,
    npy,
    gguf,
    hdf5,
    names,
    rules,
    configuration,
    weights,
    watch
);
