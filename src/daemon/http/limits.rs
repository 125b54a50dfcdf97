//! Bounds on what clients may take, and what the process may open for them.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Bounds on what a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for a whole request header, the handshake of TLS before the first included, and from the
    /// last response to the next request: a connection that is idle for longer is closed.
    pub header_timeout: Duration,
    /// Time for a client to take a whole response, and for us to begin it.
    pub response_timeout: Duration,
    /// Age at which a connection is closed after the response under way, so that none keeps its place
    /// and its old certificate for ever.
    pub max_age: Duration,
    /// Size of a request line with its headers in bytes, at least 8192; above it 431.
    pub max_header_bytes: usize,
    /// Open connections; above it 503.
    pub max_connections: usize,
    /// Clients beyond the cap that are told so at the same time; the rest are dropped unanswered.
    pub max_farewells: usize,
    /// Open streams of events; above it 503.
    pub max_streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
            max_age: Duration::from_mins(10),
            max_header_bytes: 16 << 10,
            // A thousand scrapers, and as many again as ever were at once beside them.
            max_connections: 1536,
            max_farewells: 64,
            max_streams: 64,
        }
    }
}

/// Descriptors for all else: checkpoints, the history, the roots' events.
const OWN_DESCRIPTORS: u64 = 448;

impl Limits {
    /// With no more connections than the process may open descriptors for. Its soft limit, commonly
    /// 1024 for the sake of programs that use `select`, is raised to what is needed.
    #[must_use]
    pub fn within_descriptors(self) -> Self {
        let needed = self.needed();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let mut may_open = current.unwrap_or(u64::MAX);
        if may_open < needed {
            let raised = maximum.map_or(needed, |most| most.min(needed));
            match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
                Ok(()) => may_open = raised,
                Err(error) => debug!(%error, "limit of open files not raised"),
            }
        }
        let fitting = self.fitting(may_open);
        if fitting != self {
            warn!(
                "at most {} HTTP connections, expected {}: the limit of open files is {may_open}, expected {needed} (ulimit -Hn, LimitNOFILE=)",
                fitting.max_connections, self.max_connections
            );
        }
        fitting
    }

    fn needed(&self) -> u64 {
        (self.max_connections + self.max_farewells) as u64 + OWN_DESCRIPTORS
    }

    /// What of it `may_open` descriptors allow, of which half are for all else when they are few.
    fn fitting(self, may_open: u64) -> Self {
        if may_open >= self.needed() {
            return self;
        }
        let room = may_open - OWN_DESCRIPTORS.min(may_open / 2);
        let room = usize::try_from(room).unwrap_or(usize::MAX).max(2);
        let max_farewells = self.max_farewells.min(room / 8);
        let max_connections = self.max_connections.min(room - max_farewells);
        Self { max_connections, max_farewells, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_the_descriptors() {
        let all = Limits::default();
        assert_eq!(all.needed(), 2048);
        for (may_open, connections, farewells) in [
            (u64::MAX, 1536, 64),
            (2048, 1536, 64),
            (2047, 1535, 64),
            (1024, 512, 64),
            (256, 112, 16),
            (32, 14, 2),
            (0, 2, 0),
        ] {
            let fitting = all.fitting(may_open);
            let found = (fitting.max_connections, fitting.max_farewells);
            assert_eq!(found, (connections, farewells), "{may_open}");
        }
    }
}
