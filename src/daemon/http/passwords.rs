//! Passwords: checked on a thread of their own, few at a time, and what was right is known again.
//!
//! A check takes some 70 ms of a core by design. No request waits on the async thread for it, a flood
//! of them fills a short queue and is turned away, and takes at most half of one core, after others.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::watch;

use crate::config::{PasswordHash, Users};

/// Checks that wait for the one at work.
const MAX_WAITING: usize = 4;

/// Right passwords that are known again.
const MAX_KNOWN: usize = 256;

/// Salt of hashes that nobody compares.
const NO_SALT: [u8; 16] = [0; 16];

/// How a check ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// Too many wait already.
    Busy,
}

/// User and password as a request gives them.
pub(super) struct Credentials {
    user: String,
    password: Vec<u8>,
}

impl Credentials {
    /// Those of the only `Authorization` header, if it is of the scheme `Basic`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(AUTHORIZATION).into_iter();
        let (value, None) = (given.next()?.as_bytes(), given.next()) else { return None };
        let (scheme, rest) = value.split_at_checked(6)?;
        let encoded = scheme.eq_ignore_ascii_case(b"basic ").then(|| rest.trim_ascii())?;
        let decoded = STANDARD.decode(encoded).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let user = String::from_utf8_lossy(&decoded[..colon]).into_owned();
        Some(Self { user, password: decoded[colon + 1..].to_vec() })
    }
}

/// A keyed hash of user, password and the hash it was compared with: what is known by it cannot be
/// read from memory, and a password that was changed is not known.
type Key = [u8; 32];

struct Check {
    key: Key,
    password: Vec<u8>,
    /// The hash of a user that there is.
    hash: Option<PasswordHash>,
    /// Cost of every check, whoever asks.
    cost: u32,
    done: watch::Sender<Option<bool>>,
}

#[derive(Default)]
struct State {
    known: VecDeque<Key>,
    /// Checks that wait or are at work; who asks the same waits with the first.
    pending: BTreeMap<Key, watch::Receiver<Option<bool>>>,
}

/// The thread that checks, and what is known.
pub(super) struct Passwords {
    queue: SyncSender<Check>,
    state: Arc<Mutex<State>>,
    secret: hmac::Key,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords")
    }
}

impl Passwords {
    pub(super) fn start() -> io::Result<Self> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| io::Error::other("no randomness"))?;
        let state = Arc::new(Mutex::new(State::default()));
        let (queue, checks) = sync_channel(MAX_WAITING);
        let shared = Arc::clone(&state);
        std::thread::Builder::new()
            .name("passwords".to_owned())
            .spawn(move || work(&checks, &shared))?;
        Ok(Self { queue, state, secret })
    }

    /// Whether the credentials are those of a user.
    pub(super) async fn check(&self, given: Credentials, users: &Users) -> Verdict {
        let Some(mut done) = self.ask(given, users) else { return Verdict::Busy };
        let verdict = done.wait_for(Option::is_some).await.map(|is_right| *is_right);
        match verdict {
            Ok(Some(true)) => Verdict::Right,
            Ok(_) => Verdict::Wrong,
            Err(_) => Verdict::Busy,
        }
    }

    /// Where the verdict will be, unless too many wait.
    fn ask(&self, given: Credentials, users: &Users) -> Option<watch::Receiver<Option<bool>>> {
        let hash = users.get(&given.user);
        let cost = users.values().map(PasswordHash::cost).max().unwrap_or_default();
        let key = self.key(&given, hash);
        let mut state = lock(&self.state);
        if state.known.contains(&key) {
            return Some(watch::channel(Some(true)).1);
        }
        if let Some(pending) = state.pending.get(&key) {
            return Some(pending.clone());
        }
        let (done, pending) = watch::channel(None);
        let Credentials { password, .. } = given;
        let check = Check { key, password, hash: hash.cloned(), cost, done };
        self.queue.try_send(check).ok()?;
        state.pending.insert(key, pending.clone());
        Some(pending)
    }

    fn key(&self, given: &Credentials, hash: Option<&PasswordHash>) -> Key {
        let mut context = hmac::Context::with_key(&self.secret);
        let hash = hash.map_or("", PasswordHash::as_str);
        for part in [given.user.as_bytes(), hash.as_bytes(), &given.password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut key = Key::default();
        key.copy_from_slice(context.sign().as_ref());
        key
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks what comes, until nobody can ask any more.
fn work(checks: &Receiver<Check>, state: &Mutex<State>) {
    // Of this thread alone. A little below others and no more: who may ask must get in on a machine
    // that trains on all of its cores, where a lower one would wait for minutes.
    let _ = rustix::process::nice(5);
    while let Ok(check) = checks.recv() {
        let begun = Instant::now();
        let is_right = check.is_right();
        let mut held = lock(state);
        held.pending.remove(&check.key);
        if is_right {
            held.known.truncate(MAX_KNOWN - 1);
            held.known.push_front(check.key);
        }
        drop(held);
        check.done.send_replace(Some(is_right));
        if !is_right {
            // Whoever guesses gets half of the core.
            std::thread::sleep(begun.elapsed());
        }
    }
}

impl Check {
    /// Takes the same work whether there is such a user or not, and whatever the cost of the hash:
    /// 2^c for the hash, and as much again for each step up to the highest cost of all.
    fn is_right(&self) -> bool {
        let spend = |cost| {
            let _ = black_box(bcrypt::hash_with_salt(&self.password, cost, NO_SALT));
        };
        let Some(hash) = &self.hash else {
            spend(self.cost);
            return false;
        };
        let is_right = bcrypt::verify(&self.password, hash.as_str()).unwrap_or(false);
        (hash.cost()..self.cost).for_each(spend);
        is_right
    }
}
