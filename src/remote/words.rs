//! One line for what a store or the way to it says, in words that tell what to do.

use std::error::Error;
use std::io::ErrorKind;

use super::RemoteError;
use super::place::{Place, Scheme};

/// Longest part of a foreign text that is shown, in characters.
const MAX_SHOWN: usize = 200;

/// What an error of the client means for who asked.
pub(super) fn refusal(error: &object_store::Error, place: &Place) -> RemoteError {
    use object_store::Error as E;
    let text = chain(error);
    if let Some(words) = known(&text, place) {
        return RemoteError::refused(words.0, words.1);
    }
    // Of a listing the crate tells no kind.
    let status = |code: &str| text.contains(&format!("status code: {code}"));
    match error {
        E::NotFound { .. } => RemoteError::Missing,
        E::Generic { .. } if status("404") => RemoteError::Missing,
        E::Precondition { .. } | E::NotModified { .. } => RemoteError::Changed,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => denied(&text, place),
        E::Generic { .. } if status("401") || status("403") => denied(&text, place),
        E::InvalidPath { .. } => {
            let words = format!("found a key that is no path: {}", deepest(error));
            RemoteError::refused(ErrorKind::InvalidData, words)
        }
        _ => {
            let why = answer(&text).unwrap_or_else(|| deepest(error));
            RemoteError::refused(ErrorKind::Other, format!("found the store not answering: {why}"))
        }
    }
}

fn denied(text: &str, place: &Place) -> RemoteError {
    let why = answer(text).map_or_else(String::new, |why| format!(" ({why})"));
    let words = format!("found no permission to read bucket `{}`{why}", place.bucket);
    RemoteError::refused(ErrorKind::PermissionDenied, words)
}

/// Texts that say more to those who know them than to others.
fn known(text: &str, place: &Place) -> Option<(ErrorKind, String)> {
    let any = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
    let bucket = &place.bucket;
    if any(&["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]) {
        return Some((ErrorKind::NotFound, format!("found no bucket `{bucket}`")));
    }
    if any(&[
        "/latest/",
        "169.254.",
        "metadata.google.internal",
        "computeMetadata",
        "/metadata/identity",
    ]) {
        let expected = match place.scheme {
            Scheme::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity",
            Scheme::Gs => "GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT",
            Scheme::Az => "AZURE_STORAGE_ACCOUNT_KEY, a client's secret, a federated token",
        };
        let words = format!("found no credentials, expected {expected} or an instance with a role");
        return Some((ErrorKind::PermissionDenied, words));
    }
    if any(&["without LOCATION", "PermanentRedirect", "AuthorizationHeaderMalformed"]) {
        let words = format!("found bucket `{bucket}` in another region, expected it in AWS_REGION");
        return Some((ErrorKind::InvalidInput, words));
    }
    if any(&["MissingAccount", "Account must be specified"]) {
        let words = "found no account, expected AZURE_STORAGE_ACCOUNT_NAME";
        return Some((ErrorKind::InvalidInput, words.to_owned()));
    }
    None
}

/// Code and message of a store's own answer.
fn answer(text: &str) -> Option<String> {
    let part = |name: &str| {
        let (_, after) = text.split_once(&format!("<{name}>"))?;
        Some(after.split_once('<')?.0)
    };
    let code = part("Code")?;
    let message = part("Message").filter(|message| !message.is_empty());
    Some(cut(&message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"))))
}

/// An error and all that caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(" | ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// The first cause; those above it repeat it, with addresses that may hold a token.
fn deepest(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    cut(&deepest.to_string())
}

/// A foreign text on one line and of bounded length.
fn cut(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    let cut: String = line.chars().take(MAX_SHOWN).collect();
    if cut.len() < line.len() { cut + "…" } else { cut }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(error: &object_store::Error, place: &str, expected: &str) {
        let place = Place::of(Path::new(place)).unwrap();
        assert_eq!(refusal(error, &place).to_string(), expected);
    }

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn the_words_say_what_to_do() {
        let denied = |text: &str| object_store::Error::PermissionDenied {
            path: "x".into(),
            source: text.to_owned().into(),
        };
        check(
            &denied(
                "403: <Error><Code>AccessDenied</Code><Message>Access\n Denied</Message></Error>",
            ),
            "s3://b/x",
            "found no permission to read bucket `b` (AccessDenied: Access Denied)",
        );
        check(&denied("403"), "s3://b/x", "found no permission to read bucket `b`");
        let missing = |text: &str| object_store::Error::NotFound {
            path: "x".into(),
            source: text.to_owned().into(),
        };
        check(&missing("404: "), "s3://b/x", "found no such object");
        check(&missing("<Code>NoSuchBucket</Code>"), "s3://b/x", "found no bucket `b`");
        check(
            &generic("Error performing PUT http://169.254.169.254/latest/api/token in 1s"),
            "s3://b/x",
            "found no credentials, expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web \
             identity or an instance with a role",
        );
        check(
            &generic("Received redirect without LOCATION, this normally indicates"),
            "s3://b/x",
            "found bucket `b` in another region, expected it in AWS_REGION",
        );
        check(
            &generic("connection\nrefused"),
            "gs://b/x",
            "found the store not answering: connection refused",
        );
    }

    #[test]
    fn foreign_text_is_cut() {
        let text = refusal(&generic(&"x".repeat(5000)), &Place::of(Path::new("s3://b")).unwrap());
        assert!(text.to_string().chars().count() < 300);
    }
}
