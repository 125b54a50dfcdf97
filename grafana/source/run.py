"""The dashboard of one run. Each query over layers is of one kind of pair, one role or one projection,
so that 300 layers are 300 series and not a hundred thousand."""
from parts import *

RUN = 'run="$run"'
PAIR, ROLE, PROJECTION = 'pair="$pair"', 'role="$role"', 'projection="$projection"'
PAIR_K = PAIR + ',k=~"$k"'
UPDATES = 'pair=~"update_.+"'


def run(name, labels=""):
    return of(name, ",".join(part for part in (RUN, labels) if part))


STEP_NOW = f"max({run('checkpoint_analyzed_step')})"
SERIOUS = run("anomalies_open", 'severity=~"warning|critical"')
ONE = steps("transparent", (1, GREY))


def over_time(*args, **options):
    return lines(*args, step=STEP_NOW, **options)


NOW = [
    stat("Step", "Step of the newest measured save, to which all numbers belong. Rising with each save; it falls only when training resumes from an earlier one.",
         STEP_NOW, unit="locale", decimals=0),
    stat("Last save", "Time since the newest save was complete. Rising with the clock, falling to 0 at each save; beyond several save intervals the trainer hangs or has ended.",
         f"time() - max({run('checkpoint_latest_timestamp_seconds')})", unit="s", decimals=0),
    stat("Training loss", "As the trainer logged it at the measured step. Falling is learning, rising suddenly a fault. Absent where the trainer logs none beside its saves.",
         f"max({run('train_loss')})", decimals=3),
    stat("Mean alignment", "Mean gram correlation over pairs, layers and heads, 0 for random orientations. Rising means that adjacent layers align; a sudden fall that something broke.",
         f"avg({run('alignment_mean')})", decimals=3),
    stat("Highest κ", "Largest commutator over its chance level, which is 1. Rising suddenly means that something broke; falling towards 0 that layers share an eigenbasis.",
         f"max({run('commutator_max_ratio')})", decimals=2),
    stat("Open anomalies", "Warnings and worse that the daemon holds open. Rising: something changed that seldom does; falling: it came back or is the new order.",
         f"sum({SERIOUS})", decimals=0, thresholds=steps(GREEN, (1, ORANGE))),
    stat("Non-finite weights", "NaN and infinite weights in the measured save. Rising above 0 the run is broken; falling to 0 it was resumed from a good save.",
         f"sum({run('nonfinite_weights')})", unit="locale", decimals=0, thresholds=steps(GREEN, (1, RED))),
    stat("Last good step", "Newest save with finite weights before every open anomaly: where to go back to. It stands still while an anomaly is open; falling, an earlier one is open as well; rising, that is over. None is shown while nothing is open.",
         f"min({run('last_good_step')})", unit="locale", decimals=0, thresholds=steps(GREEN, (0, ORANGE)), none="all good"),
]

ALIGNMENT = [
    over_time("Gram correlation by pair",
              "How far what one layer writes is what the next one reads, mean over layers and heads; 0 is chance. Rising means alignment, a sudden fall that something broke. A slow fall after an early peak is common in transformers that still improve.",
              [query(f"max by (pair) ({run('alignment_mean')})", "{{pair}}"), query("vector(0)", "chance")],
              overrides=[CHANCE]),
    over_time("Overlap of leading subspaces against chance: $pair",
              "Mean squared cosine between the k leading directions written and read, mean over layers and heads, each with its chance level dashed. Rising from chance to 1 means the same subspace; falling back to chance that they parted.",
              [query(f"avg by (k) ({run('subspace_overlap_ratio', PAIR_K)})", "k = {{k}}"),
               query(f"avg by (k) ({run('subspace_overlap_chance_ratio', PAIR_K)})", "chance, k = {{k}}")],
              overrides=[CHANCE], low=0, high=1),
    heat("Gram correlation of each layer: $pair",
         "Layers from the input at the top, over time. Rising to 1 means alignment, 0 in the middle of the scale is chance, falling below it that layers avoid each other; a sudden change of one row is a fault in that layer.",
         run("gram_correlation", PAIR), "{{layer}}", low=-1, high=1, scheme="RdBu"),
    bars("Layers now: $pair",
         "Gram correlation of the 24 lowest layers now. Rising bars mean alignment; one that falls behind the others is the layer to look at.",
         f"sort(bottomk(24, {run('gram_correlation', PAIR)}))", "layer {{layer}}", low=-0.2, high=1,
         thresholds=steps(RED, (-0.05, GREY), (0.05, BLUE))),
    over_time("Excess over chance: $pair",
              "The overlap with chance taken out: 0 is chance, 1 the same subspace, mean over layers. Rising means alignment, falling that the leading directions part.",
              [query(f"avg by (k) ({run('subspace_overlap_excess_ratio', PAIR_K)})", "k = {{k}}"), query("vector(0)", "chance")],
              overrides=[CHANCE], high=1, w=8),
    over_time("Worst head",
              "Lowest gram correlation and lowest overlap at the largest k among all heads, for pairs that are measured per head. Falling alone, while the mean stays, one head broke; rising, it follows the others.",
              [query(f"min by (pair) ({run('gram_correlation_min')})", "{{pair}} correlation"),
               query(f"min by (pair) ({run('subspace_overlap_min_ratio', PAIR)})", "{{pair}} overlap")], w=8),
    over_time("Order of directions",
              "Rank correlation of the joint law of the flags, mean over layers. Rising from 0 means that directions align in order of their strength; falling back that the order is lost.",
              [query(f"avg by (pair) ({run('flag_correlation')})", "{{pair}}"), query("vector(0)", "chance")],
              overrides=[CHANCE], w=8),
]

BEST = [
    over_time("Loss beside alignment",
              "Alignment on the left, training loss on the right, on one axis of time. Loss falling while alignment rises is the usual beginning; loss rising while alignment falls is a fault; both still is converged or stuck.",
              [query(f"max by (pair) ({run('alignment_mean')})", "{{pair}}"), query(f"max({run('train_loss')})", "loss")],
              overrides=[override("loss", custom__axisPlacement="right", custom__lineWidth=3, unit="none",
                                  custom__axisLabel="loss", color={"mode": "fixed", "fixedColor": ORANGE})],
              w=12, h=9, unit="short"),
    over_time("Saves since alignment improved",
              "Measured saves since the best alignment of each pair; the dashed line is where an alert begins. Rising means converged or stuck: compare with the loss. Falling to 0 it has just improved.",
              [query(f"max by (pair) ({run('alignment_saves_since_improvement')})", "{{pair}}")], low=0, decimals=0, w=6, h=9,
              thresholds=steps("transparent", (10, YELLOW))),
    over_time("Best alignment so far",
              "Highest mean alignment of each pair, which never falls; rising means that it still improves. The number of steps since then is told at the cursor.",
              [query(f"max by (pair) ({run('alignment_best')})", "{{pair}}"),
               query(f"max by (pair) ({run('alignment_steps_since_improvement')})", "{{pair}}, steps since")],
              overrides=[override("/steps since/", unit="locale", custom__lineWidth=0, custom__axisPlacement="hidden",
                                  custom__hideFrom={"legend": True, "tooltip": False, "viz": False})],
              w=6, h=9),
    over_time("Evaluations", "As the trainer logged them under eval_NAME. Which of rising and falling is good depends on the name: a loss should fall, an accuracy rise.",
              [query(f"max by (metric) ({run('eval_metric')})", "{{metric}}")], w=8, h=7),
    over_time("Learning rate and gradient norm", "As the trainer logged them; the gradient norm on the right. A norm rising suddenly often comes before a spike of the loss; falling slowly is usual.",
              [query(f"max({run('learning_rate')})", "learning rate"), query(f"max({run('grad_norm')})", "gradient norm")],
              overrides=[override("gradient norm", custom__axisPlacement="right", unit="none")], w=8, h=7, unit="sci", low=0, decimals=1),
    over_time("Distance from the reference runs", "Robust z against the reference runs at the same step; absent without a reference, drawn up to 20. Rising or falling beyond the dashed lines it is as far as an anomaly; near 0 it does as they did.",
              [query(f"max by (metric, pair) ({run('reference_deviation_zscore')})", "{{metric}} {{pair}}")], w=8, h=7, low=-20, high=20,
              thresholds=steps("transparent", (-8, ORANGE), (8, ORANGE))),
]

COMMUTATORS = [
    over_time("Highest commutator over chance, κ",
              "Largest κ of each pair among layers and heads; the dashed line is chance, 1. Rising suddenly means that something broke, though a direction that begins to align raises it too; falling towards 0 layers share an eigenbasis.",
              [query(f"max by (pair) ({run('commutator_max_ratio')})", "{{pair}}")], low=0, thresholds=ONE, w=8),
    over_time("Commutator χ",
              "Normalised commutator of what is written and read, 0 to 1, mean over layers and heads. Falling to 0 means a common eigenbasis, or that neither reads what the other writes: look at the gram correlation. Rising, that they part.",
              [query(f"avg by (pair) ({run('commutator_ratio')})", "{{pair}}")], low=0, w=8),
    over_time("How unusual the last change was",
              "Robust z of each kind of anomaly against the changes before, farthest out of all pairs and matrices, drawn up to 20. Rising above 8 or falling below −8 and large, it is an anomaly; in between it is as ever.",
              [query(f"max by (kind, pair) ({run('anomaly_zscore')})", "{{kind}} {{pair}}")], w=8, low=-20, high=20,
              thresholds=steps("transparent", (-8, ORANGE), (8, ORANGE))),
    heat("κ of each layer: $pair",
         "Layers from the input at the top, over time; 1 in the middle of the scale is chance. Falling to 0 is a common eigenbasis; rising above 1, layers that disagree more than random ones; a sudden change of one row is a fault in that layer.",
         run("commutator_vs_chance", PAIR), "{{layer}}", low=0, high=2, scheme="RdBu", reverse=True, w=12),
    states("Layers against chance: $pair",
           "Each layer by its κ, or by that of its worst head. Falling to blue is close to a common eigenbasis, grey near chance, rising to orange and red above it: a band that changes colour alone is the layer to look at.",
           [query(f'max by (layer) ({{__name__=~"weightvane_commutator_vs_chance|weightvane_commutator_vs_chance_max",{DAEMON},{RUN},{PAIR}}})', "{{layer}}")],
           thresholds=steps("dark-blue", (0.25, "light-blue"), (0.75, GREY), (1.5, ORANGE), (3, RED)), w=12, h=9),
]

HEADS = [
    over_time("Overlap of heads against chance", "How alike the subspaces of a layer's heads are, mean over layers, with chance dashed. Rising means redundant heads, which healthy runs show as well; falling, that they differ more.",
              [query(f"avg by (projection) ({run('head_overlap_ratio')})", "{{projection}}"),
               query(f"avg by (projection) ({run('head_overlap_chance_ratio')})", "chance, {{projection}}")],
              overrides=[CHANCE], low=0, w=8),
    over_time("Effective heads", "Effective number of different heads in a layer, mean and lowest over layers. Falling means that heads become redundant; rising, that they part.",
              [query(f"avg by (projection) ({run('effective_heads')})", "{{projection}}"),
               query(f"min by (projection) ({run('effective_heads')})", "{{projection}}, lowest layer")], low=0, w=8),
    heat("Overlap of heads in each layer: $projection", "Layers from the input at the top, over time. Rising, heads of the layer are more alike; falling, they differ more.",
         run("head_overlap_ratio", PROJECTION), "{{layer}}", low=0, high=1, scheme="Viridis", w=8, h=8),
]

RIDGE = [
    over_time("Balance gap", "Distance of what is written and read over their size, mean over layers: 0 is balanced. Falling is what weight decay does; rising, gradients unbalance layers faster than decay balances them.",
              [query(f"avg by (pair) ({run('balance_gap_ratio')})", "{{pair}}")], low=0, high=1),
    over_time("Ridge rate", "Measured decay of the gap over that which weight decay predicts, for SGD where a law holds: dashed is as predicted. Falling towards 0 it stalls; rising above 1 something else decays as well. Absent elsewhere.",
              [query(run("ridge_rate_ratio"), "{{pair}} layer {{layer}}")], thresholds=ONE),
]

SPECTRA = [
    over_time("Update of each save", "Relative change of the weights since the save before, largest of each role. Rising suddenly is a shock; falling to 0 exactly is frozen; falling slowly follows the learning rate.",
              [query(f"max by (role) ({run('weight_update_ratio')})", "{{role}}")], log=True, unit="sci", decimals=1, w=8),
    heat("Update of each layer: $role", "Relative change since the save before, layers from the input at the top. A row that falls to 0 is frozen; a column that is rising out of the others is a shock to all layers.",
         run("weight_update_ratio", ROLE), "{{layer}}", low=0, high=0.1, scheme="Viridis", w=8, h=8, decimals=4),
    over_time("Turn of leading subspaces", "How far the leading output directions turned since the save before, mean over layers: 0 stands still, 1 is orthogonal. Rising suddenly means that features were thrown away; falling is usual as training settles.",
              [query(f"avg by (role, k) ({run('subspace_rotation_ratio')})", "{{role}} k = {{k}}")], low=0, w=8),
    over_time("Weight norm", "Frobenius norm, mean over layers. Rising without end means too little decay, falling too much; a jump is a fault.",
              [query(f"avg by (role) ({run('weight_norm')})", "{{role}}")], w=8),
    over_time("Spectral norm", "Largest singular value, highest of each role. Rising faster than the weight norm one direction takes over; falling, the spectrum evens out.",
              [query(f"max by (role) ({run('spectral_norm')})", "{{role}}")], w=8),
    over_time("Stable rank", "Squared Frobenius over squared spectral norm, mean over layers. Falling means that few directions carry the weights; rising, that more do.",
              [query(f"avg by (role) ({run('stable_rank')})", "{{role}}")], low=0, w=8),
    over_time("Effective rank", "Exponential of the entropy of the singular values, mean over layers. Falling means that the spectrum concentrates; rising, that it evens out.",
              [query(f"avg by (role) ({run('effective_rank')})", "{{role}}")], low=0, w=8),
    over_time("Frozen matrices", "Matrices of which not one bit changed since the save before. Rising above 0: frozen on purpose, a learning rate of 0, or a lost gradient; falling to 0 all move.",
              [query(f"max({run('frozen_matrices')})", "frozen")], low=0, decimals=0, w=8),
    over_time("Classifier: distance from a simplex", "Distance of the classifier's row directions from a regular simplex, and over chance (dashed at 1). Falling towards 0 is neural collapse; rising, the classes move away from it. Absent without a classifier.",
              [query(f"max({run('simplex_deviation_ratio')})", "distance"), query(f"max({run('simplex_deviation_vs_chance')})", "over that of random rows")],
              low=0, w=8, thresholds=ONE),
]

ADAPTER = [
    over_time("Size beside the base", "Size of what the adapter adds over that of the weights that it changes, mean over the modules of a layer. Rising means moving away from the base model; a jump is a fault; falling, the adapter fades.",
              [query(run("adapter_update_ratio"), "layer {{layer}}")], low=0, w=12),
    over_time("Overlap with the base's leading subspaces", "Mean squared cosine between the k leading directions of what is added and of the base's weights, where they write (out) and read (in), mean over modules, with chance dashed. Rising, the adapter strengthens what the base has; falling to chance, it adds what is new to it.",
              [query(f"avg by (pair, k) ({run('subspace_overlap_ratio', UPDATES)})", "{{pair}} k = {{k}}"),
               query(f"avg by (pair, k) ({run('subspace_overlap_chance_ratio', UPDATES)})", "chance, {{pair}} k = {{k}}")],
              overrides=[CHANCE], low=0, high=1, w=12),
]

KINDS = named({0: ("none", "transparent")})
ANOMALIES = [
    states("Open anomalies by kind", "How many of each kind and severity are open. Rising from none: something changed that seldom does; falling back: it came back or is the new order.",
           [query(f"sum by (kind, severity) ({run('anomalies_open')})", "{{kind}} ({{severity}})")],
           thresholds=steps("transparent", (1, ORANGE), (10, RED)), mappings=KINDS, w=14, h=9),
    table("Where and since when", "The worst open anomaly of each kind and pair: its layer, the step at which it began. A row appears when the number of anomalies rises from 0 and goes when it falls back.",
          [query(run("anomaly_onset_step"), instant=True, table=True)],
          overrides=[override("Value", displayName="since step", unit="locale")],
          transformations=[{"id": "organize", "options": {
              "excludeByName": {"Time": True, "__name__": True, "job": True, "instance": True, "run": True},
              "indexByName": {"kind": 0, "pair": 1, "layer": 2, "Value": 3}, "renameByName": {}}}],
          w=10, h=9),
    over_time("Anomalies so far", "Anomalies that began since the daemon knows the run. Rising: another one; it falls only when the history is lost.",
              [query(f"sum by (kind) ({run('anomalies_total')})", "{{kind}}")], low=0, decimals=0, w=24, h=6),
]

PIPELINE = [
    over_time("Steps", "Step of the newest save and of the newest measured one. Rising together; the second falling behind means that analysis is too slow or fails; both falling, training went back.",
              [query(f"max({run('checkpoint_latest_step')})", "saved"), query(f"max({run('checkpoint_analyzed_step')})", "measured")],
              unit="locale", low=0, w=8),
    over_time("Times", "Time between saves, time that a save takes to be written, time of its analysis. An interval rising means slower training; a writing time rising, slower storage; an analysis time falling, unchanged weights.",
              [query(f"max({run('checkpoint_save_interval_seconds')})", "between saves"),
               query(f"max({run('checkpoint_save_duration_seconds')})", "to write one"),
               query(f"max({run('analysis_last_duration_seconds')})", "to measure one"),
               query(f"max({run('checkpoint_latest_timestamp_seconds')}) - max({run('checkpoint_analyzed_timestamp_seconds')})", "measured behind saved")],
              unit="s", low=0, w=8),
    over_time("Queue", "Saves that wait for their analysis. Rising means that saves come faster than they are measured; falling, that it catches up.",
              [query(f"max({run('analysis_queue_length')})", "waiting")], low=0, decimals=0, w=8),
    over_time("Saves", "Saves seen and measured since the daemon knows the run. Rising together; the second standing still means that analysis is stuck. Falling only when the history is lost.",
              [query(f"max({run('checkpoints_discovered_total')})", "seen"), query(f"max({run('checkpoints_analyzed_total')})", "measured")],
              low=0, decimals=0, w=8),
    over_time("Saves that were not measured", "Failed and passed-over saves by reason. Rising failures mean that someone should look at the saves; skips of outrun rising, that analysis is too slow. Falling only when the history is lost.",
              [query(f"sum by (reason) ({run('checkpoint_failures_total')}) > 0", "failed: {{reason}}"),
               query(f"sum by (reason) ({run('checkpoints_skipped_total')}) > 0", "skipped: {{reason}}"),
               query(f"sum({run('series_dropped_total')})", "series dropped")], low=0, decimals=0, w=8),
    over_time("Size of a save", "All files of the newest save. Rising or falling means another model, type or format.",
              [query(f"max({run('checkpoint_size_bytes')})", "size")], unit="bytes", low=0, w=8),
    states("Readable and active", "Whether the newest save could be read and whether more are expected. Falling to red: unreadable; to grey: the run has ended. Rising to green: as it should be.",
           [query(f"max({run('checkpoint_readable')})", "readable"), query(f"max({run('run_active')}) * 2 - 1", "active")],
           mappings=named({-1: ("ended", GREY), 0: ("no", RED), 1: ("yes", GREEN)}), w=24, h=5),
]


def make():
    return dashboard(
        "weightvane-run", "Weightvane / Run",
        "One run: how its layers line up, what is unusual, and how its saves go.",
        variables=[
            variable("job", "job", "label_values(weightvane_build_info, job)", multi=True),
            variable("instance", "instance", 'label_values(weightvane_build_info{job=~"$job"}, instance)', multi=True),
            variable("run", "Run", f"label_values({of('run_info')}, run)"),
            variable("pair", "Pair", f"label_values({run('alignment_mean')}, pair)"),
            variable("k", "k", f"label_values({run('subspace_overlap_ratio', PAIR)}, k)", multi=True, sort=3),
            variable("role", "Role", f"label_values({run('weight_norm')}, role)"),
            variable("projection", "Projection", f"label_values({run('head_overlap_ratio')}, projection)"),
        ],
        annotations=[
            annotation("Alerts", 'ALERTS{alertname=~"Weightvane.+",alertstate="firing",run="$run"}', RED, "{{alertname}}", "{{severity}}"),
            annotation("Anomalies", f"sum by (kind) ({SERIOUS}) > 0", ORANGE, "{{kind}}", "open"),
            annotation("Saves", f"max(changes({run('checkpoint_analyzed_step')}[$__rate_interval])) > 0", BLUE, "measured save", on=False),
        ],
        sections=[
            (None, NOW), ("Alignment", ALIGNMENT), ("Progress", BEST), ("Commutators", COMMUTATORS),
            ("Heads (models with attention)", HEADS), ("Ridge (SGD with weight decay)", RIDGE), ("Spectra and updates", SPECTRA),
            ("Adapter (LoRA) against its base model", ADAPTER),
            ("Anomalies", ANOMALIES), ("Checkpoint pipeline", PIPELINE),
        ],
        links=[{
            "type": "link", "title": "All runs", "url": "/d/weightvane-fleet/weightvane-fleet", "icon": "dashboard", "tags": [],
            "keepTime": True, "includeVars": False, "targetBlank": False, "asDropdown": False, "tooltip": "",
        }],
        refresh="30s",
    )
