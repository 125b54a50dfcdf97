//! What open pages are told, and the histories that they ask for.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weightvane::daemon::http::{Limits, Served, Server};
use weightvane::metrics::{RunFacts, Snapshot};

use super::http::{connect, get, publish, start};

fn runs(of: &[(&str, u64)]) -> Snapshot {
    let run = |&(name, step): &(&str, u64)| RunFacts {
        name: name.to_owned(),
        latest_step: Some(step),
        ..RunFacts::default()
    };
    Snapshot { runs: of.iter().map(run).collect(), ..Snapshot::default() }
}

/// An open stream.
struct Stream {
    stream: TcpStream,
    text: String,
}

impl Stream {
    fn open(server: &Server) -> Self {
        let mut stream = connect(server.address());
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        Self { stream, text: String::new() }
    }

    /// Name and data of the next event.
    fn next(&mut self) -> (String, serde_json::Value) {
        loop {
            let found = self.text.split_once("event: ").and_then(|(_, rest)| {
                let (event, left) = rest.split_once("\n\n")?;
                let (name, data) = event.split_once("\ndata: ")?;
                Some((name.to_owned(), serde_json::from_str(data).unwrap(), left.to_owned()))
            });
            if let Some((name, data, left)) = found {
                self.text = left;
                return (name, data);
            }
            let mut chunk = [0; 4096];
            let n = self.stream.read(&mut chunk).unwrap();
            assert!(n > 0, "closed after {:?}", self.text);
            self.text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
        }
    }
}

#[test]
fn a_stream_tells_which_runs_have_changed_and_keeps_nothing_for_the_slow() {
    let served = Arc::new(Served::default());
    publish(&served, &runs(&[("a", 1), ("b", 1)]), true);
    let server = start(&served, Limits::default());
    let mut stream = Stream::open(&server);
    let (name, hello) = stream.next();
    assert_eq!((name.as_str(), &hello["runs"]), ("hello", &serde_json::json!([])));
    // The same again is no news; the next is.
    publish(&served, &runs(&[("a", 1), ("b", 1)]), true);
    publish(&served, &runs(&[("a", 1), ("b", 2)]), true);
    let (name, changes) = stream.next();
    assert_eq!((name.as_str(), &changes["runs"]), ("changes", &serde_json::json!(["b"])));
    assert_eq!(changes["list"], false);
    for step in 2..200 {
        publish(&served, &runs(&[("a", step), ("b", 2)]), true);
    }
    publish(&served, &runs(&[("a", 199)]), true);
    let (mut n_events, mut is_listed) = (0, false);
    while !is_listed {
        let (_, changes) = stream.next();
        n_events += 1;
        is_listed = changes["list"] == true;
    }
    assert!(n_events < 199, "{n_events} events");
    assert!(!stream.text.contains("event"), "{}", stream.text);
}

#[test]
fn streams_are_bounded_and_their_places_come_back() {
    let served = Arc::new(Served::default());
    publish(&served, &runs(&[("a", 1)]), true);
    let server = start(&served, Limits { max_streams: 3, ..Limits::default() });
    let mut open: Vec<Stream> = (0..3).map(|_| Stream::open(&server)).collect();
    for stream in &mut open {
        assert_eq!(stream.next().0, "hello");
    }
    let refused = get(&server, "/api/v1/events");
    assert_eq!((refused.status, refused.text()), (503, "too many streams\n"));
    assert_eq!(get(&server, "/metrics").status, 200);
    open.pop();
    let start = Instant::now();
    let mut again = loop {
        // The server sees that a client is gone a moment later.
        let mut stream = Stream::open(&server);
        let mut first = [0; 64];
        let n = stream.stream.read(&mut first).unwrap();
        stream.text = String::from_utf8_lossy(&first[..n]).into_owned();
        if stream.text.contains(" 200 ") {
            break stream;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{}", stream.text);
    };
    assert_eq!(again.next().0, "hello");
}

#[test]
fn open_streams_do_not_hold_up_the_end() {
    let served = Arc::new(Served::default());
    publish(&served, &runs(&[("a", 1)]), true);
    let server = start(&served, Limits::default());
    let mut streams: Vec<Stream> = (0..10).map(|_| Stream::open(&server)).collect();
    for stream in &mut streams {
        stream.next();
    }
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    for mut stream in streams {
        let mut rest = String::new();
        stream.stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "0\r\n\r\n", "the end of a whole body");
    }
}

#[test]
fn a_run_may_be_called_like_the_history_of_another() {
    let served = Arc::new(Served::default());
    let mut snapshot = runs(&[("x", 1), ("y", 1), ("y/history", 1), (".", 1)]);
    for run in &mut snapshot.runs {
        run.report = Some(Arc::default());
    }
    let history = |name: &str| (name.to_owned(), format!("history of {name}").into());
    let histories: BTreeMap<_, _> = ["x", "y", "y/history", "."].map(history).into();
    served.publish(&snapshot, &histories, true);
    let server = start(&served, Limits::default());
    let body = |path: &str| get(&server, path).text().to_owned();
    assert_eq!(body("/api/v1/runs/x/history"), "history of x");
    assert!(body("/api/v1/runs/y/history").starts_with("{\"checkpoint\""));
    assert_eq!(body("/api/v1/history/y"), "history of y");
    assert_eq!(body("/api/v1/history/y/history"), "history of y/history");
    assert_eq!(body("/api/v1/runs/y/history/history"), "history of y/history");
    assert_eq!(body("/api/v1/history/"), "history of .");
    assert_eq!(get(&server, "/runs/").status, 200);
}
