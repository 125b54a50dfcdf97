//! `weightvane analyze`: one checkpoint, once.

use std::path::Path;
use std::sync::Arc;

use super::failure::Failure;
use super::places::check_outside;
use super::progress::Bar;
use super::{AnalyzeArgs, Format, bases, options, print, rules, settings, table};
use weightvane::checkpoint::{self, Manifest};
use weightvane::daemon::textfile;
use weightvane::diagnostics::{self, Previous, Report};
use weightvane::metrics::{self, Labels, RunFacts, RunState, Snapshot};
use weightvane::model;

pub(super) fn run(args: &AnalyzeArgs) -> Result<(), Failure> {
    let mut settings = settings(args.config.as_ref())?;
    args.labels.apply(&mut settings).map_err(Failure::usage)?;
    let rules = rules(&settings)?;
    check_textfile(args).map_err(Failure::usage)?;
    let manifest = checkpoint::open(&args.checkpoint)?;
    let before = args.against.as_deref().map(checkpoint::open).transpose()?;
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
    let buffers = model::buffers(&manifest.tensors, &graph, &rules);
    let previous = Previous { manifest: before.as_ref(), baseline: None };
    let bases = bases(args.base.as_ref(), &settings);
    let within = manifest.path.parent();
    let (base, missing) = match diagnostics::find_base(&manifest, &graph, &bases, within) {
        Ok(base) => (base, None),
        Err(missing) => (None, Some(missing)),
    };
    let mut outcome = diagnostics::analyze(
        &manifest,
        &graph,
        &buffers,
        &options(&settings),
        previous,
        base.as_ref(),
        &Bar::new(),
    )?;
    outcome.report.skipped.extend(missing);
    if let Some(file) = &args.textfile {
        let text = exposition(&manifest, outcome.report, settings.labels);
        return textfile::write(file, &text)
            .map_err(|e| Failure::system(&file.display().to_string(), &e));
    }
    match args.format {
        Format::Table => print(&table::report(&outcome.report)),
        Format::Json => {
            let json = serde_json::to_string_pretty(&outcome.report);
            print(&(json.map_err(|e| Failure::system("report", &e))? + "\n"))
        }
        Format::Prometheus => print(&exposition(&manifest, outcome.report, settings.labels)),
    }
}

/// That no checkpoint is written to.
fn check_textfile(args: &AnalyzeArgs) -> Result<(), String> {
    let Some(file) = args.textfile.as_deref() else { return Ok(()) };
    let read = [Some(&args.checkpoint), args.against.as_ref(), args.base.as_ref()];
    let mut read = read.into_iter().flatten();
    let Some(save) = read.find(|save| check_outside("", Some(file), save).is_err()) else {
        return Ok(());
    };
    let (file, save) = (file.display(), save.display());
    Err(format!(
        "--textfile {file} lies in {save}, expected a local place outside of what is only read"
    ))
}

/// The series of one checkpoint, under the name of the directory that holds it.
fn exposition(manifest: &Manifest, report: Report, labels: Labels) -> String {
    let run = run_name(manifest);
    let trainer = manifest.trainer.clone().unwrap_or_default();
    let facts = RunFacts {
        name: run,
        path: absolute(&manifest.path).display().to_string(),
        architecture: Some(report.architecture.clone()),
        optimizer: trainer.optimizer,
        state: RunState::Analyzed,
        latest_step: report.step,
        analyzed_step: report.step,
        train_loss: trainer.loss,
        learning_rate: trainer.learning_rate,
        grad_norm: trainer.grad_norm,
        eval: trainer.eval,
        report: Some(Arc::new(report)),
        ..RunFacts::default()
    };
    let snapshot = Snapshot { daemon: None, runs: vec![facts], process: Vec::new(), labels };
    metrics::render_text(&snapshot)
}

/// As `watch` would name it: a save with a step belongs to the directory that holds it, a directory
/// without one is a run rewritten in place.
fn run_name(manifest: &Manifest) -> String {
    let path = absolute(&manifest.path);
    let is_directory = manifest.files.first().is_some_and(|file| file.path != manifest.path);
    let is_run = is_directory && checkpoint::step_in_name(&manifest.name).is_none();
    let run = if is_run { Some(path.as_path()) } else { path.parent() };
    let name = run.and_then(Path::file_name).or(path.file_name());
    name.map_or_else(|| "checkpoint".into(), |name| name.to_string_lossy().into_owned())
}

/// The path without `.`, `..` and links, where it can be told.
fn absolute(path: &Path) -> std::path::PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
