"""Just enough of the safetensors format: 8 bytes with the header's length, JSON, data."""
import json
import struct

import numpy as np

SIZES = {"F32": 4, "BF16": 2}


def stored(values, dtype):
    """f32 values as they are stored; bf16 rounds to the nearest, ties to even."""
    if dtype == "F32":
        return values.astype("<f4", copy=False)
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")


class Writer:
    """Tensors are written one after the other, in any number of pieces."""

    def __init__(self, path, tensors, dtype):
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in tensors:
            end = at + int(np.prod(shape)) * SIZES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.dtype, self.left = dtype, at
        self.file = open(path, "wb")
        self.file.write(struct.pack("<Q", len(text)) + text)

    def write(self, values):
        data = stored(np.ascontiguousarray(values, np.float32), self.dtype)
        self.left -= data.nbytes
        self.file.write(data)

    def close(self):
        self.file.close()
        assert self.left == 0, f"{self.left} bytes of the header's promise were not written"


def shards(checkpoint):
    """The weight files of a checkpoint, with their headers and where the data begins."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with open(path, "rb") as file:
            (n,) = struct.unpack("<Q", file.read(8))
            yield path, json.loads(file.read(n)), 8 + n


def matrices(checkpoint):
    """(name, shape, load) of every two-dimensional tensor; `load()` gives f32."""
    for path, header, base in shards(checkpoint):
        for name, tensor in header.items():
            if name != "__metadata__" and len(tensor["shape"]) == 2:
                yield name, tuple(tensor["shape"]), lambda p=path, t=tensor, b=base: load(p, t, b)


def load(path, tensor, base):
    (start, end), shape = tensor["data_offsets"], tensor["shape"]
    kind = {"F32": "<f4", "BF16": "<u2"}[tensor["dtype"]]
    data = np.fromfile(path, kind, (end - start) // SIZES[tensor["dtype"]], offset=base + start)
    if tensor["dtype"] == "BF16":
        data = (data.astype(np.uint32) << 16).view(np.float32)
    return data.reshape(shape)
