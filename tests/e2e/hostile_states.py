"""Saves of several files that do not fit one another, and records beside them; made by a fixed recipe."""
import json

from hostile_kit import STORAGE, Record, Save, entry, model, number, safetensors, sizes, small, state, tensor, text, torch_zip

ZEROS, FOUR = sizes((0, 0)), sizes((4, 4))
PIECE = torch_zip(b"\x80\x02" + tensor("0", (4, 4), (4, 1), 16) + b".", STORAGE)
FILE = "__0_0.distcp"


def record(size=FOUR, pieces=((ZEROS, FOUR),), kind=b"float32", places=None, more=()):
    """A record of one tensor `w` in such pieces, each all of the file."""
    chunks = b"](" + b"".join(Record.chunk(corner, shape) for corner, shape in pieces) + b"e"
    if places is None:
        places = b"}(" + b"".join(Record.index(text("w"), corner) + Record.place(text(FILE), number(len(PIECE))) for corner, _ in pieces) + b"u"
    return Record.of(b"}(" + text("w") + Record.tensor(size, chunks, kind) + b"u", places, more)


def place(file=FILE, length=None, offset=b"K\x00", more=()):
    return b"}(" + Record.index(text("w"), ZEROS) + Record.place(text(file), number(len(PIECE) if length is None else length), offset, more) + b"u"


def distributed():
    """(name, files, verdict, words)"""
    def of(data, piece=PIECE, **files):
        return {".metadata": data, FILE: piece, **files}
    two = (ZEROS, sizes((2, 4))), (sizes((2, 0)), sizes((2, 4)))
    whole = record()
    plain = "expected a plain name"
    yield "sound", of(whole), "weights", ""
    for what, file in (("up", "../../../../../etc/passwd"), ("absolute", "/etc/passwd"), ("hidden", ".metadata"), ("nothing", ""), ("zero", "a\0b"), ("long", "x" * 300)):
        yield f"leads_{what}", of(record(places=place(file))), "malformed", plain
    yield "lacks_its_file", of(record(places=place("__1_0.distcp"))), "incomplete", "expected it as .metadata names it"
    yield "no_record", {FILE: PIECE}, "incomplete", "found .distcp files and no .metadata yet"
    yield "record_cut", of(whole[:-40]), "incomplete", "found a pickle that ends early"
    yield "record_empty", of(b""), "incomplete", "found a pickle that ends early"
    yield "record_calls", of(b"\x80\x02cos\nsystem\n" + text("touch PWNED_dcp") + b"\x85R."), "not weights", "`os.system`"
    yield "record_of_another", of(state(("w", b"K\x01"))), "malformed", "found no record of a distributed state"
    yield "file_cut", of(whole, PIECE[:-50]), "incomplete", "by .metadata"
    yield "file_broken", of(whole, bytes(len(PIECE))), "not weights", "no file that torch.save wrote"
    yield "file_calls", of(record(places=place(length=len(calls()))), calls()), "not weights", "`os.system`"
    yield "beyond", of(record(places=place(offset=number(1 << 40)))), "incomplete", "by .metadata"
    yield "beyond_all", of(record(places=place(offset=number((1 << 63) - 1), length=(1 << 63) - 1))), "incomplete", "by .metadata"
    yield "length_short", of(record(places=place(length=20))), "incomplete", "found no end of the zip archive"
    yield "length_negative", of(record(places=place(length=-1))), "malformed", "found no pieces of tensor"
    yield "no_place", of(record(places=b"}")), "malformed", "found no place of the piece"
    yield "no_pieces", of(record(pieces=())), "not weights", "without tensors of a model"
    yield "a_hole", of(record(sizes((8, 4)))), "malformed", "found pieces of 16 elements, expected 32"
    yield "outside", of(record(sizes((2, 2)))), "malformed", "expected it within"
    yield "on_one_another", of(record(sizes((8, 4)), ((ZEROS, FOUR), (sizes((2, 0)), FOUR)))), "malformed", "upon one another"
    yield "corner_negative", of(record(pieces=((sizes((-1, 0)), FOUR),), places=place())), "malformed", "found no pieces of tensor"
    yield "corner_huge", of(record(pieces=((sizes(((1 << 63) - 1, 0)), FOUR),))), "malformed", "expected it within"
    yield "fewer_dimensions", of(record(pieces=((sizes((0,)), sizes((4,))),))), "malformed", "expected it within"
    yield "hundred_dimensions", of(record(sizes((1,) * 100))), "malformed", "found no pieces of tensor"
    yield "product", of(record(sizes((1 << 32, 1 << 32)))), "malformed", ""
    yield "other_shape", of(record(sizes((2, 8)), ((ZEROS, sizes((2, 8))),))), "malformed", "found [4, 4] of F32, expected [2, 8] of F32"
    yield "other_type", of(record(kind=b"bfloat16")), "malformed", "found [4, 4] of F32, expected [4, 4] of BF16"
    yield "cut_in_two", of(record(pieces=two)), "malformed", "expected [2, 4] of F32"
    yield "compressed", of(record(places=place(more=[("transform_descriptors", b"](" + text("zstd") + b"e")]))), "not weights", ""
    yield "layers_2_40", of(Record.of(b"}(" + text("decoder.layers.weight") + Record.tensor(sizes((1 << 40, 0)), b"](" + Record.chunk(ZEROS, sizes((1 << 40, 0))) + b"e") + b"u", b"}")), "not weights", "without tensors of a model"
    yield "only_optimizer", of(Record.of(b"}(" + text("optimizer.w") + Record.tensor(FOUR, b"](" + Record.chunk(ZEROS, FOUR) + b"e") + b"u", b"}(" + Record.index(text("optimizer.w"), ZEROS) + Record.place(text(FILE), number(len(PIECE))) + b"u")), "not weights", "without tensors of a model"
    rank = "shard-00001-model-00001-of-00002.safetensors"
    info = json.dumps(json.dumps({"w": {"saved_offsets": [4, 0]}}))
    yield "ranks_hole", {rank: safetensors('{"__metadata__":{"DCP_SHARDING_INFO":' + info + "}," + entry() + "}", bytes(4))}, "incomplete", "elements, expected"
    yield "ranks_no_json", {rank: safetensors('{"__metadata__":{"DCP_SHARDING_INFO":"{"},' + entry() + "}", bytes(4))}, "malformed", "found a bad DCP_SHARDING_INFO"
    long_text = json.dumps(json.dumps({"w": {"saved_offsets": "x\n" * 100_000}}))
    yield "ranks_long_text", {rank: safetensors('{"__metadata__":{"DCP_SHARDING_INFO":' + long_text + "}," + entry() + "}", bytes(4))}, "malformed", "found a bad DCP_SHARDING_INFO"
    far = json.dumps(json.dumps({"w": {"saved_offsets": [(1 << 64) - 1, 0]}}))
    yield "ranks_far", {rank: safetensors('{"__metadata__":{"DCP_SHARDING_INFO":' + far + "}," + entry() + "}", bytes(4))}, "malformed", "of more than 2^48 elements"


def calls():
    return torch_zip(b"\x80\x02cos\nsystem\n" + text("touch PWNED_piece") + b"\x85R.", STORAGE)


def zero(stage=1, parts=1, n=16, flat=None):
    """The states of a rank's optimiser."""
    key = "single_partition_of_fp32_groups" if stage < 3 else "fp32_flat_groups"
    flat = flat or tensor("0", (n,), (1,), 16)
    return torch_zip(state(("optimizer_state_dict", b"}(" + text("zero_stage") + small(stage) + text("partition_count") + small(parts)
                            + text(key) + b"](" + flat + b"eu")), STORAGE)


def shapes(*named):
    """The states of the model, with the shapes of such parameters."""
    group = b"}(" + b"".join(text(name) + sizes(shape) for name, shape in named) + b"u"
    return torch_zip(state(("module", b"}"), ("param_shapes", b"](" + group + b"e")), STORAGE)


def deepspeed():
    """(name, files, verdict, words)"""
    first, second = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"

    def of(model=None, optimizer=None, **files):
        return {first: model or shapes(("w", (4, 4))), second: optimizer or zero(), **files}
    yield "sound", of(), "weights", ""
    yield "leads_up", {"latest": b"../../../../etc"}, "not a checkpoint", "a directory without weight files"
    yield "leads_nowhere", {"latest": b""}, "incomplete", "found no name of a save"
    yield "a_rank_missing", of(optimizer=zero(parts=2)), "incomplete", "found optimiser states of 1 ranks, expected those of 2"
    yield "parts_2_62", of(optimizer=torch_zip(state(("optimizer_state_dict", b"}(" + text("zero_stage") + b"K\x01" + text("partition_count") + number(1 << 62) + b"u")), STORAGE)), "incomplete", "found optimiser states of 1 ranks"
    yield "stage_7", of(optimizer=zero(stage=7)), "malformed", "found no stage of ZeRO"
    yield "no_vectors", of(optimizer=torch_zip(state(("optimizer_state_dict", b"}(" + text("zero_stage") + b"K\x01u")))), "malformed", "found no flat vectors"
    yield "vector_short", of(shapes(("w", (8, 8)))), "malformed", "found 16 elements in group 0, expected 64"
    yield "vector_of_two_dimensions", of(optimizer=zero(flat=tensor("0", (4, 4), (4, 1), 16))), "malformed", "of several dimensions"
    yield "vector_no_tensor", of(optimizer=zero(flat=b"K\x01")), "malformed", "found something else than a tensor"
    yield "no_shapes", of(torch_zip(state(("module", b"}")), STORAGE)), "malformed", "found no shapes of parameters"
    yield "shape_negative", of(shapes(("w", (-4, 4)))), "malformed", "found a shape that is none"
    yield "shape_huge", of(shapes(("w", (1 << 62, 1 << 62)))), "malformed", "found a shape that is none"
    yield "shape_twice", of(shapes(("w", (2, 4)), ("w", (2, 4)))), "malformed", "found the shape of `w` twice"
    yield "third_stage_short", of(shapes(("w", (8, 8))), zero(stage=3)), "malformed", "elements of a rank"
    yield "model_parallel", {first: shapes(("w", (4, 4))), "mp_rank_01_model_states.pt": shapes(("w", (4, 4)))}, "not weights", "2 ranks of model parallelism"
    yield "model_cut", of(shapes(("w", (4, 4)))[:-30]), "incomplete", "found no end of the zip archive"
    yield "optimizer_cut", of(optimizer=zero()[:-30]), "incomplete", "found no end of the zip archive"
    yield "optimizer_calls", of(optimizer=calls()), "not weights", "`os.system`"


LORA = safetensors("{" + entry("base_model.model.w.lora_A.weight", shape="[1,2]", offsets="[0,8]") + "," + entry("base_model.model.w.lora_B.weight", shape="[2,1]", offsets="[8,16]") + "}", bytes(16))


def records():
    """(name, files, verdict, words) of what stands beside weights."""
    weights = {"model.safetensors": model("a")}
    for name, said in (("cut", b'{"global_step": 1'), ("empty", b""), ("a_list", b"[]"), ("not_json", b"step 1"), ("deep", b'{"log_history":' + b"[" * 300_000 + b"]" * 300_000 + b"}"), ("utf_8", b'{"optimizer":"\xff"}')):
        yield f"trainer_{name}", {**weights, "trainer_state.json": said}, "incomplete", "found no whole record"
    yield "trainer_nan", {**weights, "trainer_state.json": b'{"global_step": 1e999, "log_history": [{"loss": NaN}, {"loss": -Infinity}]}'}, "incomplete", ""
    yield "trainer_odd", {**weights, "trainer_state.json": b'{"global_step": -5, "log_history": {"loss": []}, "max_steps": 18446744073709551616}'}, "weights", ""
    yield "config_many", {**weights, "config.json": b"[" + b"0," * (1 << 19) + b"0]"}, "weights", ""
    yield "config_deep", {**weights, "config.json": b"[" * 100_000}, "weights", ""
    yield "config_long_type", {**weights, "config.json": json.dumps({"model_type": "x\n" * 1_000_000}).encode()}, "weights", ""
    numbers = {key: (1 << 64) - 1 for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "num_hidden_layers", "intermediate_size")}
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"] + [f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    yield "config_2_64", {"model.safetensors": model(*names), "config.json": json.dumps({"model_type": "llama", **numbers}).encode()}, "weights", ""
    yield "config_zeros", {"model.safetensors": model(*names), "config.json": json.dumps({"model_type": "llama", **dict.fromkeys(numbers, 0)}).encode()}, "weights", ""
    yield "layer_2_64", {"model.safetensors": model(*(name.replace(".0.", f".{(1 << 64) - 1}.") for name in names))}, "weights", ""
    yield "layer_2_70", {"model.safetensors": model(*(name.replace(".0.", f".{1 << 70}.") for name in names))}, "weights", ""
    adapter = {"adapter_model.safetensors": LORA}
    for name, said in (("cut", b'{"r":'), ("odd", b'{"r": -1, "lora_alpha": 1e999}'), ("long_base", json.dumps({"base_model_name_or_path": "x/" * 100_000}).encode()), ("pattern", json.dumps({"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}, "r": 1}).encode()), ("r_zero", b'{"r": 0, "lora_alpha": 1}')):
        yield f"adapter_{name}", {**adapter, "adapter_config.json": said}, "weights", ""
    yield "only_optimizer", {"optimizer.pt": calls(), "config.json": b"{}"}, "not weights", "the state of an optimiser"
    yield "nothing", {"readme.txt": b"x"}, "not a checkpoint", "a directory without weight files"
    yield "several", {"a.safetensors": model("a"), "b.safetensors": model("b")}, "not a checkpoint", "2 files of weights without an index"
    yield "still_open", {**weights, ".nfs000000000001": b"x"}, "incomplete", "a deleted file that is still open"


def saves():
    for front, made in (("distributed", distributed), ("zero", deepspeed), ("record", records)):
        for name, files, verdict, words in made():
            yield Save(f"{front}_{name}", verdict, words, files)
