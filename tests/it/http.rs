//! Who may ask the HTTP server, over real loopback connections: TLS, certificates of clients, passwords,
//! and clients that are slow, broken or too many.

pub(crate) mod certificates;
pub(crate) mod client;
mod config;
mod limits;
mod passwords;
mod tls;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weightvane::config::Settings;
use weightvane::daemon::http::{Access, Limits, Served, Server, serve};
use weightvane::metrics::{Rejection, Snapshot};

use client::{Client, Response};

/// Far above every time that a test expects: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server with a web configuration file of its own, in a directory for what it names.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A certificate for localhost as `server.crt` and `server.key`, and the client that trusts it.
    fn certificate(&self) -> Client {
        let authority = certificates::Authority::new("ca");
        let (certificate, key) = authority.issue(&["localhost"]);
        self.write("server.crt", &certificate);
        self.write("server.key", &key);
        Client::trusting(&authority)
    }

    fn serve(&self, web: &str) -> Server {
        self.serve_with(web, Limits::default())
    }

    fn serve_with(&self, web: &str, limits: Limits) -> Server {
        serve_file(&self.write("web.yml", web), limits)
    }
}

/// A server in this process, on loopback.
fn serve_file(web: &Path, limits: Limits) -> Server {
    let settings = Settings { web_config_file: Some(web.to_owned()), ..Settings::default() };
    serve_settings(&settings, limits)
}

fn serve_settings(settings: &Settings, limits: Limits) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let access = Access::new(settings, listener.local_addr().unwrap()).unwrap();
    let served = Arc::new(Served::default());
    served.publish(&Snapshot::default(), &BTreeMap::new(), true);
    serve(listener, served, access, limits).unwrap()
}

const TLS: &str = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n";

fn rejected(server: &Server, reason: Rejection) -> u64 {
    server.access().rejected()[reason as usize]
}

/// Polls until `look` finds something.
fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn status(response: std::io::Result<Response>) -> u16 {
    response.unwrap().status
}
