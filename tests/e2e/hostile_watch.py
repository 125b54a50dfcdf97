"""A daemon that has every hostile save as that of a run, beside a sound run and hostile names."""
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import hostile_places
from helpers import Failed, get, launch_daemon
from hostile_files import saves as all_saves
from hostile_kit import model

CONFIG = """
scan_interval: 1s
quiet: 100ms
settle: 300ms
series_limit: 200
"""
# Names under which a trainer keeps the weights of each ending.
WHOLE = {".safetensors": "model.safetensors", **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), "pytorch_model.bin")}
# NumPy's lone arrays are no saves to the daemon.
NO_SAVE = ".npy"
# What the daemon has at rest, with all these runs, over its start; and what a file may take beside that.
KEPT, MEMORY = 96 << 20, 80 << 20
# Freed memory goes back to the system after ten seconds.
RESTS = 15
PATIENCE = 300
# No weight file is in them, what their framework writes last is missing, or a file that was deleted is still open: they are waited
# for, opened by nobody, and nothing is counted or said of them. By hand `explain` says what they lack.
WAITED_FOR = (
    "distributed_no_record", "index_10000_shards", "index_4000_shards", "index_bin_calls", "index_bin_lacks_a_shard", "index_bin_leads_up",
    "index_map_twice", "record_nothing", "record_only_optimizer", "record_still_open", "zero_leads_nowhere", "zero_leads_up",
)
# A line of /metrics, as Prometheus reads it.
SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="(\\[\\"n]|[^"\\\n])*",?)*\})? [-+0-9.eEInfNa]+')


def sound(run):
    """A run of one save."""
    save = run / "checkpoint-1"
    save.mkdir(parents=True)
    (save / "model.safetensors").write_bytes(model("a", "b"))
    (save / "trainer_state.json").write_text(json.dumps({"global_step": 1}))


def lay(root):
    """Writes each save as checkpoint-1 of a run of its name; run → verdict."""
    verdicts = {}
    for save in all_saves():
        if save.name.endswith(NO_SAVE):
            continue
        run = root / save.name / "checkpoint-1"
        for path, data in save.files.items():
            ending = Path(save.name).suffix if not path else ""
            file = run / (path or WHOLE.get(ending, save.name))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        state = run / "trainer_state.json"
        if not state.exists():
            state.write_text(json.dumps({"global_step": 1}))
        verdicts[save.name] = save.verdict
    hostile_places.write(root)
    sound(root / "sound")
    return verdicts


def labels(line):
    """Labels of a sample."""
    plain = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
    return {name: re.sub(r'\\[\\"n]', lambda found: plain[found[0]], value) for name, value in re.findall(r'([a-z_]+)="((?:\\[\\"n]|[^"\\\n])*)"', line)}


class Watched:
    """The daemon and what it says."""

    def __init__(self, daemon, address, log):
        self.daemon, self.address, self.log = daemon, address, log

    def metrics(self):
        try:
            return get(f"http://{self.address}/metrics")[1]
        except urllib.error.HTTPError:
            # While the history is read.
            return ""

    def values(self, body, family):
        """(run, reason) → value, of what has been counted: series begin with 0."""
        found = {}
        for line in body.splitlines():
            if line.startswith(f"weightvane_{family}{{"):
                of = labels(line)
                found[of["run"], of.get("reason")] = float(line.rsplit(" ", 1)[1])
        return {key: value for key, value in found.items() if value}

    def n_lines(self, run, words):
        """Lines of the log about a save of that run."""
        return sum(words in line and f"/{run}/checkpoint-1" in line for line in self.log.read_text(errors="replace").splitlines())

    def status(self, key):
        text = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+)", text)[1]) << 10


def settle(watched, verdicts):
    """Waits until every save was read and told of."""
    deadline = time.monotonic() + PATIENCE
    while True:
        body = watched.metrics()
        analysed, failed = watched.values(body, "checkpoints_analyzed_total"), watched.values(body, "checkpoint_failures_total")
        missing = []
        for run, verdict in verdicts.items():
            if run in WAITED_FOR:
                continue
            if verdict == "weights":
                is_told = (run, None) in analysed
            elif verdict == "malformed":
                is_told = (run, "malformed") in failed
            elif verdict == "incomplete":
                is_told = (run, "incomplete") in failed
            else:
                is_told = watched.n_lines(run, "no save, passed over") > 0
            if not is_told:
                missing.append((run, verdict))
        if not missing:
            return body
        if time.monotonic() > deadline:
            raise Failed(f"daemon: not told within {PATIENCE} s of {len(missing)} saves, as {missing[:5]}")
        time.sleep(1)


def hold(watched, body, verdicts, changed=()):
    """Each save counts once, by its class alone; those in `changed` twice."""
    failed = watched.values(body, "checkpoint_failures_total")
    opened = {run for family in ("checkpoints_analyzed_total", "checkpoint_failures_total") for run, _ in watched.values(body, family)}
    told = [run for run in WAITED_FOR if run in opened or watched.n_lines(run, "WARN") or watched.n_lines(run, "no save, passed over")]
    if told or not set(WAITED_FOR) <= set(verdicts):
        raise Failed(f"daemon: {told} are to be waited for, and are told of")
    for (run, reason), n in failed.items():
        if run in verdicts and (verdicts[run] != reason or n != (2 if run in changed else 1)):
            raise Failed(f"daemon: {run}, which is {verdicts[run]}, counts {n} times as {reason}")
    for run, verdict in verdicts.items():
        if run in WAITED_FOR:
            continue
        words = {"malformed": "save not measured", "not weights": "no save, passed over", "not a checkpoint": "no save, passed over"}.get(verdict)
        n = watched.n_lines(run, words) if words else 1
        if n != (2 if run in changed else 1):
            raise Failed(f"daemon: {run}, which is {verdict}, is told of {n} times")
    odd = [line for line in body.splitlines() if line and not line.startswith("#") and not SAMPLE.fullmatch(line)]
    long = [line for line in body.splitlines() if any(len(value.encode()) > 256 or re.search(r"[\x00-\x1f\x7f]", value) for value in labels(line).values())]
    if odd or long or "\nPWNED" in body:
        raise Failed(f"daemon: odd lines {odd[:2]}, long labels {long[:2]}")
    said = subprocess.run(["promtool", "check", "metrics"], input=body, text=True, capture_output=True)
    if said.returncode or said.stdout or said.stderr:
        raise Failed(f"promtool says {said.stdout + said.stderr:.500}")


def names(watched, body):
    """Runs with hostile names are measured, each under a name of its own."""
    measured = {run for run, _ in watched.values(body, "checkpoints_analyzed_total") if run.startswith("names/")}
    if len(measured) != len(hostile_places.NAMES):
        raise Failed(f"daemon: {len(measured)} of {len(hostile_places.NAMES)} runs with hostile names are measured: {sorted(measured)}")
    _, page = get(f"http://{watched.address}/")
    _, runs = get(f"http://{watched.address}/api/v1/runs")
    if "<script>alert" in page or not measured <= {run["name"] for run in json.loads(runs)["runs"]}:
        raise Failed("daemon: a hostile name is markup on the page, or missing in the list of runs")
    return len(measured)


def at_rest(watched):
    least, until = watched.status("VmRSS"), time.monotonic() + RESTS
    while time.monotonic() < until:
        time.sleep(0.5)
        least = min(least, watched.status("VmRSS"))
    return least


def is_read_again(watched, body, changed, mended):
    """The log says it, and so does the counter: it follows the record, which follows the line."""
    failed = watched.values(body, "checkpoint_failures_total")
    told = all(watched.n_lines(run, "save not measured") > 1 and failed.get((run, "malformed"), 0) > 1 for run in changed)
    return told and (mended, None) in watched.values(body, "checkpoints_analyzed_total")


def watch(program, here, children):
    root = here / "runs"
    verdicts = lay(root)
    (here / "weightvane.yaml").write_text(CONFIG)
    arguments = root, "--config", here / "weightvane.yaml", "--listen", "127.0.0.1:0", "--state-dir", here / "state"
    log = here / "log"
    daemon, address = launch_daemon(children, program, log, *arguments)
    watched = Watched(daemon, address, log)
    started = watched.status("VmRSS")
    begin = time.monotonic()
    body = settle(watched, verdicts)
    seconds = time.monotonic() - begin
    # Several scans later nothing was tried again.
    time.sleep(5)
    body = watched.metrics()
    hold(watched, body, verdicts)
    n_names = names(watched, body)
    if watched.values(body, "checkpoints_analyzed_total").get(("sound", None)) != 1:
        raise Failed("daemon: the sound run is not measured")
    # What changes is read again: broken once more, or mended.
    changed, mended = ("header_twice.safetensors", "zip_twice.ckpt", "gguf_rank_5.gguf"), "header_a_hole.safetensors"
    for run in changed:
        for file in (root / run / "checkpoint-1").iterdir():
            file.write_bytes(file.read_bytes())
    (root / mended / "checkpoint-1/model.safetensors").write_bytes(model("a", "b"))
    deadline = time.monotonic() + PATIENCE
    while not is_read_again(watched, watched.metrics(), changed, mended):
        if time.monotonic() > deadline:
            raise Failed("daemon: what was changed was not read again")
        time.sleep(0.5)
    hold(watched, watched.metrics(), verdicts, changed)
    peak, rest = watched.status("VmHWM"), at_rest(watched)
    if rest > started + KEPT or peak > rest + MEMORY:
        raise Failed(f"daemon: {started >> 20} MiB at its start, {rest >> 20} at rest, a peak of {peak >> 20}")
    daemon.send_signal(signal.SIGTERM)
    if daemon.wait(20):
        raise Failed(f"daemon: exit code {daemon.returncode}")
    said = log.read_text(errors="replace")
    if "panicked" in said or "internal error" in said:
        raise Failed("daemon: a panic in the log")
    n_malformed = sum(verdict != "weights" for verdict in verdicts.values())
    return (f"a daemon with {len(verdicts)} hostile saves, {n_malformed} of them malformed, and {n_names} hostile names: each told once by its class within {seconds:.0f} s, "
            f"again only after a change; {(peak - rest) / (1 << 20):.1f} MiB at most over the {rest / (1 << 20):.1f} that it has at rest with all of them; promtool finds nothing")


if __name__ == "__main__":
    from helpers import Children
    started_here = Children()
    try:
        print(watch(str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]), started_here))
    finally:
        started_here.end()
