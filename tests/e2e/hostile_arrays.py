"""Arrays of NumPy and files of llama.cpp that contradict themselves; made by a fixed recipe."""
import io
import struct
import zipfile

from hostile_kit import lone, zipped

SOUND = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"


def npy(header=SOUND, data=bytes(16), version=1, length=None):
    front = header.encode() + b"\n"
    width = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, len(front) if length is None else length) + front + data


def of(descr="'<f4'", order="False", shape="(2, 2)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def arrays():
    """(name, array, verdict, words)"""
    broken = "expected descr, fortran_order and shape"
    yield "empty", b"", "incomplete", "expected a NumPy header"
    yield "mark_cut", b"\x93NUM", "incomplete", "expected a NumPy header"
    yield "other_mark", b"\x93NUMPX" + npy()[6:], "malformed", "found no NumPy mark"
    yield "version_9", npy(version=9), "malformed", "found version 9"
    yield "header_huge", npy(version=2, length=0xFFFFFFFF), "malformed", "found a header of 4294967295 bytes"
    yield "header_beyond", npy(length=60_000), "incomplete", "expected a NumPy header"
    yield "cut", npy()[:-1], "incomplete", "found 15 bytes of shape [2, 2], expected 16"
    yield "too_long", npy(data=bytes(17)), "malformed", "found 17 bytes of shape [2, 2], expected 16"
    yield "call", npy("{'descr': __import__('os').system('touch PWNED_npy'), 'fortran_order': False, 'shape': (2,)}"), "malformed", broken
    yield "key_twice", npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}"), "malformed", broken
    yield "more_keys", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), 'x': 1}"), "malformed", broken
    yield "no_dictionary", npy("[1, 2]"), "malformed", broken
    yield "deep", npy("{'descr': " + "[" * 60_000), "malformed", broken
    yield "shape_negative", npy(of(shape="(-2, 2)")), "malformed", broken
    yield "shape_2_64", npy(of(shape="(18446744073709551616,)")), "malformed", broken
    yield "shape_product", npy(of(shape="(4294967296, 4294967296)")), "malformed", "expected fewer than 2^48 elements"
    yield "shape_of_65", npy(of(shape="(" + "1," * 65 + ")")), "malformed", broken
    yield "shape_of_nothing", npy(of(shape="(2, 281474976710656, 0)"), data=b""), "malformed", "expected fewer than 2^48 elements"
    yield "order_2", npy(of(order="2")), "malformed", broken
    yield "not_text", npy().replace(b"descr", b"\xff\xff\xff\xff\xff"), "malformed", "not UTF-8"
    yield "objects", npy(of(descr="'|O'"), data=b"cos\nsystem\n(S'touch PWNED_npy'\ntR."), "not weights", "objects of Python"
    yield "records", npy(of(descr="[('a', '<f4'), ('b', '<i4')]")), "not weights", "records"


def bomb():
    """Half a gigabyte of zeros in half a megabyte."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("a.npy")
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w") as entry:
            entry.write(npy(of(shape="(16384, 8192)"), data=b""))
            for _ in range(512):
                entry.write(bytes(1 << 20))
    return out.getvalue()


def archives():
    """(name, archive, verdict, words)"""
    yield "empty", zipped([]), "not weights", "without a tensor"
    yield "no_arrays", zipped([("readme.txt", b"x")]), "not weights", "expected an entry that ends with .npy"
    yield "broken_array", zipped([("a.npy", npy()), ("b.npy", b"\x93NUM")]), "malformed", "array `b`"
    yield "array_cut", zipped([("a.npy", npy()[:-1])]), "malformed", "array `a`"
    yield "objects", zipped([("a.npy", npy(of(descr="'|O'"), data=b"cos\nsystem\n."))]), "not weights", "objects of Python"
    yield "archive_inside", zipped([("a.npy", zipped([("a.npy", npy())]))]), "malformed", "found no NumPy mark"
    yield "bomb", bomb(), "not weights", "bytes stored in"
    blanks = npy(of() + " " * 60_000)
    yield "blank_headers", zipped([(f"{n}.npy", blanks) for n in range(3_000)], zipfile.ZIP_DEFLATED), "malformed", "found headers of more than"
    stream = bytearray(zipped([("a.npy", npy())], zipfile.ZIP_DEFLATED))
    at = stream.index(b"a.npy") + 5
    stream[at:at + 4] = b"\xff" * 4
    yield "stream_broken", bytes(stream), "malformed", "found a broken stream"
    lies = bytearray(zipped([("a.npy", npy(of(shape="(64, 64)"), data=bytes(16384)))], zipfile.ZIP_DEFLATED))
    directory = lies.rindex(b"PK\x01\x02")
    lies[directory + 24:directory + 28] = struct.pack("<I", 200)
    yield "stream_longer", bytes(lies), "malformed", "array `a`"
    yield "lzma", zipped([("a.npy", npy())], zipfile.ZIP_LZMA), "not weights", "compressed by method 14"
    yield "name_of_5000", zipped([("n" * 5000 + ".npy", npy())]), "malformed", "found a name of 5000 bytes"
    yield "names_above", zipped([("../../../tmp/PWNED_npz.npy", npy())]), "weights", ""
    yield "cut", zipped([("a.npy", npy())])[:-10], "incomplete", "found no end of the zip archive"


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def info(name="w", dims=(2, 2), kind=0, offset=0):
    return text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", dim) for dim in dims) + struct.pack("<IQ", kind, offset)


def gguf(tensors=(info(),), keys=(), data=bytes(32), version=3, n_tensors=None, n_keys=None, mark=b"GGUF"):
    head = mark + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def ggufs():
    """(name, file, verdict, words)"""
    u64, u32 = "<Q", "<I"
    whole = gguf(keys=[key("general.architecture", 8, text("llama"))])
    yield "sound", whole, "weights", ""
    yield "empty", b"", "incomplete", "expected a header of at least 4"
    yield "other_mark", gguf(mark=b"GGUX"), "malformed", "expected GGUF"
    yield "version_1", gguf(version=1), "malformed", "found GGUF version 1"
    yield "version_99", gguf(version=99), "malformed", "found GGUF version 99"
    yield "big_endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + bytes(100), "not weights", "big-endian"
    yield "tensors_2_63", gguf(n_tensors=1 << 63), "malformed", "found 9223372036854775808 tensors"
    yield "keys_2_63", gguf(n_keys=1 << 63), "malformed", "9223372036854775808 keys"
    yield "more_tensors", gguf(n_tensors=2), "malformed", "found tensor `` at 0"
    yield "key_of_2_62", gguf(keys=[struct.pack(u64, 1 << 62)]), "malformed", "found a name of 4611686018427387904 bytes"
    yield "text_of_2_62", gguf(keys=[key("a", 8, struct.pack(u64, 1 << 62))]), "malformed", "expected at most 67108864"
    yield "list_of_2_62", gguf(keys=[key("a", 9, struct.pack("<IQ", 4, 1 << 62))]), "malformed", "expected at most 67108864"
    yield "list_of_texts", gguf(keys=[key("a", 9, struct.pack("<IQ", 8, 1 << 62))]), "malformed", "expected at most 67108864"
    yield "lists_in_lists", gguf(keys=[key("a", 9, struct.pack("<IQ", 9, 1) * 100)]), "malformed", "found a list of kind 9"
    yield "list_of_lists", gguf(keys=[key("a", 9, struct.pack("<IQ", 9, 1 << 62))]), "malformed", "expected at most 67108864"
    yield "kind_13", gguf(keys=[key("a", 13, bytes(8))]), "malformed", "found a value of kind 13"
    yield "truth_7", gguf(keys=[key("a", 7, b"\x07")]), "malformed", "found truth value 7"
    yield "key_twice", gguf(keys=[key("a", 4, struct.pack(u32, 1))] * 2), "malformed", "found key `a` twice"
    yield "tensor_twice", gguf([info(), info(offset=32)], data=bytes(64)), "malformed", "found tensor `w` twice"
    yield "rank_5", gguf([info(dims=(1,) * 5)]), "malformed", "of 5 dimensions"
    yield "rank_2_32", gguf([text("w") + struct.pack(u32, 0xFFFFFFFF)]), "malformed", "of 4294967295 dimensions"
    yield "product", gguf([info(dims=(1 << 32, 1 << 32))]), "malformed", "fewer than 2^48 elements"
    yield "product_wraps", gguf([info(dims=(1 << 63, 2, 2))]), "malformed", "fewer than 2^48 elements"
    yield "unaligned", gguf([info(offset=7)]), "malformed", "expected a multiple of 32"
    yield "on_another", gguf([info("a", (16, 2)), info("b", offset=32)], data=bytes(128)), "malformed", "expected a multiple of 32 from 128 on"
    yield "offset_2_64", gguf([info(offset=(1 << 64) - 32)]), "incomplete", "by the header"
    yield "beyond", gguf([info(dims=(64, 64))]), "incomplete", "by the header"
    yield "too_long", gguf(data=bytes(96)), "malformed", "by the header"
    yield "alignment_0", gguf(keys=[key("general.alignment", 4, struct.pack(u32, 0))]), "malformed", "found an alignment of 0"
    yield "alignment_3", gguf(keys=[key("general.alignment", 4, struct.pack(u32, 3))]), "malformed", "found an alignment of 3"
    yield "alignment_text", gguf(keys=[key("general.alignment", 8, text("32"))]), "malformed", "found an alignment of 0"
    yield "alignment_2_31", gguf(keys=[key("general.alignment", 4, struct.pack(u32, 1 << 31))]), "malformed", "found an alignment of 2147483648"
    yield "half_a_block", gguf([info(dims=(33, 2), kind=2)], data=bytes(64)), "malformed", "expected whole blocks"
    yield "unknown_type", gguf([info(kind=9999)]), "not weights", "type 9999 is not known"
    yield "only_q4", gguf([info(dims=(32, 2), kind=2)], data=bytes(64)), "not weights", "whose matrices are of type Q4_0"
    yield "name_of_200", gguf([info("n" * 200)]), "malformed", "found a name of 200 bytes"
    yield "name_no_text", gguf([info(b"\xff")]), "malformed", "not UTF-8"
    yield "an_adapter", gguf(keys=[key("general.type", 8, text("adapter"))]), "not weights", "of type `adapter`"
    yield "a_part", gguf(keys=[key("split.count", 2, struct.pack("<H", 3))]), "not weights", "one of 3 parts"
    yield "heads_of_0", gguf(keys=[key("general.architecture", 8, text("llama")), key("llama.attention.head_count", 4, struct.pack(u32, 0)), key("llama.embedding_length", 4, struct.pack(u32, 0))]), "weights", ""
    yield "heads_of_2_64", gguf([info("blk.0.attn_q.weight"), info("blk.0.attn_output.weight", offset=32)], [key("general.architecture", 8, text("llama")), *(key(f"llama.{name}", 10, b"\xff" * 8) for name in ("attention.head_count", "attention.head_count_kv", "embedding_length", "block_count"))], bytes(64)), "weights", ""
    for where, at in (("mark", 3), ("counts", 20), ("key", 30), ("tensor", 70), ("data", len(whole) - 20)):
        yield f"cut_in_{where}", whole[:at], "incomplete", ""


def saves():
    for name, data, verdict, words in arrays():
        yield lone(f"array_{name}.npy", data, verdict, words)
    for name, data, verdict, words in archives():
        yield lone(f"arrays_{name}.npz", data, verdict, words)
    for name, data, verdict, words in ggufs():
        yield lone(f"gguf_{name}.gguf", data, verdict, words)
