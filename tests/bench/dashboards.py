#!/usr/bin/env python3
"""How long the queries of the dashboards take over a run of 300 layers, after an hour of samples.

    dashboards.py --program WEIGHTVANE [--layers 300] [--samples 240]

A GPT-2 of 300 narrow layers in three saves, so that every family of layers is there, is watched by the
daemon and scraped by a real Prometheus. An hour at a scrape every 15 s is 240 samples of each series;
here they come a second apart, and the queries ask for as many points as Grafana does of an hour.
"""
import argparse
import json
import random
import struct
import sys
import tempfile
import time
from array import array
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from grafana import Grafana, mentions, queries, read
from helpers import Children, launch_daemon, start_prometheus, wait

WIDTH, HEADS = 32, 4
SLOW = 0.5  # seconds


def shapes(layers):
    yield "wte.weight", (64, WIDTH)
    for i in range(layers):
        for name, shape in (("attn.c_attn", (WIDTH, 3 * WIDTH)), ("attn.c_proj", (WIDTH, WIDTH)),
                            ("mlp.c_fc", (WIDTH, 4 * WIDTH)), ("mlp.c_proj", (4 * WIDTH, WIDTH))):
            yield f"h.{i}.{name}.weight", shape
        for norm in ("ln_1", "ln_2"):
            yield f"h.{i}.{norm}.weight", (WIDTH,)


def write_save(run, step, layers, values):
    header, at = {}, 0
    for name, shape in shapes(layers):
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    save = run / f"checkpoint-{step}"
    save.mkdir(parents=True)
    (save / "config.json").write_text(json.dumps(
        {"model_type": "gpt2", "n_layer": layers, "n_head": HEADS, "n_embd": WIDTH, "activation_function": "gelu_new"}))
    (save / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + values.tobytes())
    (save / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": [{"loss": 2.0, "step": step}]}))


def measured(children, program, here, args):
    """A Prometheus that has the samples, and the time of the last."""
    numbers = random.Random(0)
    n = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for _, shape in shapes(args.layers))
    values = array("f", (numbers.gauss(0, 0.1) for _ in range(n)))
    for step in range(3):
        write_save(here / "runs/deep", 100 * step, args.layers, values)
        for i in range(n):
            values[i] += numbers.gauss(0, 0.01)
    config = here / "weightvane.yaml"
    config.write_text("{scan_interval: 1s, quiet: 300ms, series_limit: 250000}\n")
    _, address = launch_daemon(
        children, program, here / "daemon.log", here / "runs", "--config", config, "--listen", "127.0.0.1:0")
    _, prometheus = start_prometheus(children, address, here)
    wait("three saves are measured", lambda: prometheus.value('weightvane_checkpoints_analyzed_total{run="deep"}') == 3)
    n_series = prometheus.value("scrape_samples_scraped")
    print(f"{n_series:.0f} series, scraped in {prometheus.value('scrape_duration_seconds') * 1000:.0f} ms", flush=True)
    time.sleep(args.samples)
    n_samples = prometheus.value(f'count_over_time(weightvane_run_active{{run="deep"}}[{args.samples}s])')
    print(f"{n_samples:.0f} samples of each", flush=True)
    return prometheus, int(time.time())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--layers", type=int, default=300)
    parser.add_argument("--samples", type=int, default=240)
    args = parser.parse_args()
    children = Children()
    with tempfile.TemporaryDirectory() as here:
        try:
            prometheus, now = measured(children, args.program, Path(here), args)
            grafana = Grafana(prometheus, now, args.samples)
            slow = 0
            for dashboard in read():
                way = next(grafana.choices(dashboard["templating"]["list"]))
                if "pair" in way and way["pair"] != ".+":
                    # The kind of pair with most series: it is measured per head.
                    way["pair"] = "v_o"
                took = []
                for title, letter, target in queries(dashboard):
                    values = {name: way[name] for name in way if mentions(target["expr"], name)}
                    three = sorted(grafana.ask(target, values) for _ in range(3))
                    took.append((three[1][1], three[1][0], f"{title} [{letter}]"))
                took.sort(reverse=True)
                slow += sum(seconds > SLOW for seconds, _, _ in took)
                print(f"{dashboard['uid']}: {len(took)} queries, together {sum(t[0] for t in took):.2f} s, the slowest (median of three):")
                for seconds, n_series, what in took[:5]:
                    print(f"  {seconds * 1000:6.0f} ms  {n_series:5} series  {what}")
            print(f"{slow} queries took more than {SLOW} s")
        finally:
            children.end()


if __name__ == "__main__":
    main()
