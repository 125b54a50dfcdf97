#!/usr/bin/env python3
"""A strict trainer in a process of its own: `trainer.py ORDER`, where ORDER is JSON.

It saves as one of the writer models, keeps the last saves by modification time as the Hugging Face trainer's rotation does, and
deletes the others with shutil.rmtree that ignores nothing. Whatever fails is its end, with exit code 1 and a traceback in its
journal. The journal has a line for every beginning, end and deletion of a save.
"""
import json
import os
import random
import shutil
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import writers
from content import Save


@dataclass(frozen=True)
class Order:
    """What a trainer is to do."""
    run: str
    directory: str
    model: str
    journal: str
    seed: str
    width: int = 12
    interval: float = 1.0
    # Seconds of stalls in one save, at most.
    stall: float = 0.0
    # Saves that rotation leaves; 0: all.
    keep: int = 3
    first: int = 1
    count: int = 1 << 30
    # Seconds in which a removal is tried again: on a network file system others' open files may hold a directory.
    retry: float = 0.0
    # One in so many saves is written once more over itself, with other weights.
    again: int = 0


class Journal:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1)

    def note(self, what, **about):
        self.file.write(json.dumps({"what": what, "at": time.monotonic(), **about}) + "\n")


def stamp(path):
    """Last change and size of the files of a save."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    stats = [file.stat() for file in files]
    return {"mtime_ns": max(stat.st_mtime_ns for stat in stats), "size": sum(stat.st_size for stat in stats)}


def remove(path, patience):
    """rmtree that gives up at the first error, or after a while."""
    until = time.monotonic() + patience
    while True:
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return
        except OSError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)


class Trainer:
    def __init__(self, order):
        self.order, self.journal = order, Journal(order.journal)
        self.draw = random.Random(order.seed)
        self.slept = 0.0
        self.stalls = writers.pauses(self.draw, order.stall)

    def pause(self):
        start = time.monotonic()
        self.stalls()
        self.slept += time.monotonic() - start

    def save(self, step, version=0):
        order = self.order
        Path(order.directory).mkdir(parents=True, exist_ok=True)
        self.journal.note("begins", step=step, version=version, path=str(writers.path_of(order.directory, order.model, step)))
        start, self.slept = time.monotonic(), 0.0
        path = writers.write(order.directory, order.model, Save(order.run, step, order.width, version), self.pause)
        seconds = time.monotonic() - start - self.slept
        self.journal.note("ends", step=step, version=version, path=str(path), seconds=seconds, **stamp(path))

    def rotate(self, kept):
        """By modification time, as transformers does; an order other than that of the steps would delete the wrong save."""
        order = self.order
        by_time = sorted(kept, key=lambda step: os.path.getmtime(writers.path_of(order.directory, order.model, step)))
        if by_time != kept:
            raise AssertionError(f"by modification time {by_time}, saved in the order {kept}")
        while len(kept) > order.keep:
            step = kept.pop(0)
            path = writers.path_of(order.directory, order.model, step)
            self.journal.note("removes", step=step, path=str(path))
            remove(path, order.retry)
            self.journal.note("removed", step=step, path=str(path))
            if path.exists():
                raise AssertionError(f"{path} is still there after its removal")

    def train(self):
        order, kept = self.order, []
        for step in range(order.first, order.first + order.count):
            next_at = time.monotonic() + order.interval
            self.save(step)
            if order.again and step % order.again == 0:
                self.save(step, 1)
            if order.model != "rewrite" and order.keep:
                kept.append(step)
                self.rotate(kept)
            time.sleep(max(0.0, next_at - time.monotonic()))
            if os.path.exists(f"{order.journal}.stop"):
                break


def main(order):
    trainer = Trainer(order)
    try:
        trainer.train()
    except BaseException:
        trainer.journal.note("fails", why=traceback.format_exc())
        return 1
    trainer.journal.note("finishes")
    return 0


def command(order):
    return [sys.executable, str(Path(__file__).resolve()), json.dumps(asdict(order))]


if __name__ == "__main__":
    sys.exit(main(Order(**json.loads(sys.argv[1]))))
