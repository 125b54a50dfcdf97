//! `weightvane history`: tables of the history, for other programs.

use std::io;

use serde::{Serialize, Serializer};
use serde_json::Value;
use weightvane::history::{Archive, FILE, TableLine, export, tables};

use super::failure::Failure;
use super::{HistoryArgs, Rows};

/// Runs that a message names.
const MAX_NAMED: usize = 10;

pub(super) fn run(args: &HistoryArgs) -> Result<(), Failure> {
    if !tables().any(|table| table == args.table) {
        let known: Vec<&str> = tables().collect();
        let expected = known.join(", ");
        return Err(Failure::usage(format!("table: found {}, expected {expected}", args.table)));
    }
    if !args.state_dir.join(FILE).is_file() {
        let expected = format!("no {FILE} here, expected the state directory of a daemon");
        return Err(Failure::unreadable(&args.state_dir, &expected));
    }
    if let Some(run) = &args.run {
        check_run(args, run)?;
    }
    let out = io::BufWriter::new(io::stdout().lock());
    let (read, written) = match args.format {
        Rows::Csv => csv(args, out),
        Rows::Json => json(args, out),
    };
    read.map_err(|e| Failure::unreadable(&args.state_dir, &e.to_string()))?;
    match written {
        // A closed pipe (`| head`) is a normal end.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::output(&e)),
        _ => Ok(()),
    }
}

/// That the history knows the run: an empty table would not tell a name that is misspelt.
fn check_run(args: &HistoryArgs, run: &str) -> Result<(), Failure> {
    let runs = Archive::open(&args.state_dir).and_then(|archive| archive.runs());
    let runs = runs.map_err(|e| Failure::unreadable(&args.state_dir, &e.to_string()))?;
    if runs.iter().any(|known| known.name == run) {
        return Ok(());
    }
    let known: Vec<&str> = runs.iter().take(MAX_NAMED).map(|known| known.name.as_str()).collect();
    let more = if runs.len() > MAX_NAMED { ", ..." } else { "" };
    let expected = format!("no run {run} is recorded, expected one of: {}{more}", known.join(", "));
    Err(Failure::unreadable(&args.state_dir, &expected))
}

type Ends = (Result<(), weightvane::history::StoreError>, io::Result<()>);

fn csv(args: &HistoryArgs, out: impl io::Write) -> Ends {
    let mut writer = csv::Writer::from_writer(out);
    let mut written = Ok(());
    let mut each = |line: TableLine<'_>| {
        written = match line.values {
            None => writer.write_record(line.columns),
            Some(values) => writer.write_record(values.iter().map(field)),
        };
        written.is_ok()
    };
    let read = export(&args.state_dir, &args.table, args.run.as_deref(), &mut each);
    (read, written.map_err(io::Error::from).and_then(|()| writer.flush()))
}

fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A row as an object whose fields stand in the order of the columns.
struct Object<'a>(&'a [String], &'a [Value]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

fn json(args: &HistoryArgs, mut out: impl io::Write) -> Ends {
    let mut written = Ok(());
    let mut each = |line: TableLine<'_>| {
        if let Some(values) = line.values {
            written = serde_json::to_writer(&mut out, &Object(line.columns, values))
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
        }
        written.is_ok()
    };
    let read = export(&args.state_dir, &args.table, args.run.as_deref(), &mut each);
    (read, written.and_then(|()| out.flush()))
}
