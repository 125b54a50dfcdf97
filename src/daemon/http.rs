//! The HTTP server: metrics, page and API. The only async code of the program, alone on a thread
//! of its own.
//!
//! Every body is rendered before it is asked for, so a request computes nothing, touches no disk
//! and copies nothing. Clients are bounded in number, in header size and in time. A stream of events
//! says what has changed, and nothing is queued for it.

mod content;
mod deadline;
mod events;
mod negotiate;
mod respond;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWrite as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

pub use content::{Content, RunBodies, Served};

use super::guard;
use deadline::WriteDeadline;
use events::{Reply, Streams};

/// Bounds on what a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for a whole request header, also from the last response to the next request: a
    /// connection that is idle for longer is closed.
    pub header_timeout: Duration,
    /// Time for a client to take a whole response.
    pub response_timeout: Duration,
    /// Size of a request line with its headers in bytes, at least 8192; above it 431.
    pub max_header_bytes: usize,
    /// Open connections; above it 503.
    pub max_connections: usize,
    /// Open streams of events; above it 503.
    pub max_streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
            max_header_bytes: 16 << 10,
            // Below the usual 1024 file descriptors, with room for checkpoints.
            max_connections: 512,
            max_streams: 64,
        }
    }
}

/// Time for responses under way when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Clients beyond the cap that are told so at the same time; the rest are dropped unanswered.
const MAX_FAREWELLS: usize = 64;

/// Time for a client beyond the cap to take its answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 21\r\nretry-after: 5\r\nconnection: close\r\n\r\ntoo many connections\n";

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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

/// Serves `served` on `listener` from a new thread.
///
/// # Errors
/// When the listener, the runtime or the thread cannot be set up.
pub fn serve(
    listener: std::net::TcpListener,
    served: Arc<Served>,
    limits: Limits,
) -> io::Result<Server> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _context = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let (stop, stopped) = watch::channel(false);
    // Compressed here, not by the first who asks.
    let _ = super::page::assets();
    let thread = guard::vital("http", move || {
        runtime.block_on(accept(listener, served, limits, stopped));
    })?;
    Ok(Server { address, stop, thread: Some(thread) })
}

async fn accept(
    listener: TcpListener,
    served: Arc<Served>,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let streams = Streams::new(Arc::clone(&served), limits.max_streams, stopped.clone());
    let farewells = Arc::new(Semaphore::new(MAX_FAREWELLS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until_set(&mut stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                    // Without a place even here the stream is dropped.
                    if let Ok(place) = Arc::clone(&farewells).try_acquire_owned() {
                        tokio::spawn(async move {
                            turn_away(stream).await;
                            drop(place);
                        });
                    }
                    continue;
                };
                let served = (Arc::clone(&served), streams.clone());
                let connection = connection(stream, served, limits, stopped.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.max_connections).unwrap_or(u32::MAX);
    // When the grace is over the runtime is dropped, and with it what still runs.
    drop(tokio::time::timeout(STOP_GRACE, slots.acquire_many(all)).await);
}

/// Returns once the server is to stop, which is also so when its handle is gone.
async fn until_set(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

/// Says why, and waits for the client to close: a close on unread bytes resets the connection,
/// and the client would never see the answer. What the client still sends is thrown away.
async fn turn_away(mut stream: TcpStream) {
    let farewell = async {
        stream.writable().await?;
        stream.try_write(BUSY)?;
        poll_fn(|context| Pin::new(&mut stream).poll_shutdown(context)).await?;
        let mut scrap = [0; 4096];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut scrap) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, farewell).await {
        debug!(error = &error as &dyn std::error::Error, "connection beyond the cap dropped");
    }
}

async fn connection(
    stream: TcpStream,
    (served, streams): (Arc<Served>, Streams),
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let response = if events::is_asked_for(&request) {
            streams.open()
        } else {
            respond::respond(&served.current(), &request).map(Reply::Whole)
        };
        async { Ok::<_, Infallible>(response) }
    });
    let io = TokioIo::new(WriteDeadline::new(stream, limits.response_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.max_header_bytes)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = until_set(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(error = &error as &dyn std::error::Error, "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_response_has_the_length_it_names() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    }
}
