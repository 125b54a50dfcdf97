//! What is said of a measured save, and what its job left unsaid.

use tracing::{info, warn};

use crate::checkpoint::TrainerState;
use crate::config::DeclaredOptimizer;
use crate::history::{Anomaly, News, Severity};

/// What the job does not say of its optimiser, as the user declares it.
pub(super) fn declare(trainer: &mut TrainerState, declared: &DeclaredOptimizer) {
    trainer.optimizer.get_or_insert_with(|| declared.name.clone());
    trainer.learning_rate = trainer.learning_rate.or(declared.learning_rate);
    trainer.weight_decay = trainer.weight_decay.or(declared.weight_decay);
    trainer.momentum = trainer.momentum.or(declared.momentum);
}

/// As many digits as a person reads.
fn four_digits(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// One line in the log for each anomaly.
pub(super) fn tell(run: &str, news: &News) {
    for anomaly in &news.ended {
        let Anomaly { kind, subject, onset_step, resolved_step, .. } = anomaly;
        let (kind, subject) = (kind.as_str(), subject.to_string());
        info!(run, kind, subject, onset_step, resolved_step, "anomaly is over");
    }
    for anomaly in &news.began {
        let Anomaly { kind, subject, onset_step, before, after, z, last_good_step, .. } = anomaly;
        let (kind, subject) = (kind.as_str(), subject.to_string());
        let severity = anomaly.severity.as_str();
        let [before, after, z] = [before, after, z].map(|x| x.map(four_digits));
        if anomaly.severity == Severity::Info {
            info!(run, kind, subject, onset_step, before, after, "anomaly");
        } else {
            warn!(
                run,
                severity, kind, subject, onset_step, before, after, z, last_good_step, "anomaly"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_the_log_are_short() {
        let shown = [0.0, -114.009_258, 0.014_729_12, 13_130.0, f64::NAN].map(four_digits);
        assert_eq!(shown[..4], [0.0, -114.0, 0.014_73, 13_130.0]);
        assert!(shown[4].is_nan());
    }
}
