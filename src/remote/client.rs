//! The requests that are made: one object's state, a range of it, pages of names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::time::Duration;

use object_store::ObjectStoreExt as _;
use object_store::list::PaginatedListOptions;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta};
use xxhash_rust::xxh3::xxh3_64;

use super::place::Place;
use super::stores::{Bucket, bucket, runtime};
use super::words::refusal;
use super::{Entry, RemoteError, Stat};

/// Longest time for one question, all tries and all its pages up to [`PAGE`] keys together.
const LONGEST: Duration = Duration::from_mins(2);
/// Keys asked for at a time, the most that S3 gives.
const PAGE: usize = 1000;

pub(super) fn head(place: &Place) -> Result<Stat, RemoteError> {
    let key = key(place)?;
    let meta = ask(place, async |bucket| bucket.objects.head(&key).await)?;
    Ok(Stat::of(&meta))
}

/// A range of an object, shorter where the object ends, and the version that it is of. Where another
/// version was expected, none of it is loaded.
pub(super) fn read(
    place: &Place,
    range: Range<u64>,
    expected: Option<&Stat>,
) -> Result<(Stat, Vec<u8>), RemoteError> {
    let key = key(place)?;
    let options =
        || GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
    let (stat, n_wanted, bytes) = ask(place, async |bucket| {
        let answer = bucket.objects.get_opts(&key, options()).await?;
        let stat = Stat::of(&answer.meta);
        let n_wanted = answer.range.end.saturating_sub(answer.range.start);
        if expected.is_some_and(|expected| *expected != stat) {
            return Ok((stat, n_wanted, None));
        }
        Ok((stat, n_wanted, Some(body(answer, n_wanted).await?)))
    })?;
    let bytes = bytes.ok_or(RemoteError::Changed)?;
    if bytes.len() as u64 != n_wanted {
        let words = format!("found {} bytes of {n_wanted} in the answer", bytes.len());
        return Err(RemoteError::refused(io::ErrorKind::UnexpectedEof, words));
    }
    Ok((stat, bytes))
}

/// The bytes of an answer, at most one more than it promised.
async fn body(answer: GetResult, n_wanted: u64) -> Result<Vec<u8>, object_store::Error> {
    let n_wanted = usize::try_from(n_wanted).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(n_wanted.min(16 << 20));
    let GetResultPayload::Stream(mut stream) = answer.payload;
    while let Some(part) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
        let part = part?;
        let n_left = n_wanted.saturating_add(1).saturating_sub(bytes.len());
        bytes.extend(part.iter().take(n_left));
        if bytes.len() > n_wanted {
            break;
        }
    }
    Ok(bytes)
}

/// What lies directly below a prefix.
pub(super) fn list(place: &Place, max_entries: usize) -> Result<Vec<Entry>, RemoteError> {
    let mut found = BTreeMap::new();
    let own = prefix(place);
    pages(place, true, max_entries, |prefixes, objects| {
        for prefix in prefixes {
            if let Some(name) = last(&prefix, &own) {
                found.insert(name, None);
            }
        }
        for meta in objects {
            if let Some(name) = last(&meta.location, &own) {
                // A prefix of the same name is what is looked into.
                found.entry(name).or_insert(Some(Stat::of(&meta)));
            }
        }
        found.len() < max_entries
    })?;
    let entries = found.into_iter().map(|(name, stat)| Entry { name, stat });
    Ok(entries.take(max_entries).collect())
}

/// All objects below a prefix by what follows it, in the order of the store; `None` if there are more
/// than `max_objects`.
pub(super) fn list_all(
    place: &Place,
    max_objects: usize,
) -> Result<Option<Vec<(String, Stat)>>, RemoteError> {
    let mut found = Vec::new();
    let own = prefix(place);
    let complete = pages(place, false, PAGE, |_, objects| {
        for meta in objects {
            if let Some(below) = meta.location.as_ref().strip_prefix(&own) {
                found.push((below.to_owned(), Stat::of(&meta)));
            }
        }
        found.len() <= max_objects
    })?;
    Ok((complete && found.len() <= max_objects).then_some(found))
}

/// The beginning of all keys below a place.
fn prefix(place: &Place) -> String {
    if place.key.is_empty() { String::new() } else { format!("{}/", place.key) }
}

/// The name directly below a prefix; none for the object that some programs put there for a directory.
fn last(key: &Key, own: &str) -> Option<String> {
    let name = key.as_ref().strip_prefix(own)?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

/// Asks for pages while `take` wants more; returns whether it saw all of them.
fn pages(
    place: &Place,
    by_level: bool,
    max_entries: usize,
    mut take: impl FnMut(Vec<Key>, Vec<ObjectMeta>) -> bool,
) -> Result<bool, RemoteError> {
    let own = prefix(place);
    let prefix = Some(own.as_str()).filter(|prefix| !prefix.is_empty());
    let mut page_token: Option<String> = None;
    loop {
        let options = PaginatedListOptions {
            delimiter: by_level.then_some(Cow::Borrowed("/")),
            // One more, as the object that stands for the directory itself may be among them.
            max_keys: Some(max_entries.saturating_add(1).min(PAGE)),
            page_token: page_token.take(),
            ..PaginatedListOptions::default()
        };
        let page =
            ask(place, async |bucket| bucket.pages.list_paginated(prefix, options.clone()).await);
        let page = page.map_err(|error| match error {
            // Of a listing only the bucket can be missing.
            RemoteError::Missing => RemoteError::refused(
                io::ErrorKind::NotFound,
                format!("found no bucket `{}`", place.bucket),
            ),
            error => error,
        })?;
        let wants_more = take(page.result.common_prefixes, page.result.objects);
        page_token = page.page_token.filter(|token| !token.is_empty());
        if page_token.is_none() {
            return Ok(true);
        }
        if !wants_more {
            return Ok(false);
        }
    }
}

/// Asks a bucket one question and waits for the answer.
fn ask<T>(
    place: &Place,
    question: impl AsyncFnOnce(&Bucket) -> Result<T, object_store::Error>,
) -> Result<T, RemoteError> {
    let runtime = runtime()?;
    // Clients are made within the runtime that their connections live in.
    let _within = runtime.enter();
    let bucket = bucket(place)?;
    let answer = runtime.block_on(async {
        let _turn = bucket.gate.acquire().await;
        tokio::time::timeout(LONGEST, question(&bucket)).await
    });
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refusal(&error, place)),
        Err(_) => {
            let words = format!("found no answer in {} s", LONGEST.as_secs());
            Err(RemoteError::refused(io::ErrorKind::TimedOut, words))
        }
    }
}

fn key(place: &Place) -> Result<Key, RemoteError> {
    if place.key.is_empty() {
        return Err(RemoteError::Missing);
    }
    Key::parse(&place.key).map_err(|error| RemoteError::invalid(error.to_string()))
}

impl Stat {
    fn of(meta: &ObjectMeta) -> Self {
        // Listings and headers quote tags differently.
        let bare = |tag: &str| xxh3_64(tag.trim_start_matches("W/").trim_matches('"').as_bytes());
        Self {
            size: meta.size,
            modified: meta.last_modified.timestamp(),
            tag: meta.e_tag.as_deref().map_or(0, bare),
        }
    }
}
