//! What the daemon says of itself.

use maud::{Markup, html};

use super::time;
use super::words::grouped;
use crate::metrics::{Snapshot, WatchMode};

/// The daemon's own state in words; two snapshots with the same words look the same, but for the age of
/// the last scan.
#[must_use]
pub fn health(snapshot: &Snapshot) -> Vec<String> {
    let mut words = vec![queue(snapshot)];
    if let Some(daemon) = &snapshot.daemon {
        words.push(daemon.version.clone());
        words.extend(daemon.sandbox.clone());
        words.extend(daemon.watch_modes.iter().map(|(root, mode)| watched(root, *mode)));
        words.push(store(daemon.state_store_ok).1.to_owned());
        words.push(format!("{:?}", daemon.config_last_reload_successful));
        words.push(daemon.scan_errors_total.to_string());
    }
    words
}

fn queue(snapshot: &Snapshot) -> String {
    grouped(snapshot.runs.iter().map(|run| run.queue_length).sum())
}

fn watched(root: &str, mode: WatchMode) -> String {
    format!("{root} ({})", mode.as_str())
}

/// Class and words.
fn store(is_ok: Option<bool>) -> (&'static str, &'static str) {
    match is_ok {
        Some(true) => ("good", "written"),
        Some(false) => ("bad", "cannot be written"),
        None => ("dim", "none, kept in memory"),
    }
}

/// A strip of facts.
pub(super) fn strip(snapshot: &Snapshot) -> Markup {
    let Some(daemon) = &snapshot.daemon else { return html! {} };
    let (store_class, store_words) = store(daemon.state_store_ok);
    html! {
        dl.health {
            div { dt { "Version" } dd { (daemon.version) } }
            div { dt { "Last scan" } dd { span #last-scan { (time(daemon.last_scan_timestamp_seconds)) } } }
            div { dt { "Watching" } dd {
                @for (root, mode) in &daemon.watch_modes {
                    span.root { code { (root) } " " span.dim { "by " (mode.as_str()) } }
                }
                @if daemon.watch_modes.is_empty() { "–" }
            } }
            div { dt { "History" } dd { span.(store_class) { (store_words) } } }
            @if let Some(sandbox) = &daemon.sandbox {
                div { dt { "Sandbox" } dd { (sandbox) } }
            }
            div { dt { "In the queue" } dd { (queue(snapshot)) " saves" } }
            @if daemon.scan_errors_total > 0 {
                div { dt { "Failed scans" } dd { span.wait { (grouped(daemon.scan_errors_total)) } } }
            }
            @if daemon.config_last_reload_successful == Some(false) {
                div { dt { "Configuration" } dd { span.bad { "not read again, the last one is in force" } } }
            }
        }
    }
}
