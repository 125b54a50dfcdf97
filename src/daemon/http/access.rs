//! Who may ask, and how: what the web configuration file says, in force until it says something else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::bucket::Bucket;
use super::hosts;
use super::passwords::{Credentials, Passwords, Verdict};
use super::respond::{is_probe, plain, with};
use crate::config::{ConfigError, Settings, Users, WebConfig};
use crate::metrics::Rejection;

/// Why a server does not know whom to let in.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The web configuration file, or what it would mean at this address.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The thread that checks passwords could not be started.
    #[error("the thread that checks passwords could not be started")]
    Thread(#[source] std::io::Error),
}

/// Who may ask and how, and how often somebody was turned away.
#[derive(Debug)]
pub struct Access {
    address: SocketAddr,
    path: Option<PathBuf>,
    /// Whether passwords are taken without TLS everywhere.
    is_forced: bool,
    hosts: Vec<String>,
    gate: RwLock<Arc<Gate>>,
    passwords: Option<Passwords>,
    is_current: AtomicBool,
    rejected: [AtomicU64; Rejection::ALL.len()],
}

/// What is in force.
#[derive(Debug)]
pub(super) struct Gate {
    config: WebConfig,
    headers: Vec<(HeaderName, HeaderValue)>,
    bucket: Option<Bucket>,
}

/// A request that is not answered, and how that is said.
pub(super) type Refusal = (Rejection, Response<Full<Bytes>>);

impl Access {
    /// What the settings say of a server at this address.
    ///
    /// # Errors
    /// When the web configuration file cannot be used.
    pub fn new(settings: &Settings, address: SocketAddr) -> Result<Self, AccessError> {
        let path = settings.web_config_file.clone();
        let config = path.as_deref().map(WebConfig::load).transpose()?.unwrap_or_default();
        config.check_address(address, settings.basic_auth_without_tls)?;
        let passwords = path.as_ref().map(|_| Passwords::start()).transpose();
        let access = Self {
            address,
            path,
            is_forced: settings.basic_auth_without_tls,
            hosts: settings.allowed_hosts.clone(),
            passwords: passwords.map_err(AccessError::Thread)?,
            gate: RwLock::new(Arc::new(Gate::new(config))),
            is_current: AtomicBool::new(true),
            rejected: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        access.tell();
        Ok(access)
    }

    /// Whether TLS is spoken now.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.gate().config.tls.is_some()
    }

    /// Whether the web configuration file, if there is one, could be read when it was read last.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.is_current.load(Ordering::Relaxed)
    }

    /// How often somebody was turned away so far, in the order of [`Rejection::ALL`].
    #[must_use]
    pub fn rejected(&self) -> [u64; Rejection::ALL.len()] {
        std::array::from_fn(|at| self.rejected[at].load(Ordering::Relaxed))
    }

    pub(super) fn count(&self, rejection: Rejection) {
        self.rejected[rejection as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The web configuration file, if there is one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Reads the file again if `is_asked`, if it could not be read the last time or if it or what it
    /// names has changed; what cannot be used leaves in force what is. `told` is the last failure, so
    /// that each is told once.
    pub(super) fn read_again(&self, is_asked: bool, told: &mut Option<String>) {
        let Some(path) = &self.path else { return };
        if !is_asked && told.is_none() && !self.gate().config.has_changed() {
            return;
        }
        let read = WebConfig::load(path)
            .and_then(|config| config.check_address(self.address, self.is_forced).map(|()| config));
        self.is_current.store(read.is_ok(), Ordering::Relaxed);
        match read {
            Ok(config) => {
                *told = None;
                // The lock is held for the swap of one pointer.
                let gate = Arc::new(Gate::new(config));
                *self.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
                info!("web configuration read again");
                self.tell();
            }
            Err(error) => {
                let error = super::super::error_text(&error);
                if told.as_ref() != Some(&error) {
                    warn!(error, "web configuration not read again, the last one stays in force");
                    *told = Some(error);
                }
            }
        }
    }

    /// Says what somebody may not expect.
    fn tell(&self) {
        let gate = self.gate();
        for remark in &gate.config.remarks {
            info!("web configuration: {remark}");
        }
        let (is_open, address) = (gate.is_open(), self.address);
        let has_users = !gate.config.users.is_empty();
        if is_open && !address.ip().is_loopback() {
            warn!(%address, "everybody who can connect can read runs' names, losses and statistics: no TLS, no passwords (web_config_file)");
        } else if has_users && gate.config.tls.is_none() && !address.ip().is_loopback() {
            warn!(%address, "passwords are taken without TLS: everybody on the way can read them");
        }
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets a request in, or says why not. Probes are let in by whatever name and without a password:
    /// they tell one word that is no secret, and what asks them seldom has a place for a password.
    pub(super) async fn admit<B>(&self, gate: &Gate, request: &Request<B>) -> Result<(), Refusal> {
        if is_probe(request.uri().path()) {
            return Ok(());
        }
        let is_checked = gate.is_open() && self.address.ip().is_loopback();
        if is_checked && !hosts::are_ours(request, &self.hosts) {
            return Err((Rejection::Host, plain(StatusCode::MISDIRECTED_REQUEST, FOREIGN_HOST)));
        }
        if let Some(Err(wait)) = gate.bucket.as_ref().map(|bucket| bucket.take(Instant::now())) {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let mut refused =
                plain(StatusCode::TOO_MANY_REQUESTS, "too many requests (rate_limit)\n");
            refused.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            return Err((Rejection::Rate, refused));
        }
        let users = &gate.config.users;
        if users.is_empty() {
            return Ok(());
        }
        match self.verdict(request, users).await {
            Verdict::Right => Ok(()),
            Verdict::Wrong => {
                let refused = plain(StatusCode::UNAUTHORIZED, "a user and a password are needed\n");
                Err((Rejection::Unauthorized, with(refused, header::WWW_AUTHENTICATE, CHALLENGE)))
            }
            Verdict::Busy => {
                let text = "too many passwords to check\n";
                let refused = plain(StatusCode::SERVICE_UNAVAILABLE, text);
                Err((Rejection::Busy, with(refused, header::RETRY_AFTER, "1")))
            }
        }
    }

    async fn verdict<B>(&self, request: &Request<B>, users: &Users) -> Verdict {
        let given = Credentials::of(request.headers());
        match (given, &self.passwords) {
            (Some(given), Some(passwords)) => passwords.check(given, users).await,
            _ => Verdict::Wrong,
        }
    }
}

/// What a browser needs to know to ask for a password.
const CHALLENGE: &str = "Basic realm=\"weightvane\", charset=\"UTF-8\"";

const FOREIGN_HOST: &str = "not served under this name: ask for localhost or an IP address, or \
                            list the name in allowed_hosts\n";

impl Gate {
    fn new(config: WebConfig) -> Self {
        let header = |(name, value): &(&'static str, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value).ok()?))
        };
        let headers = config.headers.iter().filter_map(header).collect();
        let bucket = config.rate_limit.map(|limit| Bucket::new(limit, Instant::now()));
        Self { config, headers, bucket }
    }

    /// Whether everybody is let in.
    fn is_open(&self) -> bool {
        self.config.tls.is_none() && self.config.users.is_empty()
    }

    pub(super) fn tls(&self) -> Option<TlsAcceptor> {
        self.config.tls.clone().map(TlsAcceptor::from)
    }

    /// Adds the headers that are wanted in every answer.
    pub(super) fn complete<B>(&self, response: &mut Response<B>) {
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
    }
}
