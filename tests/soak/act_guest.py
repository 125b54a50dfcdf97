"""A guest: what it does in the trainers' directories, call by call, and what the trainer notices of it."""
import hashlib
import os
import random
import re
import signal
import statistics
import time
from pathlib import Path

import mounts
import writers
from act_network import percentile
from content import SMALL, Save
from lab import is_root
from world import World

CALLS = "%file,%network,%process,%desc,mmap,flock,fcntl"
# What the program and its libraries read of the system itself.
SYSTEM = ("/proc/", "/sys/", "/lib/", "/lib64/", "/usr/lib", "/etc/ld.so", "/dev/null", "/dev/urandom")
WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND")
# By path, and by descriptor.
CHANGES = re.compile(r"^(creat|mkdir|rmdir|unlink|rename|link|symlink|truncate|chmod|chown|lchown|fchmodat|fchownat|utime|futimesat|setxattr|lsetxattr|"
                     r"removexattr|lremovexattr|mknod)")
OF_DESCRIPTORS = re.compile(r"^(write|pwrite|ftruncate|fallocate|fchmod$|fchown$|fsetxattr|fremovexattr|fsync|fdatasync|sync_file|ioctl|flock|fcntl)")
LOCKS = re.compile(r"^(flock|fcntl)\(.*(LOCK_|F_SETLK|F_SETLKW|F_OFD_SETLK|F_SETLEASE|F_NOTIFY)")
CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)")


def judged(trace, roots, state, config):
    """Number of calls, those that change something below the roots, those that reach beyond roots and state."""
    n, changes, beyond = 0, [], []
    roots, own = [str(root) for root in roots], [str(state), str(config)]
    n_execs = 0
    for line in trace.splitlines():
        call = CALL.match(line)
        if not call or "resumed>" in line[:40]:
            continue
        n += 1
        name, rest = call[1], call[2]
        text = f"{name}({rest}"
        touches = touched(name, rest, roots)
        if touches:
            opened = name.startswith("open") and any(flag in rest for flag in WRITES)
            held = LOCKS.match(text) or (OF_DESCRIPTORS.match(name) and name not in ("flock", "fcntl"))
            if opened or held or name == "mmap" or CHANGES.match(name):
                changes.append(line)
        if name in ("execve", "execveat", "fork", "vfork"):
            n_execs += 1
            if n_execs > 1:
                beyond.append(line)
        elif name == "connect" or (name in ("sendto", "sendmsg") and "AF_" in rest and "AF_NETLINK" not in rest):
            beyond.append(line)
        elif name.startswith("open") and not touches:
            path = rest.split('"')[1] if '"' in rest else ""
            base = re.match(r"(?:AT_FDCWD|\d+)<([^>]*)>", rest)
            path = os.path.normpath(os.path.join(base[1], path)) if base else os.path.normpath(path)
            if not path.startswith(SYSTEM) and not any(path.startswith(one) for one in own):
                beyond.append(line)
    return n, changes, beyond


def touched(name, rest, roots):
    """Whether the call is on something below the roots."""
    if name == "mmap":
        where = re.findall(r"\d+<([^>]*)>", rest)
    elif OF_DESCRIPTORS.match(name):
        where = re.findall(r"^\d+<([^>]*)>", rest)
    else:
        where = re.findall(r'"((?:[^"\\]|\\.)*)"', rest) + re.findall(r"\d+<([^>]*)>", rest)
    return any(path.startswith(root) for path in where for root in roots)


def stamps(root):
    """Of everything below: inode, size, mode, owner, links, all times, attributes. Without leaving a mark of its own."""
    out, left = {}, [str(root)]
    quiet = os.O_NOATIME if is_root() else 0
    while left:
        path = left.pop()
        s = os.lstat(path)
        what = (s.st_ino, s.st_size, s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_mtime_ns, s.st_ctime_ns, s.st_atime_ns)
        out[path] = (*what, tuple(os.listxattr(path, follow_symlinks=False)))
        if os.path.isdir(path):
            fd = os.open(path, os.O_RDONLY | quiet)
            left += [os.path.join(path, name) for name in os.listdir(fd)]
            os.close(fd)
    return out


def digests(root):
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def audit(lab, name, draw):
    """Every call on files and sockets of a daemon that watches all writers, by strace; and a still directory, before and after."""
    world = World(lab, name)
    try:
        still = World.save
        for step in (1, 2):
            for model in ("safetensors-0.7", "torch", "dcp"):
                still(world, f"still-{model}", model, step)
        hashed = digests(world.root)
        before = stamps(world.root)
        trace = world.here / "trace"
        world.start(wrap=lab.traced(trace, CALLS))
        world.wait_recorded(120)
        lab.ledger.check(7, stamps(world.root) == before, f"changed by being read: {differing(before, stamps(world.root))}", n=len(before))
        models = list(writers.MODELS)
        for step in range(1, 4):
            for model in models:
                world.save(model, model, step)
        known = world.save("goes", "safetensors-0.8", 1)
        time.sleep(draw.uniform(0, 1))
        mounts.shutil.rmtree(known.path)
        world.removed(known.path)
        body = world.wait_recorded(120)
        world.verify(body)
        world.daemon.stop()
        after = digests(world.root)
        lab.ledger.check(7, hashed.items() <= after.items(), "contents of the still runs have changed", n=len(hashed))
        n, changes, beyond = judged(trace.read_text(errors="replace"), world.roots, world.state, world.config)
        lab.ledger.check(7, not changes, f"{len(changes)} calls change or hold something below the roots: {changes[:3]}", n=n)
        lab.ledger.check(14, not beyond, f"{len(beyond)} calls reach beyond roots and state: {beyond[:3]}", n=n)
        lab.ledger.injected("-", "system calls of a daemon, looked at by strace", n, changing=len(changes), beyond=len(beyond))
    finally:
        world.end()


def differing(before, after):
    return [(path, before.get(path), after.get(path)) for path in before.keys() | after.keys() if before.get(path) != after.get(path)][:3]


def guest(lab, name, draw, turns=8, saves=12):
    """How long saves take with the daemon beside them and with it stopped, in turns."""
    world = World(lab, name, {"priority": "idle"})
    try:
        world.start()
        directory, took, step = world.root / "host", {True: [], False: []}, 0
        order = [True, False] * (turns // 2)
        for runs in order:
            world.daemon.signal(signal.SIGCONT if runs else signal.SIGSTOP)
            for _ in range(saves):
                step += 1
                save = Save("host", step, draw.choice([SMALL, 1 << 14]))
                start = time.perf_counter()
                path = writers.write(directory, "safetensors-0.7", save)
                took[runs].append((time.perf_counter() - start, save.width))
                if step > 3:
                    mounts.shutil.rmtree(writers.path_of(directory, "safetensors-0.7", step - 3))
                time.sleep(random.uniform(0.05, 0.15))
        world.daemon.signal(signal.SIGCONT)
        with_it, without = ([seconds for seconds, width in took[runs] if width > SMALL] for runs in (True, False))
        ratio = statistics.median(with_it) / statistics.median(without)
        p99 = percentile(with_it, 0.99) / percentile(without, 0.99)
        lab.ledger.injected("-", "saves beside the daemon, and with it stopped", step, worst={"median ratio": round(ratio, 3), "p99 ratio": round(p99, 3)})
        # The median is what noise spares; the tail of a hundred saves is a single one of them. With other acts on the same cores it says
        # more of them than of the daemon.
        if lab.alone:
            lab.ledger.check(8, ratio < 1.25, f"saves take {ratio:.2f} times as long beside the daemon (median of {len(with_it)})", n=step)
        lab.ledger.check(8, Path(path).exists(), "the last save is gone")
    finally:
        world.end()
