//! The HTTP server: metrics, page and API. The only async code of the program, alone on a thread
//! of its own.
//!
//! Every body is rendered before it is asked for, so a request computes nothing, touches no disk
//! and copies nothing. Clients are bounded in number, in header size and in time. A stream of events
//! says what has changed, and nothing is queued for it.

mod access;
mod bucket;
mod connection;
mod content;
mod deadline;
mod events;
mod farewell;
mod hosts;
mod limits;
mod negotiate;
mod passwords;
mod renewal;
mod respond;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

pub use access::{Access, AccessError};
pub use content::{Content, RunBodies, Served};
pub use limits::Limits;

use super::guard;
use crate::metrics::Rejection;
use connection::Shared;
use events::Streams;
use renewal::Renewal;

/// Time for responses under way when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time between two lines in the log about failed accepts.
const ACCEPT_TOLD: Duration = Duration::from_mins(1);

/// Connections that the system holds until they are accepted: as many scrapers may come at once.
const BACKLOG: i32 = 1024;

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    access: Arc<Access>,
    renewal: Option<Renewal>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.access.is_tls() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Who may ask, and who was turned away.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Has the web configuration file read again soon, if there is one.
    pub fn read_again(&self) {
        if let Some(renewal) = &self.renewal {
            renewal.wake();
        }
    }

    /// Stops listening, lets responses under way finish for up to a second, and waits.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("http thread panicked");
        }
    }
}

/// Serves `served` on `listener` from a new thread to those whom `access` lets in.
///
/// # Errors
/// When the listener, the runtime or a thread cannot be set up.
pub fn serve(
    listener: std::net::TcpListener,
    served: Arc<Served>,
    access: Access,
    limits: Limits,
) -> io::Result<Server> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _context = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let (stop, stopped) = watch::channel(false);
    // Compressed here, not by the first who asks.
    let _ = super::page::assets();
    let access = Arc::new(access);
    let renewal = Renewal::start(&access)?;
    let streams = Streams::new(Arc::clone(&served), limits.max_streams, stopped.clone());
    let shared = Shared { served, access: Arc::clone(&access), streams, limits };
    let thread = guard::vital("http", move || {
        runtime.block_on(accept(listener, Arc::new(shared), stopped));
    })?;
    Ok(Server { address, access, renewal, stop, thread: Some(thread) })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(shared.limits.max_connections));
    let farewells = Arc::new(Semaphore::new(shared.limits.max_farewells));
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until_set(&mut stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                    shared.access.count(Rejection::Connections);
                    // Without a place even here the stream is dropped.
                    if let Ok(place) = Arc::clone(&farewells).try_acquire_owned() {
                        tokio::spawn(async move {
                            farewell::turn_away(stream, farewell::BUSY).await;
                            drop(place);
                        });
                    }
                    continue;
                };
                let handled = Arc::clone(&shared).handle(stream, stopped.clone());
                tokio::spawn(async move {
                    handled.await;
                    drop(slot);
                });
            }
            Err(error) => {
                shared.access.count(Rejection::Connections);
                if told.is_none_or(|at| at.elapsed() >= ACCEPT_TOLD) {
                    warn!(error = &error as &dyn std::error::Error, "connection not accepted");
                    told = Some(Instant::now());
                } else {
                    debug!(error = &error as &dyn std::error::Error, "connection not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(shared.limits.max_connections).unwrap_or(u32::MAX);
    // When the grace is over the runtime is dropped, and with it what still runs.
    drop(tokio::time::timeout(STOP_GRACE, slots.acquire_many(all)).await);
}

/// Returns once the server is to stop, which is also so when its handle is gone.
async fn until_set(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}
