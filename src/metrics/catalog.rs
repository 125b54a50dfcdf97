//! The one list of metric families.

/// Prefix of every name.
pub const PREFIX: &str = "weightvane_";

/// Kind of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only rises while the process lives.
    Counter,
    /// Buckets, sum and count.
    Histogram,
}

/// Of what a family tells. Dashboards of many runs and alerts use the tiers `Daemon` and `Run`
/// alone, because queries over every layer of every run are slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// The process.
    Daemon,
    /// A run as a whole.
    Run,
    /// The layers of a run.
    Layer,
}

/// One metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its identifier; `CATALOG[id as usize].id == id`.
    pub id: Id,
    /// Of what it tells.
    pub tier: Tier,
    /// Its kind.
    pub kind: Kind,
    /// Name without [`PREFIX`].
    pub name: &'static str,
    /// Label names. `layer` is absent from samples of what lies outside the stack of layers.
    pub labels: &'static [&'static str],
    /// Help text.
    pub help: &'static str,
}

impl Family {
    /// Name with [`PREFIX`].
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

impl Id {
    /// Its family.
    #[must_use]
    pub fn family(self) -> &'static Family {
        &CATALOG[self as usize]
    }
}

macro_rules! catalog {
    ($($tier:ident {$(
        $kind:ident $id:ident $name:literal [$($label:literal),*] $help:literal;
    )*})*) => {
        /// Identifier of a family.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Id {$($(
            #[doc = concat!("`", $name, "`")]
            $id,
        )*)*}

        /// Every family, in the order of the exposition. In the tier `Layer` the most important
        /// come first: when a run has too many series, whole families are left out from the end.
        pub const CATALOG: &[Family] = &[$($(Family {
            id: Id::$id,
            tier: Tier::$tier,
            kind: Kind::$kind,
            name: $name,
            labels: &[$($label),*],
            help: $help,
        },)*)*];
    };
}

catalog! {
    Daemon {
        Gauge BuildInfo "build_info" ["version"]
            "Always 1; the labels tell what is running.";
        Gauge WatchMode "watch_mode" ["root", "mode"]
            "1 for the way a root is watched, 0 for the other; polling notices saves later.";
        Gauge RootUp "root_up" ["root"]
            "1 when a root could be listed, 0 when it is missing, refused or does not answer: its runs stand still.";
        Gauge LastScanTimestamp "last_scan_timestamp_seconds" []
            "When the last complete scan of the roots ended; a standstill means new saves are not found.";
        Counter ScanErrors "scan_errors_total" []
            "Failed scans of a root; rising means a root is missing, unreadable or hung.";
        Gauge ConfigReload "config_last_reload_successful" []
            "1 when the configuration was read without errors; 0 means the older one is still in force.";
        Gauge ShardOrdinal "shard_ordinal" []
            "Which of the daemons over the same roots this is, from 0; each measures its own part of the runs.";
        Gauge TotalShards "total_shards" []
            "Daemons over the same roots, as this one was told; all must agree, or runs are measured twice or not at all.";
        Gauge StateStoreOk "state_store_ok" []
            "1 when the state directory can be written, 0 when a disk is full or read-only; absent without one.";
        Histogram AnalysisDuration "analysis_duration_seconds" []
            "Wall time per analysed save; rising means larger models or a busier machine.";
        Counter AnalysisCpu "analysis_cpu_seconds_total" []
            "CPU time of the analysis; its rate is the number of cores taken from the machine.";
        Counter ReadBytes "read_bytes_total" []
            "Bytes read from checkpoints; its rate is the load on the file system.";
        Counter HeldBack "held_back_seconds_total" []
            "Time that reading paused because other tasks of the machine waited for disk or memory.";
        Counter HttpRejected "http_rejected_total" ["reason"]
            "Connections and requests that HTTP turned away; rising means slow, broken or too many clients, or ones without a password.";
        Gauge SeriesLimit "series_limit" []
            "Series that one run may have before layer families are left out.";
        Counter SeriesDropped "series_dropped_total" ["run"]
            "Series left out because of the limit, summed over analysed saves; rising means dashboards have gaps.";
    }
    Run {
        Gauge RunInfo "run_info" ["run", "path", "architecture", "optimizer"]
            "Always 1; the labels tell what the run is.";
        Gauge RunActive "run_active" ["run"]
            "1 while more saves are expected, 0 when the run has ended.";
        Gauge RunEnded "run_ended_timestamp_seconds" ["run"]
            "When someone said that the run had ended, by the file .weightvane-ended; absent where nobody did, and after a later save.";
        Gauge LatestStep "checkpoint_latest_step" ["run"]
            "Step of the newest settled save; falls when training resumes from an older one.";
        Gauge AnalyzedStep "checkpoint_analyzed_step" ["run"]
            "Step of the newest analysed save, to which all measurements of the run belong.";
        Gauge LatestTimestamp "checkpoint_latest_timestamp_seconds" ["run"]
            "When the newest settled save was complete; a standstill means the trainer hangs or has ended.";
        Gauge AnalyzedTimestamp "checkpoint_analyzed_timestamp_seconds" ["run"]
            "When the newest analysed save was complete; falling behind the newest save means analysis is too slow.";
        Gauge SaveInterval "checkpoint_save_interval_seconds" ["run"]
            "Median of the recent intervals between saves; rising means slower training or rarer saves.";
        Gauge Readable "checkpoint_readable" ["run"]
            "1 when the newest settled save could be read; 0 means wrong permissions, missing parts or broken bytes.";
        Gauge SizeBytes "checkpoint_size_bytes" ["run"]
            "Size of the newest settled save; a change means another model, type or format.";
        Gauge SaveDuration "checkpoint_save_duration_seconds" ["run"]
            "First to last change of the newest settled save; rising means slower storage.";
        Counter Discovered "checkpoints_discovered_total" ["run"]
            "Settled saves seen.";
        Counter Analyzed "checkpoints_analyzed_total" ["run"]
            "Saves analysed; a standstill while discovered saves rise means analysis is stuck.";
        Counter Skipped "checkpoints_skipped_total" ["run", "reason"]
            "Saves passed over in the normal life of a training directory; outrun rising means saves come faster than analysis.";
        Counter Failures "checkpoint_failures_total" ["run", "reason"]
            "Saves whose analysis failed; rising means someone should look at the save.";
        Gauge QueueLength "analysis_queue_length" ["run"]
            "Saves waiting for analysis, the running one included; rising means analysis falls behind.";
        Gauge LastDuration "analysis_last_duration_seconds" ["run"]
            "Wall time of the last analysis; rising means a larger model or a busier machine.";
        Gauge Nonfinite "nonfinite_weights" ["run", "kind"]
            "NaN or infinite weights in the analysed save; anything above 0 means the run is broken.";
        Gauge Frozen "frozen_matrices" ["run"]
            "Matrices that did not change since the save before; above 0 means frozen on purpose, a zero learning rate or a lost gradient.";
        Gauge TrainLoss "train_loss" ["run"]
            "Training loss at the analysed step, as the trainer logged it.";
        Gauge LearningRate "learning_rate" ["run"]
            "Learning rate at the analysed step, as the trainer logged it.";
        Gauge GradNorm "grad_norm" ["run"]
            "Gradient norm at the analysed step, as the trainer logged it.";
        Gauge EvalMetric "eval_metric" ["run", "metric"]
            "Last evaluation at the analysed step, as the trainer logged it as eval_METRIC.";
        Gauge AlignmentMean "alignment_mean" ["run", "pair"]
            "Mean gram_correlation over layers and heads; rising means adjacent layers align, a sudden fall means something broke.";
        Gauge AlignmentBest "alignment_best" ["run", "pair"]
            "Highest alignment_mean so far; never falls.";
        Gauge SavesSinceImprovement "alignment_saves_since_improvement" ["run", "pair"]
            "Analysed saves since alignment_best improved; rising means alignment has stalled or converged.";
        Gauge StepsSinceImprovement "alignment_steps_since_improvement" ["run", "pair"]
            "Steps since alignment_best improved; rising means alignment has stalled or converged.";
        Gauge CommutatorMax "commutator_max_ratio" ["run", "pair"]
            "Largest commutator_vs_chance over layers and heads; 1 is a random orientation, a sudden rise means something broke.";
        Counter Anomalies "anomalies_total" ["run", "kind", "pair"]
            "Anomalies that began, over pairs, heads and matrices; rising means something changed that rarely does.";
        Gauge AnomaliesOpen "anomalies_open" ["run", "kind", "severity"]
            "Anomalies that are not over; back to 0 means recovered, or lasting so long that it is the new order.";
        Gauge AnomalyOnset "anomaly_onset_step" ["run", "kind", "pair", "layer"]
            "Step at which the worst open anomaly of its kind and pair began, and its layer; absent while none is open.";
        Gauge AnomalyZscore "anomaly_zscore" ["run", "kind", "pair"]
            "Robust z of the last change against those before, the farthest out of all pairs or matrices; beyond 8 and large is an anomaly.";
        Gauge ReferenceDeviation "reference_deviation_zscore" ["run", "metric", "pair"]
            "Robust z against the reference runs at the same step; beyond 8 it is as far as an anomaly, absent where none reaches that step.";
        Gauge LastGoodStep "last_good_step" ["run"]
            "Newest save with finite weights before every open anomaly that may damage weights; absent while there is none.";
    }
    Layer {
        Gauge GramCorrelation "gram_correlation" ["run", "layer", "pair"]
            "Centred cosine of writer and reader Gram matrices, mean over heads, in [-1, 1]; 0 is a random orientation, rising means alignment.";
        Gauge GramCorrelationMin "gram_correlation_min" ["run", "layer", "pair"]
            "Lowest gram_correlation among the heads of a layer, for pairs per head; falling alone means one head broke.";
        Gauge CommutatorVsChance "commutator_vs_chance" ["run", "layer", "pair"]
            "Squared commutator of the Gram matrices over its mean for a random orientation, mean over heads; 0 commutes, 1 is chance.";
        Gauge CommutatorVsChanceMax "commutator_vs_chance_max" ["run", "layer", "pair"]
            "Highest commutator_vs_chance among the heads of a layer, for pairs per head; rising alone means one head broke.";
        Gauge BalanceGap "balance_gap_ratio" ["run", "layer", "pair"]
            "Distance of writer and reader Gram matrices over their size, mean over heads or groups; 0 is balanced, falling is what weight decay does.";
        Gauge RidgeRate "ridge_rate_ratio" ["run", "layer", "pair"]
            "Measured decay of the balance gap over the decay that weight decay predicts; near 1 is as predicted, near 0 means stalled.";
        Gauge UpdateRatio "weight_update_ratio" ["run", "layer", "role"]
            "Relative change of the weights since the save before; 0 means frozen, a jump means a shock.";
        Gauge WeightNorm "weight_norm" ["run", "layer", "role"]
            "Frobenius norm of the weights; rising without end means too little decay, a jump means a fault.";
        Gauge SpectralNorm "spectral_norm" ["run", "layer", "role"]
            "Largest singular value of the weights; rising faster than weight_norm means one direction takes over.";
        Gauge AdapterUpdate "adapter_update_ratio" ["run", "layer"]
            "Size of what an adapter adds over that of the base model's weights, mean over the modules of a layer; rising means moving away from the base.";
        Gauge StableRank "stable_rank" ["run", "layer", "role"]
            "Squared Frobenius over squared spectral norm; falling means few directions carry the weights.";
        Gauge OverlapExcess "subspace_overlap_excess_ratio" ["run", "layer", "pair", "k"]
            "Overlap of the leading k-dimensional subspaces above chance, mean over heads; 0 is chance, 1 is the same subspace.";
        Gauge Overlap "subspace_overlap_ratio" ["run", "layer", "pair", "k"]
            "Mean squared cosine between the leading k-dimensional subspaces, mean over heads; rising from subspace_overlap_chance_ratio means alignment.";
        Gauge OverlapChance "subspace_overlap_chance_ratio" ["run", "layer", "pair", "k"]
            "Mean of subspace_overlap_ratio for random subspaces; changes only with the shape of the model.";
        Gauge OverlapMin "subspace_overlap_min_ratio" ["run", "layer", "pair", "k"]
            "Lowest subspace_overlap_ratio among the heads of a layer, for pairs per head; falling alone means one head broke.";
        Gauge Commutator "commutator_ratio" ["run", "layer", "pair"]
            "Normalised commutator of the Gram matrices, mean over heads, in [0, 1]; falling to 0 means a common eigenbasis.";
        Gauge FlagCorrelation "flag_correlation" ["run", "layer", "pair"]
            "Rank correlation of the joint law of the flags, mean over heads, in [-1, 1]; rising from 0 means directions align in order.";
        Gauge HeadOverlap "head_overlap_ratio" ["run", "layer", "projection"]
            "Mean overlap between the subspaces of different heads; rising from head_overlap_chance_ratio means redundant heads.";
        Gauge HeadOverlapChance "head_overlap_chance_ratio" ["run", "layer", "projection"]
            "Mean of head_overlap_ratio for random subspaces; changes only with the shape of the model.";
        Gauge EffectiveHeads "effective_heads" ["run", "layer", "projection"]
            "Effective number of different heads; falling means heads become redundant.";
        Gauge SimplexDeviation "simplex_deviation_ratio" ["run"]
            "Distance of the classifier's row directions from a regular simplex, in [0, sqrt 2]; falling means neural collapse.";
        Gauge SimplexDeviationVsChance "simplex_deviation_vs_chance" ["run"]
            "The same distance over its value for random rows; 1 is chance, 0 is a regular simplex.";
        Gauge EffectiveRank "effective_rank" ["run", "layer", "role"]
            "Exponential of the entropy of the singular values; falling means the spectrum concentrates.";
        Gauge Rotation "subspace_rotation_ratio" ["run", "layer", "role", "k"]
            "How far the leading k-dimensional output subspace turned since the save before; 0 stands still, 1 is orthogonal.";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_indexed_by_id() {
        let mut seen = BTreeSet::new();
        for (idx, family) in CATALOG.iter().enumerate() {
            assert_eq!(family.id as usize, idx);
            assert_eq!(family.id.family(), family);
            // In OpenMetrics a counter's family has the name without `_total`.
            let bare = family.name.strip_suffix("_total").unwrap_or(family.name);
            assert!(seen.insert(bare), "{} twice", family.name);
            assert_eq!(bare != family.name, family.kind == Kind::Counter, "{}", family.name);
        }
    }

    #[test]
    fn names_have_units_help_and_the_labels_of_their_tier() {
        for family in CATALOG {
            assert!(family.help.ends_with('.') && family.help.len() < 160, "{}", family.name);
            assert!(family.help.matches(". ").count() <= 1, "{}", family.name);
            assert_eq!(
                family.tier != Tier::Daemon,
                family.labels.first() == Some(&"run") && family.id != Id::SeriesDropped,
                "{}",
                family.name
            );
            assert!(family.full_name().starts_with(PREFIX));
        }
    }
}
