//! The socket that HTTP is served on: handed over by systemd, and how many connections it may have.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use super::process::{Daemon, FAST, PROGRAM, Place, run};

/// The program with `--web.systemd-socket` and this socket, `n` times, as systemd hands it over: from
/// descriptor 3 on, for the process itself.
fn handed(place: &Place, socket: OwnedFd, n: usize, pid: &str) -> Command {
    let mut command = Command::new("sh");
    let copies = ["", " 3<&0", " 3<&0 4<&0"][n];
    let script =
        format!("exec{copies} && exec </dev/null && LISTEN_FDS={n} LISTEN_PID={pid} exec \"$@\"");
    command.args(["-c", &script, "sh", PROGRAM, "watch"]).arg(&place.root);
    command.arg("--config").arg(&place.config).arg("--web.systemd-socket");
    command.args(["--log.format", "json"]).stdin(Stdio::from(socket));
    command
}

#[test]
fn a_socket_from_systemd_is_served() {
    let place = Place::new(FAST);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = handed(&place, listener.into(), 1, "$$");
    // Its own stdin is the socket until the shell has put it where it belongs.
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let answer = super::client::get(address, "/-/healthy").unwrap();
    assert_eq!(answer, (200, "healthy\n".to_owned()));
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains(&format!("http://{address}/")), "{said}");
}

fn refused(out: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!((out.status.code(), said.lines().count()), (Some(code), 1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    }
}

#[test]
fn what_is_no_single_socket_of_tcp_is_refused() {
    let place = Place::new(FAST);
    let tcp = || OwnedFd::from(TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let expected = "ListenStream=ADDRESS:PORT";
    let told = |socket, n, pid, part: &str| {
        refused(
            &handed(&place, socket, n, pid).output().unwrap(),
            71,
            &["--web.systemd-socket", part, expected],
        );
    };
    told(tcp(), 0, "$$", "no socket");
    // Meant for another process.
    told(tcp(), 1, "1", "no socket");
    told(tcp(), 2, "$$", "2 sockets");
    told(UdpSocket::bind(("127.0.0.1", 0)).unwrap().into(), 1, "$$", "another socket");
    let path = place.dir.path().join("socket");
    told(UnixListener::bind(path).unwrap().into(), 1, "$$", "another socket");
    told(tempfile::tempfile().unwrap().into(), 1, "$$", "not a socket");
    let both = ["watch", "--web.systemd-socket", "--listen", "127.0.0.1:0", "."];
    refused(&run(&both.map(AsRef::as_ref)), 2, &["--listen", "--web.systemd-socket"]);
}

/// The soft and hard limits of open files of a daemon that is started with others, and its log.
fn limits(soft: u64, hard: u64) -> ((u64, u64), Daemon) {
    let place = Place::new(FAST);
    let mut command = Command::new("sh");
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\"");
    command.args(["-c", &script, "sh", PROGRAM]).args(place.command().get_args());
    let daemon = Daemon::start(command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    ((numbers.next().unwrap(), numbers.next().unwrap()), daemon)
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_needed() {
    let (limits_then, daemon) = limits(256, 4096);
    assert_eq!(limits_then, (2048, 4096));
    assert!(!daemon.stderr().iter().any(|line| line.contains("open files")));
    // Where it cannot be, fewer are served, and that is said.
    let (limits_then, daemon) = limits(128, 128);
    assert_eq!(limits_then, (128, 128));
    let told: Vec<_> = daemon.stderr().into_iter().filter(|l| l.contains("open files")).collect();
    assert!(told.len() == 1 && told[0].contains("at most 56 HTTP connections"), "{told:?}");
    let mut held: Vec<_> =
        (0..56).map(|_| std::net::TcpStream::connect(daemon.address).unwrap()).collect();
    let status = || daemon.get("/-/healthy").0;
    daemon.wait_for("the cap", |_| (status() == 503).then_some(()));
    held.clear();
    daemon.wait_for("places", |_| (status() == 200).then_some(()));
}
