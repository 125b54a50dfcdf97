//! The web configuration file through the program: how it starts, what it refuses, and that no request
//! touches the disk.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::process::{Daemon, FAST, PROGRAM, Place, run, skipped};
use super::saves::copy_series;
use super::untouched::can_trace;
use crate::http::certificates::Authority;
use crate::http::client::{Client, basic};

/// A hash of `secret`.
const HASH: &str = "$2y$04$7SmwNwpNqnT3zW1dYpktvOlClUPTsLB3GiCtshK0JRvCvNK8vqpiO";

/// A place with `web.yml` of TLS and one user, and a client that trusts its certificate.
fn place() -> (Place, Client) {
    let place = Place::new(FAST);
    let client = renew(&place);
    let at = place.dir.path();
    fs::write(
        at.join("web.yml"),
        format!(
            "tls_server_config: {{cert_file: server.crt, key_file: server.key}}\n\
             basic_auth_users: {{alice: {HASH}}}\n"
        ),
    )
    .unwrap();
    fs::write(&place.config, format!("{FAST}web_config_file: {}/web.yml\n", at.display())).unwrap();
    (place, client)
}

/// A new certificate by a new authority.
fn renew(place: &Place) -> Client {
    let authority = Authority::new("ca");
    let (certificate, key) = authority.issue(&["localhost"]);
    fs::write(place.dir.path().join("server.crt"), certificate).unwrap();
    fs::write(place.dir.path().join("server.key"), key).unwrap();
    Client::trusting(&authority)
}

/// `/metrics` with the password, once it is there.
fn metrics(daemon: &Daemon, client: &Client) -> Option<String> {
    let answer = client.ask(daemon.address, "/metrics", &basic("alice", "secret")).ok()?;
    (answer.status == 200).then(|| answer.text().to_owned())
}

#[test]
fn a_file_is_read_at_the_start_and_at_sighup() {
    let (place, client) = place();
    let daemon = place.watch();
    assert!(daemon.stdout()[0].contains("https://"), "{:?}", daemon.stdout());
    assert_eq!(client.get(daemon.address, "/metrics").unwrap().status, 401);
    let said = |what: &str, client: &Client, line: &str| {
        daemon.wait_for(what, |d| metrics(d, client).filter(|text| text.contains(line)))
    };
    said("the gauge", &client, "config_last_reload_successful 1\n");
    said("refusals to be counted", &client, "http_rejected_total{reason=\"unauthorized\"} 1\n");
    let next = renew(&place);
    daemon.signal(Signal::HUP);
    said("the new certificate", &next, "config_last_reload_successful 1\n");
    fs::write(place.dir.path().join("web.yml"), "basic_auth_users: {alice: secret}\n").unwrap();
    daemon.signal(Signal::HUP);
    said("the broken file", &next, "config_last_reload_successful 0\n");
    let told = daemon.logged("web configuration not read again, the last one stays in force");
    assert_eq!(told.len(), 1, "told once, however often it is tried: {told:?}");
    let error = told[0]["error"].as_str().unwrap();
    assert!(error.contains("web.yml:1: alice") && !error.contains("secret"), "{error}");
    fs::write(place.dir.path().join("web.yml"), "{}\n").unwrap();
    daemon.wait_for("plain HTTP", |d| {
        let text = super::client::get(d.address, "/metrics").ok()?.1;
        text.contains("config_last_reload_successful 1\n").then_some(())
    });
    assert!(!daemon.stderr().iter().any(|line| line.contains("secret") || line.contains(HASH)));
}

#[test]
fn flags_and_check_config_know_it() {
    let (place, client) = place();
    let web = place.dir.path().join("web.yml");
    fs::write(&place.config, FAST).unwrap();
    let mut command = place.command();
    command.arg("--web.config.file").arg(&web);
    let daemon = Daemon::start(command);
    daemon.wait_for("an answer", |d| metrics(d, &client));
    drop(daemon);
    let check = |args: &[&str]| {
        let out = run(&[
            &["check-config".as_ref()],
            &*args.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        ]
        .concat());
        let (said, told) =
            (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        (out.status.code().unwrap(), said, told)
    };
    let (config, web_text) = (place.config.to_str().unwrap(), web.to_str().unwrap());
    let (code, said, _) = check(&["--web.config.file", web_text]);
    assert_eq!((code, said.as_str()), (0, &*format!("{web_text}: valid; TLS, 1 users\n")));
    let (code, said, _) = check(&[config, "--web.config.file", web_text]);
    assert_eq!((code, said.lines().count()), (0, 2), "{said}");
    fs::write(&place.config, format!("web_config_file: {web_text}\n")).unwrap();
    fs::remove_file(place.dir.path().join("server.key")).unwrap();
    // The same line and code from all who read it.
    let (code, _, told) = check(&[config]);
    assert_eq!((code, told.lines().count()), (64, 1));
    assert!(
        told.contains("web.yml:1: key_file: ") && told.contains("server.key: cannot be read"),
        "{told}"
    );
    let out = place.command().output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8(out.stderr).unwrap()), (Some(64), told));
    assert_eq!(check(&[]).0, 2);
}

/// The program in a network of its own that leads nowhere, where it may listen on every address; `None`
/// where such cannot be had.
fn alone(place: &Place) -> Option<Command> {
    let tried = Command::new("unshare").args(["-rn", "true"]).output();
    if !tried.as_ref().is_ok_and(|out| out.status.success()) {
        skipped(&format!("addresses other than loopback: no network of one's own: {tried:?}"));
        return None;
    }
    let mut command = Command::new("unshare");
    command.arg("-rn").arg(PROGRAM).args(place.command_on("0.0.0.0:0").get_args());
    Some(command)
}

#[test]
fn off_loopback_passwords_need_tls_and_an_open_door_is_told() {
    let (place, _) = place();
    let web = place.dir.path().join("web.yml");
    let users = format!("basic_auth_users: {{alice: {HASH}}}\n");
    let both = fs::read_to_string(&web).unwrap();
    fs::write(&web, &users).unwrap();
    let Some(mut command) = alone(&place) else { return };
    let out = command.output().unwrap();
    let told = String::from_utf8(out.stderr).unwrap();
    let n_told = told.lines().filter(|line| line.starts_with("weightvane: ")).count();
    assert_eq!((out.status.code(), n_told), (Some(64), 1), "{told}");
    for part in ["web.yml", "0.0.0.0:", "without TLS", "basic_auth_without_tls"] {
        assert!(told.contains(part), "{told}");
    }
    let warnings = |web_text: &str, more: &str| {
        fs::write(&web, web_text).unwrap();
        let config = format!("{FAST}web_config_file: {}\n{more}", web.display());
        fs::write(&place.config, config).unwrap();
        let daemon = Daemon::start(alone(&place).unwrap());
        daemon.signal(Signal::TERM);
        let (status, _, told) = daemon.end();
        assert_eq!(status.code(), Some(0), "{told:?}");
        told.into_iter().filter(|line| line.contains("\"WARN\"")).collect::<Vec<_>>()
    };
    let forced = warnings(&users, "basic_auth_without_tls: true\n");
    assert!(
        forced.len() == 1 && forced[0].contains("passwords are taken without TLS"),
        "{forced:?}"
    );
    let open = warnings("{}\n", "");
    assert!(open.len() == 1 && open[0].contains("no TLS, no passwords"), "{open:?}");
    assert_eq!(warnings(&both, ""), Vec::<String>::new());
}

/// What a thread that only talks over sockets calls: those, its timers, its locks and its memory.
const TALK: &[&str] = &[
    "accept4",
    "bind",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "exit",
    "exit_group",
    "fcntl",
    "futex",
    "getpeername",
    "getpid",
    "getrandom",
    "getsockname",
    "getsockopt",
    "gettid",
    "ioctl",
    "listen",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "prctl",
    "recvfrom",
    "recvmsg",
    "restart_syscall",
    "rt_sigreturn",
    "rseq",
    "rt_sigprocmask",
    "sched_getaffinity",
    "sched_yield",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "setsockopt",
    "shutdown",
    "sigaltstack",
    "write",
    "writev",
];

#[test]
fn no_request_touches_the_disk() {
    if !can_trace() {
        return;
    }
    let (place, client) = place();
    copy_series("healthy", &place.root.join("healthy"), 2000);
    let mut command = Command::new("strace");
    command.args(["-D", "-ff", "-qq", "-o"]).arg(place.dir.path().join("trace"));
    command.arg(PROGRAM).args(place.command().get_args());
    let daemon = Daemon::start(command);
    daemon
        .wait_for("the save", |d| metrics(d, &client)?.contains("gram_correlation{").then_some(()));
    let right = basic("alice", "secret");
    let ask = |path: &str, more: &str| client.ask(daemon.address, path, more).unwrap().status;
    for path in [
        "/",
        "/metrics",
        "/runs/healthy",
        "/page.css",
        "/page/run.js",
        "/api/v1/runs",
        "/api/v1/anomalies",
        "/api/v1/runs/healthy",
        "/api/v1/history/healthy",
        "/-/healthy",
        "/-/ready",
        "/favicon.ico",
    ] {
        assert!(matches!(ask(path, &right), 200 | 204), "{path}");
    }
    assert_eq!((ask("/etc/passwd", &right), ask("/metrics", &basic("bob", "x"))), (404, 401));
    let is_http = |tid: &String| {
        let name = fs::read_to_string(format!("/proc/{}/task/{tid}/comm", daemon.pid()));
        name.is_ok_and(|name| name.trim() == "http")
    };
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut threads = threads.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let thread = threads.find(is_http).unwrap();
    daemon.signal(Signal::TERM);
    daemon.end();
    let calls = fs::read_to_string(place.dir.path().join(format!("trace.{thread}"))).unwrap();
    let name = |call: &str| call.split('(').next().unwrap_or_default().to_owned();
    let n_talk = calls
        .lines()
        .filter(|call| matches!(&*name(call), "sendto" | "writev" | "sendmsg"))
        .count();
    assert!(n_talk > 14, "the trace shows {n_talk} answers");
    let is_talk = |call: &&str| {
        // Memory, and no file; the waker of the runtime is read.
        let maps_file = call.starts_with("mmap(") && !call.contains("MAP_ANONYMOUS");
        let is_waker = call.starts_with("read(") && call.contains("\\0\\0\\0\\0\\0\\0\", 8) = 8");
        !call.starts_with(|c: char| c.is_ascii_lowercase())
            || is_waker
            || TALK.contains(&&*name(call)) && !maps_file
    };
    let others: Vec<&str> = calls.lines().filter(|call| !is_talk(call)).collect();
    assert!(others.is_empty(), "{others:#?}");
}
