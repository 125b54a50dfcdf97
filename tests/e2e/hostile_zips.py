"""Zip archives that say one thing and hold another; made by a fixed recipe."""
import struct

from hostile_kit import STORAGE, lone, state, tensor, torch_zip, weight, zipped

SOUND = state(weight())


class Entry:
    """One entry, with what stands before its data and what stands in the list apart."""

    def __init__(self, name, data, **other):
        self.name, self.data = name.encode() if isinstance(name, str) else name, data
        self.local = {"name": self.name, "method": 0, "flags": 0, "size": len(data), "crc": 0, **other.pop("local", {})}
        self.list = {"name": self.name, "method": 0, "flags": 0, "size": len(data), "full": None, "at": None, "extra": b"", "crc": 0, **other.pop("list", {})}


def entries(*more, first=None):
    """Those of an archive of torch.save."""
    return [first or Entry("a/data.pkl", SOUND), Entry("a/byteorder", b"little"), Entry("a/data/0", STORAGE[0][1]), *more]


def archive(parts, front=b"", n=None, n_bytes=None, at=None, comment=b"", wide=None, behind=b""):
    """An archive of such entries; its end says what it is told to."""
    out, list_ = bytearray(front), bytearray()
    for part in parts:
        begin = len(out)
        own = part.local
        out += struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, own["flags"], own["method"], 0, 0, own["crc"], own["size"], own["size"], len(own["name"]), 0)
        out += own["name"] + part.data
        own = part.list
        size, place = own["size"], begin if own["at"] is None else own["at"]
        full = size if own["full"] is None else own["full"]
        list_ += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, own["flags"], own["method"], 0, 0, own["crc"], size, full, len(own["name"]), len(own["extra"]), 0, 0, 0, 0, place)
        list_ += own["name"] + own["extra"]
    start = len(out)
    out += list_
    n, n_bytes, at = (len(parts) if n is None else n), (len(list_) if n_bytes is None else n_bytes), (start if at is None else at)
    if wide:
        record = len(out)
        out += struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, *wide(n, n_bytes, at))
        out += struct.pack("<IIQI", 0x07064B50, 0, record, 1)
    out += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, n & 0xFFFF, n & 0xFFFF, n_bytes, at, len(comment)) + comment
    return bytes(out + behind)


def described():
    """As torch.save writes it: sizes and sums stand behind the data alone, and a record for large archives."""
    parts = entries()
    for part in parts:
        size = len(part.data)
        part.local.update(flags=0x808, size=0)
        part.list.update(flags=0x808)
        part.data += struct.pack("<IIII", 0x08074B50, 0, size, size)
    return archive(parts, wide=lambda n, n_bytes, at: (n, n, n_bytes, at))


def zips():
    whole = torch_zip(SOUND, STORAGE)
    yield "as_torch_writes", described(), "weights", ""
    yield "trailing", whole + b"x" * 100, "malformed", "found bytes behind the end"
    yield "cut", whole[:-30], "incomplete", "found no end of the zip archive"
    yield "half", whole[:len(whole) // 2], "incomplete", "found no end of the zip archive"
    yield "front_only", whole[:4], "incomplete", "found no end of the zip archive"
    yield "end_only", b"PK\x03\x04" + b"PK\x05\x06" + b"\0" * 18, "malformed", "expected it to end at 4"
    yield "many_entries", b"PK\x03\x04" + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0), "malformed", "found a list of 65535 entries"
    yield "directory_outside", b"PK\x03\x04" + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 46, 0x7FFFFFFF, 0), "malformed", "expected it to end at 4"
    yield "sixty_thousand", zipped([*((f"a/data/{n}", b"") for n in range(60_000)), ("a/data.pkl", b"\x80\x02}.")]), "not weights", "it names no tensors"
    yield "one_entry_more", archive(entries(), n=4), "malformed", "found a broken list of entries"
    yield "one_entry_fewer", archive(entries(), n=2), "malformed", "behind the list of entries"
    yield "list_elsewhere", archive(entries(), at=9), "malformed", "expected it to end at"
    yield "list_longer", archive(entries(), n_bytes=10_000), "malformed", "expected it to end at"
    yield "two_ends", archive(entries(), wide=lambda n, n_bytes, at: (n + 1, n + 1, n_bytes, at)), "malformed", "two end records that contradict each other"
    yield "wide_is_huge", archive(entries(), n=0xFFFF, wide=lambda n, n_bytes, at: (1 << 62, 1 << 62, n_bytes, at)), "malformed", "found a list of 4611686018427387904 entries"
    yield "locator_to_nowhere", whole[:-22] + struct.pack("<IIQI", 0x07064B50, 0, 1 << 62, 1) + whole[-22:], "malformed", "where the zip64 locator leads"
    yield "locator_to_other", archive(entries(), wide=lambda *_: (0, 0, 0, 0)).replace(b"PK\x06\x06", b"PK\x06\x09"), "malformed", "where the zip64 locator leads"
    yield "on_another", archive(entries(Entry("a/data/1", b"x", list={"at": 0}))), "malformed", "upon another one"
    yield "into_the_next", archive(entries(first=Entry("a/data.pkl", SOUND, local={"size": len(SOUND) + 40}, list={"size": len(SOUND) + 40}))), "malformed", "upon another one"
    yield "into_the_list", archive(entries(Entry("a/data/1", b"x", local={"size": 30}, list={"size": 30}))), "malformed", "beyond the list of entries"
    yield "beyond_the_file", archive(entries(Entry("a/data/1", b"x", list={"at": 1 << 30}))), "malformed", "found another place before the data"
    yield "twice", archive(entries(Entry("a/data/0", bytes(64)))), "malformed", "found entry a/data/0 twice"
    yield "two_pickles", archive(entries(Entry("b/data.pkl", SOUND))), "not weights", "with 2 data.pkl"
    yield "no_pickle", archive(entries()[1:]), "not weights", "with 0 data.pkl"
    yield "other_name_in_front", archive(entries(Entry("a/data/1", b"x", local={"name": b"a/data/9"}))), "malformed", "found another name before"
    yield "longer_name_in_front", archive(entries(Entry("a/data/1", b"x", local={"name": b"a/data/1x"}))), "malformed", "found another name before"
    yield "other_method_in_front", archive(entries(Entry("a/data/1", b"x", local={"method": 8}))), "malformed", "found another method before"
    yield "other_size_in_front", archive(entries(Entry("a/data/1", b"xy", local={"size": 1}))), "malformed", "found another size before"
    yield "no_mark_in_front", archive(entries(Entry("a/data/1", b"x", list={"at": 3}))), "malformed", ""
    yield "two_sizes", archive(entries(Entry("a/data/1", b"x", list={"full": 1 << 31}))), "malformed", "stored in two sizes"
    yield "unknown_method", archive(entries(Entry("a/data/1", b"x", local={"method": 93}, list={"method": 93}))), "malformed", "compressed, expected all of them stored"
    yield "encrypted", archive(entries(Entry("a/data/1", b"x", local={"flags": 1}, list={"flags": 1}))), "malformed", "encrypted"
    yield "encrypted_otherwise", archive(entries(Entry("a/data/1", b"x", list={"flags": 1 << 6}))), "malformed", "encrypted"
    yield "a_patch", archive(entries(Entry("a/data/1", b"x", list={"flags": 1 << 5}))), "malformed", "encrypted"
    yield "wide_field_missing", archive(entries(Entry("a/data/1", b"x", list={"at": 0xFFFFFFFF}))), "malformed", "found a broken list of entries"
    yield "wide_field_huge", archive(entries(Entry("a/data/1", b"x", list={"at": 0xFFFFFFFF, "extra": struct.pack("<HHQ", 1, 8, 1 << 62)}))), "malformed", "found another place before the data"
    yield "field_beyond", archive(entries(Entry("a/data/1", b"x", list={"extra": struct.pack("<HH", 1, 60_000)}))), "malformed", "found a broken list of entries"
    yield "zero_in_a_name", archive(entries(Entry(b"a/data/1\0.txt", b"x"))), "malformed", "whose name holds a zero byte"
    yield "name_no_text", archive(entries(Entry(b"a/data/\xff", b"x"))), "malformed", "found a broken list of entries"
    yield "name_of_64k", archive(entries(Entry("a/" + "n" * 65_000, b"x"))), "weights", ""
    yield "comment_with_an_end", archive(entries(), comment=b"PK\x05\x06" + bytes(18)), "malformed", "expected it to end at"
    yield "comment", archive(entries(), comment=b"hello"), "weights", ""
    yield "comment_cut", archive(entries(), comment=b"hello")[:-2], "incomplete", "found no end of the zip archive"
    yield "end_cut", whole[:-9], "incomplete", "found no end of the zip archive"
    yield "bytes_in_front", archive(entries(), front=b"#!/bin/sh\n"), "not weights", "no file that torch.save wrote"
    yield "archive_in_front", whole + archive(entries()), "malformed", ""
    yield "a_program", archive(entries(Entry("a/constants.pkl", b"\x80\x02)."))), "not weights", "a TorchScript program"
    yield "middle_endian", archive([Entry("a/data.pkl", SOUND), Entry("a/byteorder", b"middle"), Entry("a/data/0", bytes(64))]), "malformed", "found no byte order"
    yield "storage_elsewhere", archive([Entry("a/data.pkl", SOUND), Entry("b/data/0", bytes(64))]), "malformed", "in a storage that is not there"
    yield "storage_above", archive([Entry("a/data.pkl", state(("w", tensor("../../../../etc/passwd", (4, 4), (4, 1), 16)))), Entry("a/data/0", bytes(64))]), "malformed", "in a storage that is not there"
    yield "names_above", archive(entries(Entry("../../../../tmp/PWNED_zip", b"x"))), "weights", ""


def saves():
    for name, data, verdict, words in zips():
        yield lone(f"zip_{name}.ckpt", data, verdict, words)
