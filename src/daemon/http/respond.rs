//! From a request to its response; pure.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::super::page;
use super::content::{Content, RunBodies};
use super::negotiate::{wants_gzip, wants_openmetrics};
use crate::metrics::{OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE};

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Where the events are.
pub(super) const EVENTS: &str = "/api/v1/events";
/// Their type.
pub(super) const EVENTS_KIND: &str = "text/event-stream";

/// Prefix of the reports.
const REPORTS: &str = "/api/v1/runs/";
/// Prefix of the histories.
const HISTORIES: &str = "/api/v1/history/";
/// Prefix of the runs' pages.
const PAGES: &str = "/runs/";

/// Whether it is a path that says only how the daemon is, in one word.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, "/-/healthy" | "/-/ready")
}

/// The response to a request. HEAD is answered as GET; hyper leaves out the body.
pub(super) fn respond<B>(content: &Content, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
        return with(refused, header::ALLOW, "GET, HEAD");
    }
    match request.uri().path() {
        "/metrics" => metrics(content, request.headers()),
        "/" => html(content.page.clone()),
        "/favicon.ico" => body(StatusCode::NO_CONTENT, PLAIN, Bytes::new()),
        "/-/healthy" => plain(StatusCode::OK, "healthy\n"),
        "/-/ready" if content.ready => plain(StatusCode::OK, "ready\n"),
        "/-/ready" => plain(StatusCode::SERVICE_UNAVAILABLE, "the first scan is not done yet\n"),
        "/api/v1/runs" => body(StatusCode::OK, JSON, content.runs.clone()),
        // GET opens the stream; what is left is HEAD.
        EVENTS => body(StatusCode::OK, EVENTS_KIND, Bytes::new()),
        "/api/v1/anomalies" => body(StatusCode::OK, JSON, content.anomalies.clone()),
        path => named(content, path)
            .or_else(|| asset(path, request.headers()))
            .unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "nothing is served at this path\n")),
    }
}

/// What is served of one run, if the path is of one.
fn named(content: &Content, path: &str) -> Option<Response<Full<Bytes>>> {
    if let Some(encoded) = path.strip_prefix(REPORTS) {
        // A run may be called `x/history`; it comes before the history of `x`, which has a path of
        // its own as well.
        let report = run_of(content, encoded).and_then(|run| run.report.as_ref());
        let report = report.map(|(_, bytes)| bytes.clone());
        let found = report.or_else(|| history(content, encoded.strip_suffix("/history")?));
        return Some(found.map_or_else(no_run, |bytes| body(StatusCode::OK, JSON, bytes)));
    }
    if let Some(encoded) = path.strip_prefix(HISTORIES) {
        let found = history(content, encoded);
        return Some(found.map_or_else(no_run, |bytes| body(StatusCode::OK, JSON, bytes)));
    }
    let encoded = path.strip_prefix(PAGES)?;
    Some(match run_of(content, encoded) {
        Some(run) => html(run.page.clone()),
        None => plain(StatusCode::NOT_FOUND, "no run of this name; / lists them\n"),
    })
}

fn run_of<'a>(content: &'a Content, encoded: &str) -> Option<&'a RunBodies> {
    let name = percent_decode(encoded)?;
    // A root that is itself a run is called ".", and clients take a "." off the end of a URL.
    let name = if name.is_empty() { ".".to_owned() } else { name };
    content.of_runs.get(&name).map(AsRef::as_ref)
}

fn history(content: &Content, encoded: &str) -> Option<Bytes> {
    run_of(content, encoded).map(|run| run.history.clone())
}

fn no_run() -> Response<Full<Bytes>> {
    let error = b"{\"error\":\"no analysed run of this name; see /api/v1/runs\"}\n";
    body(StatusCode::NOT_FOUND, JSON, Bytes::from_static(error))
}

fn html(page: Bytes) -> Response<Full<Bytes>> {
    let page = body(StatusCode::OK, "text/html; charset=utf-8", page);
    let page = with(page, header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY);
    with(page, header::REFERRER_POLICY, "no-referrer")
}

fn metrics(content: &Content, headers: &HeaderMap) -> Response<Full<Bytes>> {
    if content.is_loading {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the history is being read\n");
    }
    let exposition = &content.exposition;
    let gzip = wants_gzip(headers);
    let (kind, bytes) = match (wants_openmetrics(headers), gzip) {
        (false, false) => (TEXT_CONTENT_TYPE, &exposition.text),
        (false, true) => (TEXT_CONTENT_TYPE, &exposition.text_gzip),
        (true, false) => (OPENMETRICS_CONTENT_TYPE, &exposition.openmetrics),
        (true, true) => (OPENMETRICS_CONTENT_TYPE, &exposition.openmetrics_gzip),
    };
    let response = body(StatusCode::OK, kind, bytes.clone());
    let response = with(response, header::VARY, "Accept, Accept-Encoding");
    if gzip { with(response, header::CONTENT_ENCODING, "gzip") } else { response }
}

/// The path with `%XX` resolved; `None` where that is not two hex digits or not UTF-8.
fn percent_decode(encoded: &str) -> Option<String> {
    let mut bytes = encoded.bytes();
    let mut decoded = Vec::with_capacity(encoded.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? << 4 | digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

fn asset(path: &str, headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let asset = page::assets().iter().find(|asset| asset.path == path)?;
    let gzip = wants_gzip(headers);
    let bytes = if gzip { &asset.gzip } else { &asset.plain };
    let response = body(StatusCode::OK, asset.kind, bytes.clone());
    let response = with(response, header::VARY, "Accept-Encoding");
    Some(if gzip { with(response, header::CONTENT_ENCODING, "gzip") } else { response })
}

pub(super) fn plain(status: StatusCode, line: &'static str) -> Response<Full<Bytes>> {
    body(status, PLAIN, Bytes::from_static(line.as_bytes()))
}

pub(super) fn body(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    let response = with(response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    with(response, header::CACHE_CONTROL, "no-store")
}

pub(super) fn with(
    mut response: Response<Full<Bytes>>,
    name: HeaderName,
    value: &'static str,
) -> Response<Full<Bytes>> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percent_decoding_refuses_what_is_not_hex_or_utf8() {
        for (encoded, expected) in [
            ("a%2Fb%20c", Some("a/b c")),
            ("%C3%A4", Some("ä")),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(percent_decode(encoded).as_deref(), expected, "{encoded}");
        }
    }

    proptest! {
        #[test]
        fn a_link_to_a_run_decodes_to_its_name(name in any::<String>()) {
            for (url, prefix) in [
                (page::report_url(&name), REPORTS),
                (page::history_url(&name), HISTORIES),
                (page::run_url(&name), PAGES),
            ] {
                prop_assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(percent_decode(url.strip_prefix(prefix).unwrap()), Some(name.clone()));
            }
        }
    }
}
