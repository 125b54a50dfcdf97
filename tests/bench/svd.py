#!/usr/bin/env python3
"""What numpy takes, one thread, one JSON line a result, CPU-seconds of the thread's own clock.

    svd.py save CHECKPOINT [--all]   svd(compute_uv=False) in f32 of every matrix of a save, of a fused tensor
                                     part by part; of a large shape one matrix is measured and multiplied
    svd.py kernels [--repeats N]     gemm, singular values, eigh; torch.linalg as well where it is installed
"""
import argparse
import json
import os
import time
from pathlib import Path

for name in ("OPENBLAS", "MKL", "OMP"):
    os.environ[f"{name}_NUM_THREADS"] = "1"

import numpy as np

from safetensors_io import matrices

LARGE = 768 * 3072 * 768  # rows × columns × the smaller: up to here every matrix is measured


def seconds(f):
    wall, cpu = time.perf_counter(), time.process_time()
    f()
    return time.process_time() - cpu, time.perf_counter() - wall


def parts(name, load, shape):
    """A fused tensor as its parts; positions are no matrix of the model's."""
    if name.endswith("wpe.weight"):
        return []
    n = 3 if name.endswith("c_attn.weight") else 1
    width = shape[1] // n
    return [((shape[0], width), lambda i=i: load()[:, i * width:(i + 1) * width]) for i in range(n)]


def save(args):
    groups = {}
    for name, shape, load in matrices(args.checkpoint):
        for shape, part in parts(name, load, shape):
            groups.setdefault(tuple(sorted(shape)), []).append(part)
    cpu = wall = 0.0
    shapes = []
    for shape, group in groups.items():
        few = not args.all and shape[0] * shape[0] * shape[1] > LARGE
        chosen = group[:1] if few else group
        times = []
        for part in chosen:
            matrix = np.ascontiguousarray(part())
            times.append(seconds(lambda: np.linalg.svd(matrix, compute_uv=False)))
        scale = len(group) / len(chosen)
        took = [scale * sum(t[i] for t in times) for i in range(2)]
        cpu, wall = cpu + took[0], wall + took[1]
        shapes.append({"shape": shape, "count": len(group), "measured": len(chosen), "cpu": took[0]})
    print(json.dumps({"checkpoint": str(args.checkpoint), "cpu": cpu, "wall": wall, "shapes": shapes}))


def show(library, kernel, shape, flops, repeats, f):
    times = [seconds(f)[0] for _ in range(repeats)]
    took = float(np.median(times))
    print(json.dumps({"library": library, "kernel": kernel, "shape": shape, "seconds": took,
                      "gflops": flops / took / 1e9 if flops else None}), flush=True)


def suite(library, draw, product, values, eigen, repeats):
    """The same for numpy and torch; `draw(rows, cols, double)` gives a Gaussian matrix."""
    for double in (False, True):
        kind = "f64" if double else "f32"
        for n in (768, 2048) + (() if double else (4096,)):
            a, b = draw(n, n, double), draw(n, n, double)
            show(library, f"gemm {kind}", f"{n}", 2 * n**3, repeats, lambda: product(a, b))
    for rows, cols in ((4096, 4096),):
        w = draw(rows, cols, False)
        for l in (16, 32, 74):
            x = draw(cols, l, False)
            show(library, "W·X f32", f"{rows}x{cols}·{l}", 2 * rows * cols * l, repeats, lambda: product(w, x))
            show(library, "Wᵀ·Y f32", f"{rows}x{cols}·{l}", 2 * rows * cols * l, repeats, lambda: product(w.T, x))
    for n in (64, 128, 512, 768):
        a = draw(n, n, True)
        s = a @ a.T
        show(library, "svd values f64", f"{n}", None, repeats, lambda: values(a))
        show(library, "eigh f64", f"{n}", None, repeats, lambda: eigen(s))
    for rows, cols in ((768, 768), (768, 3072), (2048, 2048)):
        a = draw(rows, cols, False)
        shape = f"{rows}" if rows == cols else f"{rows}x{cols}"
        show(library, "svd values f32", shape, None, repeats if rows < 2048 else 1, lambda: values(a))
    a = draw(2048, 2048, False)
    s = a @ a.T
    show(library, "eigh f32", "2048", None, 1, lambda: eigen(s))


def kernels(args):
    rng = np.random.Generator(np.random.SFC64(1))

    def draw(rows, cols, double):
        return rng.standard_normal((rows, cols), np.float64 if double else np.float32)

    suite("numpy", draw, np.matmul, lambda a: np.linalg.svd(a, compute_uv=False), np.linalg.eigh, args.repeats)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
    suite("torch", lambda *shape: torch.from_numpy(draw(*shape)), torch.matmul, torch.linalg.svdvals,
          torch.linalg.eigh, args.repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("save")
    one.add_argument("checkpoint", type=Path)
    one.add_argument("--all", action="store_true", help="every matrix of large shapes too")
    one.set_defaults(run=save)
    one = commands.add_parser("kernels")
    one.add_argument("--repeats", type=int, default=5)
    one.set_defaults(run=kernels)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
