#!/usr/bin/env python3
"""Who touches the trainers' files, and what the daemon takes of the machine: `recorder.py FIELD PIDFILE OUT`.

Every change below FIELD is counted by the process that made it (fanotify tells, where this is root). Of the process that PIDFILE names
memory, threads, descriptors and children are noted every second, and descriptors of deleted files five times a second. It ends with its
standard input.
"""
import ctypes
import json
import os
import re
import struct
import sys
import threading
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLOEXEC, NONBLOCK, UNLIMITED, DFID_NAME = 0x1, 0x2, 0x30, 0xC00
ADD, FILESYSTEM = 0x1, 0x100
AT_FDCWD = -100
EVENTS = {0x2: "modify", 0x4: "attrib", 0x8: "close_write", 0x40: "moved_from", 0x80: "moved_to", 0x100: "create", 0x200: "delete",
          0x400: "delete_self", 0x800: "move_self"}
ON_DIRECTORIES = 0x40000000
# Changes of one process that are told apart.
MOST = 5
SLICE = 0.2


class Changes:
    """Events by process."""

    def __init__(self, field):
        self.by_pid, self.why = {}, None
        self.fd = LIBC.fanotify_init(CLOEXEC | NONBLOCK | UNLIMITED | DFID_NAME, 0)
        mask = ctypes.c_uint64(sum(EVENTS) | ON_DIRECTORIES)
        if self.fd < 0 or LIBC.fanotify_mark(self.fd, ADD | FILESYSTEM, mask, AT_FDCWD, os.fsencode(field)) != 0:
            self.why = f"fanotify: {os.strerror(ctypes.get_errno())}"
            self.fd = -1

    def read(self):
        if self.fd < 0:
            return
        while True:
            try:
                raw = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return
            at = 0
            while at + 24 <= len(raw):
                length, _, _, _, mask, _, pid = struct.unpack_from("<IBBHQii", raw, at)
                one = self.by_pid.setdefault(pid, {"n": 0, "what": []})
                one["n"] += 1
                if len(one["what"]) < MOST:
                    words = [word for bit, word in EVENTS.items() if mask & bit]
                    one["what"].append([words, name_of(raw[at + 24:at + length]), time.monotonic()])
                at += length


def name_of(info):
    """The name in a record of kind DFID_NAME."""
    if len(info) < 20:
        return ""
    n = struct.unpack_from("<I", info, 12)[0]
    return info[20 + n:].split(b"\0")[0].decode(errors="replace")


def status(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    numbers = {key: int(value) for key, value in re.findall(r"^(VmRSS|VmHWM|Threads):\s+(\d+)", text, re.M)}
    numbers["children"] = sum(len(path.read_text().split()) for path in Path(f"/proc/{pid}/task").glob("*/children"))
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    numbers["cpu"] = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return numbers


def descriptors(pid):
    out = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            out.append((fd, os.readlink(f"/proc/{pid}/fd/{fd}")))
        except OSError:
            pass
    return out


class Process:
    """One process, looked at again and again."""

    def __init__(self, pidfile, out):
        self.pidfile, self.out = Path(pidfile), out
        self.deleted, self.next = {}, 0.0

    def look(self):
        now = time.monotonic()
        try:
            pid = int(self.pidfile.read_text())
            open_now = descriptors(pid)
            gone = {(pid, fd, path): now for fd, path in open_now if path.endswith(" (deleted)") and "memfd:" not in path}
            self.deleted = {key: self.deleted.get(key, now) for key in gone}
            for key, since in self.deleted.items():
                if now - since > 1.0:
                    self.out.write(json.dumps({"held": key[2], "pid": pid, "seconds": now - since}) + "\n")
                    self.deleted[key] = now
            if now >= self.next:
                self.next = now + 1.0
                self.out.write(json.dumps({"at": now, "pid": pid, "fds": len(open_now), **status(pid)}) + "\n")
        except (OSError, ValueError):
            self.deleted = {}


def main(field, pidfile, out):
    changes = Changes(field)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("recording", flush=True)
    with open(out, "w", buffering=1) as file:
        process = Process(pidfile, file)
        while not ended.wait(SLICE):
            changes.read()
            process.look()
        changes.read()
        file.write(json.dumps({"changes": changes.by_pid, "why": changes.why}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
