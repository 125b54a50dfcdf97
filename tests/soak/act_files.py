"""R, O and the races: trainers delete, rename, replace and write over what is being read."""
import contextlib
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import mounts
import oracle
import trainer
import writers
from content import SMALL, Save
from daemon import Unavailable
from lab import is_root
from world import World

# Columns of the first matrix: 4 to 32 MB.
WIDE = (1 << 16, 1 << 17, 1 << 19)
# The promise, and what a machine that does other things adds.
CLOSED_WITHIN = 1.0
FREE_WITHIN = 2.0


def holds_deleted(daemon, root):
    links = daemon.descriptors().values()
    return [path for path in links if path.endswith(" (deleted)") and path.startswith(str(root))]


def open_below(daemon, root):
    return [path for path in daemon.descriptors().values() if path.startswith(f"{root}/") and "safetensors" in path]


def wait_reading(world, patience):
    """Whether a file below the roots was seen open."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if open_below(world.daemon, world.root):
            return True
    return False


def closed(world, since):
    """No descriptor of a deleted file outlives its deletion for more than a second."""
    while held := holds_deleted(world.daemon, world.root):
        if time.monotonic() - since > CLOSED_WITHIN:
            break
        time.sleep(0.01)
    world.ledger.check(10, not held, f"still held {time.monotonic() - since:.1f} s after its deletion: {held}")


def free(path):
    stat = os.statvfs(path)
    return stat.f_bfree * stat.f_bsize


def remove_whole(world, path, size, draw):
    """rmtree as rotation does it: it does not fail, and the space comes back."""
    before = free(world.root)
    shutil.rmtree(path)
    since = time.monotonic()
    closed(world, since)
    if world.owns_disk:
        while free(world.root) - before < size * 0.9 and time.monotonic() - since < FREE_WITHIN:
            time.sleep(0.02)
        back = free(world.root) - before
        world.ledger.check(8, back >= size * 0.9, f"{back} of {size} bytes are free again {time.monotonic() - since:.1f} s after rmtree")


def rename_away(world, path, size, draw):
    os.rename(path, path.with_name(f"tmp-{path.name}"))


def renumber(world, path, size, draw):
    """Under another step's name it is a save of its own: it is recorded once under each at most."""
    to = path.with_name(f"checkpoint-{draw.randrange(10_000, 99_999)}")
    os.rename(path, to)


def replace(make):
    def act(world, path, size, draw):
        file = path / "model.safetensors"
        os.unlink(file)
        since = time.monotonic()
        make(file, world)
        closed(world, since)
    act.__name__ = make.__name__
    return act


def by_a_link_out(file, world):
    outside = world.here / "outside.safetensors"
    outside.write_bytes(b"not for you")
    os.symlink(outside, file)


def by_a_dangling_link(file, world):
    os.symlink("nowhere", file)


def by_a_loop(file, world):
    os.symlink(file.name, file)


def by_a_fifo(file, world):
    os.mkfifo(file)


def by_a_directory(file, world):
    file.mkdir()


def by_a_socket(file, world):
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as one:
        # A path of a socket may have 107 bytes.
        link = world.here / "s"
        if not link.exists():
            os.symlink(file.parent, link)
        try:
            one.bind(f"{link}/{file.name}")
        except OSError:
            os.chdir(here)


def by_nothing(file, world):
    pass


def by_half(file, world):
    file.write_bytes(b"\x10")


REMOVALS = [remove_whole] * 4 + [rename_away, renumber] + [replace(make) for make in (
    by_a_link_out, by_a_dangling_link, by_a_loop, by_a_fifo, by_a_directory, by_a_socket, by_nothing, by_half)]


def removals(lab, name, draw, n=8):
    """Large saves go, or turn into something else, while they are read."""
    with contextlib.ExitStack() as stack:
        place = None
        if is_root():
            # A disk of its own, whose free space nobody else changes.
            place = lab.scratch / f"{name}-disk"
            stack.enter_context(mounts.image(lab.scratch / f"{name}.img", place, "ext4", 160))
        removals_on(lab, name, draw, n, place)


def removals_on(lab, name, draw, n, place):
    what = "rmtree, rename, replacement during a read"
    world = World(lab, name, {"quiet": "50ms", "settle": "3s", "io_limit": "10MiB"}, field=place)
    world.owns_disk = place is not None
    try:
        daemon = world.start()
        time.sleep(1.0)
        base = len(daemon.descriptors())
        n_met = 0
        for index in range(n):
            how, width, run = draw.choice(REMOVALS), draw.choice(WIDE[:2]), f"gone-{draw.randrange(3)}"
            lab.ledger.within(f"{name} {index}: {how.__name__}")
            known = world.save(run, "safetensors-0.8", 1 + index, width)
            met = wait_reading(world, 4)
            time.sleep(draw.uniform(0, 0.1))
            known.gone = time.monotonic()
            how(world, Path(known.path), known.size, draw)
            n_met += met
            lab.ledger.injected("R", what, 1, **{"met_a_read": int(met)})
            lab.ledger.check(10, daemon.alive(), f"fell: {daemon.log_text()[-500:]}")
        lab.ledger.within(name)
        world.configure(quiet="300ms")
        for run in {known.save.run for known in world.known}:
            for path in (world.root / run).iterdir():
                shutil.rmtree(path)
        world.save("stays", "safetensors-0.7", 500)
        body = world.wait_recorded()
        world.idle_descriptors(base + 4)
        if body:
            for reason in ("malformed", "internal", "limit"):
                n_failed = body.total("checkpoint_failures_total", reason=reason)
                # What was replaced by a file of one byte is malformed for as long as it lies there.
                lab.ledger.check(12, n_failed == 0 or reason == "malformed", f"{n_failed} failures of kind {reason}")
        gone = {known.save.run for known in world.known if known.save.run != "stays"}
        world.verify(body, exempt=gone)
        verify_true(world, gone)
        world.verify_log()
        lab.ledger.check(8, daemon.stop() == 0, "stops with 0")
    finally:
        world.end()


def verify_true(world, runs):
    """Whatever was recorded of saves that went is true of one of them, and once."""
    seen = set()
    for row in world.recorded().measured():
        if row["run"] in runs:
            found = world.recognise_anywhere(row)
            world.ledger.check(4, found is not None, f"of no save that was written: {row['path']}")
            if found:
                place = found.save, row["path"]
                world.ledger.check(1, place not in seen, f"{found.save} is recorded twice as {row['path']}")
                seen.add(place)


def overwrites(lab, name, draw, n=8):
    """A file is written over in place while it is read: as long as before, longer, shorter."""
    what = "overwrite in place during a read"
    world = World(lab, name, {"quiet": "100ms", "settle": "6s", "io_limit": "10MiB"})
    try:
        world.start()
        widths = [WIDE[0], WIDE[0], WIDE[0] + 4096, WIDE[0] // 2, WIDE[1]]
        step = 0
        for index in range(n):
            run = f"over-{index % 2}"
            step += 1
            lab.ledger.within(f"{name} {index}")
            world.save(run, "rewrite", step, draw.choice(widths))
            met = wait_reading(world, 4)
            # Several times in a row, so that the reader's second look meets one as well.
            for _ in range(draw.randrange(1, 4)):
                time.sleep(draw.uniform(0, 0.15))
                step += 1
                world.save(run, "rewrite", step, draw.choice(widths))
            lab.ledger.injected("O", what, 1, **{"met_a_read": int(met)})
            lab.ledger.check(10, world.daemon.alive(), "fell")
        lab.ledger.within(name)
        body = world.wait_recorded()
        world.verify(body)
        if body:
            lab.ledger.injected("O", what, 0, reads_thrown_away=int(body.total("checkpoints_skipped_total", reason="changed")))
        world.verify_log()
        lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
    finally:
        world.end()


RACERS = ("safetensors-0.7", "safetensors-0.8", "torch", "dcp", "preallocate", "rewrite", "plain")


class Racer(threading.Thread):
    """Writes saves one over the other in one place, with stalls, at moments at which the reader comes."""

    def __init__(self, world, run, model, draw, n, width, longest):
        super().__init__(daemon=True)
        self.world, self.run_name, self.model, self.n, self.width = world, run, model, n, width
        self.draw, self.longest, self.why = draw, longest, None
        self.lock = world.lock

    def run(self):
        try:
            self.race()
        except BaseException as why:  # a strict trainer: whatever fails counts
            self.why = repr(why)

    def race(self):
        pause = writers.pauses(self.draw, self.longest)
        directory = self.world.root / self.run_name
        for turn in range(self.n):
            # One place for all: the step is the same where the name has one.
            step, version = (turn + 1, 0) if self.model == "rewrite" else (7, turn)
            save = Save(self.run_name, step, self.width, version)
            with self.lock:
                for known in self.world.known:
                    if known.save.run == self.run_name and known.gone is None:
                        known.gone = time.monotonic()
            path = writers.write(directory, self.model, save, pause)
            stamp = trainer.stamp(path)
            with self.lock:
                self.world.note(save, str(path), self.model, time.monotonic(), **stamp)
            time.sleep(self.draw.uniform(0.2, 1.6))


def races(lab, name, draw, n=100):
    """Saves written over one another while the daemon reads: what it tells is of one of them."""
    world = World(lab, name, {"quiet": "300ms", "settle": "6s", "scan_interval": "500ms"})
    world.lock = threading.Lock()
    try:
        world.start()
        each = 10
        racers = []
        for index in range(-(-n // each)):
            model = RACERS[index % len(RACERS)]
            # Sixteen columns are read at once; of 16 MB the reading takes long enough to be met.
            width = draw.choice([SMALL, 4096, WIDE[0]])
            longest = draw.choice([0, 0.2, 1.0, 2.0])
            turns = min(each, n - index * each)
            racers.append(Racer(world, f"{model}-{index}", model, draw.__class__(draw.random()), turns, width, longest))
        for racer in racers:
            racer.start()
        while any(racer.is_alive() for racer in racers):
            time.sleep(0.5)
            body = world.daemon.metrics()
            if body:
                with world.lock:
                    known = list(world.known)
                verify_exported(world, body, known)
        for racer in racers:
            lab.ledger.check(8, racer.why is None, f"writer {racer.run_name}: {racer.why}")
        body = world.wait_recorded()
        recorded = world.verify(body)
        changed = int(body.total("checkpoints_skipped_total", reason="changed")) if body else 0
        torn = len(recorded.measured()) - sum(world.recognise(row) is not None for row in recorded.measured())
        lab.ledger.injected("races", "a save written over by the next, 7 writers, stalls of up to 2 s", sum(racer.n for racer in racers),
                            recorded=len(recorded.measured()), reads_thrown_away=changed, torn=torn)
        world.verify_log()
        lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
    finally:
        world.end()


def verify_exported(world, body, known):
    """What is exported at this moment is of a save that was complete."""
    for run in body.runs():
        norms = {f"fc{int(labels['layer']) + 1}.weight": value for labels, value in body.all("weight_norm") if labels["run"] == run}
        if norms:
            # The newest may be known to the daemon before it is to us.
            fits = any(oracle.norms(one.save) == norms for one in known if one.save.run == run)
            fits = fits or any(oracle.norms(one) == norms for one in upcoming(known, run))
            world.ledger.check(4, fits, f"exported of {run}: {norms}")


def upcoming(known, run):
    mine = [one.save for one in known if one.save.run == run]
    if not mine:
        return
    last = mine[-1]
    yield Save(run, last.step + 1, last.width, last.version)
    yield Save(run, last.step, last.width, last.version + 1)


__all__ = ["removals", "overwrites", "races", "Unavailable"]
