//! `weightvane demo`: a network trained here, watched by the same code as any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::failure::Failure;
use super::{DemoArgs, logging, print, watch};
use weightvane::config::Settings;
use weightvane::daemon::demo::fault::Fault;
use weightvane::daemon::demo::job::{self, JobConfig};
use weightvane::daemon::demo::network::Activation;
use weightvane::daemon::demo::train::TrainerConfig;
use weightvane::daemon::{Handle, Request, SaveNews, StateDir};
use weightvane::metrics::pair_means;

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    logging::start_quietly(&args.serve.log);
    if let (Some(_), Some(seconds)) = (args.fault, args.seconds)
        && args.fault_after >= seconds
    {
        let after = args.fault_after;
        return Err(Failure::usage(format!(
            "demo: the fault would begin after {after} s and the demo ends after {seconds}: expected --seconds above --fault-after"
        )));
    }
    if let Some(run_dir) = &args.train_into {
        return train_into(args, run_dir);
    }
    // The trainer is ours and never stalls between two files, so a short wait is enough; the rules
    // by which a save is complete are the usual ones.
    let mut settings = Settings {
        quiet: Duration::from_millis(300),
        scan_interval: Duration::from_secs(1),
        ..Settings::default()
    };
    watch::apply(&mut settings, &args.serve).map_err(Failure::usage)?;
    let (place, state) = Place::take(settings.state_dir.as_deref())?;
    let root = place.root.clone();
    let run_dir = root.join(kind(args).to_lowercase());
    let news: weightvane::daemon::OnSave = Box::new(|news| {
        // A closed pipe ends the lines, not the demo.
        let _ = print(&line(news));
    });
    let listener = watch::listener(&args.serve, &settings)?;
    let parts = watch::Parts { state, on_save: Some(news), ..watch::Parts::default() };
    let daemon = watch::start(listener, settings, vec![root], parts)?;
    print(&greeting(args, daemon.url(), &run_dir))?;
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

fn kind(args: &DemoArgs) -> &'static str {
    if args.linear { "linear" } else { "ReLU" }
}

fn greeting(args: &DemoArgs, url: &str, run_dir: &Path) -> String {
    let expect = if args.linear {
        "gram correlation climbs to 1 and commutator/chance sinks towards 0: with weight decay, the layers\nof a linear network come to share one basis"
    } else {
        "gram correlation climbs and stays below 1, commutator/chance does not vanish: the nonlinearity keeps\nthe layers from sharing one basis (compare with --linear)"
    };
    format!(
        "{}\n  page     {url}/\n  metrics  {url}/metrics\n\n\
         What to look at: {expect}.\nRandom layers have gram correlation 0 and commutator/chance 1.\n\n",
        heading(args, run_dir),
    )
}

fn heading(args: &DemoArgs, run_dir: &Path) -> String {
    let (kind, interval) = (kind(args), args.save_interval.as_secs_f64());
    let dir = run_dir.display();
    format!(
        "weightvane demo: training a {kind} network of 4 layers, saving every {interval} s into {dir}\n"
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

/// Trains and saves, and leaves the watching to another: in the foreground, until the end or a signal.
fn train_into(args: &DemoArgs, run_dir: &Path) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        let set = signal_hook::flag::register(signal, Arc::clone(&stop));
        set.map_err(|e| Failure::system("signal handlers", &e))?;
    }
    print(&heading(args, run_dir))?;
    train(args, run_dir.to_owned(), Duration::ZERO, &stop)
}

fn spawn_trainer(
    args: &DemoArgs,
    run_dir: PathBuf,
    handle: Handle,
    stop: Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<Result<(), Failure>>, Failure> {
    let args = args.clone();
    let spawned = std::thread::Builder::new().name("trainer".into()).spawn(move || {
        // The last interval is for the last save to be seen.
        let trained = train(&args, run_dir, args.save_interval, &stop);
        if trained.is_ok() {
            wait(Instant::now() + args.save_interval, &stop);
        }
        handle.send(Request::Stop);
        trained
    });
    spawned.map_err(|e| Failure::system("trainer", &e))
}

/// Trains until `before_end` before the end.
fn train(
    args: &DemoArgs,
    run_dir: PathBuf,
    before_end: Duration,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let activation = if args.linear { Activation::Linear } else { Activation::Relu };
    let end = args.seconds.map(Duration::from_secs);
    let config = JobConfig {
        trainer: TrainerConfig {
            weight_decay: args.weight_decay,
            ..TrainerConfig::demo(activation)
        },
        run_dir,
        save_interval: args.save_interval,
        length: end.map(|end| end.saturating_sub(before_end).max(args.save_interval)),
        fault: args.fault.map(|kind| {
            Fault::new(kind, Duration::from_secs(args.fault_after), args.fault_seconds)
        }),
    };
    let told = |line: &str| {
        // A closed pipe ends the lines, not the training.
        let _ = print(&format!("{line}\n"));
    };
    job::run(config, stop, told).map_err(|e| Failure::system("demo", &e))
}

/// Sleeps until `until` or a stop.
fn wait(until: Instant, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20).min(until - Instant::now().min(until)));
    }
}
