#!/usr/bin/env python3
"""A directory with thousands of saves: when /metrics answers, when all are measured, and the memory.

    many.py --program WEIGHTVANE [--saves N]

Saves of two 8x8 matrices, so that what is measured is the way of a save through the daemon.
"""
import argparse
import json
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 600  # seconds, used up only by a failure


def write_saves(run, n):
    shape, size = [8, 8], 8 * 8 * 4
    header = {f"l.{i}.weight": {"dtype": "F32", "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
              for i in range(2)}
    header = json.dumps(header).encode()
    for step in range(n):
        values = [((step * 31 + i * 17) % 101 - 50) / 100 for i in range(2 * 8 * 8)]
        save = run / f"checkpoint-{step}"
        save.mkdir(parents=True)
        body = struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(values)}f", *values)
        (save / "model.safetensors").write_bytes(body)
        (save / "trainer_state.json").write_text("{}")


def value(body, name):
    for line in body.splitlines():
        if line.startswith(name + "{") or line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--saves", type=int, default=5000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as here:
        here = Path(here)
        write_saves(here / "runs/run", args.saves)
        start = time.monotonic()
        daemon = subprocess.Popen(
            [args.program, "watch", here / "runs", "--state-dir", here / "state", "--listen", "127.0.0.1:0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            address = daemon.stdout.readline().split("http://")[1].split("/")[0]
            ready = peak = None
            while time.monotonic() - start < PATIENCE:
                try:
                    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                        body = answer.read().decode()
                except urllib.error.HTTPError as error:
                    if error.code != 503:
                        raise
                    # The history is being read.
                    time.sleep(0.01)
                    continue
                ready = ready or time.monotonic() - start
                peak = max(peak or 0, value(body, "process_resident_memory_bytes"))
                if value(body, "weightvane_checkpoints_analyzed_total") >= args.saves:
                    break
                time.sleep(0.05)
            else:
                raise SystemExit("not all were measured in time")
            print(f"{args.saves} saves: /metrics after {ready:.3f} s, all measured after "
                  f"{time.monotonic() - start:.1f} s, at most {peak / 2**20:.0f} MiB resident")
        finally:
            daemon.terminate()
            daemon.wait(10)


main()
