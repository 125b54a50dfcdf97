"""C, I, M, B, H: clocks that jump, events that are lost, little memory and CPU, a full directory at the start, rude clients."""
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import mounts
import trainer
from act_kill import opened
from act_network import check_latencies, percentile, scrape_for
from content import Save
from daemon import Unavailable
from world import World

FAKETIME = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
START = 61
JUMPS = ("-10d", "+10d", "-1h", "+1h", "+3600d", "-3600d", "+0")
HERE = Path(__file__).resolve().parent


def library():
    for pattern in FAKETIME:
        found = sorted(Path("/").glob(pattern[1:]))
        if found:
            return str(found[0])
    raise mounts.Skipped("libfaketime is not installed")


def clocks(lab, name, draw, n=6):
    """The wall clock jumps under the daemon, and files come from 1970 and 2040."""
    world = World(lab, name)
    offset = world.here / "clock"
    offset.write_text("+0\n")
    env = {"LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1", "NO_FAKE_STAT": "1"}
    try:
        world.start(env=env)
        # Of what is seen in the first minute it cannot be known whether it lay there before.
        time.sleep(START)
        step = 0
        for _ in range(n):
            jump = draw.choice(JUMPS)
            lab.ledger.within(f"{name}: {jump}")
            offset.write_text(f"{jump}\n")
            start = time.monotonic()
            for model in draw.sample(["safetensors-0.7", "safetensors-0.8", "dcp", "torch", "plain"], 2):
                step += 1
                known = world.save(model, model, step)
                if draw.random() < 0.5:
                    when = draw.choice([0, 1, 2_208_988_800, 2_240_611_200])  # 1970 and 2040
                    touch(known, when)
                    lab.ledger.injected("C", "clock jumps; files of 1970 and 2040", 1, files_of_another_time=1)
            body = world.wait_recorded()
            took = time.monotonic() - start
            lab.ledger.injected("C", "clock jumps; files of 1970 and 2040", 1, jumps=1)
            if body:
                inactive = [run for run in body.runs() if body.value("run_active", run=run) != 1]
                lab.ledger.check(5, not inactive, f"{inactive} are taken for ended after a jump of the clock")
            lab.ledger.check(11, took < 30, f"recorded only after {took:.0f} s")
        lab.ledger.within(name)
        recorded = world.verify(body)
        # The proof that the clock did jump.
        spread = [row["analyzed_at"] for row in recorded.saves]
        lab.ledger.check(12, max(spread) - min(spread) > 3000, f"the clock of the daemon did not jump: {spread}")
        world.verify_log()
        lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
        offset.write_text("+0\n")
        opened(world)
        world.verify(world.wait_recorded())
        world.daemon.stop()
    finally:
        world.end()


def touch(known, when):
    path = Path(known.path)
    for file in [path] if path.is_file() else list(path.iterdir()):
        os.utime(file, (when, when))
    stamp = trainer.stamp(path)
    known.mtime_ns, known.size = stamp["mtime_ns"], stamp["size"]


def overflow(lab, name, draw, n=2):
    """More events than the queue holds while the daemon stands still. No scan would come for ten minutes."""
    world = World(lab, name, {"scan_interval": "10min"})
    try:
        world.start()
        world.save("run", "safetensors-0.7", 1)
        world.wait_recorded()
        n_events = 20_000
        for turn in range(n):
            world.daemon.signal(signal.SIGSTOP)
            noise = world.root / "run" / "noise.tmp"
            for _ in range(n_events // 4):
                # Made, opened, closed, removed.
                with open(noise, "wb"):
                    pass
                os.unlink(noise)
            # Of these nobody hears a word.
            for offset, model in enumerate(("safetensors-0.8", "dcp", "staged")):
                world.save("run" if offset == 0 else model, model, 10 * (turn + 1) + offset)
            world.daemon.signal(signal.SIGCONT)
            start = time.monotonic()
            body = world.wait_recorded(45)
            lab.ledger.injected("I", "inotify queue overflow (20 000 events)", 1, worst={"recorded within s": round(time.monotonic() - start, 1)})
        world.verify(body)
        world.verify_log()
        lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
    finally:
        world.end()


def no_watches(lab, name, draw):
    """The kernel gives three watches, or no inotify at all: polling, and it says so."""
    mounts.need("unshare")
    for what, limit in (("max_inotify_watches", 3), ("max_inotify_instances", 0)):
        script = f'echo {limit} > /proc/sys/user/{what} || exit 9; exec "$@"'
        if subprocess.run(["unshare", "-Ur", "sh", "-c", script, "sh", "true"], capture_output=True).returncode:
            raise mounts.Skipped("no user namespaces")
        world = World(lab, f"{name}-{what}")
        try:
            world.save("a", "safetensors-0.7", 1)
            world.start(wrap=["unshare", "-Ur", "sh", "-c", script, "sh"])
            for step in range(2, 5):
                for run in "abcd":
                    world.save(run, draw.choice(["safetensors-0.7", "safetensors-0.8", "dcp"]), step)
            body = world.wait_recorded()
            polls = body.value("watch_mode", root=str(world.root), mode="polling") if body else None
            lab.ledger.check(12, polls == 1, f"watch_mode polling is {polls} with {what} = {limit}")
            world.verify(body)
            world.verify_log()
            lab.ledger.injected("I", "no watches left: 3 watches, 0 instances", 1, polled=int(polls == 1))
            lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
        finally:
            world.end()


class Cgroup:
    """A memory and CPU cgroup of version 1 or 2, whichever has the controllers."""

    def __init__(self, name):
        mounts.need_root("a cgroup")
        base = Path("/sys/fs/cgroup")
        self.v1 = (base / "memory").is_dir()
        if self.v1:
            self.memory, self.cpu = base / "memory" / name, base / "cpu" / name
        elif (base / "cgroup.controllers").exists() and "memory" in (base / "cgroup.subtree_control").read_text():
            self.memory = self.cpu = base / name
        else:
            raise mounts.Skipped("no memory cgroup")
        self.places = list(dict.fromkeys([self.memory, self.cpu]))
        for place in self.places:
            place.mkdir()

    def limit(self, n_bytes, percent):
        if self.v1:
            (self.memory / "memory.limit_in_bytes").write_text(str(n_bytes))
            (self.cpu / "cpu.cfs_period_us").write_text("100000")
            (self.cpu / "cpu.cfs_quota_us").write_text(str(1000 * percent))
        else:
            (self.memory / "memory.max").write_text(str(n_bytes))
            (self.memory / "cpu.max").write_text(f"{1000 * percent} 100000")

    def take(self, pid):
        for place in self.places:
            (place / "cgroup.procs").write_text(str(pid))

    def n_killed(self):
        file = self.memory / ("memory.oom_control" if self.v1 else "memory.events")
        return next((int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill ")), 0)

    def end(self):
        for place in self.places:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    place.rmdir()
                    break
                time.sleep(0.05)


def little(lab, name, draw, n=2):
    """128 MB more than at rest and a twentieth of a core; saves of 8 MB."""
    group = Cgroup(f"weightvane-test-{os.getpid()}-{name}")
    world = World(lab, name, {"memory_limit": "32MiB"})
    try:
        daemon = world.start()
        time.sleep(2)
        idle, program = daemon.status("VmRSS") << 10, daemon.status("RssFile") << 10
        group.limit(idle + (128 << 20), draw.choice([5, 5, 20]))
        group.take(daemon.pid)
        start = time.monotonic()
        for step in range(1, n + 1):
            world.save("large", draw.choice(["safetensors-0.8", "torch", "dcp"]), step, width=1 << 17)
            world.save("small", "safetensors-0.7", step)
        latencies = scrape_for(world, 5, pause=0.2)
        body = world.wait_recorded(300)
        lab.ledger.check(9, group.n_killed() == 0, f"{group.n_killed()} killed for want of memory")
        lab.ledger.injected("M", "memory cgroup of idle + 128 MB, 5 or 20 % of a core, saves of 8 MB", n,
                            worst={"recorded within s": round(time.monotonic() - start), "p99 ms": round(1000 * percentile(latencies, 0.99))})
        # More of the program itself is in memory than at rest; it is counted where it was read first.
        peak = ((daemon.status("VmHWM") - daemon.status("RssFile")) << 10) + program if daemon.alive() else 0
        lab.ledger.check(9, peak <= idle + (128 << 20), f"peak of {peak >> 20} MiB over {idle >> 20} MiB at rest")
        world.verify(body)
        world.verify_log()
        daemon.stop()
    finally:
        world.end()
        group.end()


def backlog(lab, name, draw, n=1500):
    """Thousands of saves lie there at the start, and a directory of malformed files is dropped in."""
    world = World(lab, name, {"settle": "1s"})
    try:
        runs = [f"run-{index}" for index in range(5)]
        for step in range(1, n // len(runs) + 1):
            for run in runs:
                world.save(run, "safetensors-0.8", step)
        daemon = world.start()
        ready = time.monotonic() - daemon.started
        body = daemon.wait("the first body", lambda body: True, 10)
        first = time.monotonic() - daemon.started
        lab.ledger.check(11, first < 2.0, f"/metrics answers {first:.1f} s after the start, the address was told after {ready:.1f} s")
        newest = n // len(runs)

        def is_current(body):
            return len(body.runs()) == len(runs) and all((body.value("checkpoint_analyzed_step", run=run) or 0) > 0 for run in runs)
        body = daemon.wait("the first saves", is_current)
        steps = {run: body.value("checkpoint_analyzed_step", run=run) for run in runs}
        lab.ledger.check(11, all(step == newest for step in steps.values()), f"not the newest first: {steps}")
        corpus = world.root / "hostile"
        subprocess.run([sys.executable, HERE.parent / "e2e/hostile_files.py", corpus], stdout=subprocess.DEVNULL, check=True)
        latencies = scrape_for(world, 5, pause=0.1)
        check_latencies(world, latencies, "with thousands of saves waiting")
        # Patience for what cannot be measured: it is tried again a few times.
        body = world.wait_recorded(240)
        peak = daemon.status("VmHWM")
        lab.ledger.check(9, peak <= (24 + 64 + 64) << 10, f"peak of {peak >> 10} MiB with {n} saves waiting and hostile files beside them")
        lab.ledger.check(14, not list(Path(world.here).rglob("PWNED*")) and not list(world.root.rglob("PWNED*")), "a hostile file was obeyed")
        lab.ledger.injected("B", f"start with {n} saves, hostile files dropped in", 1, worst={"first answer ms": round(1000 * first), "peak MiB": peak >> 10})
        hostile = {run for run in body.runs() if run.startswith("hostile")} if body else set()
        world.verify(body, exempt=hostile)
        daemon.stop()
    finally:
        world.end()


def dripping(address, n, hold):
    """Connections that say a byte now and then; how many were closed by the other side in that time."""
    host, port = address.split(":")
    all_of_them = []
    for index in range(n):
        one = socket.create_connection((host, int(port)), timeout=5)
        one.setblocking(False)
        with contextlib.suppress(OSError):
            one.send([b"", b"G", b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: "][index % 3])
        all_of_them.append(one)
    until, closed = time.monotonic() + hold, set()
    while time.monotonic() < until and len(closed) < n:
        for index, one in enumerate(all_of_them):
            if index in closed:
                continue
            try:
                if index % 3 == 2:
                    one.send(b"a")
                if one.recv(4096) == b"":
                    closed.add(index)
            except BlockingIOError:
                pass
            except OSError:
                closed.add(index)
        time.sleep(0.25)
    for one in all_of_them:
        one.close()
    return len(closed)


def rude_clients(lab, name, draw, n=3):
    """Slow and many clients, and kills in the middle of answers: no short body passes for a whole one."""
    world = World(lab, name)
    try:
        for step in range(1, 4):
            world.save("run", "safetensors-0.7", step)
        world.start()
        world.wait_recorded()
        threads_before = world.daemon.status("Threads")
        closed = []
        slow = threading.Thread(target=lambda: closed.append(dripping(world.daemon.address, 120, 8)))
        slow.start()
        latencies = scrape_for(world, 7, pause=0.02)
        slow.join()
        p99 = check_latencies(world, latencies, "with 120 dripping connections")
        lab.ledger.check(11, closed == [120], f"{closed} of 120 dripping connections are closed after 8 s")
        lab.ledger.injected("H", "connections that drip", 120, closed=closed[0], worst={"p99 ms meanwhile": round(1000 * p99)})
        threads = world.daemon.status("Threads")
        lab.ledger.check(10, threads <= threads_before, f"{threads} threads after them, {threads_before} before")
        for _ in range(n):
            kill_during_scrapes(lab, world, draw)
        opened(world)
        world.verify(world.wait_recorded())
        world.daemon.stop()
    finally:
        world.end()


def kill_during_scrapes(lab, world, draw):
    daemon = world.daemon if world.daemon.alive() else world.start()
    daemon.wait("a body", lambda body: True)
    whole = short = failed = 0
    stop = threading.Event()

    def scrape():
        nonlocal whole, short, failed
        host, port = daemon.address.split(":")
        while not stop.is_set():
            connection = http.client.HTTPConnection(host, int(port), timeout=5)
            try:
                connection.request("GET", "/metrics")
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    failed += 1
                elif b"process_start_time_seconds" in text and text.endswith(b"\n"):
                    whole += 1
                else:
                    short += 1
            except (OSError, http.client.HTTPException):
                failed += 1
                time.sleep(0.01)
            finally:
                connection.close()
    threads = [threading.Thread(target=scrape) for _ in range(8)]
    for one in threads:
        one.start()
    time.sleep(draw.uniform(0.2, 1.0))
    daemon.kill()
    stop.set()
    for one in threads:
        one.join()
    lab.ledger.check(5, short == 0, f"{short} bodies were cut off and taken for whole")
    lab.ledger.injected("H", "SIGKILL in the midst of scrapes", 1, whole_answers=whole, refused=failed)


__all__ = ["clocks", "overflow", "no_watches", "little", "backlog", "rude_clients", "Save", "Unavailable", "shutil"]
