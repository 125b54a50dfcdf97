//! Passwords: who is let in, and what a flood of wrong ones costs.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use weightvane::daemon::http::{Limits, Server};
use weightvane::metrics::Rejection;

use super::client::{self, basic};
use super::config::HASH;
use super::{Place, TLS, rejected, serve_file, status, wait_for};

/// A hash of `secret` whose check takes long enough to be waited for.
fn costly() -> String {
    bcrypt::hash("secret", 10).unwrap()
}

fn users(hash: &str) -> String {
    format!("basic_auth_users:\n  alice: {hash}\n")
}

fn ask(server: &Server, path: &str, more: &str) -> client::Response {
    client::get(server.address(), path, more).unwrap()
}

#[test]
fn only_those_with_the_password_are_let_in() {
    let place = Place::new();
    let server = place.serve(&users(HASH));
    for path in ["/metrics", "/", "/api/v1/runs", "/api/v1/events", "/page.css", "/none"] {
        let refused = ask(&server, path, "");
        assert_eq!(refused.status, 401, "{path}");
        let challenge = refused.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        assert!(refused.body.len() < 100 && refused.head.contains("nosniff"));
    }
    // Whether there is such a user, or how the header is wrong, makes no difference.
    let right = basic("alice", "secret");
    for more in [
        basic("alice", "Secret"),
        basic("alice", ""),
        basic("alice", "secret "),
        basic("bob", "secret"),
        basic("", ""),
        basic("alice", "secr\0et"),
        right.replace("Basic", "Bearer"),
        right.replace("Basic ", "Basic"),
        right.replace("Basic ", "Basic !"),
        "authorization: Basic YWxpY2U=\r\n".to_owned(),
        "authorization: Basic\r\n".to_owned(),
        format!("{right}{right}"),
    ] {
        let refused = ask(&server, "/metrics", &more);
        assert_eq!(
            (refused.status, refused.text()),
            (401, "a user and a password are needed\n"),
            "{more}"
        );
    }
    assert_eq!(rejected(&server, Rejection::Unauthorized), 6 + 12);
    for more in
        [right.clone(), right.replace("Basic", "bAsIc"), right.replace("Basic ", "Basic   ")]
    {
        assert_eq!(ask(&server, "/metrics", &more).status, 200, "{more}");
    }
    // What tells one word tells it to everybody.
    assert_eq!(ask(&server, "/-/healthy", "").status, 200);
    assert_eq!(ask(&server, "/-/ready", "").status, 200);
}

#[test]
fn every_user_has_a_password_of_their_own() {
    let place = Place::new();
    let other = bcrypt::hash("other", 5).unwrap();
    let server = place.serve(&format!("{}  bob: {other}\n", users(HASH)));
    for (user, password, expected) in [
        ("alice", "secret", 200),
        ("bob", "other", 200),
        ("alice", "other", 401),
        ("bob", "secret", 401),
    ] {
        // Twice, as what is known must be known of the right one.
        for _ in 0..2 {
            assert_eq!(ask(&server, "/", &basic(user, password)).status, expected, "{user}");
        }
    }
}

#[test]
fn passwords_and_tls_together() {
    let place = Place::new();
    let client = place.certificate();
    let server = place.serve(&format!("{TLS}{}", users(HASH)));
    let with = |more: &str| client.ask(server.address(), "/metrics", more);
    assert_eq!((status(with("")), status(with(&basic("alice", "secret")))), (401, 200));
}

#[test]
fn a_password_that_was_changed_is_forgotten() {
    let place = Place::new();
    let web = place.write("web.yml", &users(HASH));
    let server = serve_file(&web, Limits::default());
    let status = |password: &str| ask(&server, "/metrics", &basic("alice", password)).status;
    assert_eq!((status("secret"), status("other")), (200, 401));
    fs::write(&web, users(&bcrypt::hash("other", 4).unwrap())).unwrap();
    server.read_again();
    wait_for("the new password", || (status("other") == 200).then_some(()));
    assert_eq!(status("secret"), 401);
    fs::write(&web, "basic_auth_users: {bob: nonsense}\n").unwrap();
    server.read_again();
    wait_for("the broken file", || (!server.access().is_current()).then_some(()));
    assert_eq!((status("secret"), status("other")), (401, 200), "the last one stays in force");
}

/// Sends a request and leaves the answer for later.
fn send(server: &Server, more: &str) -> std::net::TcpStream {
    let mut stream = client::connect(server.address());
    let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: std::net::TcpStream) -> client::Response {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    client::Response { status, head: head.to_owned(), body: body.as_bytes().to_vec() }
}

#[test]
fn a_flood_of_wrong_passwords_is_bounded_and_keeps_nobody_waiting() {
    const FLOOD: usize = 100;
    let place = Place::new();
    let server = place.serve(&users(&costly()));
    let right = basic("alice", "secret");
    assert_eq!(ask(&server, "/metrics", &right).status, 200);
    let flood: Vec<_> =
        (0..FLOOD).map(|n| send(&server, &basic("alice", &n.to_string()))).collect();
    // While the checks are at work: what needs none is answered, and who is known is let in. Each
    // check takes long, so a server that made one of these wait for even a few would be far slower.
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(ask(&server, "/-/healthy", "").status, 200);
        assert_eq!(ask(&server, "/metrics", &right).status, 200);
    }
    let quick = start.elapsed();
    let answers: Vec<_> = flood.into_iter().map(answer).collect();
    let all = start.elapsed();
    let busy: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    let wrong = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!(busy.len() + wrong, FLOOD);
    assert!((1..=20).contains(&wrong), "{wrong} checked");
    assert!(busy.iter().all(|answer| answer.header("retry-after") == Some("1")));
    assert_eq!(rejected(&server, Rejection::Busy), busy.len() as u64);
    assert!(quick < Duration::from_secs(10), "{quick:?} of {all:?}");
    // And then the right password of one who is not known is checked again.
    wait_for("a place", || {
        (ask(&server, "/metrics", &basic("alice", "wrong")).status == 401).then_some(())
    });
}

#[test]
fn who_asks_the_same_at_once_waits_for_one_check() {
    let place = Place::new();
    let server = place.serve(&users(&costly()));
    // Far more than places to wait: as many scrapers, or the files of one page.
    let right = basic("alice", "secret");
    let all: Vec<_> = (0..100).map(|_| send(&server, &right)).collect();
    assert!(all.into_iter().all(|stream| answer(stream).status == 200));
    assert_eq!(rejected(&server, Rejection::Busy), 0);
}

#[test]
fn an_unknown_user_costs_as_much_as_a_known_one() {
    // Of different costs: what the cheaper lacks is spent as well.
    let place = Place::new();
    let cheap = bcrypt::hash("secret", 6).unwrap();
    let server =
        place.serve(&format!("{}  bob: {cheap}\n", users(&bcrypt::hash("secret", 11).unwrap())));
    let least = |user: &str| {
        let wrong = |n: usize| {
            let start = Instant::now();
            assert_eq!(ask(&server, "/metrics", &basic(user, &format!("{user}{n}"))).status, 401);
            start.elapsed()
        };
        (0..3).map(wrong).min().unwrap()
    };
    let (alice, bob, nobody) = (least("alice"), least("bob"), least("carol"));
    for other in [bob, nobody] {
        // A check of cost 6 alone would take a 32nd of the time.
        let ratio = other.as_secs_f64() / alice.as_secs_f64();
        assert!((0.25..4.0).contains(&ratio), "{alice:?} {bob:?} {nobody:?}");
    }
}
