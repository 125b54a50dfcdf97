//! Counts over networks, and the tables that tell them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use weightvane::history::{Anomaly, Kind, Severity};

use crate::bound;
use crate::fault::Fault;
use crate::trial::{Branch, Outcome};

/// Most false alarms in 1000 healthy saves, and the least share of faults to be told.
const MOST_ALARMS: f64 = 1.0;
const LEAST_TOLD: f64 = 0.95;

/// Saves of the history that every rule asks for.
const HISTORY: usize = 10;

/// Whether somebody would be called.
pub fn is_alarm(anomaly: &&Anomaly) -> bool {
    anomaly.severity > Severity::Info
}

/// False alarms of some networks.
#[derive(Debug, Default)]
struct Healthy {
    networks: usize,
    saves: usize,
    /// Saves with [`HISTORY`] before them.
    settled: usize,
    alarmed: usize,
    events: BTreeMap<Kind, (usize, usize)>,
    plateaus: usize,
}

impl Healthy {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut sum = Self::default();
        for outcome in outcomes {
            sum.networks += 1;
            let healthy = outcome.told_in_health();
            sum.saves += healthy.len();
            sum.settled += healthy.len().saturating_sub(HISTORY);
            for began in healthy {
                let kinds: BTreeSet<Kind> = began.iter().filter(is_alarm).map(|a| a.kind).collect();
                sum.alarmed += usize::from(!kinds.is_empty());
                for kind in kinds {
                    sum.events.entry(kind).or_default().0 += 1;
                }
                for anomaly in began.iter().filter(is_alarm) {
                    sum.events.entry(anomaly.kind).or_default().1 += 1;
                }
                sum.plateaus += began.iter().filter(|a| !is_alarm(a)).count();
            }
        }
        sum
    }

    fn n_events(&self) -> usize {
        self.events.values().map(|(_, events)| events).sum()
    }

    fn per_1000(&self, n: usize) -> f64 {
        1000.0 * n as f64 / self.saves.max(1) as f64
    }

    fn line(&self, name: &str) -> String {
        format!(
            "{name:<20} {:>8} {:>6} {:>9} {:>9} {:>10.2} {:>12.2} {:>10.2}\n",
            self.networks,
            self.saves,
            self.alarmed,
            self.n_events(),
            self.per_1000(self.alarmed),
            1000.0 * bound::upper(self.alarmed, self.saves),
            self.per_1000(self.n_events()),
        )
    }
}

/// How faults of one sort were told.
#[derive(Debug, Default)]
struct Told {
    n: usize,
    at_once: usize,
    in_two: usize,
    /// With a layer; of those told: an anomaly there, and the first one there.
    of_layers: usize,
    touched: usize,
    first: usize,
    kinds: BTreeMap<Kind, usize>,
}

impl Told {
    fn add(&mut self, branch: &Branch) {
        self.n += 1;
        let alarms: Vec<&Anomaly> = branch.told.iter().flatten().filter(is_alarm).collect();
        self.at_once += usize::from(branch.told[0].iter().any(|a| is_alarm(&a)));
        if alarms.is_empty() {
            return;
        }
        self.in_two += 1;
        for kind in alarms.iter().map(|a| a.kind).collect::<BTreeSet<_>>() {
            *self.kinds.entry(kind).or_default() += 1;
        }
        if let Some(layer) = &branch.layer {
            self.of_layers += 1;
            let is_there = |a: &&&Anomaly| a.subject.name.contains(layer.as_str());
            self.touched += usize::from(alarms.iter().any(|a| is_there(&a)));
            self.first += usize::from(alarms.first().is_some_and(|a| is_there(&a)));
        }
    }

    fn is_enough(&self) -> bool {
        self.in_two as f64 >= LEAST_TOLD * self.n as f64
    }

    fn line(&self, name: &str) -> String {
        let share = |n: usize, of: usize| match of {
            0 => "-".to_owned(),
            _ => format!("{n}/{of}"),
        };
        let kinds: Vec<String> =
            self.kinds.iter().map(|(kind, n)| format!("{} {n}", kind.as_str())).collect();
        format!(
            "{name:<32} {:>9} {:>9} {:>7.1} {:>9} {:>9}  {}\n",
            share(self.at_once, self.n),
            share(self.in_two, self.n),
            100.0 * self.in_two as f64 / self.n.max(1) as f64,
            share(self.touched, self.of_layers),
            share(self.first, self.of_layers),
            kinds.join(", "),
        )
    }
}

/// The tables of one half of the seeds, and whether it meets the aims.
pub fn tables(name: &str, outcomes: &[&Outcome]) -> (String, bool) {
    let mut text = format!("\n{name}\n\n");
    let all = Healthy::of(outcomes.iter().copied());
    text += &healthy(outcomes, &all);
    text += &unstable(outcomes);
    let (faults, are_told) = faults(outcomes);
    text += &faults;
    (text, are_told && all.per_1000(all.n_events()) <= MOST_ALARMS)
}

/// Trainings that went wrong by themselves.
fn unstable(outcomes: &[&Outcome]) -> String {
    let lost = || outcomes.iter().filter_map(|o| Some((o, o.unstable_at?)));
    let is_told = |(o, at): &(&&Outcome, usize)| {
        o.healthy.iter().skip(*at).take(2).flatten().any(|anomaly| is_alarm(&anomaly))
    };
    format!(
        "\nloss up by a tenth of the first from one save to the next, without a fault: {} networks, not \
         counted from there on; told within two saves in {}\n",
        lost().count(),
        lost().filter(is_told).count(),
    )
}

fn healthy(outcomes: &[&Outcome], all: &Healthy) -> String {
    let mut text = format!(
        "{:<20} {:>8} {:>6} {:>9} {:>9} {:>10} {:>12} {:>10}\n",
        "healthy",
        "networks",
        "saves",
        "alarmed",
        "alarms",
        "alarmed/k",
        "95 % bound/k",
        "alarms/k"
    );
    let families: BTreeSet<&str> = outcomes.iter().map(|o| o.setup.family.as_str()).collect();
    for family in families {
        let of_family = outcomes.iter().copied().filter(|o| o.setup.family == family);
        text += &Healthy::of(of_family).line(family);
    }
    text += &all.line("all");
    let _ = writeln!(
        text,
        "\nalarmed: saves at which an alarm (a warning or worse) began; alarms: all that began; /k: per \
         1000 saves.\nThe bound is Clopper and Pearson's for saves, one-sided; saves of one training are not \
         independent.\n{} of the saves had the full history before them; {} plateaus were told as information.\n",
        all.settled, all.plateaus
    );
    for (kind, (saves, events)) in &all.events {
        let bound = 1000.0 * bound::upper(*saves, all.saves);
        let _ = writeln!(
            text,
            "  {:<20} {saves} saves, {events} alarms ({:.2} and {:.2} per 1000 saves, bound {bound:.2})",
            kind.as_str(),
            all.per_1000(*saves),
            all.per_1000(*events),
        );
    }
    text
}

fn faults(outcomes: &[&Outcome]) -> (String, bool) {
    let mut text = format!(
        "\n{:<32} {:>9} {:>9} {:>7} {:>9} {:>9}  {}\n",
        "fault", "1st save", "2 saves", "%", "located", "first", "told as (branches)"
    );
    let mut are_told = true;
    for fault in Fault::ALL.into_iter().filter(|fault| fault.is_sudden()) {
        let mut all = Told::default();
        let mut of_transformers = Told::default();
        for outcome in outcomes {
            for branch in outcome.branches.iter().filter(|b| b.fault == fault) {
                all.add(branch);
                if outcome.setup.is_transformer() {
                    of_transformers.add(branch);
                }
            }
        }
        are_told &= all.is_enough();
        text += &all.line(fault.name());
        if of_transformers.n < all.n {
            text += &of_transformers.line("  of these in transformers");
        }
    }
    text += "\nlocated: faults of one layer that were told, with an alarm that names it; first: the one at the top \
             of the list does.\n";
    text += &others(outcomes);
    (text, are_told)
}

fn others(outcomes: &[&Outcome]) -> String {
    let mut text = String::new();
    for fault in Fault::ALL.into_iter().filter(|fault| !fault.is_sudden()) {
        let branches: Vec<&Branch> =
            outcomes.iter().flat_map(|o| &o.branches).filter(|b| b.fault == fault).collect();
        let saves: usize = branches.iter().map(|b| b.told.len()).sum();
        let told = branches.iter().flat_map(|b| &b.told);
        let alarmed = told.filter(|began| began.iter().any(|a| is_alarm(&a))).count();
        let told = branches.iter().filter(|b| b.told.iter().flatten().any(|a| is_alarm(&a)));
        let (name, told, n) = (fault.name(), told.count(), branches.len());
        let _ = if fault.is_benign() {
            writeln!(text, "no fault: {name} in {n} networks, alarms at {alarmed} of {saves} saves")
        } else {
            writeln!(
                text,
                "slow, not counted: {name}, told in {told} of {n} networks within {} saves",
                fault.n_saves()
            )
        };
    }
    text
}

/// Every false alarm and every fault that was not told.
pub fn details(outcomes: &[&Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let setup = &outcome.setup;
        let head = format!("{} seed {}", setup.family, setup.seed);
        let _ = writeln!(
            text,
            "{head}: loss {:.3} to {:.3}; {setup:?}",
            outcome.losses.0, outcome.losses.1
        );
        for (i, began) in outcome.healthy.iter().enumerate() {
            let what =
                if outcome.unstable_at.is_some_and(|at| i >= at) { "unstable" } else { "false" };
            for anomaly in began.iter().filter(is_alarm) {
                let _ = writeln!(text, "  {what} at save {i}: {}", said(anomaly));
            }
        }
        for branch in &outcome.branches {
            let alarms: Vec<_> = branch.told.iter().flatten().filter(is_alarm).collect();
            let is_wrong = alarms.is_empty() != branch.fault.is_benign();
            if is_wrong {
                let layer = branch.layer.as_deref().unwrap_or("all");
                let _ = writeln!(
                    text,
                    "  {} of {layer}: {}",
                    branch.fault.name(),
                    match alarms.first() {
                        Some(anomaly) => said(anomaly),
                        None => "not told".into(),
                    }
                );
            }
        }
    }
    text
}

fn said(anomaly: &Anomaly) -> String {
    let Anomaly { kind, subject, before, after, z, .. } = anomaly;
    format!("{} {subject} {before:.4?} to {after:.4?}, z {z:.1?}", kind.as_str())
}
