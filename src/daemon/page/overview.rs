//! The first page: the daemon, its runs, and what is odd of them.

use maud::{Markup, html};

use super::words::{grouped, signed};
use super::{anomalies, health, run_url, shell, state, time};
use crate::diagnostics::{PairReport, Report};
use crate::metrics::{RunFacts, Snapshot, pair_means, worst_pair};

/// The page `/` as HTML.
#[must_use]
pub fn overview(snapshot: &Snapshot) -> String {
    let mut runs: Vec<&RunFacts> = snapshot.runs.iter().collect();
    runs.sort_by_key(|run| (!run.active, &run.name));
    let head = html! { script type="module" src="/page/overview.js" {} };
    let body = html! {
        header {
            h1 { "weightvane" }
            nav aria-label="Machine-readable" {
                a href="/metrics" { "metrics" }
                a href="/api/v1/runs" { "runs as JSON" }
                a href="/api/v1/anomalies" { "anomalies as JSON" }
            }
            p #live.dim.small role="status" {}
        }
        main #main tabindex="-1" {
            div #overview {
                (health::strip(snapshot))
                @if runs.is_empty() { (no_runs(snapshot)) } @else {
                    (table(&runs))
                    (anomalies::of_all(&runs))
                    (legend())
                }
            }
        }
    };
    shell("weightvane", &head, &body).into_string()
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
            table.runs {
                caption.hidden { "Runs" }
                thead { tr {
                    th scope="col" { "Run" } th scope="col" { "Architecture" }
                    th.number scope="col" { "Step" } th scope="col" { "Last save" }
                    th scope="col" { "State" } th.number scope="col" { "Queue" }
                    th scope="col" { "Mean alignment" } th scope="col" { "Worst pair" }
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
            th.name scope="row" title=(run.path) {
                a href=(run_url(&run.name)) { (run.name) }
            }
            td { (run.architecture.as_deref().unwrap_or("–")) }
            td.number {
                (run.analyzed_step.or(run.latest_step).map_or("–".to_owned(), grouped))
                @if let (Some(analyzed), Some(latest)) = (run.analyzed_step, run.latest_step)
                    && analyzed != latest {
                    br; span.dim.small { "newest " (grouped(latest)) }
                }
            }
            td { (time(run.latest_timestamp_seconds)) }
            td { (state(run)) }
            td.number { (run.queue_length) }
            td { @if let Some(report) = report { (means(report)) } @else { "–" } }
            td { @if let Some(pair) = report.and_then(worst_pair) { (worst(pair)) } @else { "–" } }
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
            @if let Some(expert) = pair.expert { " expert " (expert) }
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
