//! Who may ask the HTTP server, and how: the web configuration file, in the format that the exporters of
//! Prometheus share, and the certificates that it names.

mod client;
mod file;
mod names;
mod tls;
mod users;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use serde::Deserialize;

use super::place::Place;
use super::{ConfigError, MAX_CONFIG_BYTES, syntax_error};
use file::{ReadFile, read};
pub use users::{PasswordHash, Users};

/// Headers that may be added to every answer, with the values they may have; none named: any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// How many requests are answered in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Mean time between two of them.
    pub interval: Duration,
    /// How many may come at once.
    pub burst: u32,
}

/// What a web configuration file says, checked.
#[derive(Debug, Clone, Default)]
pub struct WebConfig {
    /// TLS, ready to be spoken; `None` for plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Who may ask; nobody named: everybody.
    pub users: Users,
    /// Headers of every answer.
    pub headers: Vec<(&'static str, String)>,
    /// How often may be asked, by all together.
    pub rate_limit: Option<RateLimit>,
    /// What is in the file and changes nothing here, in words.
    pub remarks: Vec<&'static str>,
    /// What was read: the file itself and those that it names.
    files: Vec<ReadFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WebWire {
    tls_server_config: Option<tls::TlsWire>,
    http_server_config: Option<HttpWire>,
    basic_auth_users: Option<users::UsersWire>,
    rate_limit: Option<RateWire>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpWire {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RateWire {
    interval: Option<String>,
    burst: Option<u32>,
}

impl WebConfig {
    /// Reads a web configuration file and what it names; relative paths are relative to the file.
    ///
    /// # Errors
    /// [`ConfigError`], for the first thing wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        let (bytes, file) = read(path, MAX_CONFIG_BYTES).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|e| unreadable(io::Error::other(e)))?;
        let wire: Option<WebWire> =
            serde_yaml::from_str(&text).map_err(|e| syntax_error(path, &text, &e))?;
        let wire = wire.unwrap_or_default();
        let at = Place { path, text: &text };
        let mut files = vec![file];
        let tls = wire.tls_server_config.unwrap_or_default().checked(&at, &mut files)?;
        let http = wire.http_server_config.unwrap_or_default();
        let remarks = http.http2.filter(|wanted| *wanted).map(|_| {
            "http2: true: HTTP/1.1 alone is served, which every client of HTTP/2 speaks as well"
        });
        Ok(Self {
            tls: tls.map(Arc::new),
            users: users::checked(wire.basic_auth_users, &at)?,
            headers: headers(http.headers.unwrap_or_default(), &at)?,
            rate_limit: rate_limit(wire.rate_limit, &at)?,
            files,
            remarks: remarks.into_iter().collect(),
        })
    }

    /// That no password is sent over the network in the clear, unless that is wanted.
    ///
    /// # Errors
    /// When there are users and no TLS, and others than this machine may connect.
    pub fn check_address(&self, address: SocketAddr, is_forced: bool) -> Result<(), ConfigError> {
        let is_safe = self.users.is_empty() || self.tls.is_some() || address.ip().is_loopback();
        if is_safe || is_forced {
            return Ok(());
        }
        let path = self.files.first().map(|file| file.path().to_owned()).unwrap_or_default();
        Err(ConfigError::Exposed { path, address })
    }

    /// The files that were read, and will be again: the file itself and those that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(ReadFile::path)
    }

    /// Whether one of the files that were read is another now.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.files.iter().any(ReadFile::has_changed)
    }
}

fn headers(
    given: BTreeMap<String, String>,
    at: &Place<'_>,
) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let mut headers = Vec::new();
    for (name, value) in given {
        let Some((known, values)) = HEADERS.iter().find(|(known, _)| *known == name) else {
            let all = HEADERS.map(|(name, _)| name).join(", ");
            return Err(at.error("headers", format!("found `{name}`, expected one of {all}")));
        };
        let is_text = value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if !is_text {
            return Err(at.error(known, "found other characters than those of ASCII".into()));
        }
        if value.is_empty() {
            continue;
        }
        if !values.is_empty() && !values.contains(&value.as_str()) {
            let expected = values.join(" or ");
            return Err(at.error(known, format!("found `{value}`, expected {expected}")));
        }
        headers.push((*known, value));
    }
    Ok(headers)
}

fn rate_limit(wire: Option<RateWire>, at: &Place<'_>) -> Result<Option<RateLimit>, ConfigError> {
    let Some(RateWire { interval: Some(text), burst }) = wire else {
        return Ok(None);
    };
    let interval = match humantime::parse_duration(&text) {
        Ok(interval) if interval.is_zero() => return Ok(None),
        Ok(interval) if interval <= Duration::from_hours(1) => interval,
        _ => {
            let expected = "expected a duration up to 1h such as 100ms, or 0 for no limit";
            return Err(at.error("interval", format!("found `{text}`, {expected}")));
        }
    };
    if let Some(burst @ 1..) = burst {
        return Ok(Some(RateLimit { interval, burst }));
    }
    let found = burst.map_or("nothing".to_owned(), |burst| burst.to_string());
    Err(at.error("burst", format!("found {found}, expected 1 or more requests at once")))
}
