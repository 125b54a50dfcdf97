"""T, P, E: the state directory is torn, loses its power, or sits on a disk that refuses."""
import shutil
import threading
import time

import mounts
import past
import writers
from act_kill import opened
from daemon import Unavailable
from ledger import Skipped
from world import World

PAGE = 4096


class Base:
    """Saves and a sound state directory that many damages start from; made once."""

    def __init__(self):
        self.lock, self.world = threading.Lock(), None

    def get(self, lab):
        with self.lock:
            if self.world is None:
                self.world = make_base(lab)
            return self.world


def make_base(lab):
    world = World(lab, "torn-base")
    for run in ("safetensors-0.7", "dcp", "torch"):
        for step in range(1, 6):
            world.save(run, run, step)
    world.start()
    world.body = world.wait_recorded()
    # Killed, so that the log of the database is there; and stopped, when all is in the database.
    time.sleep(0.5)
    world.killed = world.here / "killed"
    world.daemon.signal(19)  # SIGSTOP: what is copied is of one moment, as after a power cut
    shutil.copytree(world.state, world.killed)
    world.daemon.signal(18)
    world.daemon.stop()
    world.stopped = world.state
    world.verify(world.body)
    return world


def flip(raw, at, bit):
    raw[at] ^= 1 << bit


def damages(draw, raw):
    """One way to damage these bytes: its name and the bytes then."""
    raw, size = bytearray(raw), len(raw)
    pages = range(0, max(size - PAGE, 0) + 1, PAGE)
    kind = draw.choice(["truncated", "truncated", "a bit flipped", "a bit of every page flipped", "a page zeroed", "a page of noise", "an end zeroed"])
    page = draw.choice(pages)
    if kind == "truncated":
        del raw[draw.randrange(0, size // 512 + 1) * 512:]
    elif kind == "a bit flipped":
        flip(raw, draw.randrange(size), draw.randrange(8))
    elif kind == "a bit of every page flipped":
        for start in pages:
            flip(raw, min(start + draw.randrange(PAGE), size - 1), draw.randrange(8))
    elif kind == "a page zeroed":
        raw[page:page + PAGE] = bytes(len(raw[page:page + PAGE]))
    elif kind == "a page of noise":
        raw[page:page + PAGE] = draw.randbytes(len(raw[page:page + PAGE]))
    else:
        start = draw.randrange(size)
        raw[start:] = bytes(size - start)
    return kind, bytes(raw)


BASE = Base()


def torn(lab, name, draw, n=5):
    """A state directory that a crash or a bad disk has left: the daemon opens, and tells the truth, from it or from the saves."""
    base = BASE.get(lab)
    for index in range(n):
        source = draw.choice([base.stopped, base.killed])
        state = lab.scratch / f"{name}-{index}"
        shutil.copytree(source, state)
        files = sorted(path for path in state.rglob("*") if path.is_file() and path.stat().st_size and path.name != "lock")
        # The database is most of it.
        path = draw.choice([*files, *[path for path in files if path.name.startswith(past.FILE)] * 3])
        kind, raw = damages(draw, path.read_bytes())
        changed = raw != path.read_bytes()
        path.write_bytes(raw)
        words = f"{path.relative_to(state)} {kind} ({'stopped' if source is base.stopped else 'killed'})"
        lab.ledger.within(f"{name} {index}: {words}")
        try:
            one_torn(lab, base, state, path, raw, changed)
        except Unavailable as why:
            lab.ledger.check(13, False, f"does not open: {why}")
        if not lab.keep:
            shutil.rmtree(state)


def one_torn(lab, base, state, path, raw, changed):
    ledger = lab.ledger
    world = Twin(base, state)
    world.start()
    try:
        body = world.wait_recorded()
        if body is None:
            return
        aside = [one for one in state.glob("*.corrupt-*") if not one.name.endswith("-journal")]
        ledger.check(13, body.value("state_store_ok") == 1, "the state is not usable")
        ledger.check(13, len(aside) <= 1, f"{len(aside)} moved aside")
        if aside and path.name == past.FILE:
            # What lay in the log of the database may have been brought in before it was found to be damaged.
            ledger.check(13, aside[0].stat().st_size > 0 or not raw, f"{aside[0]} is empty")
        ledger.injected("T", "torn state files", int(changed), **{"moved_aside_and_rebuilt": int(bool(aside)), "opened_as_they_were": int(not aside)})
        world.equal_facts(body, base.body, "from damaged state")
        world.verify(body)
        world.verify_log()
    finally:
        code = world.daemon.stop()
    ledger.check(13, code == 0, f"exit code {code}")


class Twin(World):
    """Another daemon over the saves of a world, with its own state."""

    def __init__(self, base, state):
        self.lab, self.ledger, self.name = base.lab, base.lab.ledger, state.name
        self.here, self.state = state, state
        self.roots, self.root, self.config = base.roots, base.root, base.config
        self.daemon, self.daemons, self.trainers = None, [], []
        self.known, self.models = list(base.known), base.models


def power(lab, name, draw, kind="ext4", n=5):
    """The state's file system loses its power at a random moment; what was recorded before is there after it."""
    what = f"power cut of {kind} under the state directory"
    place = lab.scratch / f"{name}-disk"
    with mounts.image(lab.scratch / f"{name}.img", place, kind, 24) as disk:
        world = World(lab, name, state_dir=place / "state")
        try:
            world.train("safetensors-0.8", "safetensors-0.8", interval=0.25, keep=3, first=draw.randrange(1, 1000))
            world.train("dcp", "dcp", interval=0.4, keep=0, count=20, first=draw.randrange(1, 1000))
            world.start()
            for _ in range(n):
                time.sleep(draw.uniform(0.3, 2.0))
                before = past.Recorded(world.state)
                time.sleep(draw.choice([0, 0, draw.uniform(0, 0.3)]))
                disk.cut()
                if draw.random() < 0.5:
                    # It lives on for a moment, and must not fall.
                    time.sleep(0.3)
                    lab.ledger.check(13, world.daemon.alive(), "the daemon fell with the disk")
                world.daemon.kill()
                disk.power_on()
                after = past.copied(world.state)
                lost = set(before.keys()) - set(after.keys())
                lab.ledger.injected("P", what, 1, records_before=len(before.saves), lost=len(lost))
                lab.ledger.check(13, not after.errors, f"integrity after a power cut: {after.errors[:3]}")
                lab.ledger.check(13, not lost, f"recorded before a power cut and gone after it: {sorted(lost)[:3]} of {len(before.saves)}")
                opened(world)
            world.finish_trainers()
            body = world.wait_recorded()
            world.verify(body)
            world.verify_log()
            lab.ledger.check(13, not list(world.state.glob("*.corrupt-*")), "moved aside after a power cut")
            lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
        finally:
            world.end()


def power_xfs(lab, name, draw):
    power(lab, name, draw, "xfs")


def store(world, ok, patience=30):
    """Waits until the daemon says of its store what is so."""
    def wanted(body):
        return body.value("state_store_ok") == ok
    try:
        world.daemon.wait(f"state_store_ok {ok}", wanted, patience)
    except Unavailable as why:
        world.ledger.check(12, False, str(why))
        return False
    world.ledger.check(12, True)
    return True


def served(world, run, n):
    """Saves that are measured while nothing can be written are served all the same."""
    body = world.daemon.wait(f"{n} saves of {run} from memory", lambda body: body.total("checkpoints_analyzed_total", run=run) >= n, 30)
    world.verify_body(body)


def full_disk(lab, name, draw):
    """ENOSPC: on a tmpfs, in the midst of records, and back."""
    place = lab.scratch / f"{name}-disk"
    with mounts.tmpfs(place, "12m"):
        world = World(lab, name, state_dir=place / "state")
        try:
            world.start()
            step = 1
            world.save("full", "safetensors-0.7", step)
            world.wait_recorded()
            for _ in range(3):
                filler = place / "filler"
                try:
                    with open(filler, "wb") as file:
                        file.write(bytes(16 << 20))
                except OSError:
                    pass
                for _ in range(draw.randrange(3, 8)):
                    step += 1
                    world.save("full", "safetensors-0.7", step)
                served(world, "full", step)
                noticed = store(world, 0)
                filler.unlink()
                store(world, 1)
                lab.ledger.injected("E", "ENOSPC: full state disk", 1, noticed=int(noticed))
            world.verify(world.wait_recorded())
            world.verify_log()
            lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
        finally:
            world.end()


def read_only(lab, name, draw):
    """The state's file system is mounted read-only while the daemon runs, and when it starts."""
    place = lab.scratch / f"{name}-disk"
    with mounts.tmpfs(place, "8m"):
        world = World(lab, name, state_dir=place / "state")
        try:
            world.save("still", "dcp", 1)
            mounts.remount(place, "ro")
            world.start()
            served(world, "still", 1)
            noticed = store(world, 0)
            mounts.remount(place, "rw")
            store(world, 1)
            lab.ledger.injected("E", "state disk read-only", 1, noticed=int(noticed))
            for step in (2, 3):
                # Whoever has a file open for writing keeps the kernel from remounting: between two records it is tried again.
                until = time.monotonic() + 10
                while True:
                    try:
                        mounts.remount(place, "ro,force" if time.monotonic() > until else "ro")
                        break
                    except Skipped:
                        if time.monotonic() > until:
                            break
                        time.sleep(0.1)
                world.save("still", "dcp", step)
                served(world, "still", step)
                mounts.remount(place, "rw")
                store(world, 1)
                lab.ledger.injected("E", "state disk read-only", 1)
            world.verify(world.wait_recorded())
            world.verify_log()
            lab.ledger.check(8, world.daemon.stop() == 0, "stops with 0")
        finally:
            world.end()


def failing_calls(lab, name, draw):
    """EIO and ENOSPC of single calls on the database, by strace."""
    world = World(lab, name)
    try:
        world.save("eio", "safetensors-0.8", 1)
        world.start()
        world.wait_recorded()
        world.daemon.stop()
        step = 1
        paths = [world.state / f"{past.FILE}{end}" for end in ("", "-journal")]
        # A start reads most, and looks for damage in what it read.
        calls = [("pread64", "EIO")] + [draw.choice([("fdatasync", "EIO"), ("fsync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("pread64", "EIO"), ("ftruncate", "EIO")]) for _ in range(3)]
        for call, error in calls:
            first, n = draw.choice([1, 1, 2, 3, 5, 8]), draw.choice([1, 2, 4])
            inject = f"{call}:error={error}:when={first}..{first + n - 1}"
            lab.ledger.within(f"{name}: {inject}")
            trace = world.here / "trace"
            world.start(wrap=lab.traced(trace, call, [inject], paths))
            for _ in range(3):
                step += 1
                world.save("eio", "safetensors-0.8", step)
            body = world.wait_recorded()
            lab.ledger.check(13, world.daemon.alive(), "the daemon fell")
            store(world, 1)
            world.verify(body)
            world.verify_log()
            world.daemon.stop()
            hit = trace.read_text(errors="replace").count("(INJECTED)")
            lab.ledger.injected("E", "EIO, ENOSPC of single calls on the database", hit)
        lab.ledger.within(name)
        opened(world)
        world.verify(world.wait_recorded())
        aside = list(world.state.glob("*.corrupt-*"))
        lab.ledger.check(13, not aside, f"{aside} moved aside though nothing was damaged")
        world.daemon.stop()
    finally:
        world.end()


def few_descriptors(lab, name, draw):
    """EMFILE: a process that may open few files waits and tries again; it neither falls nor blames the save."""
    mounts.need("prlimit")
    world = World(lab, name)
    try:
        for step in range(1, 4):
            world.save("few", draw.choice(["safetensors-0.7", "torch"]), step)
        world.start()
        world.wait_recorded()
        usual = len(world.daemon.descriptors())
        step = 3
        for _ in range(4):
            limit = usual + draw.randrange(-2, 3)
            mounts.run("prlimit", f"--pid={world.daemon.pid}", f"--nofile={limit}:4096")
            step += 1
            world.save("few", "safetensors-0.7", step)
            time.sleep(2.5)
            lab.ledger.check(13, world.daemon.alive(), f"fell with {limit} descriptors")
            mounts.run("prlimit", f"--pid={world.daemon.pid}", "--nofile=4096:4096")
            body = world.wait_recorded()
            malformed = body.total("checkpoint_failures_total", reason="malformed") if body else None
            lab.ledger.check(12, malformed == 0, "a save is called malformed for want of descriptors")
            lab.ledger.injected("E", "EMFILE: no descriptor left")
        world.verify(body)
        world.verify_log()
        world.daemon.stop()
    finally:
        world.end()


def small_files(lab, name, draw):
    """A limit on the size of files: writes fail with EFBIG, and SIGXFSZ kills nobody."""
    world = World(lab, name)
    try:
        world.save("limit", "safetensors-0.7", 1)
        world.start()
        world.wait_recorded()
        step = 1
        for _ in range(2):
            size = (world.state / past.FILE).stat().st_size
            limit = draw.randrange(512, size)
            mounts.run("prlimit", f"--pid={world.daemon.pid}", f"--fsize={limit}:unlimited")
            for _ in range(3):
                step += 1
                world.save("limit", "safetensors-0.7", step)
            try:
                served(world, "limit", step)
                noticed = store(world, 0)
            except Unavailable as why:
                lab.ledger.check(13, False, f"with files of at most {limit} bytes: {why}")
                return
            mounts.run("prlimit", f"--pid={world.daemon.pid}", "--fsize=unlimited:unlimited")
            store(world, 1)
            lab.ledger.injected("E", "EFBIG: limit on the size of files", 1, noticed=int(noticed))
        world.verify(world.wait_recorded())
        world.verify_log()
        world.daemon.stop()
    finally:
        world.end()


def full_log(lab, name, draw):
    """The log lies on a full disk, or nobody reads it any more."""
    world = World(lab, name)
    try:
        for words in ("exec \"$@\" 2>/dev/full", "exec \"$@\" 2>&1 >&3 3>&- | head -c 200 >/dev/null"):
            run = f"log-{len(world.daemons)}"
            if "head" in words:
                # The daemon is not our child then: it is told to end by its pid.
                words = "exec 3>&1; " + words.replace('exec "$@"', 'sh -c \'echo $$ >&4; exec "$@"\' sh "$@"')
                pid = world.here / "pid"
                words = words.replace(">&4", f"> {pid}")
            world.start(wrap=["sh", "-c", words, "sh"])
            if "head" in words:
                world.daemon.pid = int((world.here / "pid").read_text())
            for step in range(1, 6):
                world.save(run, draw.choice(["safetensors-0.7", "safetensors-0.8"]), step)
            body = world.wait_recorded()
            world.verify(body)
            lab.ledger.injected("E", "a log that cannot be written", 1)
            world.daemon.signal(15)
            world.daemon.reap()
    finally:
        world.end()


def two_daemons(lab, name, draw):
    """A second daemon on one state directory refuses, and the first does not notice."""
    world = World(lab, name)
    try:
        world.save("one", draw.choice(writers.HF), 1)
        first = world.start()
        body = world.wait_recorded()
        for _ in range(3):
            try:
                world.start()
                lab.ledger.check(13, False, "a second daemon runs on the same state directory")
            except Unavailable:
                code = world.daemon.reap()
                said = world.daemon.log_text()
                lab.ledger.check(13, code == 71 and "in use" in said, f"a second daemon ends with {code}: {said[-300:]}")
            world.daemon = first
            lab.ledger.injected("E", "a second daemon on the state directory", 1, refused=1)
        world.verify(body)
        world.daemon.stop()
    finally:
        world.end()
