//! The page for people: which runs are watched, where they stand, and what is odd.
//!
//! It loads nothing from elsewhere, so it works without a network.

mod anomalies;

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, html};

use crate::diagnostics::{PairReport, Report};
use crate::metrics::{RunFacts, RunState, Snapshot, pair_means, worst_pair};

/// Style sheet, served at `/page.css`.
pub const STYLE: &str = include_str!("page/page.css");

/// Script that turns times into ages, served at `/page.js`.
pub const SCRIPT: &str = include_str!("page/page.js");

/// Policy of the page: its own style and script, nothing inline, nothing from elsewhere. Run names
/// come from directories of strangers, and escaping them is only the first line.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; \
    script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page as HTML.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let version = snapshot.daemon.as_ref().map_or("", |daemon| &daemon.version);
    let mut runs: Vec<&RunFacts> = snapshot.runs.iter().collect();
    runs.sort_by_key(|run| (!run.active, &run.name));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="30";
                title { "weightvane" }
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body {
                header {
                    h1 { "weightvane" }
                    span.dim { (version) }
                    nav {
                        a href="/metrics" { "metrics" }
                        a href="/api/v1/runs" { "runs as JSON" }
                        a href="/api/v1/anomalies" { "anomalies as JSON" }
                    }
                }
                @if runs.is_empty() { (no_runs(snapshot)) } @else {
                    (table(&runs))
                    (anomalies::section(&runs))
                    (legend())
                }
            }
        }
    };
    page.into_string()
}

/// Path of the newest report of a run.
#[must_use]
pub fn report_url(name: &str) -> String {
    let mut url = String::from("/api/v1/runs/");
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

fn no_runs(snapshot: &Snapshot) -> Markup {
    let roots = snapshot.daemon.iter().flat_map(|daemon| daemon.watch_modes.keys());
    html! {
        div.empty {
            p { strong { "No runs found yet." } }
            @for root in roots { p { "Watching " code { (root) } } }
            p.dim {
                "A run is a directory that holds checkpoints, such as "
                code { "checkpoint-500/" } " with " code { "model.safetensors" }
                ", or a checkpoint file that is rewritten in place. It appears here once its first \
                 save has been quiet for a while. "
                code { "weightvane explain CHECKPOINT" } " tells how a checkpoint is read."
            }
        }
    }
}

fn table(runs: &[&RunFacts]) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr {
                    th { "Run" } th { "Architecture" } th.number { "Step" } th { "Last save" }
                    th { "State" } th.number { "Queue" } th { "Mean alignment" }
                    th { "Worst pair" }
                } }
                tbody { @for run in runs { (row(run)) } }
            }
        }
    }
}

fn row(run: &RunFacts) -> Markup {
    let report = run.report.as_deref();
    html! {
        tr {
            td.name title=(run.path) {
                @if report.is_some() { a href=(report_url(&run.name)) { (run.name) } }
                @else { (run.name) }
            }
            td { (run.architecture.as_deref().unwrap_or("–")) }
            td.number {
                (run.analyzed_step.or(run.latest_step).map_or("–".to_owned(), grouped))
                @if let (Some(analyzed), Some(latest)) = (run.analyzed_step, run.latest_step)
                    && analyzed != latest {
                    br; span.dim.small { "newest " (grouped(latest)) }
                }
            }
            td { (last_save(run)) }
            td { (state(run)) }
            td.number { (run.queue_length) }
            td { @if let Some(report) = report { (means(report)) } @else { "–" } }
            td { @if let Some(pair) = report.and_then(worst_pair) { (worst(pair)) } @else { "–" } }
        }
    }
}

fn last_save(run: &RunFacts) -> Markup {
    html! {
        @match run.latest_timestamp_seconds {
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
    let nonfinite = run.report.as_ref().map_or(0, |report| report.nan + report.inf);
    html! {
        span.state.(class) { (word) }
        @if !run.active { span.dim { ", ended" } }
        @if let Some(reason) = reason { span.dim.small.reason { (reason) } }
        @if nonfinite > 0 {
            span.state.bad.small.reason { (grouped(nonfinite)) " NaN or infinite" }
        }
    }
}

fn means(report: &Report) -> Markup {
    html! {
        dl {
            @for (pair, mean) in pair_means(report) {
                dt { (pair) } dd.number { (signed(mean)) }
            }
        }
    }
}

fn worst(pair: &PairReport) -> Markup {
    html! {
        span.nowrap title={ (pair.writer) " → " (pair.reader) } {
            (pair.pair)
            @if let Some(layer) = pair.layer { " layer " (layer) }
            @if let Some(head) = pair.head { " head " (head) }
        }
        br;
        span.nowrap.dim.small {
            "correlation " (pair.gram_correlation.map_or("–".to_owned(), signed))
            @if let Some(kappa) = pair.commutator_vs_chance { " · κ " (format!("{kappa:.2}")) }
        }
    }
}

fn legend() -> Markup {
    html! {
        footer.dim.small {
            "Mean alignment is the gram correlation of adjacent layers, averaged over layers and \
             heads: 0 is chance, 1 is full alignment. κ is the commutator against chance \
             (commutator_vs_chance): 1 is chance, 0 is a common eigenbasis. The worst pair leaves \
             out pairs across a norm layer or between blocks of the residual stream."
        }
    }
}

/// Three decimals, which is what a bf16 save can say, with a minus sign as wide as the digits.
fn signed(value: f64) -> String {
    let text = format!("{value:.3}");
    if text == "-0.000" { "0.000".to_owned() } else { text.replace('-', "−") }
}

/// An integer in groups of three digits.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Unix seconds as `2026-02-28 13:05 UTC`; an en dash outside the years 1970 to 9999.
fn utc(unix: f64) -> String {
    const LAST: f64 = 253_402_300_799.0;
    if !(0.0..=LAST).contains(&unix) {
        return "–".to_owned();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let seconds = unix as u64;
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Days to a civil date over eras of 400 years that begin in March, so that the leap day is
    // the last of its year (H. Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_dates() {
        for (unix, expected) in [
            (0.0, "1970-01-01 00:00 UTC"),
            (951_782_400.0, "2000-02-29 00:00 UTC"),
            (1_772_283_959.9, "2026-02-28 13:05 UTC"),
            (4_107_542_399.0, "2100-02-28 23:59 UTC"),
            (4_107_542_400.0, "2100-03-01 00:00 UTC"),
            (-1.0, "–"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(utc(unix), expected);
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(signed(-0.0001), "0.000");
        assert_eq!(signed(-0.25), "−0.250");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn names_from_the_disk_cannot_write_html() {
        let run = RunFacts {
            name: "<script>alert(1)</script>".to_owned(),
            path: "\"><img src=x>".to_owned(),
            state: RunState::Unreadable("<b>".to_owned()),
            ..RunFacts::default()
        };
        let html = render(&Snapshot { runs: vec![run], ..Snapshot::default() });
        assert!(!html.contains("<script>") && !html.contains("<img") && !html.contains("<b>"));
        assert!(html.contains("&lt;script&gt;alert(1)"));
    }
}
