"""What the scripts beside this one share."""
import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
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


def golden_saves(series="healthy"):
    saves = (GOLDEN.parent / series).glob("checkpoint-*")
    return sorted(saves, key=lambda save: int(save.name.split("-")[1]))


def copy_save(save, run, step=None):
    """Copies a save into a run, as that of another step if one is given."""
    to = run / (save.name if step is None else f"checkpoint-{step}")
    to.mkdir(parents=True)
    (to / "model.safetensors").write_bytes((save / "model.safetensors").read_bytes())
    # The trainer's record last, as trainers write.
    state = json.loads((save / "trainer_state.json").read_text())
    if step is not None:
        state["global_step"] = step
    (to / "trainer_state.json").write_text(json.dumps(state))
    return to


def start_daemon(children, program, here):
    """Address of a daemon on `runs`."""
    config = here / "weightvane.yaml"
    config.write_text("scan_interval: 1s\nquiet: 300ms\nsettle: 2s\n")
    arguments = here / "runs", "--config", config, "--listen", "127.0.0.1:0"
    return launch_daemon(children, program, here / "daemon.log", *arguments)[1]


def launch_daemon(children, program, log, *arguments):
    """A daemon with these arguments, and its address."""
    daemon = children.start(
        program, "watch", *arguments, stdout=subprocess.PIPE, stderr=open(log, "ab"), text=True,
    )
    line = daemon.stdout.readline()
    if "http://" not in line:
        raise Failed(f"the daemon says {line!r}")
    return daemon, line.split("http://")[1].split("/")[0]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start_prometheus(children, target, here):
    """A Prometheus on `tsdb` that scrapes the target every second, and its API."""
    config = here / "prometheus.yml"
    config.write_text(CONFIG.format(target=target))
    return launch_prometheus(children, config, here)


def launch_prometheus(children, config, here):
    port = free_port()
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


def launch_alertmanager(children, config, here):
    """An Alertmanager without a cluster, and its port."""
    port = free_port()
    children.start(
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={here / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
        stdout=open(here / "alertmanager.log", "ab"), stderr=subprocess.STDOUT,
    )
    return port


@dataclass
class Notice:
    """One alert of one message."""
    at: float  # Unix seconds
    receiver: str
    status: str
    labels: dict
    annotations: dict


class Webhook:
    """What Alertmanager's web hooks are sent, in the order in which it came."""

    def __init__(self):
        notices = self.notices = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                at = time.time()
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for one in message["alerts"]:
                    notices.append(Notice(
                        at, self.path.strip("/"), one["status"], one["labels"], one["annotations"],
                    ))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        # Ends with the process.
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def first(self, status, alert, after=0.0, **labels):
        """The first notice of this alert since a time."""
        wanted = {"alertname": alert, **labels}
        for notice in list(self.notices):
            if notice.status == status and notice.at >= after and wanted.items() <= notice.labels.items():
                return notice
        return None


def changed(path, changes, words=r"[\w.:/-]+"):
    """The text of a file with some of its words replaced; `changes` has expressions and what comes
    instead. Holds that each finds something, and that nothing else is changed."""
    text, n_changes = path.read_text(), 0
    out = text
    for pattern, replacement in changes:
        out, n = re.subn(pattern, replacement, out)
        if n == 0:
            raise Failed(f"{path.name} has no {pattern}")
        n_changes += n
    old, new = re.findall(words, text), re.findall(words, out)
    differ = [(a, b) for a, b in zip(old, new) if a != b]
    same_frame = re.sub(words, "", text) == re.sub(words, "", out)
    check(
        f"{path.name}: {len(differ)} addresses and durations changed, and nothing else",
        len(old) == len(new) and len(differ) == n_changes and same_frame, differ,
    )
    return out


def run(checks, usage, may_keep=False):
    """Runs `checks(children, program, here)`; nothing outlives it. With `--keep`, where it may be said,
    the files stay."""
    arguments = sys.argv[1:]
    keep = may_keep and "--keep" in arguments
    arguments = [one for one in arguments if not (may_keep and one == "--keep")]
    if len(arguments) != 1:
        sys.exit(usage)
    program = os.path.abspath(arguments[0])
    # A signal ends it by the same way as a failure, so that nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    children = Children()
    place = contextlib.nullcontext(tempfile.mkdtemp()) if keep else tempfile.TemporaryDirectory()
    with place as here:
        here = Path(here)
        if keep:
            print(f"files are in {here}")
        try:
            checks(children, program, here)
        except Failed as failure:
            print(f"fail: {failure}")
            for log in sorted(here.glob("*.log")):
                print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-30:]))
            sys.exit(1)
        finally:
            children.end()
