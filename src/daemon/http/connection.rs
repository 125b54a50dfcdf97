//! One connection: its handshake, its requests, and the times it may take for them.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::debug;

use super::access::Access;
use super::content::Served;
use super::deadline::WriteDeadline;
use super::events::{self, Reply, Streams};
use super::limits::Limits;
use super::respond::{plain, respond};
use super::{farewell, until_set};
use crate::metrics::Rejection;

/// First byte of a handshake of TLS.
const HANDSHAKE: u8 = 0x16;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) served: Arc<Served>,
    pub(super) access: Arc<Access>,
    pub(super) streams: Streams,
    pub(super) limits: Limits,
}

impl Shared {
    /// Answers what comes over a connection that was accepted just now, until it ends.
    pub(super) async fn handle(self: Arc<Self>, stream: TcpStream, stopped: watch::Receiver<bool>) {
        let accepted = Instant::now();
        // A small answer must not wait for an acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(error = &error as &dyn std::error::Error, "small packets may wait");
        }
        let Some(tls) = self.access.gate().tls() else {
            return self.requests(stream, accepted, stopped).await;
        };
        let handshake = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
                farewell::turn_away(stream, farewell::NOT_TLS).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no handshake of TLS"));
            }
            tls.accept(stream).await
        };
        match timeout_at(accepted + self.limits.header_timeout, handshake).await {
            Ok(Ok(stream)) => self.requests(stream, accepted, stopped).await,
            Ok(Err(error)) => {
                self.access.count(Rejection::Tls);
                debug!(error = &error as &dyn std::error::Error, "no TLS with a client");
            }
            Err(_) => self.access.count(Rejection::Slow),
        }
    }

    async fn requests<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: Arc<Self>,
        stream: S,
        accepted: Instant,
        mut stopped: watch::Receiver<bool>,
    ) {
        let has_asked = Arc::new(AtomicBool::new(false));
        let service = {
            let (shared, has_asked) = (Arc::clone(&self), Arc::clone(&has_asked));
            let until = accepted + self.limits.max_age;
            service_fn(move |request| {
                has_asked.store(true, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request, until).await) }
            })
        };
        let io = TokioIo::new(WriteDeadline::new(stream, self.limits.response_timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(self.limits.max_header_bytes)
            // Through TLS as well a body is written from where it lies, not from a copy.
            .writev(true)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        // The handshake counts as part of the first header.
        let first = sleep_until(accepted + self.limits.header_timeout);
        let retired = sleep_until(accepted + self.limits.max_age);
        let (mut first, mut retired) = (pin!(first), pin!(retired));
        let mut is_first = true;
        let result = loop {
            tokio::select! {
                result = connection.as_mut() => break result,
                () = first.as_mut(), if is_first => {
                    is_first = false;
                    if !has_asked.load(Ordering::Relaxed) {
                        return self.access.count(Rejection::Slow);
                    }
                }
                () = retired.as_mut() => {
                    connection.as_mut().graceful_shutdown();
                    // A response that has just begun has its usual time.
                    match timeout(self.limits.response_timeout, connection.as_mut()).await {
                        Ok(result) => break result,
                        Err(_) => return,
                    }
                }
                () = until_set(&mut stopped) => {
                    connection.as_mut().graceful_shutdown();
                    break connection.await;
                }
            }
        };
        if let Err(error) = result {
            self.tell(&error, has_asked.load(Ordering::Relaxed));
        }
    }

    /// The answer to one request, begun in time; a stream of events lasts until `until`.
    async fn answer(&self, request: Request<Incoming>, until: Instant) -> Response<Reply> {
        let gate = self.access.gate();
        let admitted = timeout(self.limits.response_timeout, self.access.admit(&gate, &request));
        let late = || plain(StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n");
        let admitted = match admitted.await {
            Ok(admitted) => admitted,
            Err(_) => Err((Rejection::Busy, late())),
        };
        let mut response = match admitted {
            Ok(()) if events::is_asked_for(&request) => {
                self.streams.open(until).unwrap_or_else(|full| {
                    self.access.count(Rejection::Streams);
                    full.map(Reply::Whole)
                })
            }
            Ok(()) => {
                let response = respond(&self.served.current(), &request);
                if response.status() == StatusCode::METHOD_NOT_ALLOWED {
                    self.access.count(Rejection::Method);
                }
                response.map(Reply::Whole)
            }
            Err((rejection, refused)) => {
                self.access.count(rejection);
                refused.map(Reply::Whole)
            }
        };
        gate.complete(&mut response);
        response
    }

    fn tell(&self, error: &hyper::Error, has_asked: bool) {
        // A connection that rests after its last response is closed as a matter of course.
        let is_slow = error.is_timeout() && !has_asked || is_deadline(error);
        if is_slow {
            self.access.count(Rejection::Slow);
        } else if error.is_parse() {
            self.access.count(Rejection::Malformed);
        }
        debug!(error = error as &dyn std::error::Error, "connection ended early");
    }
}

/// Whether a response was not taken in time.
fn is_deadline(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}
