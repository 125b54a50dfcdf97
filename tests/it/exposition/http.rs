//! The server over a real loopback connection.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flate2::read::GzDecoder;
use weightvane::config::Settings;
use weightvane::daemon::http::{Access, Limits, Served, Server, serve};
use weightvane::diagnostics::Skipped;
use weightvane::metrics::{RunFacts, Snapshot};

use super::sample;

pub(super) fn start(served: &Arc<Served>, limits: Limits) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let access = Access::new(&Settings::default(), listener.local_addr().unwrap()).unwrap();
    serve(listener, Arc::clone(served), access, limits).unwrap()
}

fn ready() -> Arc<Served> {
    let served = Arc::new(Served::default());
    publish(&served, &sample::full(), true);
    served
}

pub(super) fn publish(served: &Served, snapshot: &Snapshot, is_ready: bool) {
    served.publish(snapshot, &BTreeMap::new(), is_ready);
}

pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    // Far above every time that a test expects: a hang becomes a failure.
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    body: Vec<u8>,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn read_response(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, body: bytes[end + 4..].to_vec() }
}

fn ask(server: &Server, method: &str, path: &str, headers: &str) -> Response {
    let mut stream = connect(server.address());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    read_response(&mut stream)
}

pub(super) fn get(server: &Server, path: &str) -> Response {
    ask(server, "GET", path, "")
}

#[test]
fn status_codes() {
    let server = start(&ready(), Limits::default());
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/metrics?collect[]=x", 200),
        ("GET", "/-/healthy", 200),
        ("GET", "/-/ready", 200),
        ("GET", "/page.css", 200),
        ("GET", "/page/run.js", 200),
        ("GET", "/page/uplot.js", 200),
        ("GET", "/page/none.js", 404),
        ("GET", "/runs/gpt/large", 200),
        ("GET", "/runs/gpt%2Flarge", 200),
        ("GET", "/runs/", 404),
        ("GET", "/runs/none", 404),
        ("GET", "/runs/%zz", 404),
        ("GET", "/api/v1/history/gpt/large", 200),
        ("GET", "/api/v1/history/none", 404),
        ("GET", "/api/v1/runs/gpt/large/history", 200),
        ("GET", "/api/v1/runs/none/history", 404),
        ("POST", "/api/v1/events", 405),
        ("GET", "/favicon.ico", 204),
        ("GET", "/api/v1/runs", 200),
        ("GET", "/api/v1/runs/gpt/large", 200),
        ("GET", "/api/v1/runs/gpt%2Flarge", 200),
        ("GET", "/api/v1/runs/", 404),
        ("GET", "/api/v1/runs/none", 404),
        ("GET", "/api/v1/runs/%zz", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/api/v1/runs", 405),
        ("BREW", "/", 405),
        ("OPTIONS", "*", 405),
        ("GE T", "/", 400),
    ] {
        let response = ask(&server, method, path, "");
        assert_eq!(response.status, status, "{method} {path}: {}", response.head);
        if status == 405 {
            assert_eq!(response.header("allow"), Some("GET, HEAD"));
        }
        if status > 400 {
            assert_eq!(response.text().lines().count(), 1, "{method} {path}");
        }
        if status != 400 {
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        }
    }
}

#[test]
fn not_ready_before_the_first_scan() {
    let served = Arc::new(Served::default());
    let server = start(&served, Limits::default());
    assert_eq!(get(&server, "/-/ready").status, 503);
    assert_eq!(get(&server, "/-/healthy").status, 200);
    // Counters that were not read yet would look like ones that were reset.
    assert_eq!(get(&server, "/metrics").status, 503);
    assert!(get(&server, "/").text().contains("No runs found yet"));
    for (is_ready, status) in [(false, 503), (true, 200)] {
        publish(&served, &Snapshot::default(), is_ready);
        assert_eq!(get(&server, "/metrics").status, 200);
        assert_eq!(get(&server, "/-/ready").status, status);
    }
}

#[test]
fn four_forms_of_metrics() {
    let served = ready();
    let server = start(&served, Limits::default());
    let content = served.current();
    let exposition = &content.exposition;
    let open = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let gzip = "accept-encoding: gzip\r\n";
    for (headers, kind, expected, unpacked) in [
        (String::new(), "text/plain; version=0.0.4", &exposition.text, &exposition.text),
        (gzip.to_owned(), "text/plain; version=0.0.4", &exposition.text_gzip, &exposition.text),
        (
            open.to_owned(),
            "application/openmetrics-text; version=1.0.0",
            &exposition.openmetrics,
            &exposition.openmetrics,
        ),
        (
            open.to_owned() + gzip,
            "application/openmetrics-text; version=1.0.0",
            &exposition.openmetrics_gzip,
            &exposition.openmetrics,
        ),
    ] {
        let response = ask(&server, "GET", "/metrics", &headers);
        assert_eq!(response.header("content-type"), Some(&*format!("{kind}; charset=utf-8")));
        assert_eq!(response.header("vary"), Some("Accept, Accept-Encoding"));
        assert_eq!(response.body, expected[..], "{headers}");
        let encoding = headers.contains("gzip").then_some("gzip");
        assert_eq!(response.header("content-encoding"), encoding);
        if encoding.is_some() {
            let mut body = Vec::new();
            GzDecoder::new(&response.body[..]).read_to_end(&mut body).unwrap();
            assert_eq!(body, unpacked[..]);
        }
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let server = start(&ready(), Limits::default());
    for path in ["/metrics", "/", "/api/v1/runs"] {
        let (head, get) = (ask(&server, "HEAD", path, ""), get(&server, path));
        assert!(head.body.is_empty(), "{path}");
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
    let stream = ask(&server, "HEAD", "/api/v1/events", "");
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")));
}

#[test]
fn the_api_gives_the_list_and_the_reports() {
    let served = ready();
    let server = start(&served, Limits::default());
    let list: serde_json::Value =
        serde_json::from_slice(&get(&server, "/api/v1/runs").body).unwrap();
    let run = &list["runs"][1];
    assert_eq!(run["name"], "gpt/large");
    assert_eq!(run["state"], "analyzed");
    assert_eq!(run["worst_pair"]["gram_correlation"], -0.125);
    assert_eq!(run["alignment_mean"]["v_o"], 0.0625);
    let url = run["report"].as_str().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&get(&server, url).body).unwrap();
    assert_eq!(report["pairs"][0]["overlap"]["4"]["chance"], 0.0625);
    let missing = get(&server, "/api/v1/runs/none");
    assert_eq!(missing.header("content-type"), Some("application/json"));
    let error: serde_json::Value = serde_json::from_slice(&missing.body).unwrap();
    assert!(error["error"].is_string());
    publish(&served, &Snapshot::default(), true);
    assert_eq!(get(&server, url).status, 404, "a vanished run");
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let server = start(&ready(), Limits::default());
    for page in ["/", "/runs/gpt/large"] {
        let page = get(&server, page);
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let html = page.text();
        assert!(!html.contains("://") && !html.contains("<style") && !html.contains(" style="));
        let files = html.split(['"', '\'']).filter(|text| text.starts_with("/page"));
        for file in files {
            assert_eq!(get(&server, file).status, 200, "{file}");
        }
    }
    let page = get(&server, "/");
    let html = page.text();
    assert!(html.contains("data-unix=\"1772283959\"") && html.contains("2026-02-28 13:05 UTC"));
    assert!(html.contains("12\u{202f}000") && html.contains("newest 12\u{202f}500"));
    for asset in ["/page.css", "/page/overview.js"] {
        assert!(html.contains(&format!("\"{asset}\"")), "{asset}");
    }
    let gzip = ask(&server, "GET", "/page/uplot.js", "accept-encoding: gzip\r\n");
    let mut script = Vec::new();
    GzDecoder::new(&gzip.body[..]).read_to_end(&mut script).unwrap();
    assert_eq!(script, get(&server, "/page/uplot.js").body);
}

#[test]
fn a_header_that_is_too_large_is_refused() {
    let server = start(&ready(), Limits::default());
    for (bytes, status) in [(8 << 10, 200), (20 << 10, 431)] {
        let header = format!("x-filler: {}\r\n", "a".repeat(bytes));
        assert_eq!(ask(&server, "GET", "/metrics", &header).status, status, "{bytes}");
    }
}

#[test]
fn a_client_that_does_not_finish_its_header_is_closed() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = start(&ready(), limits);
    for sent in ["", "GET /metrics HTTP/1.1\r\nhost:", "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = connect(server.address());
        stream.write_all(sent.as_bytes()).unwrap();
        let mut received = Vec::new();
        // Ends only when the server closes; the last client keeps its connection alive, idle.
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(!received.is_empty(), sent.ends_with("\r\n\r\n"), "{sent:?}");
    }
}

#[test]
fn a_client_that_takes_a_response_too_slowly_is_cut_off() {
    const BODY: usize = 32 << 20;
    let mut report = sample::report(Vec::new(), Vec::new());
    report.skipped = vec![Skipped { name: String::new(), reason: "x".repeat(BODY) }];
    let run =
        RunFacts { name: "r".to_owned(), report: Some(Arc::new(report)), ..RunFacts::default() };
    let served = Arc::new(Served::default());
    publish(&served, &Snapshot { runs: vec![run], ..Snapshot::default() }, true);
    let limits = Limits { response_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = start(&served, limits);
    let mut stream = connect(server.address());
    stream
        .write_all(b"GET /api/v1/runs/r HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    // It makes progress all the time, so only a limit on the whole response ends it. At this pace
    // the body would take 5 s, and the sockets buffer a small part of it.
    let mut chunk = vec![0; 64 << 10];
    let mut received = 0;
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        received += n;
        thread::sleep(Duration::from_millis(10));
    }
    assert!(received > 0 && received < BODY, "{received} bytes");
}

#[test]
fn connections_beyond_the_cap_are_told_so_and_do_no_harm() {
    let limits = Limits { max_connections: 100, ..Limits::default() };
    let server = start(&ready(), limits);
    let mut streams = Vec::new();
    for n in 0..600 {
        let mut stream = connect(server.address());
        if n < limits.max_connections {
            streams.push(stream);
            continue;
        }
        // Sent before the answer is read, as clients do: it must not cost them the answer.
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let response = read_response(&mut stream);
        assert_eq!((response.status, response.text()), (503, "too many connections\n"));
    }
    for stream in &mut streams {
        stream
            .write_all(b"GET /-/healthy HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        assert_eq!(read_response(stream).status, 200);
    }
    assert_eq!(get(&server, "/metrics").status, 200, "places are free again");
}

#[test]
fn requests_on_one_connection_and_stop() {
    let server = start(&ready(), Limits::default());
    let address = server.address();
    let mut stream = connect(address);
    let request = "GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.repeat(3).as_bytes()).unwrap();
    let mut received = String::new();
    let mut chunk = [0; 4096];
    while received.matches("healthy\n").count() < 3 {
        let n = stream.read(&mut chunk).unwrap();
        assert!(n > 0, "closed after {received:?}");
        received.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
    }
    server.stop();
    assert_eq!(stream.read(&mut chunk).unwrap(), 0, "an idle connection is closed");
    assert!(TcpStream::connect(address).is_err());
}
