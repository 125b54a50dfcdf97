"""systemd, booted in namespaces on a copy-on-write image of this machine: nothing of it is seen outside,
and nothing is left."""
import os
import signal
import subprocess
import time
from pathlib import Path

from helpers import Failed

BOOT_PATIENCE = 60  # seconds

# Arguments: a directory to mount things at, and a cgroup of its own. As the first process of a PID
# namespace it becomes systemd. `pivot_root`, as no user namespace is made below a `chroot`.
BOOT = r"""
set -e
base=$1 group=$2
mount -t tmpfs tmpfs "$base"
mkdir "$base/up" "$base/work" "$base/root"
root=$base/root
# The upper side must not be on an overlay itself, as a container's disk may be.
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/up,workdir=$base/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 "$root/dev/tty" c 5 0
mkdir "$root/dev/shm" "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ip link set lo up
# Nothing of this machine's own: no disks, no devices, no ban on starting services.
rm -f "$root/usr/sbin/policy-rc.d"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
for unit in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
    systemd-udev-trigger.service systemd-remount-fs.service systemd-timesyncd.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir "$root/run/outside"
cd "$root"
pivot_root . run/outside
exec env -i container=weightvane-test PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c '
    umount -l /run/outside
    exec /lib/systemd/systemd --system --unit=basic.target --show-status=no'
"""


class CannotBoot(Exception):
    pass


def call(*command, fails=False):
    """What a command says that must succeed, or fail."""
    done = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, capture_output=True)
    told = done.stdout + done.stderr
    if (done.returncode != 0) != fails:
        raise Failed(f"{' '.join(command)[-200:]}: ends with {done.returncode} and says {told[-2000:]!r}")
    return told


def own_group():
    """A cgroup below the second hierarchy, wherever it is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            group = Path(place) / f"weightvane-test-{os.getpid()}"
            group.mkdir()
            return group
    raise CannotBoot("no cgroup2 is mounted")


class Machine:
    """A booted one; `with` ends it."""

    def __init__(self, children, here):
        if os.geteuid() != 0:
            raise CannotBoot("neither root nor sudo without a password")
        start, base, log = time.monotonic(), here / "machine", here / "boot.log"
        base.mkdir()
        try:
            self.group = own_group()
        except OSError as error:
            raise CannotBoot(f"a cgroup of its own: {error}") from None
        enter = f'echo $$ >"{self.group}/cgroup.procs" && exec unshare --mount --pid --fork --kill-child --uts --ipc ' \
                '--net --cgroup --propagation private bash -c "$0" boot "$@"'
        with log.open("w") as out:
            self.outer = children.start("bash", "-c", enter, BOOT, str(base), str(self.group), stdout=out, stderr=out)
        self.init = None
        try:
            while not self.is_up():
                if self.outer.poll() is not None or time.monotonic() - start > BOOT_PATIENCE:
                    raise CannotBoot(log.read_text().strip()[-500:] or "it does not come up")
                time.sleep(0.2)
        except BaseException:
            self.__exit__()
            raise
        self.took = time.monotonic() - start

    def is_up(self):
        if not self.init:
            inner = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children")
            self.init = next(map(int, inner.read_text().split()), None) if inner.exists() else None
            return False
        done = subprocess.run([*self.inside(), "systemctl", "is-system-running"], capture_output=True, text=True)
        return done.stdout.strip() in ("running", "degraded")

    def inside(self):
        return ["nsenter", f"--target={self.init}", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root",
                "--wd", "--"]

    def call(self, *command, fails=False):
        return call(*self.inside(), *command, fails=fails)

    def path(self, absolute):
        """A path of the machine, seen from outside."""
        return Path(f"/proc/{self.init}/root") / str(absolute).lstrip("/")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.init:
            try:
                os.kill(self.init, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.outer.kill()
        self.outer.wait()
        # A cgroup goes when its last process has.
        for _ in range(50):
            for place, _, _ in os.walk(self.group, topdown=False):
                try:
                    os.rmdir(place)
                except OSError:
                    pass
            if not self.group.exists():
                return
            time.sleep(0.1)
