"""What hostile files are made of: parts of the formats, and what is to be said of each file."""
import hashlib
import io
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

# What can be said of a checkpoint, and the exit code that goes with it.
VERDICTS = {"weights": 0, "malformed": 65, "not weights": 65, "not a checkpoint": 65, "unreadable": 66, "missing": 66, "incomplete": 75}
# How a message ends that says so, and no other.
OF_NOT_WEIGHTS = "expected the weights of the model itself"


@dataclass(frozen=True)
class Save:
    """A checkpoint: its path below the corpus, what is said of it (with `words` in it), and its files, by their path below
    its own, which for a lone file is ''."""
    name: str
    verdict: str
    words: str
    files: dict

    def paths(self):
        return {f"{self.name}/{path}" if path else self.name: data for path, data in self.files.items()}


def lone(name, data, verdict, words=""):
    return Save(name, verdict, words, {"": data})


def write(saves, root):
    """Writes the files; to the standard output a line for each save: name, verdict, words, and a sum of its files."""
    for save in saves:
        sum_ = hashlib.sha256()
        for name, data in save.paths().items():
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sum_.update(f"{name} {len(data)} ".encode() + data)
        print(json.dumps([save.name, save.verdict, save.words, sum_.hexdigest()]), flush=True)


# Pickles of torch.save

def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def word(value):
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def small(value):
    """A whole number in as few bytes as a pickle has for it."""
    if value < 256:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if value < 1 << 16 else b"J" + struct.pack("<i", value)


def sizes(values):
    return b"(" + b"".join(number(v) for v in values) + b"t"


def storage(key, numel, kind="FloatStorage"):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(key, shape, strides, numel, offset=0, kind="FloatStorage"):
    """The instructions that build a tensor over a storage."""
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(key, numel, kind) + number(offset) + sizes(shape) + sizes(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def state(*items):
    """A pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in items) + b"u."


def weight(name="w"):
    """An item of a state: a matrix of 4×4 in the storage that `STORAGE` is."""
    return name, tensor("0", (4, 4), (4, 1), 16)


STORAGE = [("0", bytes(64))]


def zipped(entries, method=zipfile.ZIP_STORED):
    """An archive of (name, data)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
    return out.getvalue()


def torch_zip(data_pkl, storages=(), name="archive", method=zipfile.ZIP_STORED, more=()):
    """What torch.save would write around a pickle."""
    front = [(f"{name}/data.pkl", data_pkl), (f"{name}/byteorder", b"little")]
    held = [(f"{name}/data/{key}", data) for key, data in storages]
    return zipped([*front, *held, (f"{name}/version", b"3\n"), *more], method)


LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + b"\x80\x02M\xe9\x03."


def legacy(data_pkl, keys=("0",), storages=((16, bytes(64)),), little=True):
    """The same in the format before the zip archive."""
    system = b"\x80\x02}(" + text("little_endian") + (b"\x88" if little else b"\x89") + b"u."
    listed = b"\x80\x02](" + b"".join(text(key) for key in keys) + b"e."
    return LEGACY + system + data_pkl + listed + b"".join(struct.pack("<q", n) + data for n, data in storages)


# safetensors

def entry(name="w", dtype='"F32"', shape="[1,1]", offsets="[0,4]"):
    return f'"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def safetensors(header, data=b""):
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header)) + header + data


def model(*names):
    """A sound file of matrices of one value each."""
    entries = [entry(name, offsets=f"[{4 * at},{4 * at + 4}]") for at, name in enumerate(names)]
    return safetensors("{" + ",".join(entries) + "}", bytes(4 * len(names)))


# Distributed states of PyTorch

class Record:
    """Parts of the record of a distributed state."""
    module = b"ctorch.distributed.checkpoint.metadata\n"
    place_module = b"ctorch.distributed.checkpoint.filesystem\n"

    @staticmethod
    def made(kind, fields, module=module):
        return module + kind + b"\n)\x81}(" + b"".join(text(key) + value for key, value in fields) + b"ub"

    @classmethod
    def of(cls, entries, places, more=()):
        return b"\x80\x02" + cls.made(b"Metadata", [("state_dict_metadata", entries), ("storage_data", places), *more]) + b"."

    @classmethod
    def chunk(cls, corner, size):
        return cls.made(b"ChunkStorageMetadata", [("offsets", corner), ("sizes", size)])

    @classmethod
    def tensor(cls, size, chunks, kind=b"float32"):
        properties = cls.module + b"TensorProperties\n)\x81(ctorch\n" + kind + b"\nNNNNtb"
        return cls.made(b"TensorStorageMetadata", [("properties", properties), ("size", size), ("chunks", chunks)])

    @classmethod
    def index(cls, name, corner):
        return cls.made(b"MetadataIndex", [("fqn", name), ("offset", corner), ("index", b"K\x00")])

    @classmethod
    def place(cls, file, length, offset=b"K\x00", more=()):
        return cls.made(b"_StorageInfo", [("relative_path", file), ("offset", offset), ("length", length), *more], cls.place_module)
