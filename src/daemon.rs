//! The daemon: roots are scanned, saves queued, measured by workers, and served.
//!
//! One thread owns the table of runs and handles one closed `Event` at a time; each root has a
//! thread of its own, so has each worker, and HTTP (the only async code) has one. A scrape reads
//! bytes that were rendered when something last changed.

mod at_rest;
pub mod backfill;
mod counters;
mod crew;
pub mod demo;
mod guard;
pub mod http;
mod job;
mod names;
mod news;
mod pace;
pub mod page;
mod past;
mod path_text;
mod pin;
mod pressure;
mod priority;
mod queue;
mod recorder;
mod reread;
mod root;
mod runs;
mod scheduler;
mod service;
mod settings;
mod state;
pub mod textfile;
mod trail;
mod trend;
mod warm;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::config::Settings;
use crate::diagnostics::Report;
use crate::model::Rule;
use crate::watch::Shard;
use crew::{Crew, Maker};
pub use guard::vital;
use http::{Access, AccessError, Limits, Served};
use job::{Done, Tools};
use recorder::{Recorder, Restored, Retention};
use reread::Reread;
use root::{Root, Scanned};
use scheduler::{Parts, Scheduler};
use service::Manager;
pub use state::{StateDir, StateError};
use warm::Warm;

/// Events that wait for the scheduler; senders wait when it is full.
const MAX_EVENTS: usize = 1024;
/// Least time between two renderings, so that a burst of saves costs few.
const RENDER_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two renderings when nothing happens, which keeps `process_*` current.
const IDLE_INTERVAL: Duration = Duration::from_secs(15);
/// Time between two looks at what may hang.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A thread or the HTTP server could not be started.
    #[error("{what} could not be started")]
    Start {
        /// Which.
        what: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// Whom HTTP lets in is not known.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// What is told of every measured save.
#[derive(Debug)]
pub struct SaveNews<'a> {
    /// Run.
    pub run: &'a str,
    /// Its measurements.
    pub report: &'a Report,
    /// Training loss at the save.
    pub loss: Option<f64>,
    /// Wall time of the analysis.
    pub wall: Duration,
}

/// Called with every measured save, on the scheduler's thread.
pub type OnSave = Box<dyn Fn(&SaveNews<'_>) + Send>;

/// A request to the daemon from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// End within 5 seconds.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// All that the scheduler reacts to.
#[derive(Debug)]
enum Event {
    Scanned(Box<Scanned>),
    Done(usize, Box<Done>),
    Pinned(usize),
    /// The store has room for more.
    Recorded,
    Restored(Box<Restored>),
    Reread(Box<Reread>),
    Request(Request),
}

/// Sends requests to a running daemon.
#[derive(Debug, Clone)]
pub struct Handle(SyncSender<Event>);

impl Handle {
    /// Sends a request; a daemon that has ended takes none.
    pub fn send(&self, request: Request) {
        if self.0.send(Event::Request(request)).is_err() {
            debug!("the daemon has ended");
        }
    }
}

/// Reads the configuration again.
pub type Reload = Box<dyn Fn() -> Result<(Settings, Vec<Rule>), String> + Send>;

/// What a daemon is started with.
pub struct Setup {
    /// Checked settings.
    pub settings: Settings,
    /// Architecture rules.
    pub rules: Vec<Rule>,
    /// Directories to watch.
    pub roots: Vec<PathBuf>,
    /// Which of the runs in them are this daemon's own.
    pub shard: Shard,
    /// Where to serve.
    pub listener: TcpListener,
    /// The state directory, if there is one.
    pub state: Option<StateDir>,
    /// How to read the configuration again, if there is one.
    pub reload: Option<Reload>,
    /// Told of every measured save.
    pub on_save: Option<OnSave>,
    /// What the process gave up before, in words for the page.
    pub sandbox: Option<String>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// A daemon that is set up but does not run yet.
#[derive(Debug)]
pub struct Daemon {
    scheduler: Scheduler,
    events: Receiver<Event>,
    handle: Handle,
    url: String,
}

impl Daemon {
    /// Starts all threads.
    ///
    /// # Errors
    /// When one of them cannot be started.
    pub fn start(setup: Setup) -> Result<Self, DaemonError> {
        let (sender, events) = sync_channel(MAX_EVENTS);
        let stop = Arc::new(AtomicBool::new(false));
        let start_error = |what| move |source| DaemonError::Start { what, source };
        let served = Arc::new(Served::default());
        let address = setup.listener.local_addr().map_err(start_error("http server"))?;
        let access = Access::new(&setup.settings, address)?;
        let limits = Limits::default().within_descriptors();
        let server = http::serve(setup.listener, Arc::clone(&served), access, limits)
            .map_err(start_error("http server"))?;
        let url = server.url();
        let mut roots = Vec::new();
        for (index, path) in setup.roots.into_iter().enumerate() {
            let root = Root::start(
                index,
                path,
                (&setup.settings, setup.shard),
                sender.clone(),
                Arc::clone(&stop),
            )
            .map_err(start_error("scanner"))?;
            roots.push(root);
        }
        let state_path = setup.state.as_ref().map(|state| state.path().to_owned());
        let maker = Maker {
            priority: setup.settings.priority,
            tools: Box::new(move || Tools::new(state_path.as_deref().map(Warm::open))),
            events: sender.clone(),
        };
        let crew = Crew::start(maker).map_err(start_error("worker"))?;
        let Settings { history_limit: limit, history_age: age, .. } = setup.settings;
        let retention = Retention { limit, age };
        let recorder = setup.state.as_ref();
        let recorder = recorder.map(|dir| Recorder::start(dir.path(), retention, sender.clone()));
        let recorder = recorder.transpose().map_err(start_error("recorder"))?;
        let reader = setup.state.as_ref();
        let reader =
            reader.map(|dir| reread::reader(dir.path(), sender.clone(), Arc::clone(&stop)));
        let scheduler = Scheduler::new(
            Parts { roots, shard: setup.shard, crew, server, served, stop, recorder, reader },
            setup.settings,
            setup.rules,
            setup.state,
            (setup.reload, setup.on_save, setup.sandbox),
        );
        Ok(Self { scheduler, events, handle: Handle(sender), url })
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// For sending requests.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Handles events until asked to stop.
    pub fn run(self) {
        let Self { mut scheduler, events, handle, .. } = self;
        let mut manager = Manager::of_environment();
        manager.ready();
        // The scheduler must see the channel close only by its own end.
        scheduler.publish();
        let mut dirty = false;
        let mut rendered = Instant::now();
        let mut looked = Instant::now();
        loop {
            manager.alive();
            if looked.elapsed() >= LOOK_INTERVAL {
                scheduler.look();
                looked = Instant::now();
            }
            let interval = if dirty { RENDER_INTERVAL } else { IDLE_INTERVAL };
            let wait = interval.saturating_sub(rendered.elapsed()).min(LOOK_INTERVAL);
            let wait = manager.patience().map_or(wait, |patience| wait.min(patience));
            match events.recv_timeout(wait) {
                Ok(Event::Request(Request::Stop)) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => {
                    let reloads = matches!(event, Event::Request(Request::Reload));
                    if reloads {
                        manager.reloading();
                    }
                    scheduler.handle(event);
                    if reloads {
                        manager.ready();
                    }
                    dirty = true;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if rendered.elapsed() >= interval {
                scheduler.publish();
                manager.status(|| scheduler.status());
                dirty = false;
                rendered = Instant::now();
            }
        }
        manager.stopping();
        drop(handle);
        scheduler.finish(&events);
    }
}

/// An error and its causes, in one line.
fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
