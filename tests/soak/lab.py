"""What all acts share: the program, a place, the ledger, and the checks that cost too much to do each time."""
import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path

import mounts
from daemon import Unavailable
from ledger import Ledger, Skipped


class Lab:
    unavailable = Unavailable

    def __init__(self, program, scratch, seed, keep=False):
        self.program, self.scratch, self.seed, self.keep = Path(program).resolve(), Path(scratch), seed, keep
        self.ledger = Ledger()
        self.daemons = {}
        # Whether acts are played one at a time, so that times mean something.
        self.alone = False
        self.latencies = []
        self.field = self.scratch / "field"
        self.field.mkdir()
        self.why_no_field = None
        self._promtool = {"lock": threading.Lock(), "at": 0.0, "here": mounts.shutil.which("promtool")}

    @contextlib.contextmanager
    def own_field(self, megabytes=2048):
        """The roots on a file system of their own, on which every access would be noted: ext4, which uses inode numbers again at once."""
        made = None
        try:
            made = mounts.Image(self.scratch / "field.img", self.field, "ext4", megabytes, "strictatime")
        except Skipped as why:
            self.why_no_field = str(why)
        try:
            yield
        finally:
            if made:
                made.end()

    def promtool(self, text, at_least=2.0):
        """Asks promtool of a body, at most every few seconds."""
        if not self._promtool["here"]:
            self.ledger.skipped("-", "promtool check metrics", "promtool is not installed")
            return
        with self._promtool["lock"]:
            if time.monotonic() - self._promtool["at"] < at_least:
                return
            self._promtool["at"] = time.monotonic()
        done = subprocess.run([self._promtool["here"], "check", "metrics"], input=text, text=True, capture_output=True)
        # Hints about names alone leave with 3 and say so of every body alike.
        self.ledger.check(5, done.returncode in (0, 3) and "error" not in done.stderr, f"promtool: {done.stderr[:500]}")

    def traced(self, log, calls, inject=(), paths=(), extra=()):
        """The words that put a program under strace, its child staying our own."""
        mounts.need("strace")
        words = ["strace", "-D", "-f", "-qq", "-y", "-s", "4096", "-o", str(log), "-e", f"trace={calls}"]
        for one in inject:
            words += ["-e", f"inject={one}"]
        for path in paths:
            words += ["-P", str(path)]
        return [*words, *extra]


def is_root():
    return os.geteuid() == 0
