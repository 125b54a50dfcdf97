"""How fast something grows, and how sure that is."""
import math
import statistics

LEAST_MINUTES = 10.0
BLOCK = 10.0


def slope(points):
    """Growth an hour of (seconds, value), its 95 % error, and the minutes it is of; nothing where they are too few.

    Medians of ten seconds are taken first: an allocator gives memory back in steps. The error is that of a line through them, with as
    many degrees of freedom as neighbouring medians that do not depend on one another.
    """
    if len(points) < 2 or points[-1][0] - points[0][0] < 60 * LEAST_MINUTES:
        return None
    blocks = {}
    for at, value in points:
        blocks.setdefault(int((at - points[0][0]) // BLOCK), []).append(value)
    xs = [(number + 0.5) * BLOCK / 3600 for number in sorted(blocks)]
    ys = [statistics.median(blocks[number]) for number in sorted(blocks)]
    n, mean_x, mean_y = len(xs), statistics.fmean(xs), statistics.fmean(ys)
    sxx = sum((x - mean_x) ** 2 for x in xs)
    b = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / sxx
    rest = [y - mean_y - b * (x - mean_x) for x, y in zip(xs, ys)]
    variance = sum(r * r for r in rest) / (n - 2)
    # How alike neighbours are: of n of them this many are worth something.
    alike = sum(r * s for r, s in zip(rest, rest[1:])) / (sum(r * r for r in rest) or 1.0)
    alike = min(max(alike, 0.0), 0.98)
    error = math.sqrt(variance / sxx * (1 + alike) / (1 - alike))
    return b, 1.96 * error, (points[-1][0] - points[0][0]) / 60
