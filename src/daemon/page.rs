//! The pages for people: which runs are watched, where they stand, what is odd, and of each run what
//! was measured, layer by layer and over its saves.
//!
//! They load nothing from elsewhere, so they work without a network. Without scripts they are tables;
//! scripts draw the charts and keep the page current.

mod anomalies;
mod assets;
mod health;
mod overview;
mod run;
mod words;

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, html};

pub use assets::{Asset, assets};
pub use health::health;
pub use overview::overview;
pub use run::run_page;

use crate::history::Severity;
use crate::metrics::{RunFacts, RunState};
use words::{grouped, utc};

/// Policy of the pages: their own styles, scripts and data, nothing inline, nothing from elsewhere.
/// Run names come from directories of strangers, and escaping them is only the first line.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; \
    script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Path of the newest report of a run.
#[must_use]
pub fn report_url(name: &str) -> String {
    url("/api/v1/runs/", name)
}

/// Path of a run's numbers over all its saves.
#[must_use]
pub fn history_url(name: &str) -> String {
    url("/api/v1/history/", name)
}

/// Path of a run's page.
#[must_use]
pub fn run_url(name: &str) -> String {
    url("/runs/", name)
}

fn url(prefix: &str, name: &str) -> String {
    let mut url = String::from(prefix);
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                url.push(char::from(byte));
            }
            _ => write!(url, "%{byte:02X}").expect("a String takes every character"),
        }
    }
    url
}

/// A whole page: what stands in its head, and its parts.
fn shell(title: &str, head: &Markup, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Scripts fetch what has changed; without them the page comes again as a whole.
                noscript { meta http-equiv="refresh" content="30"; }
                title { (title) }
                link rel="stylesheet" href="/page.css";
                (head)
            }
            body {
                a.skip href="#main" { "Skip to content" }
                (body)
            }
        }
    }
}

fn time(unix: Option<f64>) -> Markup {
    html! {
        @match unix {
            Some(unix) => {
                @let utc = utc(unix);
                time data-unix=(unix) title=(utc) { (utc) }
            }
            None => "–",
        }
    }
}

fn state(run: &RunFacts) -> Markup {
    let (class, word, reason) = match &run.state {
        RunState::Analyzed => ("good", "analysed", None),
        RunState::Waiting => ("wait", "waiting", None),
        RunState::Incomplete(reason) => ("wait", "incomplete", Some(reason)),
        RunState::Unreadable(reason) => ("bad", "unreadable", Some(reason)),
    };
    let nonfinite = run.report.as_ref().map_or(0, |report| report.n_nonfinite());
    let n_open = run.chronicle.open().iter().filter(|a| a.severity > Severity::Info).count();
    html! {
        span.state.(class) { (word) }
        @if !run.active { span.dim { ", ended" } }
        @if let Some(reason) = reason { span.dim.small.reason { (reason) } }
        @if n_open > 0 {
            span.state.wait.small.reason { (n_open) @if n_open == 1 { " anomaly" } @else { " anomalies" } }
        }
        @if nonfinite > 0 {
            span.state.bad.small.reason { (grouped(nonfinite)) " NaN or infinite" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Snapshot;

    #[test]
    fn names_from_the_disk_cannot_write_html() {
        let hostile = "\"><script>alert(1)</script><img src=x onerror=alert(1)>\u{202e}'&";
        let report = run::testing::hostile_report(hostile);
        let states = [RunState::Unreadable(hostile.into()), RunState::Incomplete(hostile.into())];
        for state in states {
            let run = RunFacts {
                name: hostile.to_owned(),
                path: hostile.to_owned(),
                architecture: Some(hostile.to_owned()),
                optimizer: Some(hostile.to_owned()),
                report: Some(report.clone()),
                state,
                ..RunFacts::default()
            };
            let page = run_page(&run);
            let snapshot = Snapshot { runs: vec![run], ..Snapshot::default() };
            for html in [overview(&snapshot), page] {
                let scripts = html.matches("<script").count();
                assert_eq!(
                    scripts,
                    html.matches("<script src=\"/page/").count()
                        + html.matches("<script type=\"module\" src=\"/page/").count()
                );
                assert!(!html.contains("<img") && !html.contains(hostile), "{html}");
                assert!(html.contains("&lt;script&gt;alert(1)"));
            }
        }
    }
}
