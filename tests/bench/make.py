#!/usr/bin/env python3
"""Writes synthetic checkpoints: make.py [--dir DIR] [--bulk] [--drift D] [--seed N] [--force] MODEL...

Each model gets a directory a save: checkpoint-100; checkpoint-200, the next save, every tensor moved by
a relative D/3 to 3D, half of it low-rank and half dense; checkpoint-300, a byte copy of 200. Spectra are
a Marchenko-Pastur bulk with power-law spikes on it (s1/s64 about 5), and matrices that meet in a layer
or in the residual stream share some directions, so that not all alignment is chance; --bulk leaves the
bulk alone. Every value follows from model, tensor name and seed. What is complete is kept.
"""
import argparse
import json
import os
import shutil
import sys
import time
import zlib

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one thread: the same bits everywhere this runs

import numpy as np

import models
from safetensors_io import Writer

VERSION = 1
SPIKES = 128
SHARED = 0.4  # share of a direction, squared, that is common to all matrices on that side
BLOCK = 1 << 22  # elements made at a time
DRIFT_RANK = 8


def say(text):
    print(text, file=sys.stderr, flush=True)


def orthonormal(matrix):
    return np.linalg.qr(matrix)[0]


class Maker:
    def __init__(self, model, name, args):
        self.model, self.name, self.args = model, name, args
        self.bases = {}

    def rng(self, *what):
        key = zlib.crc32(" ".join(map(str, (self.name, *what))).encode())
        return np.random.Generator(np.random.SFC64([self.args.seed, key]))

    def common(self, side, n):
        """Directions in which the matrices meeting on a side agree."""
        if (side, n) not in self.bases:
            draw = self.rng("basis", side, n).standard_normal((n, min(SPIKES, n // 4)), np.float32)
            self.bases[side, n] = orthonormal(draw)
        return self.bases[side, n]

    def directions(self, rng, side, n, k):
        own = rng.standard_normal((n, k), np.float32) / np.sqrt(n, dtype=np.float32)
        shared = self.common(side, n)[:, :k]
        own[:, : shared.shape[1]] *= np.sqrt(1 - SHARED)
        own[:, : shared.shape[1]] += np.float32(np.sqrt(SHARED)) * shared
        return orthonormal(own)

    def sides(self, name, shape):
        """What the rows and the columns of a stored matrix are: the residual stream, or a layer's inside."""
        layer = next((part for part in name.split(".") if part.isdigit()), "outside")
        side = "mlp" if ".mlp." in name else "attention"
        return ["stream" if n == self.model.width and not (axis == inside(name)) else f"{side} {layer}"
                for axis, n in enumerate(shape)]

    def blocks(self, name, shape):
        """Pairs of blocks of rows of the matrix, before and after the drift."""
        rng = self.rng(name)
        rows, cols = shape
        sigma = np.float32(0.02)
        power, low = rows * cols * float(sigma) ** 2, None
        if not self.args.bulk:
            k = min(SPIKES, min(shape) // 4)
            edge = float(sigma) * (np.sqrt(rows) + np.sqrt(cols))
            # s1/s64 = 5, and the 64th just above the edge of the bulk.
            spikes = 1.1 * edge * (np.arange(1, k + 1) / min(64, k)) ** (-np.log(5) / np.log(64))
            left, right = (self.directions(rng, side, n, k) for side, n in zip(self.sides(name, shape), shape))
            low, power = (left * spikes.astype(np.float32), right.T.copy()), power + float(np.sum(spikes**2))
        step = self.args.drift * 3 ** rng.uniform(-1, 1) * np.sqrt(power / 2)
        dense = np.float32(step / np.sqrt(rows * cols))
        out, into = (rng.standard_normal((n, DRIFT_RANK), np.float32) / np.float32(np.sqrt(n)) for n in shape)
        out *= np.float32(step / np.sqrt(DRIFT_RANK))
        height = max(1, BLOCK // cols)
        for at in range(0, rows, height):
            here = slice(at, min(rows, at + height))
            n = here.stop - here.start
            before = sigma * rng.standard_normal((n, cols), np.float32)
            if low:
                before += low[0][here] @ low[1]
            after = dense * rng.standard_normal((n, cols), np.float32)
            after += before
            after += out[here] @ into.T
            yield before, after

    def vector(self, name, n):
        rng = self.rng(name)
        gain = "norm" in name or ".ln_" in name
        before = (1 + 0.2 * rng.standard_normal(n) if gain and name.endswith("weight") else 0.02 * rng.standard_normal(n))
        after = before * (1 + self.args.drift * rng.standard_normal(n))
        return before.astype(np.float32), after.astype(np.float32)

    def write(self, paths, tensors):
        writers = [Writer(path, tensors, self.model.dtype) for path in paths]
        for name, shape in tensors:
            pieces = self.blocks(name, shape) if len(shape) == 2 else [self.vector(name, shape[0])]
            for piece in pieces:
                for writer, values in zip(writers, piece):
                    writer.write(values)
        for writer in writers:
            writer.close()


def inside(name):
    """The axis of a stored matrix that lies inside its layer; none (2) outside the layers."""
    if "transformer.h." in name:
        return 0 if name.endswith("c_proj.weight") else 1
    if ".layers." in name:
        return 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
    return 2 if ".wpe." in name else 0


def shard_names(layers):
    n = layers + 1
    return [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]


def describe(save, step, model, layers, index):
    """The files beside the weights; the trainer's record last, as the trainer does."""
    if index:
        (save / "model.safetensors.index.json").write_text(json.dumps(index))
    (save / "config.json").write_text(json.dumps(model.config(layers), indent=2))
    record = {"global_step": step, "max_steps": 1000, "log_history":
              [{"step": step, "loss": 3.0 - step / 1000, "learning_rate": 1e-4, "grad_norm": 1.0}]}
    (save / "trainer_state.json").write_text(json.dumps(record))


def index_of(model, layers):
    names = shard_names(layers)
    shards = [model.layer(i) for i in range(layers)] + [model.outside()]
    where = {name: file for file, tensors in zip(names, shards) for name, _ in tensors}
    size = model.parameters(layers) * (4 if model.dtype == "F32" else 2)
    return {"metadata": {"total_size": size}, "weight_map": where}


def make(name, args, where):
    model = models.MODELS[name]
    maker = Maker(model, name, args)
    saves = {step: where / f"checkpoint-{step}" for step in model.saves}
    for save in saves.values():
        save.mkdir(parents=True)
    fresh = [saves[100], saves[200]]
    if model.family == "gpt2":
        tensors = model.outside() + [t for i in range(model.layers) for t in model.layer(i)]
        maker.write([save / "model.safetensors" for save in fresh], tensors)
    else:
        shards = [model.layer(i) for i in range(model.layers)] + [model.outside()]
        for file, tensors in zip(shard_names(model.layers), shards):
            maker.write([save / file for save in fresh], tensors)
            say(f"  {name}: {file}")
    if 300 in saves:
        for file in sorted(saves[200].glob("*.safetensors")):
            shutil.copyfile(file, saves[300] / file.name)
    index = None if model.family == "gpt2" else index_of(model, model.layers)
    for step, save in saves.items():
        describe(save, step, model, model.layers, index)


def link(name, layers, source, where):
    """The first layers of a model: hard links to its shards under an index and a configuration of their own."""
    model = models.MODELS[name]
    old, new = shard_names(model.layers), shard_names(layers)
    for step in models.TWO:
        save = where / f"checkpoint-{step}"
        save.mkdir(parents=True)
        for before, after in zip(old[:layers] + old[-1:], new):
            os.link(source / f"checkpoint-{step}" / before, save / after)
        describe(save, step, model, layers, index_of(model, layers))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(models.MODELS))
    parser.add_argument("--dir", help="default: $WEIGHTVANE_BENCH_DIR or target/bench")
    parser.add_argument("--bulk", action="store_true", help="Gaussian matrices, without spikes")
    parser.add_argument("--drift", type=float, default=3e-3, help="relative size of the step to the next save")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--force", action="store_true", help="make anew what is there")
    args = parser.parse_args()
    if unknown := set(args.models) - set(models.MODELS):
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(models.MODELS)}")
    for name in args.models or models.MODELS:
        stamp = {"version": VERSION, "model": repr(models.MODELS[name]), "bulk": args.bulk, "drift": args.drift,
                 "seed": args.seed, "part": models.PARTS.get(name)}
        where = models.directory(args.dir) / (name + ("-bulk" if args.bulk else ""))
        made = where / "made.json"
        if not args.force and made.exists() and json.loads(made.read_text()) == stamp:
            say(f"{name}: there already, {where}")
            continue
        start = time.monotonic()
        shutil.rmtree(where, ignore_errors=True)
        make(name, args, where)
        if part := models.PARTS.get(name):
            link(name, part, where, where / f"layers-{part}")
        made.write_text(json.dumps(stamp))
        say(f"{name}: {models.MODELS[name].parameters() / 1e6:.1f} M parameters, {time.monotonic() - start:.0f} s, {where}")


if __name__ == "__main__":
    main()
