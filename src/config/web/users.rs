//! Users and the hashes of their passwords. A hash is never printed, nor is what stands in its place.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::super::ConfigError;
use super::super::place::Place;

/// Highest cost of a hash: above, one check takes more than a scrape's time out (each step doubles
/// some 70 ms at 10).
const MAX_COST: u32 = 15;

/// A bcrypt hash that was checked to be one.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    cost: u32,
}

impl PasswordHash {
    /// A hash of these bytes; `None` for what is none, or is too costly to check.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_known = ["$2a$", "$2b$", "$2y$"].iter().any(|version| text.starts_with(version));
        let parts = text.parse::<bcrypt::HashParts>().ok().filter(|_| is_known)?;
        let cost = parts.get_cost();
        (4..=MAX_COST).contains(&cost).then(|| Self { text: text.to_owned(), cost })
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Two to this power is the work of a check.
    #[must_use]
    pub fn cost(&self) -> u32 {
        self.cost
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// User → the hash of the password.
pub type Users = BTreeMap<String, PasswordHash>;

/// The users as the file has them: in its order, with what is there twice. What is no text is `None`.
#[derive(Default)]
pub(super) struct UsersWire(Vec<(String, Option<String>)>);

impl fmt::Debug for UsersWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UsersWire")
    }
}

impl<'de> Deserialize<'de> for UsersWire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = UsersWire;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lines of `user: bcrypt hash`")
    }

    fn visit_unit<E>(self) -> Result<UsersWire, E> {
        Ok(UsersWire::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UsersWire, A::Error> {
        let mut entries = Vec::new();
        while let Some(user) = map.next_key::<String>()? {
            // A parser's error would show what it found, which may be a password.
            let value = map.next_value::<serde_yaml::Value>()?;
            entries.push((user, value.as_str().map(str::to_owned)));
        }
        Ok(UsersWire(entries))
    }
}

pub(super) fn checked(wire: Option<UsersWire>, at: &Place<'_>) -> Result<Users, ConfigError> {
    let mut users = Users::new();
    for (user, hash) in wire.unwrap_or_default().0 {
        if user.is_empty() || user.contains(':') {
            let message = format!("found user `{user}`, expected a name without a colon");
            return Err(at.error("basic_auth_users", message));
        }
        let Some(hash) = hash.as_deref().and_then(PasswordHash::parse) else {
            let expected =
                "expected a bcrypt hash of cost 4 to 15, as `htpasswd -nBC 10 USER` makes it";
            return Err(at.error(&user, format!("found something else, {expected}")));
        };
        if users.insert(user.clone(), hash).is_some() {
            return Err(at.error(&user, "found twice, expected once".into()));
        }
    }
    Ok(users)
}
