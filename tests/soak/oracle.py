"""What weightvane must measure of a save, computed anew from run and step: by definition, in pure Python.

It shares no code with the crate and reads no file. The definitions are those of tests/fixtures/reference.py.
"""
import functools
import math
from itertools import product

from content import LAYERS, Save

# Wider ones are only checked by their norms and counts, which are exact at any width.
WIDEST = 64
# Of numbers between -1 and 1, and relative for others.
TOLERANCE = 1e-12


def inner(a, b):
    return math.fsum(x * y for row, other in zip(a, b) for x, y in zip(row, other))


def gram(rows):
    """Of the rows with each other."""
    return [[math.fsum(x * y for x, y in zip(a, b)) for b in rows] for a in rows]


def times(a, b):
    columns = list(zip(*b))
    return [[math.fsum(x * y for x, y in zip(row, column)) for column in columns] for row in a]


def combined(a, b, of_a, of_b):
    return [[of_a * x + of_b * y for x, y in zip(row, other)] for row, other in zip(a, b)]


def trace(a):
    return math.fsum(a[i][i] for i in range(len(a)))


def norm(a):
    return math.sqrt(inner(a, a))


def pair(writer, reader):
    """The numbers of two matrices that share a space: what one writes there and what the other reads."""
    b = gram(writer)
    a = gram(list(zip(*reader)))
    m = len(a)
    ab = times(a, b)
    commutator2 = inner(*[combined(ab, list(zip(*ab)), 1, -1)] * 2)
    trace_a, trace_b, norm_a, norm_b, product_ab = trace(a), trace(b), norm(a), norm(b), inner(a, b)

    def centred(of, its_trace):
        return [[x - (its_trace / m if i == j else 0.0) for j, x in enumerate(row)] for i, row in enumerate(of)]
    a0, b0 = centred(a, trace_a), centred(b, trace_b)
    traceless = inner(a0, a0) * inner(b0, b0)
    chance = 2 * m * traceless / ((m - 1) * (m + 2))
    gap = norm(combined(a, b, 1, -1))
    shape_a, shape_b = norm_a / trace_a, norm_b / trace_b
    return {
        "dim": m,
        "gram_correlation": inner(a0, b0) / math.sqrt(traceless),
        "gram_cosine": product_ab / (norm_a * norm_b),
        "commutator": math.sqrt(2 * commutator2) / (norm_a * norm_b),
        "commutator_vs_chance": commutator2 / chance,
        "composition": math.sqrt(product_ab / (trace_a * trace_b)),
        "gap": gap,
        "gap_ratio": gap / (norm_a + norm_b),
        "gap_shape": norm(combined(a, b, 1 / trace_a, -1 / trace_b)) / (shape_a + shape_b),
    }


@functools.lru_cache(4096)
def norms(save):
    return save.frobenius()


@functools.lru_cache(4096)
def pairs(save):
    """Position of the writer → its numbers; empty where the save is wide."""
    if save.width > WIDEST:
        return {}
    matrices = [save.matrix(name) for name, _, _ in LAYERS]
    return {layer: pair(matrices[layer], matrices[layer + 1]) for layer in range(len(LAYERS) - 1)}


@functools.lru_cache(4096)
def updates(save, before):
    """Change of each matrix since another save over that one's size; nothing where the shape is another, and no key where it is not known."""
    out = {}
    for (name, rows, cols), shape in zip(save.shapes(), before.shapes()):
        if shape[1:] != (rows, cols):
            out[name] = None
        elif cols <= WIDEST:
            out[name] = norm(combined(save.matrix(name), before.matrix(name), 1, -1)) / norms(before)[name]
    return out


def differs(name, found, expected):
    """What is wrong with a number, or nothing."""
    if isinstance(expected, int):
        return None if found == expected else f"{name}: found {found}, expected exactly {expected}"
    scale = max(1.0, abs(expected)) if name not in ("gap", "frobenius_norm") else abs(expected)
    if found is not None and abs(found - expected) <= TOLERANCE * scale:
        return None
    return f"{name}: found {found}, expected {expected}"


def recognised(run, steps, width, frobenius):
    """The step of the run whose norms these are, bit for bit, or none: then they are of no save, or of two."""
    for step in steps:
        if norms(Save(run, step, width)) == frobenius:
            return step
    return None


def faults(save, matrices, pairs_found, nan, parameters, before=None):
    """What is wrong with the recorded rows of a save; also how many numbers were compared. `before` are the saves
    that it may have been compared with."""
    wrong, n = [], 0

    def look(name, found, expected):
        nonlocal n
        n += 1
        fault = differs(name, found, expected)
        if fault:
            wrong.append(f"{save.run} step {save.step}: {fault}")
    look("nan", nan, save.nan)
    look("parameters", parameters, save.parameters)
    look("matrices", len(matrices), len(LAYERS))
    look("pairs", len(pairs_found), len(LAYERS) - 1)
    by_name = {row["name"]: row for row in matrices}
    for name, rows, cols in save.shapes():
        row = by_name.get(name)
        if row is None:
            wrong.append(f"{save.run} step {save.step}: no row of {name}")
            continue
        for key, expected in (("rows", rows), ("cols", cols), ("nan", 0), ("inf", 0)):
            look(key, row[key], expected)
        n += 1
        if row["frobenius_norm"] != norms(save)[name]:
            wrong.append(f"{save.run} step {save.step}: norm of {name} is {row['frobenius_norm']!r}, expected exactly {norms(save)[name]!r}")
    for row, (layer, key) in product(pairs_found, [(layer, key) for layer, of in pairs(save).items() for key in of]):
        if row["layer"] == layer:
            look(key, row[key], pairs(save)[layer][key])
    if before is not None:
        n += 1
        ratios = {row["name"]: row["update_ratio"] for row in matrices}
        if not any(agrees(ratios, updates(save, other)) for other in before) and any(ratio is not None for ratio in ratios.values()):
            wrong.append(f"{save.run} step {save.step}: update ratios {ratios} are against no save before it")
    return wrong, n


def agrees(found, expected):
    return all(found.get(name) == value if value is None or found.get(name) is None else abs(found[name] - value) <= 1e-6 * value
               for name, value in expected.items())
