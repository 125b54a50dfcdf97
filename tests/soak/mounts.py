"""File systems of our own, each gone when its use ends."""
import contextlib
import ctypes
import fcntl
import os
import shutil
import subprocess
import time

from daemon import LIBC
from ledger import Skipped

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2 is: nothing more reaches the disk, the log neither.
GOING_DOWN = 0x8004587D
NO_LOG_FLUSH = 2
MNT_DETACH = 2


def run(*command):
    """Output of a command that has to succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Skipped(f"{' '.join(map(str, command[:3]))}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def need(program):
    if not shutil.which(program):
        raise Skipped(f"{program} is not installed")


def need_root(what):
    if os.geteuid():
        raise Skipped(f"{what} needs root")


def remount(path, how):
    run("mount", "-o", f"remount,{how}", path)


def unmount(path, patience=10.0):
    """Waits for whoever still uses it, then goes without."""
    until = time.monotonic() + patience
    while LIBC.umount2(str(path).encode(), 0) != 0:
        if ctypes.get_errno() == 22:  # not mounted
            return
        if time.monotonic() > until:
            LIBC.umount2(str(path).encode(), MNT_DETACH)
            return
        time.sleep(0.05)


@contextlib.contextmanager
def tmpfs(path, size):
    need_root("mounting")
    path.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "weightvane-test", path)
    try:
        yield path
    finally:
        unmount(path)


class Image:
    """A file system in a file, which can lose its power."""

    MAKE = {"ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"], "xfs": ["mkfs.xfs", "-q", "-f"]}
    # XFS takes no less than 300 MB; the file is sparse.
    LEAST = {"ext4": 8, "xfs": 300}

    def __init__(self, file, at, kind, megabytes, options="noatime"):
        need_root("mounting")
        need(self.MAKE[kind][0])
        self.file, self.at, self.options = file, at, options
        at.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as image:
            image.truncate(max(megabytes, self.LEAST[kind]) << 20)
        run(*self.MAKE[kind], file)
        self.mount()

    def mount(self):
        run("mount", "-o", f"loop,{self.options}", self.file, self.at)

    def cut(self):
        """From here on nothing is written any more, as if the power were gone."""
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, GOING_DOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
        except OSError as error:
            raise Skipped(f"the file system cannot be shut down: {error}") from error
        finally:
            os.close(fd)

    def power_on(self):
        unmount(self.at)
        self.mount()

    def end(self):
        unmount(self.at)
        os.unlink(self.file)


@contextlib.contextmanager
def image(file, at, kind, megabytes, options="noatime"):
    made = Image(file, at, kind, megabytes, options)
    try:
        yield made
    finally:
        made.end()
