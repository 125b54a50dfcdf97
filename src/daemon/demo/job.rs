//! A training job: steps at the demo's pace, saves at even times, and a fault if one is planted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::pace::Pace;
use super::save::{CheckpointWriter, SaveError};
use super::train::{Trainer, TrainerConfig};

/// Training that shows the alignment form: this many steps in the first minute.
const MINUTE: Duration = Duration::from_mins(1);
const STEPS_IN_A_MINUTE: u32 = 6000;
/// Saves kept on disk.
const KEEP: usize = 40;
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(20);

/// What decides a job.
#[derive(Debug)]
pub struct JobConfig {
    /// What is trained.
    pub trainer: TrainerConfig,
    /// Where it is saved.
    pub run_dir: PathBuf,
    /// Time between two saves.
    pub save_interval: Duration,
    /// When it ends; a short one shows the same minute faster. Never with `None`.
    pub length: Option<Duration>,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

/// Trains until the end or a stop, by the clock, and saves as it goes. `told` gets a line when a fault
/// begins or ends.
///
/// # Errors
/// When a save fails.
pub fn run(
    config: JobConfig,
    stop: &AtomicBool,
    mut told: impl FnMut(&str),
) -> Result<(), SaveError> {
    let JobConfig { trainer, run_dir, save_interval, length, mut fault } = config;
    let mut trainer = Trainer::new(trainer);
    let mut writer = CheckpointWriter::new(run_dir, std::num::NonZeroUsize::new(KEEP), None);
    let pace = Pace::new(length.unwrap_or(MINUTE).min(MINUTE), STEPS_IN_A_MINUTE);
    let start = Instant::now();
    let (mut next_save, mut hung) = (Duration::ZERO, Duration::ZERO);
    let mut saved_step = None;
    let is_over = |start: Instant| {
        stop.load(Ordering::Relaxed) || length.is_some_and(|length| start.elapsed() >= length)
    };
    while !is_over(start) {
        if start.elapsed() >= next_save {
            if let Some(line) = fault.as_mut().and_then(|f| f.advance(next_save, &mut trainer)) {
                told(&line);
            }
            if fault.as_ref().is_some_and(Fault::hangs) {
                // What was not trained meanwhile is not made up for.
                hung += save_interval;
            } else if saved_step != Some(trainer.global_step()) {
                // On a machine that stood still two saves can be due at one step: that is one.
                saved_step = Some(trainer.global_step());
                match &fault {
                    Some(fault) => fault.save(&mut writer, &trainer)?,
                    None => writer.save(&trainer)?,
                };
            }
            next_save += save_interval;
        }
        let hangs = fault.as_ref().is_some_and(Fault::hangs);
        while !hangs
            && trainer.global_step() < pace.steps_due(start.elapsed().saturating_sub(hung))
            && start.elapsed() < next_save
            && !is_over(start)
        {
            trainer.step();
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::demo::fault::FaultKind;
    use crate::daemon::demo::network::Activation;

    #[test]
    fn a_job_saves_at_even_times_and_not_while_it_hangs() {
        let root = tempfile::tempdir().unwrap();
        let ms = Duration::from_millis;
        let trainer = TrainerConfig {
            hidden_widths: vec![4],
            n_samples: 16,
            batch_size: 16,
            ..TrainerConfig::demo(Activation::Relu)
        };
        let fault = Fault::new(FaultKind::Hang, ms(400), ms(400));
        let config = JobConfig {
            trainer,
            run_dir: root.path().to_owned(),
            save_interval: ms(200),
            length: Some(ms(1150)),
            fault: Some(fault),
        };
        let mut said = Vec::new();
        run(config, &AtomicBool::new(false), |line| said.push(line.to_owned())).unwrap();
        // At 0, 200, 800 and 1000 ms; fewer only on a machine that stood still meanwhile.
        let n_saves = std::fs::read_dir(root.path()).unwrap().count();
        assert!((1..=4).contains(&n_saves), "{n_saves} saves");
        assert!(
            said.len() <= 2 && said.iter().all(|line| line.starts_with("fault hang ")),
            "{said:?}"
        );
    }
}
