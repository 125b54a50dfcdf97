//! How often the daemon is wrong: trains small networks, breaks copies of them, and counts.
//!
//! `calibrate [--quick] [--threads N] [--half tune|report] [--details]`

mod bound;
mod data;
mod fault;
mod network;
mod save;
mod score;
mod setup;
mod training;
mod trial;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use setup::Setup;
use trial::Outcome;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

const USAGE: &str = "usage: calibrate [--quick] [--threads N] [--half tune|report] [--details]";

struct Flags {
    is_quick: bool,
    threads: usize,
    with_tuning: bool,
    with_report: bool,
    with_details: bool,
}

fn flags() -> Option<Flags> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut flags = Flags {
        is_quick: false,
        threads,
        with_tuning: true,
        with_report: true,
        with_details: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        match flag.as_str() {
            "--quick" => flags.is_quick = true,
            "--details" => flags.with_details = true,
            "--threads" => flags.threads = given.next()?.parse().ok().filter(|n| *n > 0)?,
            "--half" => match given.next()?.as_str() {
                "tune" => flags.with_report = false,
                "report" => flags.with_tuning = false,
                _ => return None,
            },
            _ => return None,
        }
    }
    Some(flags)
}

fn main() -> ExitCode {
    let Some(flags) = flags() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match calibrate(&flags) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the tables; whether the aims are met.
fn calibrate(flags: &Flags) -> Result<bool> {
    let is_wanted =
        |s: &Setup| if s.is_for_tuning() { flags.with_tuning } else { flags.with_report };
    let setups: Vec<Setup> = setup::all(flags.is_quick).into_iter().filter(is_wanted).collect();
    let outcomes = train(&setups, flags.threads)?;
    let mut verdict = true;
    let halves = [
        (true, "First half of the seeds: thresholds were chosen on these"),
        (false, "Second half of the seeds: these are reported"),
    ];
    for (is_for_tuning, name) in halves {
        let half: Vec<&Outcome> =
            outcomes.iter().filter(|o| o.setup.is_for_tuning() == is_for_tuning).collect();
        if half.is_empty() {
            continue;
        }
        let (text, is_met) = score::tables(name, &half);
        print!("{text}");
        if flags.with_details {
            print!("\n{}", score::details(&half));
        }
        // The second half comes last, and decides where it is there.
        verdict = is_met;
    }
    let not = if verdict { "" } else { "NOT " };
    println!(
        "\nat most 1 false alarm in 1000 healthy saves, and 95 % of every fault told within two saves: {not}met"
    );
    Ok(verdict)
}

/// All trials, in the order of their setups.
fn train(setups: &[Setup], threads: usize) -> Result<Vec<Outcome>> {
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<Outcome>)>> = Mutex::default();
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(setup) = setups.get(i) else { return };
            let outcome = trial::run(setup.clone());
            let Ok(mut done) = done.lock() else { return };
            done.push((i, outcome));
            eprintln!("{} of {}, {} s", done.len(), setups.len(), start.elapsed().as_secs());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().map_err(|_| "a training panicked")?;
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
