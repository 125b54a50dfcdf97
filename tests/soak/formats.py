"""Files as the savers write them, byte for byte: safetensors, torch.save, a distributed state of PyTorch.

`check()` holds the containers to files of the real savers among the fixtures.
"""
import collections
import io
import json
import pickle
import struct
import sys
import types
import zipfile
import zlib
from pathlib import Path

ALIGNMENT = 64
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def safetensors(tensors, metadata=None):
    """Header and data, apart. The header is padded to whole eight bytes, as since 0.3."""
    header, at, data = {}, 0, []
    if metadata:
        header["__metadata__"] = metadata
    for name, shape, raw in tensors:
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, data


class Global:
    """Pickles as the global of that name; called, as a call of it."""

    def __init__(self, module, name):
        self.__module__ = module
        self.__qualname__ = self.__name__ = name
        place = sys.modules.setdefault(module, types.ModuleType(module))
        setattr(place, name, self)

    def __reduce__(self):
        return self.__qualname__

    def __call__(self, *arguments):
        return Call(self, arguments)


class Call:
    def __init__(self, function, arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def made_class(module, name, state=None):
    """A class whose objects pickle with their fields, or with what `state` makes of them."""
    fields = {"__module__": module, "__init__": lambda self, **fields: self.__dict__.update(fields)}
    if state:
        fields["__getstate__"] = state
    made = type(name, (), fields)
    setattr(sys.modules.setdefault(module, types.ModuleType(module)), name, made)
    return made


FLOAT_STORAGE = Global("torch", "FloatStorage")
FLOAT32 = Global("torch", "float32")
SIZE = Global("torch", "Size")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
GET_LAYOUT = Global("torch.serialization", "_get_layout")
DCP = "torch.distributed.checkpoint.metadata"
METADATA = made_class(DCP, "Metadata")
INDEX = made_class(DCP, "MetadataIndex")
TENSOR = made_class(DCP, "TensorStorageMetadata")
CHUNK = made_class(DCP, "ChunkStorageMetadata")
MEMORY_FORMAT = Global(DCP, "_MEM_FORMAT_ENCODING")
STORAGE_META = made_class(DCP, "StorageMeta")
PROPERTIES = made_class(DCP, "TensorProperties", lambda self: self.values)
STORED = made_class("torch.distributed.checkpoint.filesystem", "_StorageInfo")


class Storage:
    def __init__(self, key, raw):
        self.key, self.raw = key, raw


class Pickler(pickle.Pickler):
    """Storages are told by name, as torch.save does."""

    def persistent_id(self, one):
        if isinstance(one, Storage):
            return ("storage", FLOAT_STORAGE, one.key, "cpu", len(one.raw) // 4)
        return None


def strides(shape):
    out, size = [], 1
    for n in reversed(shape):
        out.append(size)
        size *= n
    return tuple(reversed(out))


def rebuilt(storage, shape):
    return REBUILD(storage, 0, tuple(shape), strides(shape), False, collections.OrderedDict())


class Zip:
    """The archive of torch.save: stored, aligned, sizes behind the data, a zip64 end in any case."""

    def __init__(self):
        self.parts, self.central, self.at = [], [], 0

    def _put(self, raw):
        self.parts.append(raw)
        self.at += len(raw)

    def add(self, name, raw):
        name, start, crc = name.encode(), self.at, zlib.crc32(raw)
        pad = -(start + 30 + len(name) + 4) % ALIGNMENT
        extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
        self._put(struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra)
        self._put(raw)
        self._put(struct.pack("<4s3I", b"PK\7\x08", crc, len(raw), len(raw)))
        self.central.append(struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, len(raw), len(raw),
                                        len(name), 0, 0, 0, 0, 0, start) + name)

    def end(self):
        """The last record."""
        start, n = self.at, len(self.central)
        central = b"".join(self.central)
        end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, n, n, len(central), start)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, start + len(central), 1)
        return central + end + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, len(central), start, 0)


def torch_save(value, storages, name):
    """The parts of an archive in the order in which they are written, its end last."""
    out = io.BytesIO()
    Pickler(out, 2).dump(value)
    archive = Zip()
    archive.add(f"{name}/data.pkl", out.getvalue())
    archive.add(f"{name}/.format_version", b"1")
    archive.add(f"{name}/.storage_alignment", b"%d" % ALIGNMENT)
    archive.add(f"{name}/byteorder", b"little")
    for storage in storages:
        archive.add(f"{name}/data/{storage.key}", storage.raw)
    archive.add(f"{name}/version", b"3\n")
    archive.add(f"{name}/.data/serialization_id", b"%040d" % zlib.crc32(out.getvalue()))
    return archive.parts + [archive.end()]


def state_dict(tensors, name):
    """torch.save of an ordered dictionary of tensors."""
    state, storages = collections.OrderedDict(), []
    for key, (tensor, shape, raw) in enumerate(tensors):
        storages.append(Storage(str(key), raw))
        state[tensor] = rebuilt(storages[-1], shape)
    return torch_save(state, storages, name)


def distributed(tensors, file="__0_0.distcp"):
    """The parts of the data file of the one rank, and the record that is written last."""
    properties = PROPERTIES(values=(FLOAT32, GET_LAYOUT("torch.strided"), False, MEMORY_FORMAT(0), False))
    parts, at, about, stored = [], 0, {}, {}
    for name, shape, raw in tensors:
        storage = Storage("0", raw)
        piece = b"".join(torch_save(rebuilt(storage, shape), [storage], "archive"))
        size, zero = SIZE(tuple(shape)), SIZE((0,) * len(shape))
        about[name] = TENSOR(properties=properties, size=size, chunks=[CHUNK(offsets=zero, sizes=size)])
        stored[INDEX(fqn=name, offset=zero, index=0)] = STORED(relative_path=file, offset=at, length=len(piece),
                                                              transform_descriptors=None)
        at += len(piece)
        parts.append(piece)
    planner = {name: (name,) for name in about}
    meta = STORAGE_META(checkpoint_id=None, save_id=None, load_id=None, modules=[])
    record = METADATA(state_dict_metadata=about, planner_data=planner, storage_data=stored, storage_meta=meta, version="1.0.0")
    return parts, pickle.dumps(record, 4)


def records(raw):
    """Name and data of every member of an archive, in their order."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return [(one.filename, archive.read(one)) for one in archive.infolist()]


def check():
    """Files of real savers, taken apart and put together again, must be the same. Says how many were."""
    n = 0
    for path in sorted(FIXTURES.rglob("*.pt")) + sorted(FIXTURES.rglob("*.bin")):
        raw = path.read_bytes()
        if raw[:4] != b"PK\3\4" or b".storage_alignment" not in raw:
            continue
        archive = Zip()
        try:
            members = records(raw)
        except zipfile.BadZipFile:  # one without checksums, which torch can be told to write
            continue
        if not all(data for _, data in members):  # an empty tensor's member has no sizes behind it; none is written here
            continue
        for name, data in members:
            archive.add(name, data)
        if b"".join(archive.parts) + archive.end() != raw:
            raise AssertionError(f"{path.name}: torch.save writes another archive than this")
        n += 1
    for path in (FIXTURES / "trainer").rglob("model.safetensors"):
        raw = path.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8:8 + length])
        metadata = header.pop("__metadata__", None)
        tensors = [(name, one["shape"], raw[8 + length:][slice(*one["data_offsets"])])
                   for name, one in sorted(header.items(), key=lambda item: item[1]["data_offsets"])]
        head, data = safetensors(tensors, metadata)
        if head + b"".join(data) != raw:
            raise AssertionError(f"{path.name}: safetensors writes another file than this")
        n += 1
    return n
