//! The page of one run: where it stands, what is odd, what was measured layer by layer, and how its
//! checkpoint was read.

mod explain;
mod pairs;
#[cfg(test)]
pub(super) mod testing;

use maud::{Markup, html};

use super::words::{bytes, grouped, maybe, short, signed, span};
use super::{anomalies, history_url, report_url, shell, state, time};
use crate::diagnostics::{ClassifierReport, Report};
use crate::metrics::RunFacts;

/// Rows of one table; the JSON has all.
const MAX_ROWS: usize = 200;

/// The page `/runs/{name}` as HTML.
#[must_use]
pub fn run_page(run: &RunFacts) -> String {
    let head = html! {
        link rel="stylesheet" href="/page/uplot.css";
        script src="/page/uplot.js" defer {}
        script type="module" src="/page/run.js" {}
    };
    let report = run.report.as_deref();
    let body = html! {
        header {
            p.trail { a href="/" { "weightvane" } }
            h1 { (run.name) }
            nav aria-label="Machine-readable" {
                a href=(history_url(&run.name)) { "history as JSON" }
                @if report.is_some() { a href=(report_url(&run.name)) { "newest report as JSON" } }
            }
            p #live.dim.small role="status" {}
        }
        main #main tabindex="-1" data-run=(run.name) data-history=(history_url(&run.name)) {
            div #facts { (facts(run)) }
            section #charts aria-label="Charts" hidden {}
            div #tables {
                h2 #anomalies { "Anomalies" }
                (anomalies::of_run(run))
                @if let Some(report) = report { (measured(run, report)) } @else { (nothing(run)) }
            }
        }
    };
    shell(&format!("{} – weightvane", run.name), &head, &body).into_string()
}

fn nothing(run: &RunFacts) -> Markup {
    html! {
        div.empty {
            p { strong { "No save of this run has been measured." } }
            p.dim {
                @if run.queue_length > 0 { (grouped(run.queue_length)) " in the queue. " }
                "The state above says why, " code { "weightvane explain CHECKPOINT" }
                " says more of a checkpoint that is there."
            }
        }
    }
}

fn facts(run: &RunFacts) -> Markup {
    let steps = run.chronicle.good_steps(1);
    let good = run.chronicle.last_good_step().or(steps.last().copied());
    let report = run.report.as_deref();
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    let number = |value: Option<f64>| html! { (maybe(value, short)) };
    let step = |step: Option<u64>| html! { (step.map_or("–".to_owned(), grouped)) };
    html! {
        dl.facts {
            (fact("State", state(run)))
            (fact("Step", html! {
                (step(run.analyzed_step.or(run.latest_step)))
                @if run.analyzed_step != run.latest_step && run.analyzed_step.is_some() {
                    span.dim.small { " newest " (step(run.latest_step)) }
                }
            }))
            (fact("Last save", time(run.latest_timestamp_seconds)))
            (fact("Last good step", step(good)))
            (fact("Training loss", number(run.train_loss)))
            (fact("Learning rate", number(run.learning_rate)))
            (fact("Saves measured", html! {
                (grouped(run.analyzed_total)) span.dim { " of " (grouped(run.discovered_total)) }
            }))
            (fact("In the queue", html! { (grouped(run.queue_length)) }))
            (fact("Between saves", html! { (maybe(run.save_interval_seconds, span)) }))
            (fact("Analysis took", html! { (maybe(run.last_duration_seconds, span)) }))
            (fact("Architecture", html! { (run.architecture.as_deref().unwrap_or("–")) }))
            (fact("Parameters", html! {
                (report.map_or("–".to_owned(), |report| grouped(report.parameters)))
            }))
            (fact("Size of a save", html! { (run.size_bytes.map_or("–".to_owned(), bytes)) }))
            (fact("Optimiser", html! { (run.optimizer.as_deref().unwrap_or("–")) }))
            div.wide { dt { "Path" } dd { code { (run.path) } } }
        }
    }
}

fn measured(run: &RunFacts, report: &Report) -> Markup {
    let json = report_url(&run.name);
    html! {
        @if !report.pairs.is_empty() {
            h2 { "Pairs by layer" }
            p.dim.small {
                "Of the save at step " (report.step.map_or("–".to_owned(), grouped))
                ". Gram correlation: 0 is chance, 1 full alignment. κ is the commutator over chance: \
                 1 is chance, 0 a common eigenbasis. Overlap at k: mean squared cosine of the k leading \
                 directions, beside its chance; dim where the cut at k is not clear. Means over heads."
            }
            (pairs::table(report, &json))
        }
        @if report.pairs.is_empty() {
            p.dim { "No pair was measured; what was skipped, below, says why." }
        }
        @if !report.heads.is_empty() {
            h2 { "Heads" }
            p.dim.small {
                "Overlap of the subspaces of two heads against that of random ones; rising above chance, \
                 and fewer effective heads, mean that heads become redundant."
            }
            (heads(report, &json))
        }
        @if let Some(classifier) = &report.classifier { (self::classifier(classifier)) }
        (explain::section(report, &json))
    }
}

fn heads(report: &Report, json: &str) -> Markup {
    html! {
        div.scroll {
            table.heads {
                caption.hidden { "Heads by layer and projection" }
                thead { tr {
                    th.number scope="col" { "Layer" } th scope="col" { "Projection" }
                    th.number scope="col" { "Heads" } th.number scope="col" { "Effective heads" }
                    th.number scope="col" { "Mean overlap" } th.number scope="col" { "Chance" }
                    th.number scope="col" { "Greatest overlap" }
                } }
                tbody { @for heads in report.heads.iter().take(MAX_ROWS) { tr {
                    th.number scope="row" { (heads.layer) } td { (heads.projection) }
                    td.number { (heads.heads) } td.number { (maybe(heads.effective_heads, short)) }
                    td.number { (maybe(heads.overlap_mean, short)) }
                    td.number.dim { (maybe(heads.overlap_chance, short)) }
                    td.number { (maybe(heads.overlap_max, short)) }
                } } }
            }
        }
        (rest(report.heads.len(), json))
    }
}

fn classifier(classifier: &ClassifierReport) -> Markup {
    let number = |value: Option<f64>| html! { (maybe(value, signed)) };
    html! {
        h2 { "Classifier" }
        dl.facts {
            div { dt { "Classes" } dd { (classifier.classes) } }
            div { dt { "Distance from a simplex" } dd { (number(classifier.simplex_deviation)) } }
            div { dt { "The same over chance" } dd { (number(classifier.simplex_deviation_vs_chance)) } }
            div { dt { "Spread of norms" } dd { (number(classifier.equinorm)) } }
            div { dt { "Spread of angles" } dd { (number(classifier.equiangle)) } }
        }
    }
}

/// Says how many rows are left out, and where they are.
fn rest(n: usize, json: &str) -> Markup {
    html! {
        @if n > MAX_ROWS {
            p.dim.small {
                ((n - MAX_ROWS)) " more rows are in " a href=(json) { "the JSON" } "."
            }
        }
    }
}
