//! Server-sent events: what has changed, for pages that are open.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use super::content::Served;
use super::respond::{EVENTS, EVENTS_KIND, body, plain, with};
use super::until_set;

/// Time between two signs of life: a client that is gone is noticed when it is written to.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Whether the request is for the stream of events.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    *request.method() == Method::GET && request.uri().path() == EVENTS
}

/// The open streams, and what a further one needs.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    served: Arc<Served>,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Streams {
    pub(super) fn new(served: Arc<Served>, max: usize, stopped: watch::Receiver<bool>) -> Self {
        Self { served, places: Arc::new(Semaphore::new(max)), stopped }
    }

    /// A stream that lasts until the client goes, the server stops or its time is over, whereupon
    /// browsers ask again; 503 where there are too many.
    #[expect(clippy::result_large_err, reason = "an answer like the other, moved once")]
    pub(super) fn open(&self, until: Instant) -> Result<Response<Reply>, Response<Full<Bytes>>> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let full = plain(StatusCode::SERVICE_UNAVAILABLE, "too many streams\n");
            return Err(with(full, header::RETRY_AFTER, "60"));
        };
        let feed = Feed {
            versions: self.served.versions(),
            served: Arc::clone(&self.served),
            stopped: self.stopped.clone(),
            known: None,
            until,
            _place: place,
        };
        let like = body(StatusCode::OK, EVENTS_KIND, Bytes::new());
        Ok(like.map(|_| Reply::Events(Stream { next: Box::pin(feed.next()) })))
    }
}

/// What one stream knows. Nothing is kept for a client that is slow: it is told of all that has
/// changed since it was told last, whenever it takes the next event.
struct Feed {
    served: Arc<Served>,
    versions: watch::Receiver<u64>,
    stopped: watch::Receiver<bool>,
    /// The version that the client was told of.
    known: Option<u64>,
    /// When it ends.
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// The next event; `None` when the server stops.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        // At first, where things stand: a page that was loaded before asks for what it missed.
        let mut name = "hello";
        if self.known.is_some() {
            name = tokio::select! {
                changed = self.versions.changed() => {
                    changed.ok()?;
                    "changes"
                }
                () = tokio::time::sleep(HEARTBEAT) => "alive",
                () = sleep_until(self.until) => return None,
                () = until_set(&mut self.stopped) => return None,
            };
        }
        self.versions.borrow_and_update();
        let content = self.served.current();
        let data = content.changes_since(self.known.unwrap_or(content.version));
        self.known = Some(content.version);
        Some((format!("event: {name}\ndata: {data}\n\n").into(), self))
    }
}

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Feed)>> + Send>>;

/// Events as the body of a response.
pub(super) struct Stream {
    next: Next,
}

/// The body of a response.
pub(super) enum Reply {
    /// All of it at once.
    Whole(Full<Bytes>),
    /// One event at a time.
    Events(Stream),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Events(stream) => {
                let Some((event, feed)) = ready!(stream.next.as_mut().poll(context)) else {
                    return Poll::Ready(None);
                };
                stream.next = Box::pin(feed.next());
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
