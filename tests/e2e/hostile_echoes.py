"""Files in which what stands once is named so often that whoever writes it out has neither the memory nor the time; made by a
fixed recipe."""
import struct

from hostile_kit import STORAGE, Record, Save, legacy, lone, number, small, state, storage, tensor, text, torch_zip, weight, word

# As much text as a pickle may hold, and a little less.
LONG = 7_000_000


def put(at):
    """Keeps the top of the stack under a number."""
    return b"r" + struct.pack("<I", at)


def get(at):
    return b"j" + struct.pack("<I", at)


def often(items, end=b"u", at_a_time=1000):
    """Fills a container by a thousand at a time."""
    return b"".join(b"(" + b"".join(items[at:at + at_a_time]) + end for at in range(0, len(items), at_a_time))


def long_text(start=""):
    return b"X" + struct.pack("<I", LONG) + start.encode() + b"t" * (LONG - len(start))


def kept(made, at):
    """Made, kept under a number, and taken off again."""
    return made + put(at) + b"0"


def item(name="w"):
    return text(name) + weight()[1]


# A state in place 2, the long text in place 1.
BELOW = kept(b"}(" + item() + b"u", 2)
KEY = kept(long_text(), 1)
TOO_MANY = "a state of more than 2^20 values"


def of_torch():
    """(name, pickle, verdict, words)"""
    start = b"\x80\x02"
    yield "long_keys", start + KEY + b"}" + often([get(1) + b"N"] * 400_000) + b"(" + item() + b"u.", "not weights", TOO_MANY
    yield "long_values", start + KEY + b"}(" + item() + text("config") + b"}" + often([word(str(n)) + get(1) for n in range(60_000)]) + b"u.", "weights", ""
    lists = b"](" + b"N" + b"e" + often([b"}" + get(1) + b"Ns"] * 60_000, end=b"e")
    yield "long_config_keys", start + KEY + b"}(" + item() + text("config") + b"}(" + text("a") + lists + b"uu.", "not weights", TOO_MANY
    yield "long_beside", start + KEY + BELOW + b"}(" + text("model") + get(2) + b"u" + often([get(1) + get(2)] * 200_000) + b".", "weights", ""
    yield "long_skipped", start + kept(long_text("optim"), 1) + BELOW + b"}(" + item() + b"u" + often([get(1) + get(2)] * 200_000) + b".", "not weights", TOO_MANY
    sizes = kept(b"(" + number(1) * 200_000 + b"t", 3)
    built = kept(storage("0", 16), 4) + kept(b"ctorch._utils\n_rebuild_tensor_v2\n", 5)
    many = [word(str(n)) + get(5) + b"(" + get(4) + b"K\x00" + get(3) + get(3) + b"\x89NtR" for n in range(40_000)]
    yield "many_dimensions", start + sizes + built + b"}" + often(many, at_a_time=500) + b".", "malformed", "of 200000 dimensions"
    values = often([small(n % 60_000) + b"N" for n in range(450_000)])
    yield "in_itself", start + b"}" + put(1) + values + b"(" + item() + text("model") + get(1) + b"u.", "not weights", TOO_MANY
    # Two dictionaries, each the model of the other.
    yield "in_each_other", start + b"}" + put(1) + b"}" + put(2) + values + b"(" + item() + text("model") + get(1) + b"u0(" + text("model") + get(2) + b"u.", "not weights", TOO_MANY
    yield "long_storage", start + KEY + named_storages() + b".", "weights", ""


def named_storages():
    """A state beside two hundred thousand storages of one long name."""
    named = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + get(1) + text("cpu") + number(16) + b"t"
    return kept(named, 7) + b"}(" + item() + text("x") + b"]" + often([get(7) + b"Q"] * 200_000, end=b"e") + b"u"


def of_distributed():
    """(name, record, its file, verdict, words)"""
    zeros, four = b"K\x00K\x00\x86", b"K\x04K\x04\x86"
    piece = torch_zip(b"\x80\x02" + tensor("0", (4, 4), (4, 1), 16) + b".", STORAGE)
    here = text("__0_0.distcp")
    one = text("w") + Record.tensor(four, b"](" + Record.chunk(zeros, four) + b"e")
    place = Record.index(text("w"), zeros) + Record.place(here, number(len(piece)))

    def of(before=b"", entries=b"", places=b"", more=()):
        made = Record.of(b"}(" + one + b"u" + entries, b"}(" + place + b"u" + places, more)
        return made[:2] + before + made[2:]
    far = kept(b"(" + b"K\x00" * 200_000 + b"t", 1)
    yield "corners", of(far, places=often([Record.index(text("w"), get(1)) + b"N"] * 5_000, at_a_time=100)), piece, "weights", ""
    empty = Record.chunk(zeros, b"K\x00K\x00\x86") + put(1) + b"0"
    shared = kept(b"]" + often([get(1)] * 300_000, end=b"e"), 2) + kept(Record.tensor(four, get(2)), 3)
    yield "chunks", of(empty + shared, often([word(str(n)) + get(3) for n in range(100_000)])), piece, "malformed", "more pieces than can be told apart"
    fields = b"}(" + text("offsets") + zeros + text("sizes") + b"K\x00K\x00\x86u" + often([small(n % 60_000) + b"N" for n in range(300_000)])
    wide = kept(fields, 1) + kept(Record.module + b"ChunkStorageMetadata\n)\x81" + get(1) + b"b", 2)
    listed = b"](" + Record.chunk(zeros, four) + b"e" + often([get(2)] * 90_000, end=b"e")
    yield "fields", of(wide, b"(" + text("x") + Record.tensor(four, listed) + b"u"), piece, "malformed", "found no pieces of tensor `x`"
    path = kept(b"(" + get(1) + text("w") + b"t", 2)
    planned = [("planner_data", b"}" + often([word(str(n)) + get(2) for n in range(150_000)]))]
    yield "planned", of(KEY + path, more=planned), piece, "weights", ""
    yield "names", of(KEY, often([get(1) + Record.tensor(four, b"]")] * 15_000, at_a_time=100)), piece, "malformed", "found a tensor without a name"
    indices = [Record.index(get(1), small(n) + b"\x85") + b"N" for n in range(30_000)]
    yield "indices", of(KEY, places=often(indices, at_a_time=100)), piece, "weights", ""
    files = [Record.index(text("x"), small(n) + b"\x85") + get(3) for n in range(20_000)]
    pieces = often([Record.chunk(small(n) + b"\x85", b"K\x01\x85") for n in range(20_000)], end=b"e", at_a_time=100)
    long_file = KEY + kept(Record.place(get(1), b"K\x01"), 3)
    yield "files", of(long_file, b"(" + text("x") + Record.tensor(small(20_000) + b"\x85", b"]" + pieces) + b"u", often(files, at_a_time=100)), piece, "malformed", "expected a plain name"
    yield "columns", *columns(30_000)
    yield "crossed", *crossed(9_000)


def columns(n):
    """A tensor of two rows, cut into its columns."""
    piece = torch_zip(b"\x80\x02" + tensor("0", (2, 1), (1, 1), 2) + b".", [("0", bytes(8))])
    chunks, places = [], []
    for at in range(n):
        corner = b"K\x00" + small(at) + b"\x86"
        chunks.append(Record.chunk(corner, b"K\x02K\x01\x86"))
        places.append(Record.index(text("w"), corner) + Record.place(text("__0_0.distcp"), small(len(piece))))
    entries = b"}(" + text("w") + Record.tensor(b"K\x02" + small(n) + b"\x86", b"]" + often(chunks, end=b"e", at_a_time=100)) + b"u"
    return Record.of(entries, b"}" + often(places, at_a_time=100)), piece, "weights", ""


def crossed(n):
    """A tensor of which one half is cut into rows and the other into columns."""
    row = torch_zip(b"\x80\x02" + tensor("0", (1, n), (0, 0), 1) + b".", [("0", bytes(4))])
    chunks, places = [], []
    for at in range(n):
        for corner, shape in ((small(at) + b"K\x00\x86", b"K\x01" + small(n) + b"\x86"), (b"K\x00" + small(n + at) + b"\x86", small(n) + b"K\x01\x86")):
            chunks.append(Record.chunk(corner, shape))
            places.append(Record.index(text("w"), corner) + Record.place(text("__0_0.distcp"), small(len(row))))
    entries = b"}(" + text("w") + Record.tensor(small(n) + small(2 * n) + b"\x86", b"]" + often(chunks, end=b"e", at_a_time=100)) + b"u"
    return Record.of(entries, b"}" + often(places, at_a_time=100)), row, "malformed", ""


def of_deepspeed():
    """(name, states of the model, states of the optimiser, verdict, words)"""
    flat = tensor("0", (16,), (1,), 16)

    def optimizer(stage, key, listed):
        return state(("optimizer_state_dict", b"}(" + text("zero_stage") + small(stage) + text("partition_count") + b"K\x01" + text(key) + listed + b"u"))
    first = optimizer(1, "single_partition_of_fp32_groups", b"](" + flat + b"e")
    shapes = b"](" + b"}(" + text("w") + b"K\x04K\x04\x86u" + b"e"
    many = "more than 50000 names"
    module = b"}" + often([word(str(n)) + b"N" for n in range(49_000)])
    buffers = b"]" + often([word(f"b{n}") for n in range(200_000)], end=b"e")
    yield "buffers", state(("module", module), ("param_shapes", shapes), ("buffer_names", buffers)), first, "weights", ""
    yield "names", b"\x80\x02" + KEY + b"}(" + text("module") + b"}" + often([get(1) + b"N"] * 200_000) + text("param_shapes") + shapes + b"u.", first, "malformed", many
    long_shape = kept(b"(" + b"K\x01" * 200_000 + b"t", 2)
    yield "shapes", b"\x80\x02" + long_shape + b"}(" + text("param_shapes") + b"](" + b"}" + often([word(str(n)) + get(2) for n in range(40_000)]) + b"eu.", first, "malformed", "found a shape that is none"
    group = kept(b"}" + often([word(str(n)) + b"K\x01\x85" for n in range(40_000)]), 2)
    yield "groups", b"\x80\x02" + group + b"}(" + text("param_shapes") + b"]" + often([get(2)] * 100_000, end=b"e") + b"u.", first, "malformed", "of more than 50000 parameters"
    listed = b"](" + flat + put(4) + b"e" + often([get(4)] * 100_000, end=b"e")
    one = state(("param_shapes", b"](" + b"}" + often([word(str(n)) + b"K\x01\x85" for n in range(40_000)]) + b"e"))
    yield "vectors", one, optimizer(3, "fp32_flat_groups", listed), "malformed", "found 100001 flat vectors"
    few = b"](" + flat + put(4) + b"e" + often([get(4)] * 4_000, end=b"e")
    yield "turns", one, optimizer(3, "fp32_flat_groups", few), "malformed", "parameters in 4001 flat vectors"


def saves():
    for name, pickle, verdict, words in of_torch():
        yield lone(f"echo_{name}.pt", torch_zip(pickle, STORAGE), verdict, words)
    yield lone("echo_long_storage.pth", legacy(b"\x80\x02" + KEY + named_storages() + b"."), "weights", "")
    for name, record, held, verdict, words in of_distributed():
        yield Save(f"echo_{name}", verdict, words, {".metadata": record, "__0_0.distcp": held})
    for name, model, optimizer, verdict, words in of_deepspeed():
        files = {"mp_rank_00_model_states.pt": torch_zip(model, STORAGE), "zero_pp_rank_0_mp_rank_00_optim_states.pt": torch_zip(optimizer, STORAGE)}
        yield Save(f"echo_zero_{name}", verdict, words, files)
