#!/usr/bin/env python3
"""Scrapes every 200 ms and looks at every body: `scraper.py ADDRESSFILE RUNSFILE OUT`. It ends with its standard input.

RUNSFILE says of each run how wide its saves are, so that what is exported can be compared with what its trainer saved.
"""
import http.client
import json
import sys
import threading
import time
from pathlib import Path

import oracle
from content import Save
from daemon import Body

INTERVAL = 0.2
MAX_TOLD = 50
COUNTERS = ("_total", "_count", "_bucket", "_sum")


class Scraper:
    def __init__(self, address, runs, out):
        self.address, self.runs, self.out = Path(address), Path(runs), out
        self.before, self.start = None, None
        self.n, self.distinct, self.told = 0, 0, 0
        self.checks = {"counters": 0, "values": 0, "doubled": 0}

    def tell(self, kind, words):
        self.told += 1
        if self.told <= MAX_TOLD:
            self.note(kind=kind, words=words)

    def note(self, **about):
        self.out.write(json.dumps({"at": time.monotonic(), **about}) + "\n")

    def ask(self):
        try:
            host, port = self.address.read_text().split(":")
        except (OSError, ValueError):
            return
        start = time.monotonic()
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            text = answer.read().decode()
            self.note(seconds=time.monotonic() - start, status=answer.status)
            if answer.status == 200:
                self.look(text)
        except (OSError, http.client.HTTPException) as error:
            self.note(seconds=time.monotonic() - start, status=0, why=repr(error)[:80])
        finally:
            connection.close()

    def look(self, text):
        self.n += 1
        body = Body(text)
        if self.before and body.samples == self.before.samples:
            return
        self.distinct += 1
        self.checks["doubled"] += 1
        if body.doubled:
            self.tell("doubled", body.doubled[:3])
        start = body.samples.get("process_start_time_seconds")
        if self.before and start == self.start:
            self.rises(body)
        self.before, self.start = body, start
        self.values(body)

    def rises(self, body):
        """No counter falls within the life of a process."""
        for series, value in self.before.samples.items():
            if series.split("{")[0].endswith(COUNTERS):
                self.checks["counters"] += 1
                now = body.samples.get(series)
                if now is not None and now < value:
                    self.tell("fallen", f"{series}: {value}, then {now}")

    def values(self, body):
        try:
            runs = json.loads(self.runs.read_text())
        except (OSError, ValueError):
            return
        norms = {}
        for labels, value in body.all("weight_norm"):
            norms.setdefault(labels["run"], {})[f"fc{int(labels['layer']) + 1}.weight"] = value
        for run, found in norms.items():
            step = body.value("checkpoint_analyzed_step", run=run)
            if run not in runs or step is None:
                continue
            self.checks["values"] += 1
            versions = [Save(run, int(step), width, version) for width in runs[run] for version in (0, 1)]
            if not any(oracle.norms(save) == found for save in versions):
                self.tell("value", f"{run} at step {step}: {found}")


def main(address, runs, out):
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with open(out, "w", buffering=1) as file:
        scraper = Scraper(address, runs, file)
        at = time.monotonic()
        while not ended.is_set():
            scraper.ask()
            at = max(at + INTERVAL, time.monotonic() - 1)
            ended.wait(max(0.0, at - time.monotonic()))
        scraper.note(total=scraper.n, distinct=scraper.distinct, told=scraper.told, checks=scraper.checks)


if __name__ == "__main__":
    main(*sys.argv[1:])
