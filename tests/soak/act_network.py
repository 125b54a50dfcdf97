"""N: the roots lie on a file system that refuses, waits, hangs and forgets."""
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import mounts
from act_files import verify_true
from content import SMALL
from daemon import Unavailable
from world import World

HERE = Path(__file__).resolve().parent
P99 = 0.25
OPS = ("lookup", "getattr", "open", "read", "opendir", "readdir")
ERRORS = ("ESTALE", "EIO", "EACCES")
# On a network file system nothing is read before it was quiet for ten seconds.
QUIET = 10


class Far:
    """The file system, in a process of its own."""

    def __init__(self, backing, at):
        mounts.need_root("mounting")
        if not os.path.exists("/dev/fuse"):
            raise mounts.Skipped("/dev/fuse is missing")
        for place in (backing, at):
            place.mkdir(parents=True, exist_ok=True)
        self.at = at
        self.child = subprocess.Popen([sys.executable, HERE / "faultfs.py", backing, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self.child.stdout.readline().strip()
        if said != "mounted":
            raise mounts.Skipped(f"FUSE: {said}")

    def rules(self, *rules):
        self.child.stdin.write(json.dumps({"rules": rules}) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def end(self):
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        mounts.unmount(self.at, 1)


@contextlib.contextmanager
def far_and_near(lab, name, config=None):
    """A world whose first root is near and whose second is far."""
    at = lab.scratch / f"{name}-far"
    far = Far(lab.scratch / f"{name}-backing", at)
    try:
        world = World(lab, name, {"quiet": "300ms", "settle": "2s", "settle_network": "12s", **(config or {})})
        world.far = at / "runs"
        world.far.mkdir()
        world.roots.append(world.far)
        try:
            yield world, far
        finally:
            far.rules()
            for daemon in world.daemons:
                if daemon.alive():
                    daemon.kill()
            world.roots.pop()
            world.end()
    finally:
        far.end()


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def scrape_for(world, seconds, pause=0.05, meanwhile=lambda: None):
    """Latencies of /metrics for a while; what does not answer counts as ten seconds."""
    latencies, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        start = time.monotonic()
        try:
            status, _ = world.daemon.ask()
            latencies.append(time.monotonic() - start if status == 200 else 10.0)
        except Unavailable:
            latencies.append(10.0)
        meanwhile()
        time.sleep(pause)
    return latencies


def check_latencies(world, latencies, words):
    p99 = percentile(latencies, 0.99)
    world.ledger.check(11, p99 < P99, f"{words}: p99 {p99:.3f} s of {len(latencies)} scrapes, median {statistics.median(latencies):.4f} s", n=len(latencies))
    return p99


def refusals(lab, name, draw, n=8):
    """ESTALE, EIO, EACCES of single operations, a few or many times; afterwards all is recorded and nothing was blamed on the weights."""
    what = "ESTALE, EIO, EACCES on open, read, getattr, readdir"
    with far_and_near(lab, name) as (world, far):
        world.start()
        world.save("near", "dcp", 1)
        for step in range(1, 4):
            world.save("far", "safetensors-0.8", step, root=world.far)
            world.save("torch", "torch", step, root=world.far)
        time.sleep(QUIET - 2)
        injected = 0
        for _ in range(n):
            rule = {"ops": [draw.choice(OPS)], "errno": draw.choice(ERRORS), "count": draw.choice([1, 1, 3, 10, 100]), "pid": world.daemon.pid}
            lab.ledger.within(f"{name}: {rule['ops'][0]} {rule['errno']} × {rule['count']}")
            before = far.rules(rule)["hits"]
            time.sleep(draw.uniform(0.3, 2.5))
            hits = far.rules()["hits"] - before
            injected += 1
            lab.ledger.injected("N", what, 1, operations_refused=hits)
            lab.ledger.check(11, world.daemon.alive(), f"fell: {world.daemon.log_text()[-800:]}")
        lab.ledger.within(name)
        world.save("far", "safetensors-0.7", 9, root=world.far)
        world.save("near", "dcp", 2)
        body = world.wait_recorded(90)
        world.verify(body)
        if body:
            for reason in ("malformed", "internal", "limit"):
                n_failed = body.total("checkpoint_failures_total", reason=reason)
                lab.ledger.check(12, n_failed == 0, f"{n_failed} failures of kind {reason} though only the file system failed")
        world.verify_log()
        lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")


def denied(lab, name, draw):
    """EACCES that lasts: unreadable, not corrupt; a scan error where it is a directory; gone with its cause."""
    with far_and_near(lab, name) as (world, far):
        world.start()
        world.save("far", "safetensors-0.8", 1, root=world.far)
        errno, pid = draw.choice(["EACCES", "EIO"]), world.daemon.pid
        far.rules({"ops": ["open", "read"], "errno": errno, "pid": pid, "path": "model.safetensors"})
        try:
            body = world.daemon.wait("the failure", lambda body: body.value("checkpoint_readable", run="far") == 0, 100)
            n_failed = body.total("checkpoint_failures_total", run="far", reason="unreadable")
            lab.ledger.check(12, n_failed == 1, f"{n_failed} failures of kind unreadable for {errno} on open and read")
            lab.ledger.check(12, body.total("checkpoint_failures_total", run="far", reason="malformed") == 0, f"malformed for {errno}")
        except Unavailable as why:
            lab.ledger.check(12, False, f"{errno} on open and read shows nowhere: {why}")
        errors = world.daemon.metrics().value("scan_errors_total")
        far.rules({"ops": ["opendir", "readdir"], "errno": errno, "pid": pid})
        try:
            world.daemon.wait("scan errors", lambda body: body.value("scan_errors_total") > errors, 30)
            lab.ledger.check(12, True)
        except Unavailable as why:
            lab.ledger.check(12, False, f"{errno} on readdir shows nowhere: {why}")
        # A run whose directory cannot be seen is not gone.
        time.sleep(2)
        lab.ledger.check(5, "far" in world.daemon.metrics().runs(), f"a run is taken for gone while its directory answers {errno}")
        far.rules()
        body = world.wait_recorded(120)
        world.verify(body)
        world.verify_log()
        lab.ledger.injected("N", "lasting EACCES, EIO", 2, told_and_over=2)


def hang(lab, name, draw, seconds=20):
    """The server stops answering. Scrapes, the other root and its saves do not notice."""
    what = f"a mount that hangs for {seconds} s, another root beside it"
    with far_and_near(lab, name) as (world, far):
        world.start()
        for step in (1, 2):
            world.save("far", "safetensors-0.8", step, width=draw.choice([SMALL, 1 << 16]), root=world.far)
        world.save("near", "safetensors-0.7", 1)
        world.daemon.wait("the near run", lambda body: body.total("checkpoints_analyzed_total", run="near") == 1)
        ops = draw.choice([["read"], ["readdir", "opendir"], ["open"], ["getattr", "lookup"], list(OPS)])
        lab.ledger.within(f"{name}: {ops}")
        # A save is opened and read, anything else is done by every scan.
        of_saves = ops in (["read"], ["open"])
        far.rules({"ops": ops, "hang": True, "pid": world.daemon.pid, **({"path": "model.safetensors"} if of_saves else {})})
        if of_saves:
            world.save("far", "safetensors-0.8", 3, root=world.far)
        time.sleep(QUIET + 2)
        start, near = time.monotonic(), []

        def meanwhile():
            if time.monotonic() - start > 2 * len(near) and time.monotonic() - start < seconds - 8:
                near.append(world.save("near", draw.choice(["safetensors-0.7", "safetensors-0.8"]), 2 + len(near)))
        latencies = scrape_for(world, seconds, meanwhile=meanwhile)
        p99 = check_latencies(world, latencies, f"while {ops} hang")
        body = world.daemon.metrics()
        done = body.total("checkpoints_analyzed_total", run="near") if body else 0
        lab.ledger.check(11, done == 1 + len(near), f"{done} of {1 + len(near)} saves on the healthy root are measured while {ops} hang on the other")
        age = time.time() - (body.value("last_scan_timestamp_seconds") or 0) if body else 0
        up = body.value("root_up", root=str(world.far)) if body else None
        shows = up == 0 and (of_saves or age > seconds / 2)
        lab.ledger.check(12, shows, f"after {seconds} s of hanging in {ops} the oldest scan is said to be {age:.0f} s old, and the root's answer {up}")
        lab.ledger.injected("N", what, 1, worst={"p99 ms": round(1000 * p99)}, scrapes=len(latencies), saves_on_the_other_root=int(done) - 1)
        far.rules()
        body = world.wait_recorded(120)
        world.verify(body)
        world.verify_log()
        lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")


def hang_long(lab, name, draw):
    hang(lab, name, draw, 60)


def silly_renames(lab, name, draw, n=12):
    """rmtree of what is being read, where an open file keeps its directory: it succeeds within two seconds."""
    what = "rmtree against a slow reader where open files hold the directory (as NFS)"
    with far_and_near(lab, name) as (world, far):
        for index in range(n):
            world.save(f"run-{index:02d}", "safetensors-0.8", 1, 1 << 16, root=world.far)
        world.start()
        far.rules({"ops": ["read"], "delay": draw.choice([0.1, 0.3, 0.5]), "pid": world.daemon.pid, "path": "model.safetensors"})
        until, removed, slowest = time.monotonic() + QUIET + 8 * n, 0, 0.0
        while removed < n and time.monotonic() < until:
            paths = [path for path in world.daemon.descriptors().values() if path.startswith(str(world.far)) and path.endswith(".safetensors")]
            if not paths:
                time.sleep(0.005)
                continue
            save = Path(paths[0]).parent
            time.sleep(draw.uniform(0, 0.5))
            if not save.exists():
                continue
            world.removed(save)
            start, tries, why = time.monotonic(), 0, None
            while save.exists():
                tries += 1
                try:
                    shutil.rmtree(save)
                except OSError as failure:
                    why = failure
                    if time.monotonic() - start > 2.0:
                        break
                    time.sleep(0.05)
            took = time.monotonic() - start
            slowest, removed = max(slowest, took), removed + 1
            lab.ledger.check(8, not save.exists(), f"rmtree fails for {took:.1f} s, {tries} tries: {why}")
            shutil.rmtree(save, ignore_errors=True)
        hits = far.rules()
        lab.ledger.injected("N", what, removed, worst={"slowest s": round(slowest, 2)}, open_files_hidden=hits["silly"])
        world.save("stays", "safetensors-0.8", 1, root=world.far)
        body = world.wait_recorded(90)
        runs = {known.save.run for known in world.known if known.gone}
        world.verify(body, exempt=runs)
        verify_true(world, runs)
        left = list(world.far.rglob(".nfs*"))
        lab.ledger.check(7, not left, f"left behind: {left}")
        world.verify_log()


def lies(lab, name, draw):
    """Short reads change nothing; flipped bits are no reason to fall."""
    with far_and_near(lab, name) as (world, far):
        world.start()
        far.rules({"ops": ["read"], "short": True, "pid": world.daemon.pid})
        for step, model in enumerate(["safetensors-0.8", "torch", "dcp"], 1):
            world.save(model, model, step, draw.choice([SMALL, 4096]), root=world.far)
        body = world.wait_recorded(90)
        world.verify(body)
        hits = far.rules({"ops": ["read"], "flip": True, "pid": world.daemon.pid})["hits"]
        lab.ledger.injected("N", "short reads, flipped bits, slow answers", hits, short_reads=hits)
        for step in range(11, 14):
            for model in ("safetensors-0.8", "torch", "dcp"):
                world.save(f"lies-{model}", model, step, root=world.far)
        time.sleep(QUIET + 5)
        lab.ledger.check(11, world.daemon.alive(), f"fell over flipped bits: {world.daemon.log_text()[-1000:]}")
        flipped = far.rules({"ops": list(OPS), "delay": 0.05, "pid": world.daemon.pid})["hits"] - hits
        for model in ("safetensors-0.8", "torch", "dcp"):
            # What was read wrong is of no save; that nobody can tell.
            for known in world.known:
                if known.save.run == f"lies-{model}":
                    known.gone = time.monotonic()
            shutil.rmtree(world.far / f"lies-{model}")
        world.save("slow", "safetensors-0.8", 21, root=world.far)
        body = world.wait_recorded(120)
        hits = far.rules()["hits"] - flipped - hits
        lab.ledger.injected("N", "short reads, flipped bits, slow answers", flipped + hits, flipped_bits=flipped, slow_answers=hits)
        world.verify(body, exempt={known.save.run for known in world.known if known.save.run.startswith("lies-")})
        world.verify_log()
        lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
