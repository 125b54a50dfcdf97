"""A daemon with its roots and its state, the saves that were made for it, and what has to hold of all that."""
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import oracle
import past
import trainer
import writers
from content import SMALL, Save
from daemon import Daemon, Unavailable
from ledger import Skipped

# In the idle class, which is the default, nothing is measured while these tests and whatever else take all cores.
FAST = {"scan_interval": "1s", "scan_interval_network": "1s", "quiet": "300ms", "settle": "2s", "settle_network": "2s", "priority": "normal"}
# Longer than it ever takes, also where many more processes than cores want to run.
BUDGET = 100.0
# Of one message, from one daemon, within a minute.
MOST_LINES = 30
OF_THE_PROCESS = ("analysis_last_duration_seconds", "checkpoint_save_duration_seconds")


@dataclass
class Known:
    """A save as its trainer left it."""
    save: Save
    path: str
    mtime_ns: int
    size: int
    at: float
    # When it was removed, or written over.
    gone: float | None = None


class World:
    """All of one act. The roots lie where only the trainers write."""

    def __init__(self, lab, name, config=None, roots=("runs",), state=True, field=None, state_dir=None):
        self.lab, self.ledger, self.name = lab, lab.ledger, name
        self.here = lab.scratch / name
        self.here.mkdir(parents=True)
        field = (field or lab.field) / name
        self.roots = [field / root for root in roots]
        for root in self.roots:
            root.mkdir(parents=True)
        self.root = self.roots[0]
        self.state = (state_dir or self.here / "state") if state else None
        self.config = self.here / "weightvane.yaml"
        self.configure(**(config or {}))
        self.daemon, self.daemons = None, []
        self.known, self.models, self.trainers = [], {}, []
        self.n_forgotten_journals = 0

    def configure(self, **changes):
        lines = [f"{key}: {value}" for key, value in {**FAST, **changes}.items()]
        self.config.write_text("\n".join(lines) + "\n")

    # Daemons

    def start(self, state=None, **options):
        """A daemon, once its address is known; the one before must have ended."""
        self.daemon = Daemon(self.lab.program, self.roots, self.here / "daemon.log", self.config,
                             state=state or self.state, **options)
        self.daemons.append(self.daemon)
        self.lab.daemons[self.daemon.pid] = self.daemon
        return self.daemon.wait_address()

    def end(self):
        """Stops what is left and takes the files away."""
        for one in self.trainers:
            if one.poll() is None:
                one.kill()
                one.wait()
        for daemon in self.daemons:
            if daemon.alive():
                daemon.kill()
        if not self.lab.keep:
            for place in [self.here, *{root.parent for root in self.roots}]:
                shutil.rmtree(place, ignore_errors=True)

    # Saves

    def save(self, run, model, step, width=SMALL, version=0, pause=writers.nothing, root=None):
        """Writes a save here and now."""
        save = Save(run, step, width, version)
        path = writers.write((root or self.root) / run, model, save, pause)
        return self.note(save, str(path), model, time.monotonic(), **trainer.stamp(path))

    def note(self, save, path, model, at, mtime_ns, size):
        for other in self.known:
            if other.path == path and other.gone is None:
                other.gone = at
        self.models[save.run] = model
        self.known.append(Known(save, path, mtime_ns, size, at))
        return self.known[-1]

    def removed(self, path):
        for known in self.known:
            if known.gone is None and (known.path == str(path) or known.path.startswith(f"{path}/")):
                known.gone = time.monotonic()

    def train(self, run, model, root=None, **order):
        """A trainer in a process of its own."""
        order = trainer.Order(run=run, directory=str((root or self.root) / run), model=model,
                              journal=str(self.here / f"journal-{run}"), seed=f"{self.name}/{run}", **order)
        self.models[run] = model
        child = subprocess.Popen(trainer.command(order), stdin=subprocess.DEVNULL, stderr=open(self.here / "trainer.log", "ab"))
        child.order = order
        self.trainers.append(child)
        return child

    def finish_trainers(self, patience=120):
        """Lets them end their save, and takes in what they have done."""
        for child in self.trainers:
            Path(f"{child.order.journal}.stop").touch()
        for child in self.trainers:
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                self.ledger.check(8, False, f"trainer {child.order.run} hangs")
        for child in self.trainers:
            self.take_in(child.order)
        self.trainers = []

    def take_in(self, order):
        """What a trainer's journal says."""
        n = 0
        for line in Path(order.journal).read_text().splitlines():
            event = json.loads(line)
            what = event["what"]
            if what == "ends":
                n += 1
                save = Save(order.run, event["step"], order.width, event["version"])
                self.note(save, event["path"], order.model, event["at"], event["mtime_ns"], event["size"])
                self.lab.latencies.append((event["seconds"], save.width))
            elif what == "begins":
                # From the first byte on, what was there is no more.
                for known in self.known:
                    if known.path == event["path"] and known.gone is None:
                        known.gone = event["at"]
            elif what == "removes":
                for known in self.known:
                    if known.path == event["path"] and known.gone is None:
                        known.gone = event["at"]
            elif what == "fails":
                self.ledger.check(8, False, f"trainer {order.run} ({order.model}): {event['why'][-700:]}")
        self.ledger.check(8, True, n=max(n, 1))

    def standing(self):
        return [known for known in self.known if known.gone is None]

    # What must hold

    def settled(self, body):
        """Whether everything that stands has been measured and nothing waits."""
        wanted = {}
        for known in self.standing():
            wanted[known.save.run] = wanted.get(known.save.run, 0) + 1
        done = all(body.total("checkpoints_analyzed_total", run=run) >= n for run, n in wanted.items())
        return done and body.total("analysis_queue_length") == 0 and wanted.keys() <= body.runs()

    def recorded(self):
        return past.Recorded(self.state)

    def missing(self, recorded):
        """What stands and has no record."""
        paths = {}
        for row in recorded.measured():
            paths.setdefault(row["path"], []).append(frobenius(row))
        return [known for known in self.standing()
                if oracle.norms(known.save) not in paths.get(os.path.realpath(known.path), [])]

    def wait_recorded(self, patience=BUDGET):
        """Waits until all that stands is recorded; what is not after that is a violation."""
        until = time.monotonic() + patience
        while True:
            body = self.daemon.metrics()
            if body and self.settled(body) and not self.missing(self.recorded()):
                self.ledger.check(11, True)
                return self.still(body)
            if time.monotonic() > until or not self.daemon.alive():
                break
            time.sleep(0.1)
        missing = [f"{known.save.run}/{known.save.step}" for known in self.missing(self.recorded())]
        left = None if body is None else body.total("analysis_queue_length")
        code = "" if self.daemon.alive() else f", the daemon ended with {self.daemon.child.returncode}"
        self.ledger.check(1, not missing, f"not recorded after {patience:.0f} s: {missing[:10]}{code}\n{self.daemon.log_text()[-1500:]}")
        self.ledger.check(11, False, f"not at rest after {patience:.0f} s: {left} wait, {len(missing)} are not recorded{code}")
        return body

    def still(self, body, patience=5.0, wait=0.7):
        """A body after which nothing changes for a moment: anomalies are judged when nothing waits any more."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            time.sleep(wait)
            before, body = body, self.daemon.metrics() or body
            if self.facts(before) == self.facts(body):
                break
        return body

    def verify(self, body=None, exempt=()):
        """All that can be said of the records, and of a body at rest. `exempt` runs are only looked at for duplicates."""
        recorded = self.recorded()
        ledger = self.ledger
        ledger.check(13, not recorded.errors, f"integrity of the database: {recorded.errors[:3]}")
        seen = {}
        for row in recorded.measured():
            if row["run"] in exempt:
                continue
            known = self.recognise(row)
            words = f"{row['path']} step {row['step']} modified {row['modified_ns']}: norms {frobenius(row)}"
            if not ledger.check(4, known is not None, f"of no save that was written: {words}"):
                continue
            ledger.check(4, row["modified_ns"] == known.mtime_ns, f"read before its last change at {known.mtime_ns}: {words}")
            seen.setdefault(id(known), []).append(row)
            before = None
            if any(matrix["update_ratio"] is not None for matrix in row["matrices"]):
                before = [other.save for other in self.known if other.save.run == known.save.run and other is not known]
            wrong, n = oracle.faults(known.save, row["matrices"], row["pairs"], row["nan"], row["parameters"], before)
            ledger.checked(3, wrong, n)
        for known in self.known:
            rows = seen.get(id(known), [])
            words = f"{known.save.run}/{known.save.step} version {known.save.version} is recorded {len(rows)} times"
            ledger.check(1, len(rows) <= 1, words)
            if known.gone is None and known.save.run not in exempt:
                ledger.check(1, len(rows) == 1, f"{words}: {known.path}")
        if body is not None:
            self.verify_counters(body, recorded)
            self.verify_body(body, exempt)
        return recorded

    def recognise(self, row):
        """The save that a record is of."""
        found = frobenius(row)
        candidates = [known for known in self.known if os.path.realpath(known.path) == row["path"]]
        return next((known for known in candidates if oracle.norms(known.save) == found), None)

    def recognise_anywhere(self, row):
        """The save that a record is of, wherever it lies now."""
        found = frobenius(row)
        return next((known for known in self.known if known.save.run == row["run"] and oracle.norms(known.save) == found), None)

    def verify_counters(self, body, recorded):
        counts = {}
        for row in recorded.measured():
            counts[row["run"]] = counts.get(row["run"], 0) + 1
        for run in body.runs():
            told = body.value("checkpoints_analyzed_total", run=run)
            self.ledger.check(2, told == counts.get(run, 0), f"{run}: {told} counted, {counts.get(run, 0)} recorded")

    def verify_body(self, body, exempt=()):
        """Of any body at any time: the values of each run are those of the save that it names."""
        self.ledger.check(5, not body.doubled, f"twice in one body: {body.doubled[:3]}")
        self.lab.promtool(body.text)
        for run in body.runs() - set(exempt):
            step = body.value("checkpoint_analyzed_step", run=run)
            norms = {f"fc{int(labels['layer']) + 1}.weight": value
                     for labels, value in body.all("weight_norm") if labels["run"] == run}
            if not norms:
                continue
            candidates = [known.save for known in self.known if known.save.run == run and step in (None, known.save.step)]
            fits = any(oracle.norms(save) == norms for save in candidates)
            self.ledger.check(4, fits, f"exported for {run} at step {step}: {norms}")
            self.ledger.check(3, fits, f"exported for {run} at step {step}: {norms}")

    def idle_descriptors(self, base):
        """At rest there are as many descriptors as after the start, and none of a deleted file."""
        until = time.monotonic() + 10
        while True:
            now = self.daemon.descriptors()
            below = [path for path in now.values() if any(path.startswith(str(root)) for root in self.roots)]
            deleted = [path for path in now.values() if path.endswith(" (deleted)") and "memfd:" not in path]
            if (len(now) <= base and not below and not deleted) or time.monotonic() > until:
                break
            time.sleep(0.1)
        self.ledger.check(10, len(now) <= base, f"{len(now)} descriptors at rest, {base} after the start: {sorted(now.values())}")
        self.ledger.check(10, not below and not deleted, f"held at rest: {below + deleted}")

    def verify_log(self, daemon=None):
        """No message over and over."""
        daemon = daemon or self.daemon
        counts = {}
        minutes = max(1.0, ((daemon.ended or time.monotonic()) - daemon.started) / 60)
        for line in daemon.logged():
            if line.get("level") not in ("WARN", "ERROR"):
                continue
            about = line.get("fields", {})
            words = about.get("message", line.get("text", ""))
            counts[words] = counts.get(words, 0) + (about.get("message") != "anomaly")
            self.ledger.check(12, "panicked" not in json.dumps(line), f"panic: {line}")
        for words, n in counts.items():
            self.ledger.check(12, n / minutes <= MOST_LINES, f"told {n} times in {minutes:.1f} min: {words}")

    def facts(self, body):
        """Series that say something of the runs, not of this process or of when it looked."""
        out = {}
        for series, value in body.samples.items():
            if 'run="' in series and not any(name in series for name in OF_THE_PROCESS):
                out[series] = value
        return out

    def equal_facts(self, one, other, words, exempt=()):
        """Whether two bodies tell the same of all runs, `exempt` ones left out."""
        one, other = ({series: value for series, value in self.facts(body).items() if not any(f'run="{run}"' in series for run in exempt)}
                      for body in (one, other))
        differ = [f"{series}: {one.get(series)} and {other.get(series)}" for series in sorted(one.keys() | other.keys())
                  if not same(one.get(series), other.get(series))]
        self.ledger.check(6, not differ, f"{words}: {len(differ)} of {len(one)} series differ: {differ[:6]}", n=max(len(one), 1))

    def rebuilt(self, patience=BUDGET):
        """The body of a daemon with an empty state directory over the same files."""
        state = self.here / f"rebuilt-{len(self.daemons)}"
        kept, self.state = self.state, state
        try:
            self.start()
            return self.wait_recorded(patience)
        finally:
            self.daemon.stop()
            self.state = kept


def frobenius(row):
    return {matrix["name"]: matrix["frobenius_norm"] for matrix in row["matrices"]}


def same(a, b):
    # Rotations are compared with bases in single precision or with the file.
    return a is not None and b is not None and (a == b or abs(a - b) <= 1e-6 * max(1.0, abs(b)))


__all__ = ["World", "Known", "Skipped", "Unavailable", "frobenius"]
