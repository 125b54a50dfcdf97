"""HDF5 files whose parts lead astray, and archives of Keras around them; made by a fixed recipe."""
import json
import struct
import zipfile

from hostile_kit import lone, zipped

NOWHERE = (1 << 64) - 1


class File:
    """A file in the oldest form: a superblock, groups as trees over heaps of names, arrays in one piece."""

    def __init__(self):
        self.bytes = bytearray(96)

    def add(self, data):
        self.bytes += bytes(-len(self.bytes) % 8)
        at = len(self.bytes)
        self.bytes += data
        return at

    def object(self, *messages, n=None, size=None):
        body = b"".join(struct.pack("<HHB3x", kind, len(data), 0) + data for kind, data in messages)
        return self.add(struct.pack("<BBHII4x", 1, 0, len(messages) if n is None else n, 1, len(body) if size is None else size) + body)

    def array(self, dims=(2, 2), at=None, n_bytes=16, space=None, kind=None, layout=None):
        at = self.add(bytes(16)) if at is None else at
        space = space or struct.pack("<BBB5x", 1, len(dims), 0) + b"".join(struct.pack("<Q", dim) for dim in dims)
        kind = kind or bytes([0x11, 0x20, 31, 0]) + struct.pack("<I", 4) + bytes([0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0])
        layout = layout or b"\x03\x01" + struct.pack("<QQ", at, n_bytes) + bytes(6)
        return self.object((1, space), (3, kind), (8, layout))

    def group(self, items, names=None, tree=None, heap=None):
        """A group of (name, place); `names` as they stand in the heap."""
        texts, places = bytearray(8), []
        for name, _ in items:
            places.append(len(texts))
            texts += name.encode() + b"\0"
            texts += bytes(-len(texts) % 8)
        texts = names or bytes(texts)
        segment = self.add(texts)
        heap = self.add(b"HEAP" + struct.pack("<B3xQQQ", 0, len(texts), NOWHERE, segment)) if heap is None else heap
        if tree is None:
            table = self.add(b"SNOD" + struct.pack("<BBH", 1, 0, len(items)) + b"".join(struct.pack("<QQI4x16x", place, at, 0) for place, (_, at) in zip(places, items)))
            tree = self.add(b"TREE" + struct.pack("<BBHQQ", 0, 0, 1, NOWHERE, NOWHERE) + struct.pack("<QQQ", 0, table, 0))
        return self.object((0x11, struct.pack("<QQ", tree, heap)))

    def done(self, root, version=0, end=None, widths=(8, 8), base=0):
        front = b"\x89HDF\r\n\x1a\n" + bytes([version, 0, 0, 0, 0, *widths, 0]) + struct.pack("<HHI", 4, 16, 0)
        front += struct.pack("<QQQQ", base, NOWHERE, len(self.bytes) if end is None else end, NOWHERE) + struct.pack("<QQI4x16x", 0, root, 0)
        self.bytes[:96] = front
        return bytes(self.bytes)


def built(make):
    file = File()
    return make(file)


def sound(file):
    return file.group([("dense", file.group([("vars", file.group([("0", file.array())]))]))])


def of_array(**how):
    return built(lambda file: file.done(file.group([("w", file.array()), ("x", file.array(**how))])))


def hdf5s():
    """(name, file, verdict, words)"""
    whole = built(lambda file: file.done(sound(file)))
    yield "sound", whole, "weights", ""
    yield "empty", b"", "incomplete", "found 0 bytes"
    yield "cut", whole[:-9], "incomplete", "by the superblock"
    yield "longer", whole + bytes(8), "incomplete", "by the superblock"
    yield "zeros_in_front", bytes(96) + whole[96:], "incomplete", "found zeros in front"
    yield "other_mark", b"\x88" + whole[1:], "malformed", "found another mark in front"
    yield "version_9", built(lambda file: file.done(sound(file), version=9)), "malformed", "found superblock version 9"
    yield "narrow", built(lambda file: file.done(sound(file), widths=(4, 4))), "not weights", "narrow addresses"
    yield "user_block", built(lambda file: file.done(sound(file), base=512)), "not weights", "behind a block of its user's"
    yield "end_2_64", built(lambda file: file.done(sound(file), end=NOWHERE)), "incomplete", "by the superblock"
    yield "root_beyond", built(lambda file: file.done(1 << 40)), "malformed", "found an object header"
    yield "root_nowhere", built(lambda file: file.done(NOWHERE)), "malformed", "found an object header"
    yield "root_no_object", built(lambda file: file.done(file.add(bytes(64)))), "malformed", "found no object header"
    yield "root_is_array", built(lambda file: file.done(file.array())), "weights", ""
    yield "tree_in_itself", built(lambda file: file.done(file.group([], tree=self_tree(file)))), "malformed", "bites its tail"
    yield "tree_beyond", built(lambda file: file.done(file.group([], tree=1 << 50))), "malformed", "found a node of a tree"
    yield "tree_other", built(lambda file: file.done(file.group([], tree=file.add(bytes(32))))), "malformed", "found no TREE or SNOD"
    yield "tree_of_65535", built(lambda file: file.done(file.group([], tree=file.add(b"TREE" + struct.pack("<BBHQQ", 0, 0, 65535, NOWHERE, NOWHERE))))), "malformed", "found TREE"
    yield "heap_beyond", built(lambda file: file.done(file.group([("w", file.array())], heap=1 << 50))), "malformed", "found HEAP"
    yield "heap_other", built(lambda file: file.done(file.group([("w", file.array())], heap=file.add(bytes(32))))), "malformed", "found no HEAP"
    yield "heap_huge", built(lambda file: file.done(file.group([("w", file.array())], heap=file.add(b"HEAP" + struct.pack("<B3xQQQ", 0, 1 << 62, NOWHERE, 0))))), "malformed", "found the names of a group"
    yield "name_without_end", built(lambda file: file.done(file.group([("w", file.array())], names=bytes(8) + b"w" * 8))), "malformed", "found a name in a group that can be none"
    yield "name_with_slash", built(lambda file: file.done(file.group([("../../w", file.array())]))), "malformed", "found a name in a group that can be none"
    yield "group_in_itself", built(in_itself), "weights", ""
    yield "groups_in_groups", built(nested), "malformed", "levels, expected fewer"
    yield "long_names", built(long_names), "malformed", "names in a group, expected fewer"
    yield "header_in_itself", built(lambda file: file.done(continued(file, lambda at: at))), "malformed", ""
    yield "header_beyond", built(lambda file: file.done(continued(file, lambda at: 1 << 50))), "malformed", "found a part of an object header"
    yield "header_huge", built(lambda file: file.done(file.object((1, b"x" * 8), size=0xFFFFFFFF))), "malformed", "found a part of an object header"
    yield "message_beyond", built(lambda file: file.done(file.add(struct.pack("<BBHII4x", 1, 0, 1, 1, 16) + struct.pack("<HHB3x", 1, 60_000, 0) + bytes(8)))), "malformed", "found a message of 60000 bytes"
    yield "many_continuations", built(continuations), "malformed", ""
    yield "elements_beyond", of_array(at=1 << 50), "malformed", "found elements at"
    yield "elements_wrap", of_array(at=NOWHERE - 8), "malformed", "found elements at"
    yield "elements_nowhere", of_array(at=NOWHERE), "weights", ""
    yield "size_lies", of_array(n_bytes=12), "malformed", "found 12 bytes of shape [2, 2], expected 16"
    yield "product", of_array(dims=(1 << 32, 1 << 32)), "malformed", "expected fewer elements"
    yield "rank_65", of_array(dims=(1,) * 65), "malformed", "found a broken shape"
    yield "rank_lies", of_array(space=struct.pack("<BBB5x", 1, 200, 0)), "malformed", "found a broken shape"
    yield "chunks", built(lambda file: file.done(file.group([("w", file.array(layout=b"\x03\x02\x03" + bytes(40)))]))), "not weights", "kept in chunks"
    yield "odd_type", built(lambda file: file.done(file.group([("w", file.array(kind=bytes([0x19, 0, 0, 0]) + bytes(20)))]))), "not weights", "no plain numbers"
    yield "elsewhere", built(lambda file: file.done(file.group([("w", external(file))]))), "not weights", "in other files"


def self_tree(file):
    at = len(file.bytes) + -len(file.bytes) % 8
    return file.add(b"TREE" + struct.pack("<BBHQQ", 0, 1, 1, NOWHERE, NOWHERE) + struct.pack("<QQQ", 0, at, 0))


def in_itself(file):
    """A group that holds itself and an array."""
    array = file.array()
    group = file.group([("again", 0), ("w", array)])
    table = bytes(file.bytes).rindex(b"SNOD") + 8
    file.bytes[table + 8:table + 16] = struct.pack("<Q", group)
    return file.done(group)


def nested(file):
    at = file.array()
    for _ in range(40):
        at = file.group([("g", at)])
    return file.done(at)


def long_names(file):
    """Names that are all the end of one long text."""
    array = file.array()
    texts = b"n" * 4000 + b"\0" * 8
    segment = file.add(texts)
    heap = file.add(b"HEAP" + struct.pack("<B3xQQQ", 0, len(texts), NOWHERE, segment))
    tables = [file.add(b"SNOD" + struct.pack("<BBH", 1, 0, 3900) + b"".join(struct.pack("<QQI4x16x", at, array, 0) for at in range(3900))) for _ in range(16)]
    tree = file.add(b"TREE" + struct.pack("<BBHQQ", 0, 0, len(tables), NOWHERE, NOWHERE) + b"".join(struct.pack("<QQ", 0, table) for table in tables) + bytes(8))
    return file.done(file.object((0x11, struct.pack("<QQ", tree, heap))))


def continued(file, place):
    at = len(file.bytes) + -len(file.bytes) % 8
    return file.object((0x10, struct.pack("<QQ", place(at), 64)))


def continuations(file):
    """Headers of many parts, each of which names all of them."""
    parts = [file.add(bytes(4000)) for _ in range(60)]
    body = b"".join(struct.pack("<HHB3x", 0x10, 16, 0) + struct.pack("<QQ", part, 3984) for part in parts)
    body = (body * 4)[:3984]
    for part in parts:
        file.bytes[part:part + len(body)] = body
    heads = [file.object(*((0x10, struct.pack("<QQ", part, 3984)) for part in parts), (1, bytes([2, 0, 0, 2]))) for _ in range(400)]
    return file.done(file.group([(str(n), at) for n, at in enumerate(heads)]))


def external(file):
    space = struct.pack("<BBB5x", 1, 1, 0) + struct.pack("<Q", 4)
    kind = bytes([0x11, 0x20, 31, 0]) + struct.pack("<I", 4) + bytes([0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0])
    return file.object((1, space), (3, kind), (7, b"/etc/passwd\0" + bytes(20)), (8, b"\x03\x01" + struct.pack("<QQ", NOWHERE, 16) + bytes(6)))


def kerases():
    """(name, archive, verdict, words)"""
    inner = built(lambda file: file.done(sound(file)))
    weights = ("model.weights.h5", inner)
    yield "sound", zipped([weights]), "weights", ""
    yield "no_weights", zipped([("config.json", b"{}")]), "not weights", "without model.weights.h5"
    yield "compressed", zipped([weights], zipfile.ZIP_DEFLATED), "not weights", "compressed, where it is read as Keras stores it"
    yield "weights_cut", zipped([("model.weights.h5", inner[:-8])]), "incomplete", "by the superblock"
    yield "weights_empty", zipped([("model.weights.h5", b"")]), "incomplete", "found 0 bytes"
    yield "not_json", zipped([weights, ("config.json", b"{" * 1000)]), "weights", ""
    lambda_layer = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda", "config": {"function": "__import__('os').system('touch PWNED_keras')"}}]}}
    yield "lambda", zipped([weights, ("config.json", json.dumps(lambda_layer).encode())]), "weights", ""
    deep = {"class_name": "Sequential", "config": {"layers": []}}
    yield "deep", zipped([weights, ("config.json", json.dumps(deep).replace("[]", "[" * 900_000 + "]" * 900_000).encode())]), "weights", ""


def saves():
    for name, data, verdict, words in hdf5s():
        yield lone(f"hdf5_{name}.weights.h5", data, verdict, words)
    for name, data, verdict, words in kerases():
        yield lone(f"keras_{name}.keras", data, verdict, words)
