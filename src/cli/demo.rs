//! `weightvane demo`: a network trained here, watched by the same code as any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::{DemoArgs, logging, print, watch};
use weightvane::config::Settings;
use weightvane::daemon::demo::network::Activation;
use weightvane::daemon::demo::pace::Pace;
use weightvane::daemon::demo::save::CheckpointWriter;
use weightvane::daemon::demo::train::{Trainer, TrainerConfig};
use weightvane::daemon::{Handle, Request, SaveNews, StateDir};
use weightvane::metrics::pair_means;

/// Time between two saves.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);
/// Training that shows the alignment form: this many steps in the first minute.
const MINUTE: Duration = Duration::from_mins(1);
const STEPS_IN_A_MINUTE: u32 = 6000;
/// Saves kept on disk.
const KEEP: usize = 40;

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    logging::start_quietly(&args.serve.log);
    // The trainer is ours and never stalls between two files, so a short wait is enough; the rules
    // by which a save is complete are the usual ones.
    let mut settings = Settings {
        quiet: Duration::from_millis(300),
        scan_interval: Duration::from_secs(1),
        ..Settings::default()
    };
    watch::apply(&mut settings, &args.serve);
    let (place, state) = Place::take(settings.state_dir.as_deref())?;
    let root = place.root.clone();
    let run_dir = root.join(if args.linear { "linear" } else { "relu" });
    let news: weightvane::daemon::OnSave = Box::new(|news| {
        // A closed pipe ends the lines, not the demo.
        let _ = print(&line(news));
    });
    let (daemon, address) = watch::start(settings, vec![root], state, None, Some(news))?;
    print(&greeting(args, address, &run_dir))?;
    watch::on_signal(daemon.handle())?;
    let stop = Arc::new(AtomicBool::new(false));
    let trainer = spawn_trainer(args, run_dir, daemon.handle(), Arc::clone(&stop))?;
    daemon.run();
    stop.store(true, Ordering::Relaxed);
    let trained = trainer.join().map_err(|_| Failure::usage("demo: the trainer failed"))?;
    drop(place);
    trained
}

/// Where the demo's run is saved: below the state directory, else in a directory of its own that
/// goes with the demo.
struct Place {
    root: PathBuf,
    temporary: bool,
}

impl Place {
    fn take(state_dir: Option<&Path>) -> Result<(Self, Option<StateDir>), Failure> {
        let state = state_dir.map(StateDir::take).transpose();
        let state = state.map_err(|e| Failure::system("state directory", &e))?;
        let id = std::process::id();
        let root = match &state {
            Some(state) => state.path().join(format!("demo-{}-{id}", unix_seconds())),
            None => std::env::temp_dir().join(format!("weightvane-demo-{}-{id}", unix_seconds())),
        };
        let made = std::fs::create_dir_all(&root);
        made.map_err(|e| Failure::system(&root.display().to_string(), &e))?;
        Ok((Self { root, temporary: state.is_none() }, state))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is left to the system's cleaning of temporary files.
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs())
}

fn greeting(args: &DemoArgs, address: std::net::SocketAddr, run_dir: &Path) -> String {
    let (kind, expect) = if args.linear {
        (
            "linear",
            "gram correlation climbs to 1 and commutator/chance sinks towards 0: with weight decay, the layers\nof a linear network come to share one basis",
        )
    } else {
        (
            "ReLU",
            "gram correlation climbs and stays below 1, commutator/chance does not vanish: the nonlinearity keeps\nthe layers from sharing one basis (compare with --linear)",
        )
    };
    format!(
        "weightvane demo: training a {kind} network of 4 layers, saving every {} s into {}\n\
         \n  page     http://{address}/\n  metrics  http://{address}/metrics\n\n\
         What to look at: {expect}.\nRandom layers have gram correlation 0 and commutator/chance 1.\n\n",
        SAVE_INTERVAL.as_secs(),
        run_dir.display(),
    )
}

/// One line a save.
fn line(news: &SaveNews<'_>) -> String {
    let number = |v: Option<f64>| v.map_or_else(|| "     –".into(), |v| format!("{v:6.3}"));
    let mean = pair_means(news.report).get("chain").copied();
    let each = |value: &dyn Fn(&weightvane::diagnostics::PairReport) -> Option<f64>| {
        news.report.pairs.iter().map(|p| number(value(p))).collect::<Vec<_>>().join(" ")
    };
    format!(
        "step {:>6}  loss {}  gram correlation {} (layers {})  commutator/chance {}\n",
        news.report.step.map_or_else(|| "?".into(), |s| s.to_string()),
        number(news.loss),
        number(mean),
        each(&|p| p.gram_correlation),
        each(&|p| p.commutator_vs_chance),
    )
}

type Trained = Result<(), Failure>;

fn spawn_trainer(
    args: &DemoArgs,
    run_dir: PathBuf,
    handle: Handle,
    stop: Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<Trained>, Failure> {
    let activation = if args.linear { Activation::Linear } else { Activation::Relu };
    let config =
        TrainerConfig { weight_decay: args.weight_decay, ..TrainerConfig::demo(activation) };
    let end = args.seconds.map(Duration::from_secs);
    let spawned = std::thread::Builder::new().name("trainer".into()).spawn(move || {
        let trained = train(config, run_dir, end, &stop);
        // The last save gets the time to be seen before the demo ends.
        if trained.is_ok() {
            wait(Instant::now() + SAVE_INTERVAL, &stop);
        }
        handle.send(Request::Stop);
        trained
    });
    spawned.map_err(|e| Failure::system("trainer", &e))
}

/// Trains until the end, by the clock, and saves as it goes.
fn train(
    config: TrainerConfig,
    run_dir: PathBuf,
    end: Option<Duration>,
    stop: &AtomicBool,
) -> Trained {
    let mut trainer = Trainer::new(config);
    let mut writer = CheckpointWriter::new(run_dir, std::num::NonZeroUsize::new(KEEP), None);
    // A short demo shows the same minute faster; the last interval is for the last save to be seen.
    let length = end.map(|end| end.saturating_sub(SAVE_INTERVAL).max(SAVE_INTERVAL));
    let pace = Pace::new(length.unwrap_or(MINUTE).min(MINUTE), STEPS_IN_A_MINUTE);
    let start = Instant::now();
    let mut next_save = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) && length.is_none_or(|length| start.elapsed() < length) {
        if start.elapsed() >= next_save {
            writer.save(&trainer).map_err(|e| Failure::system("demo", &e))?;
            next_save += SAVE_INTERVAL;
        }
        while trainer.global_step() < pace.steps_due(start.elapsed())
            && start.elapsed() < next_save
            && !stop.load(Ordering::Relaxed)
        {
            trainer.step();
        }
        wait(Instant::now() + Duration::from_millis(20), stop);
    }
    Ok(())
}

/// Sleeps until `until` or a stop.
fn wait(until: Instant, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20).min(until - Instant::now().min(until)));
    }
}
