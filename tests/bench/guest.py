#!/usr/bin/env python3
"""How much a trainer slows while the daemon analyses a save beside it; one JSON line.

    guest.py --program WEIGHTVANE --checkpoints DIR [--pairs N] [--seconds S]

The trainer is a loop of numpy matrix products on all cores. Its rounds a second are measured in turn
without and with the daemon (default settings, loopback, its own state directory); a run beside it is
compared with the mean of the two around it, and `noise` is how far those two differ (median).
The daemon gets more saves than it can analyse (hard links of DIR/checkpoint-100 and -200, renamed into
place); a pair counts only if an analysis was under way from the beginning of the run to its end.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

SAVES = 12  # waiting for the daemon in each run
PATIENCE = 120  # seconds until an analysis is under way
TICK = os.sysconf("SC_CLK_TCK")


def say(text):
    print(text, file=sys.stderr, flush=True)


def train():
    """Reads seconds, a line each; prints how many rounds a second were done in that time."""
    import numpy as np
    rng = np.random.default_rng(1)
    pairs = [[rng.standard_normal((n, n), np.float32) for _ in range(3)] for n in (512, 768, 1024)]
    for line in sys.stdin:
        rounds, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < float(line):
            for a, b, c in pairs:
                np.matmul(a, b, out=c)
            rounds += 1
        print(rounds / spent, flush=True)


class Trainer:
    def __init__(self):
        threads = {f"{name}_NUM_THREADS": str(os.cpu_count()) for name in ("OPENBLAS", "MKL", "OMP")}
        self.child = subprocess.Popen([sys.executable, __file__, "--trainer"], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True, env=os.environ | threads)

    def run(self, seconds):
        self.child.stdin.write(f"{seconds}\n")
        self.child.stdin.flush()
        return float(self.child.stdout.readline())

    def end(self):
        self.child.stdin.close()
        self.child.wait()


class Daemon:
    """The daemon on a root of its own, ended on leaving."""

    def __init__(self, program, checkpoints, scratch):
        self.program, self.checkpoints = program, checkpoints
        self.root, self.config = scratch / "root", scratch / "weightvane.yaml"
        (self.root / "run").mkdir(parents=True)
        self.config.write_text(f"listen: 127.0.0.1:0\nstate_dir: {scratch}/state\n")
        (scratch / "state").mkdir()
        self.child = None

    def __enter__(self):
        for i in range(SAVES):
            self.drop(100 * (i + 1), self.checkpoints / f"checkpoint-{100 + 100 * (i % 2)}")
        log = open(self.config.with_suffix(".log"), "w")
        self.child = subprocess.Popen([self.program, "watch", self.root, "--config", self.config],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        line = self.child.stdout.readline()
        found = re.search(r"http://[^/]+/", line)
        if not found:
            raise SystemExit(f"guest.py: the daemon said {line!r}: {self.config.with_suffix('.log').read_text()}")
        self.address = found[0]
        self.wait()
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()

    def drop(self, step, source):
        coming = self.root / f".coming-{step}"
        coming.mkdir()
        for file in source.iterdir():
            os.link(file, coming / file.name)
        coming.rename(self.root / "run" / f"checkpoint-{step}")

    def metric(self, name):
        with urllib.request.urlopen(self.address + "metrics", timeout=PATIENCE) as response:
            text = response.read().decode()
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)", text, re.M))

    def cpu(self):
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")")[-1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def busy(self):
        return self.metric("weightvane_analysis_queue_length") >= 1

    def wait(self):
        """Until saves wait and the worker has taken some CPU time."""
        end = time.monotonic() + PATIENCE
        while not (self.cpu() > 0.5 and self.busy()):
            if time.monotonic() > end or self.child.poll() is not None:
                raise SystemExit("guest.py: no analysis began; the log: " + self.config.with_suffix(".log").read_text())
            time.sleep(0.1)


def beside(args, trainer):
    """Rounds a second beside the daemon and its share of a core; None if it ran out of work."""
    # Beside the checkpoints, because hard links do not leave their file system.
    with tempfile.TemporaryDirectory(dir=args.checkpoints.parent, prefix="guest-") as scratch:
        with Daemon(args.program, args.checkpoints, Path(scratch)) as daemon:
            before = daemon.cpu()
            rate = trainer.run(args.seconds)
            share = (daemon.cpu() - before) / args.seconds
            done = daemon.metric("weightvane_checkpoints_analyzed_total")
            return (rate, share) if daemon.busy() else say(f"  no save left after {done:.0f}; the run does not count")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--trainer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trainer:
        return train()
    if not args.program or not args.checkpoints:
        parser.error("--program and --checkpoints are needed")
    trainer = Trainer()
    trainer.run(2)  # threads started, clocks up
    slowdowns, noise, shares, tries = [], [], [], 0
    before = trainer.run(args.seconds)
    while len(slowdowns) < args.pairs and tries < 2 * args.pairs:
        tries += 1
        watched = beside(args, trainer)
        after = trainer.run(args.seconds)
        if watched:
            slowdowns.append(1 - 2 * watched[0] / (before + after))
            noise.append(abs(1 - after / before))
            shares.append(watched[1])
            say(f"  pair {len(slowdowns)}: rounds a second {before:.3f} before, {watched[0]:.3f} beside the daemon, {after:.3f} after, "
                f"{100 * slowdowns[-1]:+.2f} %, daemon's share {100 * shares[-1]:.2f} %")
        before = after
    trainer.end()
    if len(slowdowns) < args.pairs:
        sys.exit("guest.py: the daemon ran out of saves too often")
    print(json.dumps({"pairs": len(slowdowns), "slowdown": median(slowdowns), "least": min(slowdowns),
                      "most": max(slowdowns), "noise": median(noise), "share": median(shares)}))


if __name__ == "__main__":
    main()
