//! What a client can read, from its Accept headers (RFC 9110 §12.5).

use hyper::HeaderMap;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

/// Whether OpenMetrics is wanted at least as much as plain text. A wildcard counts for plain text,
/// which every reader of metrics knows; so does a client that accepts neither.
pub(super) fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let (mut openmetrics, mut text) = (0.0, 0.0);
    for (range, params, quality) in ranges(headers, &ACCEPT) {
        match range.as_str() {
            "application/openmetrics-text" if has_version_1(&params) => {
                openmetrics = quality.max(openmetrics);
            }
            "text/plain" | "text/*" | "*/*" => text = quality.max(text),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

/// Whether gzip is accepted.
pub(super) fn wants_gzip(headers: &HeaderMap) -> bool {
    let (mut named, mut any) = (None, None);
    for (coding, _, quality) in ranges(headers, &ACCEPT_ENCODING) {
        match coding.as_str() {
            "gzip" | "x-gzip" => named = Some(quality),
            "*" => any = Some(quality),
            _ => {}
        }
    }
    named.or(any).is_some_and(|quality: f32| quality > 0.0)
}

/// No version means the newest. Version 0.0.1 was a draft that we do not write.
fn has_version_1(params: &[(String, String)]) -> bool {
    params.iter().find(|(name, _)| name == "version").is_none_or(|(_, version)| version == "1.0.0")
}

type Range = (String, Vec<(String, String)>, f32);

/// Elements of a list header in lower case: name, parameters, quality in `[0, 1]`. What does not
/// parse has quality 0.
fn ranges(headers: &HeaderMap, name: &HeaderName) -> Vec<Range> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(range).collect()
}

fn range(element: &str) -> Range {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let params: Vec<(String, String)> = parts
        .filter_map(|part| part.split_once('='))
        .map(|(key, value)| {
            (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_ascii_lowercase())
        })
        .collect();
    let quality = params.iter().find(|(key, _)| key == "q").map_or(1.0, |(_, value)| {
        value.parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0)
    });
    (name, params, quality)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn check(name: &HeaderName, wants: fn(&HeaderMap) -> bool, cases: &[(Option<&str>, bool)]) {
        for (value, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(wants(&headers), *expected, "{name}: {value:?}");
        }
    }

    #[test]
    fn openmetrics_only_for_those_who_prefer_it() {
        check(
            &ACCEPT,
            wants_openmetrics,
            &[
                (None, false),
                (Some("*/*"), false),
                (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), false),
                // Prometheus 2.42 and 3.0.
                (
                    Some(
                        "application/openmetrics-text;version=1.0.0,\
                         application/openmetrics-text;version=0.0.1;q=0.75,\
                         text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                    ),
                    true,
                ),
                (
                    Some(
                        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                         application/openmetrics-text;version=0.0.1;q=0.4,\
                         text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                         text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                    ),
                    true,
                ),
                (Some("application/openmetrics-text"), true),
                (Some("Application/OpenMetrics-Text; Version=\"1.0.0\""), true),
                (Some("application/openmetrics-text;version=0.0.1"), false),
                (Some("application/openmetrics-text;q=0"), false),
                (Some("application/openmetrics-text;q=0.4,text/plain;q=0.5"), false),
                (Some("application/openmetrics-text;q=high"), false),
                (Some(";;,=,;q=2,\t"), false),
            ],
        );
    }

    #[test]
    fn gzip_when_accepted() {
        check(
            &ACCEPT_ENCODING,
            wants_gzip,
            &[
                (None, false),
                (Some(""), false),
                (Some("gzip"), true),
                (Some("deflate, GZIP;q=0.5"), true),
                (Some("gzip;q=0"), false),
                (Some("gzip;q=0, *"), false),
                (Some("*"), true),
                (Some("identity"), false),
            ],
        );
    }
}
