//! What the service manager is told: that the daemon is ready, reads its configuration again, ends, and
//! lives. Without a service manager nothing is.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

/// Signs of life in the time after which the manager gives the daemon up: a busy machine may be late
/// with one or two.
const SIGNS: u32 = 4;

/// The service manager, if one is there (`NOTIFY_SOCKET`).
#[derive(Debug)]
pub(super) struct Manager {
    is_there: bool,
    /// Time between two signs of life, if it waits for any (`WATCHDOG_USEC`).
    interval: Option<Duration>,
    signed: Option<Instant>,
    status: String,
}

impl Manager {
    pub(super) fn of_environment() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|limit| limit / SIGNS);
        let is_there = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            is_there,
            interval: interval.filter(|_| is_there),
            signed: None,
            status: String::new(),
        }
    }

    /// The port is open, signals are handled and all threads run. No root need have answered: one that
    /// hangs must not keep the daemon from starting, and `/-/ready` says when all have.
    pub(super) fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    pub(super) fn reloading(&mut self) {
        // From systemd 253 on the time must be with it.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "the clock does not answer"),
        }
    }

    pub(super) fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// A line for `systemctl status`, when it has changed.
    pub(super) fn status(&mut self, status: impl FnOnce() -> String) {
        if !self.is_there {
            return;
        }
        let status = status();
        if status != self.status {
            self.tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// A sign of life, if it is time for one. Of the thread that decides everything, and of no other:
    /// when that one hangs, the daemon is to be started again.
    pub(super) fn alive(&mut self) {
        if self.patience() == Some(Duration::ZERO) {
            self.tell(&[NotifyState::Watchdog]);
            self.signed = Some(Instant::now());
        }
    }

    /// Time until the next sign of life.
    pub(super) fn patience(&self) -> Option<Duration> {
        let since = self.signed.map(|at| at.elapsed());
        self.interval
            .map(|interval| since.map_or(Duration::ZERO, |since| interval.saturating_sub(since)))
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if !self.is_there {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            // It will hear nothing else either.
            self.is_there = false;
            self.interval = None;
            warn!(%error, "the service manager cannot be told");
        }
    }
}
