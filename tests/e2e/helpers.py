"""What the scripts beside this one share."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests/it/golden/series/healthy"
PATIENCE = 90  # seconds, used up only by a failure

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: weightvane
    static_configs: [{{targets: ["{target}"]}}]
"""


class Failed(Exception):
    pass


class Children:
    """Processes that end with this one."""

    def __init__(self):
        self.all = []

    def start(self, *args, **options):
        child = subprocess.Popen(args, stdin=subprocess.DEVNULL, **options)
        self.all.append(child)
        return child

    def end(self, some=None):
        for child in some or self.all:
            child.terminate()
        for child in some or self.all:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.headers, answer.read().decode()


def wait(what, look):
    """The first thing that `look` finds."""
    start, last = time.monotonic(), None
    while time.monotonic() - start < PATIENCE:
        try:
            last = look()
            if last:
                print(f"ok: {what} ({time.monotonic() - start:.1f} s)", flush=True)
                return last
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            last = error
        time.sleep(0.1)
    raise Failed(f"{what}: not within {PATIENCE} s, last: {last!r}")


def check(what, holds, found):
    if not holds:
        raise Failed(f"{what}: found {found!r:.2000}")
    print(f"ok: {what}", flush=True)


def golden_saves():
    return sorted(GOLDEN.glob("checkpoint-*"), key=lambda save: int(save.name.split("-")[1]))


def copy_save(save, run):
    to = run / save.name
    to.mkdir(parents=True)
    # The trainer's record last, as trainers write.
    for name in ("model.safetensors", "trainer_state.json"):
        (to / name).write_bytes((save / name).read_bytes())
    return to


def start_daemon(children, program, here):
    """Address of a daemon on `runs`."""
    config = here / "weightvane.yaml"
    config.write_text("scan_interval: 1s\nquiet: 300ms\nsettle: 2s\n")
    daemon = children.start(
        program, "watch", here / "runs", "--config", config, "--listen", "127.0.0.1:0",
        stdout=subprocess.PIPE, stderr=open(here / "daemon.log", "wb"), text=True,
    )
    line = daemon.stdout.readline()
    if "http://" not in line:
        raise Failed(f"the daemon says {line!r}")
    return line.split("http://")[1].split("/")[0]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start_prometheus(children, target, here):
    """A Prometheus on `tsdb` that scrapes the target every second, and its API."""
    port = free_port()
    config = here / "prometheus.yml"
    config.write_text(CONFIG.format(target=target))
    process = children.start(
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={here / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=open(here / "prometheus.log", "ab"), stderr=subprocess.STDOUT,
    )
    return process, Api(f"http://127.0.0.1:{port}/api/v1")


class Api:
    """What Prometheus is asked."""

    def __init__(self, url):
        self.url = url

    def data(self, path, **parameters):
        text = urllib.parse.urlencode(parameters)
        return json.loads(get(f"{self.url}/{path}?{text}")[1])["data"]

    def query(self, text, **parameters):
        """Labels and value of every sample of an instant query."""
        found = self.data("query", query=text, **parameters)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, text, **parameters):
        found = self.query(text, **parameters)
        return found[0][1] if len(found) == 1 else None


def run(checks, usage):
    """Runs `checks(children, program, here)`; nothing outlives it."""
    if len(sys.argv) != 2:
        sys.exit(usage)
    program = os.path.abspath(sys.argv[1])
    # A signal ends it by the same way as a failure, so that nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    children = Children()
    with tempfile.TemporaryDirectory() as here:
        here = Path(here)
        try:
            checks(children, program, here)
        except Failed as failure:
            print(f"fail: {failure}")
            for log in ("daemon.log", "prometheus.log"):
                if (here / log).exists():
                    print(f"--- {log}\n" + "\n".join((here / log).read_text().splitlines()[-30:]))
            sys.exit(1)
        finally:
            children.end()
