//! The daemon in its sandbox: what it gave up, and that it does its work all the same.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::process::{Daemon, FAST, Place, skipped};
use super::saves::{chain, copy_save, shipped, write_save};
use crate::http::certificates::Authority;
use crate::http::client::Client;

fn all(place: &Place) -> Command {
    let mut command = place.command();
    command.args(["--sandbox", "all"]);
    command
}

/// Whether the kernel holds anything, which the daemon says in its first lines.
fn is_held(daemon: &Daemon) -> bool {
    let held = daemon.wait_for("word of the sandbox", |d| {
        let not = d.logged("not confined");
        let (yes, part) = (
            d.logged("confined by Landlock"),
            d.logged("confined by Landlock as far as this kernel knows it"),
        );
        (not.len() + yes.len() + part.len() == 1).then_some(not.is_empty())
    });
    let required = std::env::var("WEIGHTVANE_REQUIRE_LANDLOCK").is_ok_and(|v| v == "1");
    assert!(held || !required, "Landlock is required");
    if !held {
        skipped("the kernel has no Landlock");
    }
    held
}

fn logs(daemon: &Daemon, message: &str) -> usize {
    daemon.logged(message).len()
}

#[test]
fn every_thread_is_confined_unless_it_is_switched_off() {
    let place = Place::new(FAST);
    for (sandbox, expected) in [("writes", "1"), ("all", "1"), ("none", "0")] {
        fs::write(&place.config, format!("{FAST}sandbox: {sandbox}\n")).unwrap();
        let daemon = place.watch();
        let (status, page) = daemon.get("/");
        assert_eq!(status, 200);
        let words = match sandbox {
            "none" => "<dt>Sandbox</dt><dd>none</dd>",
            "all" => "<dt>Sandbox</dt><dd>reads and writes in its own places only",
            _ => "<dt>Sandbox</dt><dd>writes in its own places only",
        };
        if sandbox != "none" && !is_held(&daemon) {
            return;
        }
        assert!(page.contains(words), "{page}");
        // Landlock itself cannot be seen from outside; what comes with it can, thread by thread.
        let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let mut n_threads = 0;
        for thread in threads {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("NoNewPrivs:")).unwrap();
            assert_eq!(line, format!("NoNewPrivs:\t{expected}"), "{sandbox}: {status}");
            n_threads += 1;
        }
        assert!(n_threads > 3, "{n_threads}");
    }
}

#[test]
fn with_reading_confined_all_of_its_work_is_done() {
    let place = Place::new("");
    let path = |name: &str| place.dir.path().join(name);
    // A parent of its own, so that nothing else lies beside the root.
    let (root, rules) = (path("job/runs"), path("rules"));
    for made in [&root, &rules, &path("etc"), &path("textfiles")] {
        fs::create_dir_all(made).unwrap();
    }
    let config = path("etc/weightvane.yaml");
    let text = |more: &str| {
        let (rules, pins) = (rules.display(), place.dir.path().join("job/pins"));
        format!(
            "{FAST}roots: [{}]\nsandbox: all\narchitectures_dir: {rules}\npin: hardlink\npin_dir: {}\nstate_dir: {}\ntextfile: {}\n{more}",
            root.display(),
            pins.display(),
            path("state").display(),
            path("textfiles/w.prom").display(),
        )
    };
    fs::write(&config, text("")).unwrap();
    let mut command = Command::new(super::process::PROGRAM);
    command.arg("watch").arg("--config").arg(&config);
    command.args(["--listen", "127.0.0.1:0", "--log.format", "json"]);
    let daemon = Daemon::start(command);
    if !is_held(&daemon) {
        return;
    }
    let save = |step: u64| {
        let name = format!("checkpoint-{step}");
        copy_save(&shipped("it/golden/series/healthy").join(&name), &root.join("run").join(&name));
    };
    let steps: Vec<u64> = (1..=3).map(|n| n * 100).collect();
    for (n, &step) in (1..).zip(&steps) {
        save(step);
        daemon.wait_analyzed("run", n);
    }
    let newest = path("job/pins/run/newest");
    daemon.wait_for("links", |_| fs::read_dir(&newest).ok()?.nth(1).map(drop));
    daemon.wait_for("the textfile", |_| fs::metadata(path("textfiles/w.prom")).ok());
    assert_eq!(daemon.metrics().value("state_store_ok", &[]), Some(1.0));
    assert!(daemon.metrics().value("process_resident_memory_bytes", &[]).is_none_or(|v| v > 0.0));

    // A configuration that an editor replaces is read again.
    let reloaded = |value: f64| {
        daemon.wait(&format!("reload {value}"), |m| {
            m.value("config_last_reload_successful", &[]) == Some(value)
        });
    };
    fs::write(path("etc/new"), text(&format!("bases: [{}]\n", path("other").display()))).unwrap();
    fs::rename(path("etc/new"), &config).unwrap();
    fs::create_dir(path("other")).unwrap();
    daemon.signal(Signal::HUP);
    reloaded(0.0);
    let said = daemon.logged("configuration not read again, the last one stays in force");
    let said = said[0]["error"].as_str().unwrap().to_owned();
    assert!(said.contains("bases") && said.contains("restart"), "{said}");
    fs::write(path("etc/new"), text("k: [1, 2]\n")).unwrap();
    fs::rename(path("etc/new"), &config).unwrap();
    daemon.signal(Signal::HUP);
    reloaded(1.0);

    // A root that is removed and made anew is watched again.
    fs::remove_dir_all(&root).unwrap();
    daemon.wait("nothing left", |m| m.runs().is_empty());
    fs::create_dir(&root).unwrap();
    write_save(&root.join("again/checkpoint-1"), &chain(2, 16, 1));
    daemon.wait_analyzed("again", 1);
    assert_eq!(logs(&daemon, "textfile not written"), 0);
}

/// Certificates as Kubernetes mounts them and as they are renewed: by a link that leads elsewhere then.
#[test]
fn with_reading_confined_certificates_are_renewed_wherever_they_lie() {
    let place = Place::new("");
    let path = |name: &str| place.dir.path().join(name);
    let root = path("job/runs");
    for made in [&root, &path("etc"), &path("certs")] {
        fs::create_dir_all(made).unwrap();
    }
    let issue = |name: &str| {
        let authority = Authority::new("ca");
        let (certificate, key) = authority.issue(&["localhost"]);
        fs::create_dir(path("certs").join(name)).unwrap();
        fs::write(path("certs").join(name).join("crt"), certificate).unwrap();
        fs::write(path("certs").join(name).join("key"), key).unwrap();
        symlink(name, path("certs/new")).unwrap();
        fs::rename(path("certs/new"), path("certs/data")).unwrap();
        Client::trusting(&authority)
    };
    let first = issue("1");
    for file in ["crt", "key"] {
        symlink(format!("data/{file}"), path("certs").join(file)).unwrap();
    }
    let certs = path("certs").display().to_string();
    let text = format!("tls_server_config: {{cert_file: {certs}/crt, key_file: {certs}/key}}\n");
    fs::write(path("etc/web.yml"), text).unwrap();
    let mut command = Command::new(super::process::PROGRAM);
    command.arg("watch").arg(&root).args(["--sandbox", "all", "--listen", "127.0.0.1:0"]);
    command.arg("--web.config.file").arg(path("etc/web.yml")).args(["--log.format", "json"]);
    let daemon = Daemon::start(command);
    is_held(&daemon);
    let is_alive = |client: &Client| {
        client.get(daemon.address, "/-/healthy").is_ok_and(|answer| answer.status == 200)
    };
    daemon.wait_for("the first certificate", |_| is_alive(&first).then_some(()));
    let second = issue("2");
    daemon.wait_for("the second", |_| is_alive(&second).then_some(()));
    assert!(!is_alive(&first), "it is another one");
}

#[test]
fn what_was_given_up_does_not_come_back_with_a_new_configuration() {
    let place = Place::new(FAST);
    let daemon = place.watch();
    if !is_held(&daemon) {
        return;
    }
    for (key, value) in [("textfile", "w.prom"), ("pin: hardlink\npin_dir", "pins")] {
        let path = place.dir.path().join(value);
        fs::write(&place.config, format!("{FAST}{key}: {}\n", path.display())).unwrap();
        let before = logs(&daemon, "configuration not read again, the last one stays in force");
        daemon.signal(Signal::HUP);
        let said = daemon.wait_for("the refusal", |d| {
            d.logged("configuration not read again, the last one stays in force")
                .get(before)
                .cloned()
        });
        let said = said["error"].as_str().unwrap();
        let wanted = [path.to_str().unwrap(), "may write since its start", "restart"];
        assert!(wanted.iter().all(|part| said.contains(part)), "{said}");
    }
}

/// Ends with this code and this line.
fn ends(daemon: Daemon, code: i32, parts: &[&str]) {
    let (status, _, log) = daemon.end();
    assert_eq!(status.code(), Some(code), "{log:?}");
    let last = log.last().unwrap();
    assert!(last.starts_with("weightvane: ") && parts.iter().all(|p| last.contains(p)), "{last}");
}

#[test]
fn a_root_that_came_out_of_reach_ends_a_daemon_whose_reading_is_confined() {
    let place = Place::new(FAST);
    let daemon = Daemon::start(all(&place));
    if !is_held(&daemon) {
        return;
    }
    write_save(&place.root.join("run/checkpoint-1"), &chain(2, 16, 1));
    daemon.wait_analyzed("run", 1);
    // As when a job's directory is made anew, or another file system mounted there.
    let (job, old) = (place.dir.path().to_owned(), place.dir.path().with_extension("old"));
    fs::rename(&job, &old).unwrap();
    fs::create_dir_all(&place.root).unwrap();
    ends(daemon, 71, &["sandbox", job.to_str().unwrap(), "anew"]);
    fs::remove_dir_all(&job).unwrap();
    fs::rename(&old, &job).unwrap();
}

#[test]
fn links_that_would_make_saves_writable_are_refused_at_the_start() {
    let place = Place::new("");
    let state = place.dir.path().join("state");
    let pins = state.join("pins");
    let config = format!(
        "pin: hardlink\npin_dir: {}\nstate_dir: {}\n",
        Path::new(&pins).display(),
        state.display()
    );
    fs::write(&place.config, &config).unwrap();
    let out = place.command().output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("which is written, expected a directory outside of it"), "{said}");
    fs::write(&place.config, config + "sandbox: none\n").unwrap();
    drop(place.watch());
}
