"""The daemon under test: started, asked, killed."""
import ctypes
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PATIENCE = 60.0
SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
PREFIX = "weightvane_"


class Unavailable(Exception):
    """Nobody answers."""


class Body:
    """One answer of /metrics."""

    def __init__(self, text):
        self.text = text
        self.samples = {}
        self.doubled = []
        for line in text.splitlines():
            if line.startswith("#") or not line:
                continue
            name, value = line.rsplit(" ", 1)
            if name in self.samples:
                self.doubled.append(name)
            self.samples[name] = float(value)

    def value(self, name, **labels):
        """The one sample with these labels, in whatever order, or nothing."""
        found = [value for have, value in self.all(name) if labels.items() <= have.items()]
        return found[0] if len(found) == 1 else None

    def total(self, name, **labels):
        return sum(value for have, value in self.all(name) if labels.items() <= have.items())

    def all(self, name):
        name = PREFIX + name
        for series, value in self.samples.items():
            if series == name or series.startswith(name + "{"):
                yield dict(LABEL.findall(series)), value

    def runs(self):
        return {labels["run"] for labels, _ in self.all("run_info")}


class Daemon:
    """A process that never outlives its test: it dies with whoever started it."""

    def __init__(self, program, roots, log, config, state=None, wrap=(), env=None, extra=()):
        command = [*map(str, wrap), str(program), "watch", *map(str, roots), "--config", str(config),
                   "--listen", "127.0.0.1:0", "--log.format", "json", *map(str, extra)]
        if state:
            command += ["--state-dir", str(state)]
        self.log_path = Path(log)
        self.log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        self.started = time.monotonic()
        self.ended = None
        self.address = self.told_at = None
        with open(log, "ab") as stderr:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                                          env={**os.environ, **(env or {})}, text=True, preexec_fn=dies_with_parent)
        self.pid = self.child.pid
        self._read = threading.Thread(target=self._listen, daemon=True)
        self._read.start()

    def _listen(self):
        for line in self.child.stdout:
            if "http://" in line and not self.address:
                self.told_at = time.monotonic()
                self.address = line.split("http://")[1].split("/")[0]

    def wait_address(self, patience=PATIENCE):
        until = time.monotonic() + patience
        while not self.address:
            if self.child.poll() is not None or time.monotonic() > until:
                raise Unavailable(f"the daemon gives no address, exit code {self.child.poll()}: {self.log_text()[-2000:]}")
            time.sleep(0.005)
        return self

    def ask(self, path="/metrics", timeout=10):
        """Status and body."""
        if not self.address:
            raise Unavailable("no address yet")
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(str(error)) from error
        finally:
            connection.close()

    def metrics(self):
        """The newest body; `None` where there is none yet."""
        try:
            status, text = self.ask()
        except Unavailable:
            return None
        return Body(text) if status == 200 else None

    def wait(self, what, wanted, patience=PATIENCE):
        """The first body that is as wanted."""
        until, body = time.monotonic() + patience, None
        while time.monotonic() < until:
            body = self.metrics()
            if body and wanted(body):
                return body
            if self.child.poll() is not None:
                raise Unavailable(f"{what}: the daemon ended with {self.child.returncode}: {self.log_text()[-1500:]}")
            time.sleep(0.05)
        tail = "" if body is None else "\n".join(line for line in body.text.splitlines() if "checkpoint" in line and line[0] != "#")[-3000:]
        raise Unavailable(f"{what}: not within {patience:.0f} s\n{tail}\n{self.log_text()[-1500:]}")

    def alive(self):
        return self.child.poll() is None

    def signal(self, which):
        try:
            os.kill(self.pid, which)
        except ProcessLookupError:
            pass

    def kill(self):
        """As the kernel or a power failure would."""
        self.signal(signal.SIGKILL)
        return self.reap()

    def stop(self, patience=20):
        """Asks it to end; its exit code."""
        self.signal(signal.SIGTERM)
        return self.reap(patience)

    def reap(self, patience=20):
        try:
            self.child.wait(patience)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.ended = time.monotonic()
        self._read.join(1)
        return self.child.returncode

    def log_text(self):
        with open(self.log_path, "rb") as file:
            file.seek(self.log_from)
            return file.read().decode(errors="replace")

    def logged(self):
        """Lines of the log as dictionaries; what is no JSON under `text`."""
        lines = []
        for line in self.log_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"text": line})
        return lines

    def status(self, key):
        """A number of /proc/PID/status, in its own unit."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        return None

    def descriptors(self):
        """Descriptor → what it leads to."""
        out = {}
        try:
            for fd in os.listdir(f"/proc/{self.pid}/fd"):
                try:
                    out[fd] = os.readlink(f"/proc/{self.pid}/fd/{fd}")
                except OSError:
                    pass
        except OSError:
            pass
        return out


def dies_with_parent():
    """PR_SET_PDEATHSIG: with the thread that starts it, which therefore has to stay as long as the daemon."""
    LIBC.prctl(1, signal.SIGKILL)
