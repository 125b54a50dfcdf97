//! The part of a page that says what is unusual.

use maud::{Markup, html};

use super::run_url;
use super::words::{grouped, signed};
use crate::history::{Anomaly, Kind, Severity};
use crate::metrics::RunFacts;

/// Open anomalies shown, and those that are over beside them; the API has more.
const MAX_OPEN: usize = 50;
const MAX_OVER: usize = 10;

/// A table of the anomalies of all runs: open ones by severity and then the newest first, then the worst
/// of what is over. Nothing where there are none.
pub(super) fn of_all(runs: &[&RunFacts]) -> Markup {
    section(runs, true)
}

/// The same of one run, which says so where there are none.
pub(super) fn of_run(run: &RunFacts) -> Markup {
    section(&[run], false)
}

fn section(runs: &[&RunFacts], is_of_all: bool) -> Markup {
    let of = |run: &&'_ RunFacts| run.name.clone();
    let mut open: Vec<(String, &Anomaly)> = Vec::new();
    let mut over: Vec<(String, &Anomaly)> = Vec::new();
    for run in runs {
        open.extend(run.chronicle.open().iter().map(|anomaly| (of(run), anomaly)));
        over.extend(run.chronicle.over().map(|anomaly| (of(run), anomaly)));
    }
    open.sort_by(|(_, a), (_, b)| {
        b.severity.cmp(&a.severity).then(b.onset_step.cmp(&a.onset_step))
    });
    // The worst of what is over, and of these what tells most: a fault of all layers is many rows, and
    // the first of them says where it began.
    let far = |a: &Anomaly| a.z.map_or(0.0, f64::abs);
    over.sort_by(|(_, a), (_, b)| {
        b.severity
            .cmp(&a.severity)
            .then(far(b).total_cmp(&far(a)))
            .then(b.onset_step.cmp(&a.onset_step))
    });
    let n_more = open.len().saturating_sub(MAX_OPEN) + over.len().saturating_sub(MAX_OVER);
    open.truncate(MAX_OPEN);
    over.truncate(MAX_OVER);
    if open.is_empty() && over.is_empty() {
        return html! { @if !is_of_all { p.dim { "None so far." } } };
    }
    html! {
        @if is_of_all { h2 { "Anomalies" } }
        div.scroll {
            table.anomalies {
                caption.hidden { "Anomalies" }
                thead { tr {
                    @if is_of_all { th scope="col" { "Run" } }
                    th scope="col" { "Anomaly" } th scope="col" { "Where" }
                    th.number scope="col" { "Since step" } th.number scope="col" { "Before → after" }
                    th.number scope="col" { "z" } th.number scope="col" { "Last good step" }
                    th scope="col" { "State" }
                } }
                tbody {
                    @for (run, anomaly) in open.iter().chain(&over) {
                        (row(is_of_all.then_some(run), anomaly))
                    }
                }
            }
        }
        @if n_more > 0 {
            p.dim.small { (n_more) " more, open or over, are in " a href="/api/v1/anomalies" { "the API" } }
        }
    }
}

fn row(run: Option<&String>, anomaly: &Anomaly) -> Markup {
    let class = match anomaly.severity {
        _ if anomaly.resolved_step.is_some() => "dim",
        Severity::Info => "dim",
        Severity::Warning => "wait",
        Severity::Critical => "bad",
    };
    html! {
        tr {
            @if let Some(run) = run { td.name { a href=(run_url(run)) { (run) } } }
            td { span.state.(class) title=(meaning(anomaly.kind)) { (anomaly.kind.as_str()) } }
            td.name { (anomaly.subject) }
            td.number { (grouped(anomaly.onset_step)) }
            td.number { (value(anomaly.before)) " → " (value(anomaly.after)) }
            td.number { (anomaly.z.map_or("–".to_owned(), signed_short)) }
            td.number { (anomaly.last_good_step.map_or("–".to_owned(), grouped)) }
            td {
                @match anomaly.resolved_step {
                    None => { "open" }
                    Some(step) => { span.dim { "over at step " (grouped(step)) } }
                }
            }
        }
    }
}

/// What a kind means, in words.
fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Nonfinite => "NaN or infinite weights",
        Kind::Frozen => "not one bit changed, two saves in a row or more",
        Kind::AlignmentDrop => "the gram correlation fell suddenly",
        Kind::CommutatorSpike => "the commutator over chance rose suddenly",
        Kind::RidgeStall => "the balance gap does not decay as weight decay predicts",
        Kind::UpdateShock => "the update is far larger than those before",
        Kind::ScaleJump => "the norm jumped",
        Kind::Plateau => "mean alignment no longer moves: converged or stalled",
    }
}

/// Three decimals, or powers of ten where these say nothing; counts as they are.
fn value(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(0.0) => "0".to_owned(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        Some(x) if x.fract() == 0.0 && (1.0..1e15).contains(&x) => grouped(x as u64),
        Some(x) if x.abs() < 0.01 || x.abs() >= 1e5 => format!("{x:.2e}").replace('-', "−"),
        Some(x) => signed(x),
    }
}

/// A z to one decimal, and no more than four digits of it.
fn signed_short(z: f64) -> String {
    match z {
        z if z >= 9999.5 => "> 9999".to_owned(),
        z if z <= -9999.5 => "< −9999".to_owned(),
        z => format!("{z:.1}").replace('-', "−"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_read_well() {
        let shown = [0.0, -0.5, 3e-4, -3e-7, 2.5e6 + 0.5, 13_130.0].map(|x| value(Some(x)));
        let wanted = ["0", "−0.500", "3.00e−4", "−3.00e−7", "2.50e6", "13\u{202f}130"];
        assert_eq!((shown, value(None).as_str()), (wanted.map(str::to_owned), "–"));
        let z = [8.04, -12.0, 1e7, -1e7].map(signed_short);
        assert_eq!(z, ["8.0", "−12.0", "> 9999", "< −9999"]);
    }
}
