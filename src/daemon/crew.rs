//! The worker, and those before it that wait for a file system that does not answer.
//!
//! Saves are measured one at a time, by threads that share the work. A call to a file server that is
//! gone may never return; then the worker is left to it, the save is given back, and another worker
//! goes on with the saves of other roots. The root whose files were asked for gets no worker before
//! the one that waits has come back: so no root ever holds more than one.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Event;
use super::job::{self, Job, JobError, Keep, Ticket, Tools};
use super::pin::{PinOrder, Pinner};
use super::priority;
use crate::config::Priority;
use crate::disk::{self, Operations};

/// How long one call to a file system may last before nobody waits for it any more. A call reads a
/// megabyte at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a worker is given.
#[derive(Debug)]
pub(super) enum Work {
    /// Measure a save.
    Analyze(Box<Job>),
    /// Keep a save from being deleted. Where saves are read, so that no read meets the change of a
    /// file's link count.
    Pin(PinOrder),
}

/// What the worker is at.
#[derive(Debug, Clone)]
pub(super) struct Task {
    /// The root whose files it touches.
    pub(super) root: usize,
    /// The save that it measures, if it does.
    pub(super) save: Option<Ticket>,
}

/// Work that nobody waits for any more.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) ticket: Option<Ticket>,
    pub(super) why: JobError,
}

/// One thread that takes one piece of work at a time.
#[derive(Debug)]
struct Worker {
    number: usize,
    work: SyncSender<Work>,
    cancel: Arc<AtomicBool>,
    /// Whether nobody waits for it any more.
    retired: Arc<AtomicBool>,
    operations: Arc<Operations>,
    thread: JoinHandle<()>,
}

/// How workers are made.
pub(super) struct Maker {
    pub(super) priority: Priority,
    /// What a worker works with.
    pub(super) tools: Box<dyn Fn() -> Tools + Send>,
    pub(super) events: SyncSender<Event>,
}

/// The worker, and those that wait.
pub(super) struct Crew {
    maker: Maker,
    n_made: usize,
    worker: Worker,
    task: Option<Task>,
    /// Number of a worker that waits → the root that keeps it waiting.
    waiting: BTreeMap<usize, usize>,
}

impl Crew {
    /// Starts the first worker.
    pub(super) fn start(maker: Maker) -> io::Result<Self> {
        let worker = maker.make(0)?;
        Ok(Self { maker, n_made: 1, worker, task: None, waiting: BTreeMap::new() })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.task.is_none()
    }

    /// Whether a worker waits for the files of a root.
    pub(super) fn waits_for(&self, root: usize) -> bool {
        self.waiting.values().any(|other| *other == root)
    }

    /// The sign by which the worker is told to stop.
    pub(super) fn cancel(&self) -> &Arc<AtomicBool> {
        &self.worker.cancel
    }

    /// Gives the worker, which must be idle, something to do.
    pub(super) fn give(&mut self, task: Task, work: Work) {
        self.task = Some(task);
        if self.worker.work.send(work).is_err() {
            error!(worker = self.worker.number, "worker has ended");
        }
    }

    /// A worker has done its work; returns whether somebody waited for it.
    pub(super) fn done(&mut self, number: usize) -> bool {
        if number == self.worker.number {
            return self.task.take().is_some();
        }
        if let Some(root) = self.waiting.remove(&number) {
            info!(worker = number, root, "the file system answers again");
        }
        false
    }

    /// Looks after the worker: one that waits too long, or has ended, is replaced.
    pub(super) fn look(&mut self) -> Option<Lost> {
        let task = self.task.as_ref()?;
        let why = if self.worker.thread.is_finished() {
            JobError::Panic("the worker has ended".into())
        } else {
            JobError::Silent(self.worker.operations.stuck_for(PATIENCE)?)
        };
        let made = match self.maker.make(self.n_made) {
            Ok(made) => made,
            Err(error) => {
                warn!(%error, "no other worker can be started");
                return None;
            }
        };
        if matches!(why, JobError::Silent(_)) {
            self.waiting.insert(self.worker.number, task.root);
        }
        self.worker.retired.store(true, Ordering::Relaxed);
        self.worker.cancel.store(true, Ordering::Relaxed);
        self.n_made += 1;
        self.worker = made;
        let ticket = self.task.take().and_then(|task| task.save);
        Some(Lost { ticket, why })
    }

    /// Tells all to stop at their next step.
    pub(super) fn stop(&self) {
        self.worker.cancel.store(true, Ordering::Relaxed);
    }
}

impl Maker {
    fn make(&self, number: usize) -> io::Result<Worker> {
        let (work, inbox) = sync_channel(1);
        let operations = Arc::new(Operations::default());
        let (cancel, retired) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let bench = Bench {
            number,
            priority: self.priority,
            tools: (self.tools)(),
            events: self.events.clone(),
            retired: Arc::clone(&retired),
            operations: Arc::clone(&operations),
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || bench.work(&inbox))?;
        Ok(Worker { number, work, cancel, retired, operations, thread })
    }
}

/// What a worker's thread has.
struct Bench {
    number: usize,
    priority: Priority,
    tools: Tools,
    events: SyncSender<Event>,
    retired: Arc<AtomicBool>,
    operations: Arc<Operations>,
}

impl Bench {
    fn work(mut self, inbox: &Receiver<Work>) {
        if self.priority == Priority::Idle {
            priority::lowest();
        }
        let _here = disk::adopt(Some(Arc::clone(&self.operations)));
        let mut pinner = Pinner::default();
        while let Ok(work) = inbox.recv() {
            let (event, keep) = match work {
                Work::Analyze(job) => self.measure(*job),
                Work::Pin(order) => {
                    let _under_way = disk::operation();
                    pinner.carry_out(&order);
                    (Event::Pinned(self.number), None)
                }
            };
            if self.events.send(event).is_err() {
                return;
            }
            // Another works with the same files by now.
            let keep = keep.filter(|_| !self.retired.load(Ordering::Relaxed));
            if let (Some(keep), Some(warm)) = (keep, &mut self.tools.warm) {
                keep.write(warm);
            }
        }
    }

    fn measure(&mut self, job: Job) -> (Event, Option<Keep>) {
        let keep = Keep::of(&job);
        let done = Box::new(job::run(job, &mut self.tools));
        let keep = keep(&done);
        (Event::Done(self.number, done), keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::time::Instant;

    use crate::daemon::pin::PinWhat;

    /// A worker that pins from a place which answers only when told: a named pipe in a directory of
    /// weights would do, but the pinner opens nothing. What waits here is a lock on the events.
    fn crew(room: usize) -> (Crew, Receiver<Event>) {
        let (events, told) = sync_channel(room);
        let tools = Box::new(|| Tools::new(None));
        (Crew::start(Maker { priority: Priority::Normal, tools, events }).unwrap(), told)
    }

    fn pin() -> Work {
        let what = PinWhat::InPlace(PathBuf::from("run"));
        Work::Pin(PinOrder { dir: PathBuf::from("pins"), run: "run".into(), what })
    }

    #[test]
    fn a_worker_that_waits_for_a_file_system_is_replaced_and_its_root_left_alone() {
        let (mut crew, told) = crew(4);
        let task = |root| Task { root, save: None };
        crew.give(task(1), pin());
        assert!(matches!(told.recv().unwrap(), Event::Pinned(0)));
        // It has answered, but its answer was not taken yet; a call hangs meanwhile.
        let operations = Arc::clone(&crew.worker.operations);
        let (release, wait) = sync_channel::<()>(0);
        let (tell, began) = sync_channel(0);
        let hangs = std::thread::spawn(move || {
            let _here = disk::adopt(Some(operations));
            let _under_way = disk::operation();
            tell.send(()).unwrap();
            wait.recv().unwrap();
        });
        began.recv().unwrap();
        assert!(crew.look().is_none(), "not for long enough");
        let deadline = Instant::now() + Duration::from_mins(5);
        let lost = loop {
            if let Some(lost) = crew.look() {
                break lost;
            }
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(100));
        };
        assert!(matches!(lost.why, JobError::Silent(lasts) if lasts >= PATIENCE));
        assert!(crew.is_idle() && crew.waits_for(1) && !crew.waits_for(0));
        // Others are served.
        crew.give(task(0), pin());
        assert!(matches!(told.recv().unwrap(), Event::Pinned(1)));
        assert!(crew.done(1) && crew.is_idle());
        // Nobody waits for the first any more; when it is back, its root is served again.
        assert!(!crew.done(0) && !crew.waits_for(1));
        release.send(()).unwrap();
        hangs.join().unwrap();
    }

    #[test]
    fn a_worker_that_has_ended_is_replaced() {
        let (mut crew, told) = crew(4);
        // It ends when its work does not come any more, as after a panic.
        crew.worker.work = sync_channel(1).0;
        while !crew.worker.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        crew.give(Task { root: 0, save: None }, pin());
        let lost = crew.look().unwrap();
        assert!(matches!(lost.why, JobError::Panic(_)) && !crew.waits_for(0));
        crew.give(Task { root: 0, save: None }, pin());
        assert!(matches!(told.recv().unwrap(), Event::Pinned(1)));
    }
}
