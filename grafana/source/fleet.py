"""The dashboard of all runs. Only families of the daemon and of whole runs are asked: queries over
every layer of every run are slow."""
from parts import *

RUN = 'run=~"$run"'
PAIR = 'pair=~"$pair"'
STALLED = 10  # saves; as in the alert


def run(name, labels=""):
    return of(name, ",".join(part for part in (RUN, labels) if part))


def count(condition):
    """How many, 0 where none."""
    return f"count({condition}) or vector(0)"


ACTIVE = f"max by (job, instance, run) ({run('run_active')}) == 1"
NONFINITE = f"sum by (job, instance, run) ({run('nonfinite_weights')}) > 0"
UNREADABLE = f"max by (job, instance, run) ({run('checkpoint_readable')}) == 0"
SERIOUS = run("anomalies_open", 'severity=~"warning|critical"')
# What is worst decides; `or` keeps the first value of each run.
HEALTH = f"""({NONFINITE}) * 0 + 4
or ({UNREADABLE}) + 3
or (sum by (job, instance, run) ({SERIOUS}) > 0) * 0 + 2
or (max by (job, instance, run) ({run('run_active')}))"""
HEALTH_WORDS = named({
    0: ("ended", GREY), 1: ("healthy", GREEN), 2: ("anomaly", ORANGE),
    3: ("unreadable", RED), 4: ("non-finite", "dark-red"),
})

OVERVIEW = [
    stat("Active runs", "Runs of which more saves are expected. Rising: new ones were found; falling: some have ended or were idle for a day.",
         f"sum({run('run_active')}) or vector(0)", decimals=0),
    stat("Firing alerts", "Alerts of weightvane that fire now, whatever they are of. Rising means that someone should look; falling, that it was repaired or is over.",
         'count(ALERTS{alertname=~"Weightvane.+",alertstate="firing"}) or vector(0)', decimals=0,
         thresholds=steps(GREEN, (1, RED))),
    stat("Open anomalies", "Warnings and worse that the daemon holds open. Rising: something changed that seldom does; falling: it came back or is the new order.",
         f"sum({SERIOUS}) or vector(0)", decimals=0, thresholds=steps(GREEN, (1, ORANGE))),
    stat("Stalled runs", f"Active runs in which the alignment of no pair has improved for {STALLED} saves. Rising means converged or stuck: compare with the loss. Falling means that it moves again or the run ended.",
         count(f"(min by (job, instance, run) ({run('alignment_saves_since_improvement')}) >= {STALLED}) and ({ACTIVE})"),
         decimals=0, thresholds=steps(GREEN, (1, YELLOW))),
    stat("Oldest last save", "Longest time since the last save of an active run. Rising in step with the clock until the next save; beyond several save intervals a trainer hangs. Falling with each save.",
         f"max((time() - {run('checkpoint_latest_timestamp_seconds')}) and on (job, instance, run) {run('run_active')} == 1)",
         unit="s", thresholds=steps(GREEN, (3600, YELLOW), (14400, RED)), decimals=0),
    stat("Queue", "Saves that wait for their analysis, over all runs. Rising means that saves come faster than they are measured; falling, that it catches up.",
         f"sum({run('analysis_queue_length')}) or vector(0)", decimals=0, thresholds=steps(GREEN, (3, YELLOW), (10, ORANGE))),
    stat("Non-finite runs", "Runs whose last measured save holds NaN or infinite weights. Rising above 0: the run is broken, go back to its last good step. Falling: it was resumed from there.",
         count(NONFINITE), decimals=0, thresholds=steps(GREEN, (1, RED))),
    stat("Unreadable runs", "Runs whose newest save could not be read. Rising: permissions, missing parts or broken bytes. Falling with the next good save.",
         count(UNREADABLE), decimals=0, thresholds=steps(GREEN, (1, RED))),
]

LINK = {
    "title": "Open the run", "targetBlank": False,
    "url": "/d/weightvane-run/weightvane-run?${datasource:queryparam}&var-job=${__data.fields.job}"
           "&var-instance=${__data.fields.instance}&var-run=${__data.fields.run:percentencode}&${__url_time_range}",
}


def gauge(low, high, thresholds):
    return {
        "custom__cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}, "min": low, "max": high,
        "thresholds": thresholds, "color": {"mode": "thresholds"},
    }


def colored(thresholds):
    return {"custom__cellOptions": {"type": "color-text"}, "thresholds": thresholds, "color": {"mode": "thresholds"}}


# (column, query, properties)
COLUMNS = [
    ("Step", f"max by (job, instance, run) ({run('checkpoint_analyzed_step')})", {"unit": "locale", "custom__width": 100}),
    ("Last save", f"time() - max by (job, instance, run) ({run('checkpoint_latest_timestamp_seconds')})", {"unit": "s", "decimals": 0, "custom__width": 100}),
    ("Ended", f"time() - max by (job, instance, run) ({run('run_ended_timestamp_seconds')})", {"unit": "s", "decimals": 0, "custom__width": 90}),
    ("Health", HEALTH, {
        "mappings": HEALTH_WORDS,
        "custom__cellOptions": {"type": "color-text"}, "custom__width": 110}),
    ("Alignment", f"avg by (job, instance, run) ({run('alignment_mean', PAIR)})", {"decimals": 3} | gauge(0, 1, steps(BLUE))),
    ("Highest κ", f"max by (job, instance, run) ({run('commutator_max_ratio', PAIR)})", {"decimals": 2} | gauge(0, 3, steps(BLUE, (1, YELLOW), (2, ORANGE)))),
    ("Since best", f"min by (job, instance, run) ({run('alignment_saves_since_improvement', PAIR)})", {"decimals": 0, "custom__width": 90, "unit": "suffix: saves"} | colored(steps(GREY, (STALLED, YELLOW)))),
    ("Loss", f"max by (job, instance, run) ({run('train_loss')})", {"decimals": 3, "custom__width": 90}),
    ("Open anomalies", f"sum by (job, instance, run) ({SERIOUS})", {"decimals": 0, "custom__width": 100} | colored(steps(GREY, (1, ORANGE)))),
    ("Last good step", f"min by (job, instance, run) ({run('last_good_step')})", {"unit": "locale", "custom__width": 110}),
]


def runs():
    letters = [chr(ord("A") + i) for i in range(len(COLUMNS))]
    overrides = [
        override("run", custom__width=180, links=[LINK], unit="string", displayName="Run"),
        # Not shown, and yet there: the link needs it.
        override("job", custom__hidden=True, custom__hideFrom={"legend": True, "tooltip": True, "viz": True}),
        *(override(name, **properties) for name, _, properties in COLUMNS),
    ]
    names = {f"Value #{letter}": name for letter, (name, _, _) in zip(letters, COLUMNS)}
    order = ["run", *(f"Value #{letter}" for letter in letters), "job", "instance"]
    return table(
        "Runs",
        "Each run at its last measured save; a click on its name opens it. Alignment rising means that adjacent layers align, a sudden fall that something broke. κ is the highest commutator over its chance level: rising away from 1 suddenly is a fault, falling towards 0 a common eigenbasis. Since best: saves since any pair's alignment improved. Ended: how long ago a job said so by its mark; empty while it trains.",
        [query(expr, instant=True, table=True) for _, expr, _ in COLUMNS],
        overrides=overrides, sort=("Last save", False),
        transformations=[
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {
                "excludeByName": {"Time": True}, "indexByName": {name: i for i, name in enumerate(order)},
                "renameByName": names,
            }},
        ],
    )


COMPARED = [
    lines("Alignment of each run",
          "Mean gram correlation over pairs, layers and heads: 0 is a random orientation. Rising means that adjacent layers align; a sudden fall that something broke; a slow one is common while small transformers improve.",
          [query(f"avg by (run) ({run('alignment_mean', PAIR)})", "{{run}}")]),
    lines("Highest commutator of each run",
          "Largest commutator over its chance level κ among layers and heads; the dashed line is chance. Rising suddenly means that something broke; falling towards 0 that layers share an eigenbasis.",
          [query(f"max by (run) ({run('commutator_max_ratio', PAIR)})", "{{run}}")], low=0,
          thresholds=steps("transparent", (1, GREY))),
    states("Health of each run",
           "What is worst in each run. Rising from healthy to anomaly, unreadable or non-finite means that someone should look; falling back means that it is over. Grey has ended.",
           [query(HEALTH, "{{run}}")],
           mappings=HEALTH_WORDS),
    lines("Training loss of each run",
          "As the trainer logged it at the measured save; absent where it logs none. Falling is learning; rising suddenly, together with alignment that falls, is a fault.",
          [query(f"max by (run) ({run('train_loss')})", "{{run}}")]),
    lines("Distance from the reference runs",
          "Largest robust z of each run against its reference runs at the same step; absent without a reference. Rising beyond the dashed lines it is as far as an anomaly; falling back to 0 it does as they did.",
          [query(f"max by (run) (abs({run('reference_deviation_zscore')}))", "{{run}}")], low=0,
          thresholds=steps("transparent", (8, ORANGE))),
]

DAEMON_PANELS = [
    states("Daemon", "Whether each daemon is scraped, has read its configuration, can write its state, has scanned lately, and reaches its roots. Falling to red is a fault of the daemon, not of a run; rising to green it is repaired.",
           [query('up{job=~"$job",instance=~"$instance"}', "{{instance}} scraped"),
            query(of("config_last_reload_successful"), "{{instance}} configuration"),
            query(of("state_store_ok"), "{{instance}} state"),
            query(f"time() - {of('last_scan_timestamp_seconds')} < bool 600", "{{instance}} scans"),
            query(of("root_up"), "{{instance}} {{root}}")],
           mappings=named({0: ("no", RED), 1: ("yes", GREEN)}), w=12, h=8),
    lines("Time of an analysis", "Wall time of a save's analysis: half and nine tenths of them were faster. Rising means larger models or a busier machine; falling, unchanged weights or an idle one.",
          [query(f"histogram_quantile({q}, sum by (le) (rate({of('analysis_duration_seconds_bucket')}[$__rate_interval])))", name)
           for q, name in ((0.5, "median"), (0.9, "nine tenths"))], unit="s", low=0),
    lines("Load on the machine", "Processor cores used by the analysis, the part of the time in which it gave way to others that waited for disk or memory, and on the right the bytes read a second. Rising with each save; if it never falls back, saves come faster than they are measured.",
          [query(f"sum by (instance) (rate({of('analysis_cpu_seconds_total')}[$__rate_interval]))", "{{instance}} cores"),
           query(f"sum by (instance) (rate({of('held_back_seconds_total')}[$__rate_interval]))", "{{instance}} gives way"),
           query(f"sum by (instance) (rate({of('read_bytes_total')}[$__rate_interval]))", "{{instance}} read")],
          overrides=[override("/read/", unit="Bps", custom__axisPlacement="right")], low=0, unit="none"),
    lines("Series", "Series of each daemon at a scrape. Rising with runs and layers; dropped ones mean that a run is above its limit and dashboards have gaps. Falling when runs are forgotten.",
          [query('scrape_samples_scraped{job=~"$job",instance=~"$instance"}', "{{instance}} scraped"),
           query(f"sum by (instance) (increase({of('series_dropped_total')}[$__rate_interval]))", "{{instance}} dropped"),
           query(f"max by (instance) ({of('series_limit')})", "{{instance}} limit of one run")],
          overrides=[override("/limit/", custom__lineStyle={"fill": "dash", "dash": [6, 6]})], low=0, unit="short"),
    lines("Saves that were not measured", "Failed, and passed over in the normal life of a directory, a second. Rising failures mean that someone should look at the saves; rising skips of outrun, that analysis is too slow. Falling to 0 is well.",
          [query(f"sum by (reason) (rate({run('checkpoint_failures_total')}[$__rate_interval])) > 0", "failed: {{reason}}"),
           query(f"sum by (reason) (rate({run('checkpoints_skipped_total')}[$__rate_interval])) > 0", "skipped: {{reason}}"),
           query(f"sum by (instance) (rate({of('scan_errors_total')}[$__rate_interval]))", "{{instance}} scan errors")],
          low=0, unit="cps", soft_high=0.1),
    lines("Turned away by HTTP", "Connections and requests that each daemon refused, a second, by reason: slow or broken clients, too many of them, or ones without a password. Rising is a scraper that is set up wrongly or somebody who should not ask; falling to 0 is well.",
          [query(f"sum by (instance, reason) (rate({of('http_rejected_total')}[$__rate_interval])) > 0", "{{instance}} {{reason}}")],
          low=0, unit="reqps", soft_high=0.1),
    table("Roots and versions", "How each root is watched, and which version runs. A root whose mode changes from events to polling notices saves later: rising and falling have no meaning here.",
          [query(f"({of('watch_mode')} == 1) * on (job, instance) group_left (version) {of('build_info')}", instant=True, table=True)],
          overrides=[],
          transformations=[{"id": "organize", "options": {
              "excludeByName": {"Time": True, "job": True, "Value": True},
              "indexByName": {"instance": 0, "version": 1, "root": 2, "mode": 3}, "renameByName": {}}}],
          w=12, h=8),
]


def make():
    return dashboard(
        "weightvane-fleet", "Weightvane / Fleet",
        "All runs that are watched: which need a look, and how their alignment compares.",
        variables=[
            variable("job", "job", "label_values(weightvane_build_info, job)", multi=True),
            variable("instance", "instance", 'label_values(weightvane_build_info{job=~"$job"}, instance)', multi=True),
            variable("run", "Run", f"label_values({of('run_info')}, run)", multi=True),
            variable("pair", "Pair", f"label_values({of('alignment_mean', RUN)}, pair)", multi=True),
        ],
        annotations=[
            annotation("Alerts", 'ALERTS{alertname=~"Weightvane.+",alertstate="firing"}', RED, "{{alertname}}", "{{run}}"),
        ],
        sections=[(None, OVERVIEW), (None, [runs()]), ("Runs compared", COMPARED), ("The daemons", DAEMON_PANELS)],
        links=[], refresh="30s",
    )
