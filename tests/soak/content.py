"""What a save holds: a pure function of the run, the step and the width, so that nobody has to read it to know it.

Weights are f32 of few bits: the top byte says sign and scale, the next is random, the rest is zero. So sums of
their squares are whole multiples of a power of two and exact in f64 in whatever order they are summed. The scale
changes from step to step: a value made of two saves is far from every true one.
"""
import collections
import math
import random
import struct
import zlib
from dataclasses import dataclass

SCALES = 7
DOTTED_NAN = b"\0\0\xc0\x7f"

# Names and shapes of the matrices; the first has as many columns as the save is to be long.
LAYERS = (("fc1.weight", 16, None), ("fc2.weight", 20, 16), ("fc3.weight", 10, 20))
BIAS = "fc1.bias"
N_BIAS = 16
SMALL = 12


def _value(byte, scale):
    """The magnitude that a top byte of 0x3a + scale and a second one of `byte` stand for."""
    return struct.unpack("<f", bytes([0, 0, byte, 0x3A + scale]))[0]


# Exact numerators over a common denominator for the sums.
_UNIT = 1 << 60
_SQUARES = [[int(_value(byte, scale) ** 2 * _UNIT) for byte in range(256)] for scale in range(SCALES)]
_SIGNED = [bytes(0x3A + scale | (0x80 if byte & 1 else 0) for byte in range(256)) for scale in range(SCALES)]


@dataclass(frozen=True)
class Save:
    """One save of a run. `width` is the number of columns of its first matrix: 64 bytes each."""
    run: str
    step: int
    width: int = SMALL
    # Of a step that is saved again, as after a resume.
    version: int = 0

    @property
    def scale(self):
        return (self.step + 3 * self.version + zlib.crc32(self.run.encode())) % SCALES

    @property
    def nan(self):
        """How many weights of the bias are NaN."""
        return 1 + self.step % 3 if self.step % 13 == 5 else 0

    def shapes(self):
        return [(name, rows, cols or self.width) for name, rows, cols in LAYERS]

    def _bytes(self, name, n):
        draw = random.Random(f"{self.run}/{self.step}/{self.version}/{self.width}/{name}")
        return draw.randbytes(n), draw.randbytes(n)

    def tensor(self, name, n):
        """Its bytes as f32, little endian."""
        out = bytearray(4 * n)
        fine, signs = self._bytes(name, n)
        out[2::4] = fine
        out[3::4] = signs.translate(_SIGNED[self.scale])
        return out

    def tensors(self):
        """Name, shape and bytes of each tensor, in the order in which they are saved."""
        for name, rows, cols in self.shapes():
            if name == LAYERS[1][0]:
                yield BIAS, (N_BIAS,), bytes(self.bias())
            yield name, (rows, cols), bytes(self.tensor(name, rows * cols))

    def bias(self):
        out = self.tensor(BIAS, N_BIAS)
        out[:4 * self.nan] = DOTTED_NAN * self.nan
        return out

    def frobenius(self):
        """Norm of each matrix, rounded once."""
        norms = {}
        for name, rows, cols in self.shapes():
            counts = collections.Counter(self._bytes(name, rows * cols)[0])
            exact = sum(n * _SQUARES[self.scale][byte] for byte, n in counts.items())
            norms[name] = math.sqrt(exact / _UNIT)
        return norms

    def matrix(self, name):
        """Its rows as lists of numbers."""
        rows, cols = next((rows, cols) for known, rows, cols in self.shapes() if known == name)
        flat = struct.unpack(f"<{rows * cols}f", self.tensor(name, rows * cols))
        return [flat[row * cols:(row + 1) * cols] for row in range(rows)]

    @property
    def parameters(self):
        return N_BIAS + sum(rows * cols for _, rows, cols in self.shapes())
