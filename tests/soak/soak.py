"""S: all trainers at once, faults one after the other, everything recorded: the long run."""
import json
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import act_network
import act_state
import mounts
import oracle
import past
import recorder
from act_system import dripping
from content import SMALL
from daemon import Unavailable
from slope import slope
from world import World

HERE = Path(__file__).resolve().parent
P99 = 0.25
# Longest that a complete save may go unrecorded while nothing is done to the daemon: `settle`, and a budget.
NEED = 20.0
TRAINERS = (
    ("st07", "safetensors-0.7", 4096, 1.5), ("st08", "safetensors-0.8", 1 << 16, 2.0), ("torch", "torch", 4096, 1.5),
    ("dcp", "dcp", SMALL, 1.0), ("full", "preallocate", 1 << 14, 2.0), ("over", "rewrite", SMALL, 1.5), ("plain", "plain", SMALL, 0.5),
)
# Of `settle` 4 s: longer than any stall.
CONFIG = {"quiet": "500ms", "settle": "4s", "settle_network": "12s"}
# What ends or replaces the process is left out of the last half: there memory is measured.
HARD = ("kill", "kill and wait", "power cut", "torn state")
SOFT = ("full disk", "read-only disk", "stopped", "mount hangs", "mount refuses", "dripping clients", "run comes and goes", "odd files")
LETTERS = {"kill": "K", "kill and wait": "K", "power cut": "P", "torn state": "T", "full disk": "E", "read-only disk": "E", "stopped": "I",
           "mount hangs": "N", "mount refuses": "N", "dripping clients": "H", "run comes and goes": "R", "odd files": "R"}


@dataclass(frozen=True)
class Event:
    at: float
    kind: str
    seed: str


def schedule(draw, seconds, gap):
    """What happens when: a function of the draw alone."""
    events, at = [], 8.0
    while at < seconds - 15:
        kinds = HARD + SOFT if at < seconds / 2 else SOFT
        events.append(Event(round(at, 2), draw.choice(kinds), f"{draw.random():.12f}"))
        at += draw.uniform(0.5 * gap, 1.5 * gap)
    return events


class Watched:
    """The recorder and the scraper, processes of their own."""

    def __init__(self, world):
        self.here = world.here
        self.pidfile, self.address, self.runs = (self.here / name for name in ("pid", "address", "widths"))
        self.children = []
        for program, *words in (("recorder.py", world.root, self.pidfile, self.here / "recorded"),
                                ("scraper.py", self.address, self.runs, self.here / "scraped")):
            self.children.append(subprocess.Popen([sys.executable, HERE / program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def now(self, daemon):
        for path, words in ((self.pidfile, str(daemon.pid)), (self.address, daemon.address)):
            other = path.with_name(path.name + ".new")
            other.write_text(words)
            other.rename(path)

    def end(self):
        for child in self.children:
            child.stdin.close()
        for child in self.children:
            child.wait(20)
        return [[json.loads(line) for line in (self.here / name).read_text().splitlines()] for name in ("recorded", "scraped")]


class Soak:
    def __init__(self, lab, name, draw, seconds, gap):
        self.lab, self.ledger, self.name, self.draw, self.seconds = lab, lab.ledger, name, draw, seconds
        self.events = schedule(draw, seconds, gap)
        self.windows, self.clear_since, self.history_from = [], None, 0.0
        self.disk = self.far = None
        self.n_guests = 0

    def run(self):
        state = None
        try:
            place = self.lab.scratch / f"{self.name}-disk"
            self.disk = mounts.Image(self.lab.scratch / f"{self.name}.img", place, "ext4", 64)
            state = place / "state"
            at = self.lab.scratch / f"{self.name}-far"
            self.far = act_network.Far(self.lab.scratch / f"{self.name}-backing", at)
        except mounts.Skipped as why:
            self.ledger.skipped("S", "power cuts, full disks, hanging mounts in the soak", str(why))
        self.world = World(self.lab, self.name, CONFIG, state_dir=state)
        if self.far:
            self.world.far = self.lab.scratch / f"{self.name}-far" / "runs"
            self.world.far.mkdir()
            self.world.roots.append(self.world.far)
        self.watched = None
        try:
            self.watched = Watched(self.world)
            self.train()
        finally:
            if self.far:
                self.far.rules()
            for daemon in self.world.daemons:
                if daemon.alive():
                    daemon.kill()
            if self.watched:
                for child in self.watched.children:
                    child.kill()
            if self.far:
                self.world.roots.pop()
                self.far.end()
            self.world.end()
            if self.disk:
                self.disk.end()

    # The daemon and when it was left alone

    def up(self):
        daemon = self.world.start()
        self.watched.now(daemon)
        body = daemon.wait("the first body", lambda body: True)
        self.clear_since = time.monotonic() + 1.0
        return body

    def impede(self):
        if self.clear_since is not None:
            self.windows.append((self.clear_since, time.monotonic()))
        self.clear_since = None

    def restart(self, why):
        """After whatever: it opens, and what it tells first is what was recorded."""
        before = past.copied(self.world.state)
        self.ledger.check(13, not before.errors, f"{why}: integrity {before.errors[:3]}")
        body = self.up()
        self.ledger.check(13, body.value("state_store_ok") == 1, f"{why}: the state does not open")
        counts = {}
        for row in before.measured():
            counts[row["run"]] = counts.get(row["run"], 0) + 1
        for run, n in counts.items():
            told = body.value("checkpoints_analyzed_total", run=run)
            # A run whose directory is gone may be dropped before we ask.
            self.ledger.check(2, told is None or told >= n, f"{why}: {run} counts {told}, {n} are recorded")

    # The run

    def train(self):
        world = self.world
        keep = 5
        for run, model, width, stall in TRAINERS:
            world.train(run, model, width=width, stall=stall, interval=7.0, keep=keep)
        widths = {run: [width] for run, _, width, _ in TRAINERS}
        if self.far:
            world.train("far", "safetensors-0.7", root=world.far, width=4096, stall=1.0, interval=15.0, keep=keep, retry=2.0)
            widths["far"] = [4096]
        self.watched.runs.write_text(json.dumps(widths))
        start = time.monotonic()
        self.up()
        time.sleep(3)
        base = len(world.daemon.descriptors())
        for event in self.events:
            time.sleep(max(0.0, start + event.at - time.monotonic()))
            if time.monotonic() - start > self.seconds:
                break
            self.inject(event)
        time.sleep(max(0.0, start + self.seconds - time.monotonic()))
        self.ledger.within(f"{self.name}: the end")
        self.end(start, base)

    def inject(self, event):
        self.ledger.within(f"{self.name} at {event.at} s: {event.kind}")
        act = getattr(self, event.kind.replace(" ", "_").replace("-", "_"))
        draw = type(self.draw)(event.seed)
        try:
            act(draw)
            self.ledger.injected(LETTERS[event.kind], f"in the soak: {event.kind}")
        except mounts.Skipped as why:
            self.ledger.skipped(LETTERS[event.kind], f"in the soak: {event.kind}", str(why))
        except Unavailable as why:
            self.ledger.check(11, False, str(why))
            if not self.world.daemon.alive():
                self.up()

    def kill(self, draw):
        self.impede()
        self.world.daemon.kill()
        self.restart("kill")

    def kill_and_wait(self, draw):
        self.impede()
        self.world.daemon.kill()
        time.sleep(draw.uniform(1, 5))
        self.restart("kill and wait")

    def need_disk(self):
        if not self.disk:
            raise mounts.Skipped("no disk of its own")

    def power_cut(self, draw):
        self.need_disk()
        before = past.Recorded(self.world.state)
        self.impede()
        self.disk.cut()
        time.sleep(draw.choice([0, 0.3]))
        self.world.daemon.kill()
        self.disk.power_on()
        lost = set(before.keys()) - set(past.copied(self.world.state).keys())
        self.ledger.check(13, not lost, f"recorded before a power cut and gone after it: {sorted(lost)[:3]}")
        self.restart("power cut")

    def torn_state(self, draw):
        self.impede()
        if draw.random() < 0.5:
            self.world.daemon.kill()
        else:
            self.world.daemon.stop()
        path = self.world.state / past.FILE
        n_aside = len(asides(self.world.state))
        kind, raw = act_state.damages(draw, path.read_bytes())
        path.write_bytes(raw)
        body = self.up()
        self.ledger.check(13, body.value("state_store_ok") == 1, f"{kind}: the state does not open")
        self.ledger.check(13, len(asides(self.world.state)) <= n_aside + 1, f"{kind}: moved aside more than once")
        # What had been deleted by then is known no more.
        self.history_from = time.monotonic()

    def full_disk(self, draw):
        self.need_disk()
        filler = self.world.state.parent / "filler"
        try:
            with open(filler, "wb") as file:
                file.write(bytes(128 << 20))
        except OSError:
            pass
        try:
            self.refused()
        finally:
            filler.unlink()
        act_state.store(self.world, 1, 40)

    def refused(self):
        """Waits until the daemon says that its state is refused; where what it writes found room all the same, it is there."""
        before = len(past.Recorded(self.world.state).keys())
        try:
            self.world.daemon.wait("state_store_ok 0", lambda body: body.value("state_store_ok") == 0, 40)
        except Unavailable as why:
            self.ledger.check(12, len(past.Recorded(self.world.state).keys()) > before, f"{why}, and nothing is written")

    def read_only_disk(self, draw):
        self.need_disk()
        fd = subprocess.run(["mount", "-o", "remount,ro", self.disk.at], capture_output=True)
        if fd.returncode:
            return  # busy: it is written to at this moment
        try:
            act_state.store(self.world, 0, 40)
        finally:
            mounts.remount(self.disk.at, "rw")
        act_state.store(self.world, 1, 40)

    def stopped(self, draw):
        self.impede()
        self.world.daemon.signal(signal.SIGSTOP)
        noise = self.world.root / "noise.tmp"
        until = time.monotonic() + draw.uniform(0.5, 4)
        while time.monotonic() < until:
            for _ in range(500):
                noise.touch()
                noise.unlink()
        self.world.daemon.signal(signal.SIGCONT)
        self.clear_since = time.monotonic() + 1.0

    def need_far(self):
        if not self.far:
            raise mounts.Skipped("no FUSE")

    def mount_hangs(self, draw):
        self.need_far()
        ops = draw.choice([["read"], ["readdir", "opendir"], ["open"], ["getattr", "lookup"], list(act_network.OPS)])
        self.far.rules({"ops": ops, "hang": True, "pid": self.world.daemon.pid})
        time.sleep(draw.uniform(5, 12))
        self.far.rules()

    def mount_refuses(self, draw):
        self.need_far()
        self.far.rules({"ops": [draw.choice(act_network.OPS)], "errno": draw.choice(act_network.ERRORS), "count": draw.choice([1, 10, 100]),
                        "pid": self.world.daemon.pid})
        time.sleep(draw.uniform(1, 5))
        self.far.rules()

    def dripping_clients(self, draw):
        closed = dripping(self.world.daemon.address, 30, 8)
        self.ledger.check(11, closed == 30, f"{closed} of 30 dripping connections closed")

    def run_comes_and_goes(self, draw):
        self.n_guests += 1
        run = f"guest-{self.n_guests}"
        for step in range(1, 4):
            self.world.save(run, draw.choice(["safetensors-0.8", "dcp"]), step)
        self.world.daemon.wait(f"saves of {run}", lambda body: body.total("checkpoints_analyzed_total", run=run) >= 3, 40)
        shutil.rmtree(self.world.root / run)
        for known in self.world.known:
            if known.save.run == run:
                known.gone = known.at
        deadline = time.monotonic() + 8
        while run in self.world.daemon.metrics().runs() and time.monotonic() < deadline:
            time.sleep(0.1)
        body = self.world.daemon.metrics()
        left = [series for series in body.samples if f'run="{run}"' in series]
        self.ledger.check(5, not left, f"a run that is gone for 8 s has {len(left)} series: {left[:3]}")

    def odd_files(self, draw):
        """What no trainer writes, where trainers write."""
        odd = self.world.root / f"odd-{draw.randrange(10_000)}" / "checkpoint-1"
        odd.mkdir(parents=True)
        import os
        os.mkfifo(odd / "model.safetensors")
        os.symlink("/etc/passwd", odd / "pytorch_model.bin")
        os.symlink("model.safetensors.index.json", odd / "model.safetensors.index.json")
        (odd / "trainer_state.json").write_text("{" * draw.randrange(1, 10_000))
        time.sleep(2)
        shutil.rmtree(odd.parent)

    # The end

    def end(self, start, base):
        world, ledger = self.world, self.ledger
        if self.far:
            self.far.rules()
        self.impede()
        world.finish_trainers()
        body = world.wait_recorded(60)
        recorded = world.verify(body)
        self.complete(recorded)
        world.idle_descriptors(base)
        world.verify_log()
        process, scrapes = self.watched.end()
        self.of_process(process, start)
        self.of_scrapes(scrapes)
        ledger.check(8, world.daemon.stop() == 0, "stops with 0")
        world.start()
        world.daemon.wait("the first body", lambda body: True)
        again = world.wait_recorded()
        if body and again:
            # A run whose directory is not there at the start has a minute: so has a mount that comes late.
            guests = {f"guest-{index}" for index in range(1, self.n_guests + 1)}
            world.equal_facts(again, body, "after a restart", exempt=guests)
        world.daemon.stop()
        n = len(world.known)
        ledger.injected("S", "soak", 1, worst={"minutes": round(self.seconds / 60, 1)}, saves=n, recorded=len(recorded.measured()))

    def complete(self, recorded):
        """What stood for long enough while the daemon was left alone is recorded, also where rotation has taken it since."""
        found = {}
        for row in recorded.measured():
            found.setdefault(row["path"], []).append({matrix["name"]: matrix["frobenius_norm"] for matrix in row["matrices"]})
        n_due = 0
        for known in self.world.known:
            if known.save.run == "far" or known.gone is None:
                continue
            longest = max((min(known.gone, to) - max(known.at, since) for since, to in self.windows if to > self.history_from), default=0.0)
            if longest >= NEED:
                n_due += 1
                holds = oracle.norms(known.save) in found.get(str(Path(known.path).resolve()), [])
                self.ledger.check(1, holds, f"{known.save.run}/{known.save.step} stood for {longest:.0f} s and is not recorded")
        self.ledger.injected("S", "saves due, deleted since by rotation", n_due)

    def of_process(self, lines, start):
        ledger = self.ledger
        samples = [line for line in lines if "VmRSS" in line]
        for line in lines:
            if "held" in line:
                ledger.check(10, False, f"a deleted file is held for {line['seconds']:.1f} s: {line['held']}")
        changes = next(line for line in lines if "changes" in line)
        if changes["why"]:
            ledger.skipped("-", "changes below the roots by process", changes["why"])
        else:
            known = self.lab.daemons
            ours = {pid: about for pid, about in changes["changes"].items() if int(pid) in known and not of_another(known[int(pid)], about)}
            n_others = sum(about["n"] for pid, about in changes["changes"].items() if int(pid) not in known)
            ledger.check(7, not ours, f"changes below the roots by the daemon: {ours}", n=max(n_others, 1))
            ledger.injected("-", "changes below the roots, seen by fanotify", n_others, by_the_daemon=sum(one["n"] for one in ours.values()))
        for pid in {line["pid"] for line in samples}:
            mine = [line for line in samples if line["pid"] == pid]
            settled = [line for line in mine if line["at"] - mine[0]["at"] > 5]
            ledger.check(10, all(line["children"] == 0 for line in mine), f"children: {max(line['children'] for line in mine)}", n=len(mine))
            if settled:
                threads = [line["Threads"] for line in settled]
                ledger.check(10, max(threads) - min(threads) <= 4, f"between {min(threads)} and {max(threads)} threads", n=len(settled))
            ledger.check(9, max(line["VmHWM"] for line in mine) <= 160 << 10, f"peak of {max(line['VmHWM'] for line in mine) >> 10} MiB", n=len(mine))
        self.memory([(line["at"], line["VmRSS"] / 1024) for line in samples if line["pid"] == self.world.daemon.pid
                     and line["at"] > start + self.seconds / 2])

    def memory(self, points):
        """MB an hour over the last half, with its error; no verdict where the time is too short to tell 1 MB from noise."""
        found = slope(points)
        if found is None:
            self.ledger.skipped("S", "slope of VmRSS", f"{len(points)} samples of the last half are too few")
            return
        per_hour, error, minutes = found
        words = f"VmRSS rises by {per_hour:.2f} ± {error:.2f} MB/h over the last {minutes:.0f} min (95 %)"
        print(words, flush=True)
        self.ledger.injected("S", "slope of VmRSS over the last half", 1, worst={"MB/h": round(per_hour, 2), "±": round(error, 2), "minutes": round(minutes, 1)})
        self.ledger.check(9, per_hour - error <= 1.0, words)

    def of_scrapes(self, lines):
        ledger = self.ledger
        for line in lines:
            if "kind" in line:
                number = {"doubled": 5, "fallen": 2, "value": 4}[line["kind"]]
                ledger.check(number, False, f"scraped: {line['words']}")
        total = next((line for line in lines if "total" in line), None)
        for kind, number in (("doubled", 5), ("counters", 2), ("values", 4), ("values", 3)):
            ledger.check(number, True, n=max(total["checks"][kind], 1))
        latencies = [line["seconds"] for line in lines if line.get("status") == 200]
        p99 = act_network.percentile(latencies, 0.99)
        ledger.check(11, p99 < P99, f"p99 of {len(latencies)} scrapes is {p99:.3f} s", n=len(latencies))
        # While nothing was done to it, it answers.
        missed = [line for line in lines if line.get("status") == 0 and any(since + 1 < line["at"] < to - 1 for since, to in self.windows)]
        ledger.check(11, not missed, f"{len(missed)} scrapes without an answer though the daemon was left alone: {missed[:2]}")
        ledger.injected("S", "scrapes", total["total"], worst={"p99 ms": round(1000 * p99, 1)}, distinct_bodies=total["distinct"])


def of_another(daemon, about):
    """Whether no change is the daemon's: another process had its number before or after it, or what its parent, which is this one, had
    open when it was made was closed before it was a daemon."""
    def is_its_own(words, at):
        lived = daemon.started <= at <= (daemon.ended or math.inf) + 2 * recorder.SLICE
        was_parents = words == ["close_write"] and daemon.told_at and at < daemon.told_at + 2 * recorder.SLICE
        return lived and not was_parents
    return about["n"] == len(about["what"]) and not any(is_its_own(words, at) for words, _, at in about["what"])


def asides(state):
    return [path for path in state.glob("*.corrupt-*") if not path.name.endswith("-journal")]


def soak(lab, name, draw, seconds=120.0, gap=9.0):
    Soak(lab, name, draw, seconds, gap).run()


__all__ = ["soak", "schedule", "threading"]
