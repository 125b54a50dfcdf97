//! Clients that are slow, greedy or foreign, and what is added to every answer.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use weightvane::config::Settings;
use weightvane::daemon::http::{Limits, Server};
use weightvane::metrics::Rejection;

use super::client::{self, get};
use super::{Place, TLS, rejected, serve_settings, wait_for};

fn wait_rejected(server: &Server, reason: Rejection, n: u64) {
    wait_for(reason.as_str(), || (rejected(server, reason) >= n).then_some(()));
    assert_eq!(rejected(server, reason), n, "{}", reason.as_str());
}

#[test]
fn a_handshake_counts_as_part_of_the_first_header() {
    let place = Place::new();
    let client = place.certificate();
    let header_timeout = Duration::from_millis(500);
    let server = place.serve_with(TLS, Limits { header_timeout, ..Limits::default() });
    // Silent; the start of a handshake; all of a handshake and then a header that never ends.
    for sent in [&b""[..], &[0x16, 3, 1, 2, 0, 1]] {
        let mut stream = client::connect(server.address());
        stream.write_all(sent).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, Vec::<u8>::new(), "closed without an answer");
    }
    let mut stream = client.connect(server.address());
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let start = Instant::now();
    while start.elapsed() < super::PATIENCE && stream.write_all(b"x: y\r\n").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() < super::PATIENCE, "a header that drips is cut off");
    wait_rejected(&server, Rejection::Slow, 3);
}

#[test]
fn a_connection_that_rests_is_closed_and_no_fault() {
    let header_timeout = Duration::from_millis(100);
    let server =
        serve_settings(&Settings::default(), Limits { header_timeout, ..Limits::default() });
    let mut stream = client::connect(server.address());
    stream.write_all(b"GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert!(all.ends_with("healthy\n"), "{all}");
    assert_eq!(rejected(&server, Rejection::Slow), 0);
}

#[test]
fn no_connection_lasts_for_ever() {
    let max_age = Duration::from_millis(300);
    let server = serve_settings(&Settings::default(), Limits { max_age, ..Limits::default() });
    let mut stream = client::connect(server.address());
    let start = Instant::now();
    // Busy all the time, so that no other limit closes it.
    let mut chunk = [0; 4096];
    while stream.write_all(b"GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n").is_ok()
        && matches!(stream.read(&mut chunk), Ok(1..))
    {
        assert!(start.elapsed() < super::PATIENCE, "still open");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(start.elapsed() >= max_age);
    // A stream of events ends in order, so that a browser asks again.
    let mut events = client::connect(server.address());
    events.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut all = String::new();
    events.read_to_string(&mut all).unwrap();
    assert!(all.contains("event: hello") && all.ends_with("\r\n0\r\n\r\n"), "{all:?}");
}

#[test]
fn a_body_that_nobody_asked_for_is_not_waited_for() {
    let server = serve_settings(&Settings::default(), Limits::default());
    let mut stream = client::connect(server.address());
    stream
        .write_all(b"GET /-/healthy HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nx")
        .unwrap();
    let mut all = Vec::new();
    let start = Instant::now();
    let _ = stream.read_to_end(&mut all);
    assert!(String::from_utf8_lossy(&all).contains("healthy\n"));
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_is_no_request_is_counted_by_its_kind() {
    let server = serve_settings(&Settings::default(), Limits::default());
    let send = |text: &str| {
        let mut stream = client::connect(server.address());
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let close = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    assert!(send(&format!("POST /metrics {close}\r\n")).starts_with("HTTP/1.1 405 "));
    assert!(send("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(
        send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_empty()
            || rejected(&server, Rejection::Malformed) > 1
    );
    let long = format!("GET /metrics {close}x: {}\r\n\r\n", "y".repeat(20 << 10));
    assert!(send(&long).starts_with("HTTP/1.1 431 "));
    wait_rejected(&server, Rejection::Method, 1);
    wait_rejected(&server, Rejection::Malformed, 3);
}

#[test]
fn connections_beyond_the_cap_are_counted() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let server = serve_settings(&Settings::default(), limits);
    let _held = [client::connect(server.address()), client::connect(server.address())];
    assert_eq!(get(server.address(), "/metrics", "").unwrap().status, 503);
    wait_rejected(&server, Rejection::Connections, 1);
}

#[test]
fn a_web_page_cannot_ask_under_its_own_name() {
    let ask = |server: &Server, host: &str, path: &str| {
        get(server.address(), path, &format!("host: {host}\r\n")).unwrap()
    };
    let server = serve_settings(&Settings::default(), Limits::default());
    for host in ["localhost:10717", "127.0.0.1:10717", "[::1]:10717", "gpu-node:8080"] {
        assert_eq!(ask(&server, host, "/metrics").status, 200, "{host}");
    }
    let refused = ask(&server, "evil.example:10717", "/metrics");
    assert_eq!(refused.status, 421);
    assert!(refused.text().contains("allowed_hosts") && refused.text().lines().count() == 1);
    assert_eq!(ask(&server, "evil.example", "/-/healthy").status, 200);
    wait_rejected(&server, Rejection::Host, 1);
    let names = vec!["metrics.example.org".to_owned()];
    let server = serve_settings(
        &Settings { allowed_hosts: names, ..Settings::default() },
        Limits::default(),
    );
    assert_eq!(ask(&server, "metrics.example.org", "/metrics").status, 200);
    assert_eq!(ask(&server, "evil.example", "/metrics").status, 421);
    // A page has no password and no certificate, so that then any name will do.
    let place = Place::new();
    let hash = super::config::HASH;
    let server = place.serve(&format!("basic_auth_users: {{alice: {hash}}}\n"));
    assert_eq!(ask(&server, "evil.example", "/metrics").status, 401);
    let right = client::basic("alice", "secret") + "host: metrics.example.org\r\n";
    assert_eq!(get(server.address(), "/metrics", &right).unwrap().status, 200);
}

#[test]
fn requests_are_limited_all_together_and_headers_are_added() {
    let place = Place::new();
    let server = place.serve(
        "rate_limit: {interval: 30m, burst: 3}\nhttp_server_config:\n  headers:\n    \
         X-Frame-Options: deny\n    Content-Security-Policy: default-src 'self'\n",
    );
    let ask = |path: &str| get(server.address(), path, "").unwrap();
    for path in ["/", "/metrics", "/none"] {
        let answer = ask(path);
        assert!(matches!(answer.status, 200 | 404), "{}", answer.head);
        assert_eq!(answer.header("x-frame-options"), Some("deny"));
        assert_eq!(answer.header("content-security-policy"), Some("default-src 'self'"));
        assert_eq!(answer.head.matches("default-src").count(), 1, "the page's own is replaced");
    }
    let refused = ask("/metrics");
    assert_eq!((refused.status, refused.header("x-frame-options")), (429, Some("deny")));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1800).contains(&seconds), "{seconds}");
    assert_eq!(
        ask("/-/healthy").status,
        200,
        "who restarts what is not healthy must not be refused"
    );
    wait_rejected(&server, Rejection::Rate, 1);
}
