"""Pickles that want to be obeyed, or ask for more than there is; made by a fixed recipe."""
import pickle
import struct
import zipfile

from hostile_kit import STORAGE, Save, legacy, lone, model, number, sizes, small, state, storage, tensor, text, torch_zip, weight

ASKS = "found a pickle that asks for `{}`"
INSTRUCTION = "found pickle instruction {:#04x}"
UNFIT = "found a pickle whose instructions do not fit one another"


class Call:
    """Pickles as a call of that function when it is loaded."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def calls():
    """(name, pickle, words) of pickles that call something when they are loaded."""
    import builtins
    import os
    import subprocess
    import webbrowser
    yield "os_system", pickle.dumps({"w": Call(os.system, "touch PWNED_system")}, 2), ASKS.format("posix.system")
    yield "popen", pickle.dumps({"w": Call(subprocess.Popen, ["touch", "PWNED_popen"])}, 2), ".Popen`"
    yield "eval", pickle.dumps({"w": Call(builtins.eval, "open('PWNED_eval','w')")}, 4), ASKS.format("builtins.eval")
    yield "exec", pickle.dumps({"w": Call(builtins.exec, "open('PWNED_exec','w')")}, 5), ASKS.format("builtins.exec")
    yield "open", pickle.dumps({"w": Call(builtins.open, "PWNED_open", "w")}, 2), "open`"
    yield "browser", pickle.dumps({"w": Call(webbrowser.open, "http://127.0.0.1:9/")}, 2), ASKS.format("webbrowser.open")
    yield "getattr", b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\n" + text("__call__") + b"tR.", ASKS.format("builtins.getattr")
    yield "import", b"\x80\x02cbuiltins\n__import__\n" + text("os") + b"\x85R.", ASKS.format("builtins.__import__")
    yield "load", b"\x80\x02ctorch\nload\n" + text("/etc/passwd") + b"\x85R.", ASKS.format("torch.load")
    yield "from_bytes", b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x04abcd\x85R.", ASKS.format("torch.storage._load_from_bytes")
    yield "inst", b"(S'touch PWNED_inst'\nios\nsystem\n.", INSTRUCTION.format(ord("S"))
    yield "obj", b"(cos\nsystem\nS'touch PWNED_obj'\no.", ASKS.format("os.system")
    yield "extension", b"\x80\x02\x82\x01)R.", INSTRUCTION.format(0x82)
    yield "build_on_class", b"\x80\x02ctorch\nSize\n}" + text("__reduce__") + b"cos\nsystem\nsb.", ASKS.format("os.system")
    yield "codec", b"\x80\x02c_codecs\ndecode\n" + text("x") + text("rot13") + b"\x86R.", ASKS.format("_codecs.decode")


def more_calls():
    """The same, of the archive alone."""
    posix = text("posix") + text("system") + b"\x93"
    yield "stack_global", b"\x80\x04" + posix + text("touch PWNED_stack") + b"\x85R.", ASKS.format("posix.system")
    yield "stack_of_memo", b"\x80\x04" + text("os") + b"\x94" + text("system") + b"\x94" + b"00h\x00h\x01\x93" + b")R.", ASKS.format("os.system")
    yield "newobj", b"\x80\x02cos\nsystem\n" + text("touch PWNED_new") + b"\x85\x81.", ASKS.format("os.system")
    yield "newobj_ex", b"\x80\x04cos\nsystem\n" + text("touch PWNED_ex") + b"\x85}\x92.", ASKS.format("os.system")
    yield "inst_alone", b"\x80\x02(" + text("touch PWNED_inst") + b"ios\nsystem\n.", INSTRUCTION.format(ord("i"))
    yield "obj_alone", b"\x80\x02(ctorch\nSize\n" + text("x") + b"o.", INSTRUCTION.format(ord("o"))
    yield "ext2", b"\x80\x02\x83\x01\x00)R.", INSTRUCTION.format(0x83)
    yield "ext4", b"\x80\x02\x84\x01\x00\x00\x00)R.", INSTRUCTION.format(0x84)
    yield "nested_name", b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93)R.", ASKS.format("torch._utils._rebuild_tensor_v2.__globals__")
    yield "name_of_two_lines", b"\x80\x04" + text("torch\nos") + text("system") + b"\x93)R.", "which no state_dict() needs"
    yield "name_of_zero", b"\x80\x02ccollections\nOrderedDict\x00\n)R.", "which no state_dict() needs"
    yield "other_case", b"\x80\x02ctorch\nsize\n)R.", ASKS.format("torch.size")
    yield "homoglyph", b"\x80\x02" + "ctоrch\nSize\n".encode() + b")R.", "which no state_dict() needs"
    yield "runpy", b"\x80\x02crunpy\n_run_code\n" + text("open('PWNED_run','w')") + b"}\x86R.", ASKS.format("runpy._run_code")
    yield "dynamo", b"\x80\x02ctorch._dynamo.guards.GuardBuilder\nget\n" + text("open('PWNED_g','w')") + b"\x85R.", "which no state_dict() needs"
    yield "inductor", b"\x80\x02ctorch._inductor.codecache\ncompile_file\n(" + text("x") + b"tR.", "which no state_dict() needs"
    yield "pip", b"\x80\x02cpip\nmain\n](" + text("install") + text("x") + b"e\x85R.", ASKS.format("pip.main")
    yield "numpy_runstring", b"\x80\x02cnumpy.testing._private.utils\nrunstring\n" + text("open('PWNED_np','w')") + b"}\x86R.", "which no state_dict() needs"
    yield "operator", b"\x80\x02coperator\nattrgetter\n" + text("system") + b"\x85Rcos\nsystem\n\x85R.", ASKS.format("operator.attrgetter")
    yield "call_of_text", b"\x80\x02" + text("os.system") + b")R.", "found a call of something that has no name"
    yield "call_of_call", b"\x80\x02ctorch\nSize\n)R)R.", "found a call of something that has no name"
    yield "old_opcodes", b"(dp0\nS'w'\nI1\ns.", INSTRUCTION.format(ord("p"))
    yield "old_persid", b"\x80\x02Pcustom\n.", INSTRUCTION.format(ord("P"))
    yield "old_numbers", b"\x80\x02L1L\n.", INSTRUCTION.format(ord("L"))
    yield "old_text", b"\x80\x02Vabc\n.", INSTRUCTION.format(ord("V"))
    yield "dup", b"\x80\x02}22.", INSTRUCTION.format(ord("2"))
    yield "bytearray", b"\x80\x05\x96\x04\x00\x00\x00\x00\x00\x00\x00abcd.", INSTRUCTION.format(0x96)
    yield "buffer", b"\x80\x05\x97.", INSTRUCTION.format(0x97)
    yield "readonly", b"\x80\x05\x98.", INSTRUCTION.format(0x98)


def bombs():
    """Pickles that ask for time or memory, or whose instructions do not fit."""
    nothing = "it names nothing"
    yield "deep", b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", nothing
    yield "deep_tuples", b"\x80\x02)" + b"\x85" * 900_000 + b".", "found more than 262144 objects"
    yield "doubling", b"\x80\x02]" + b"".join(b"q%c" % n + b"](h%ch%ce" % (n, n) for n in range(120)) + b".", nothing
    yield "contains_itself", b"\x80\x02}q\x00" + text("model") + b"h\x00s.", "it names no tensors"
    yield "memo", b"\x80\x02N" + b"r\xff\xff\xff\x7f" + b".", "values, expected fewer"
    yield "marks", b"\x80\x02" + b"(" * 3_000_000 + b".", "values, expected fewer"
    yield "nones", b"\x80\x02" + b"N" * 5_000_000 + b".", "values, expected fewer"
    yield "lists", b"\x80\x02" + b"]" * 3_000_000 + b".", "objects, expected fewer"
    yield "long_text", b"\x80\x02X" + struct.pack("<I", 0xFFFFFFF0) + b"a", "bytes of text"
    yield "much_text", b"\x80\x02" + (b"X" + struct.pack("<I", 1 << 16) + b"a" * (1 << 16)) * 400 + b".", "bytes of text"
    yield "protocol", b"\x80\x63N.", "found pickle protocol 99"
    yield "text_of_8_bytes", b"\x80\x04\x8d" + b"\xff" * 8 + b"a.", "bytes of text"
    yield "bytes_of_8_bytes", b"\x80\x04\x8e" + b"\xff" * 8 + b"a.", "ends without its end mark"
    yield "long_number", b"\x80\x02\x8b\xff\xff\xff\x7f.", "ends without its end mark"
    yield "frame", b"\x80\x04\x95" + b"\xff" * 8 + b".", UNFIT
    yield "unknown_memo", b"\x80\x02h\x07.", UNFIT
    yield "below_a_mark", b"\x80\x02}(0.", UNFIT
    yield "no_mark", b"\x80\x02t.", UNFIT
    yield "half_an_item", b"\x80\x02}(" + text("a") + b"u.", UNFIT
    yield "item_of_a_tuple", b"\x80\x02)" + text("a") + b"Ns.", UNFIT
    yield "item_of_a_number", b"\x80\x02K\x01" + text("a") + b"Ns.", UNFIT
    yield "stop_of_nothing", b"\x80\x02.", UNFIT
    yield "name_without_end", b"\x80\x02c" + b"x" * 5000, "found a name without an end"
    yield "no_stop", b"\x80\x02}", "ends without its end mark"
    yield "build_of_a_number", b"\x80\x02K\x01}b.", UNFIT


def tensors():
    """(name, file, verdict, words) of tensors that are not there, or not so."""
    def one(name, value, verdict, words, **how):
        return name, torch_zip(state(("w", value)), STORAGE, **how), verdict, words
    beyond = "found tensor `w` beyond its storage"
    yield one("no_strides", tensor("0", (1 << 20, 1 << 20), (0, 0), 16), "not weights", "elements repeat those of a smaller storage")
    yield one("beyond", tensor("0", (64, 64), (64, 1), 16), "malformed", beyond)
    yield one("numel_lies", tensor("0", (4, 4), (4, 1), 1 << 40), "malformed", "in a storage of 64 bytes, expected 1099511627776 elements of 4")
    yield one("offset", tensor("0", (2, 2), (2, 1), 16, offset=1 << 62), "malformed", beyond)
    yield one("negative", tensor("0", (-4, 4), (4, 1), 16), "malformed", "without size and strides")
    yield one("negative_stride", tensor("0", (4, 4), (4, -1), 16), "malformed", "without size and strides")
    yield one("negative_offset", tensor("0", (4, 4), (4, 1), 16, offset=-1), "malformed", "without an offset")
    yield one("no_storage", tensor("7", (4, 4), (4, 1), 16), "malformed", "in a storage that is not there")
    yield one("huge_dims", tensor("0", (1 << 62, 1 << 62), (1, 1), 16), "malformed", "of more than 2^48 elements")
    yield one("huge_strides", tensor("0", (3, 3), (1 << 62, 1 << 62), 16), "malformed", beyond)
    yield one("stride_lies", tensor("0", (4, 4), (5, 1), 16), "malformed", beyond)
    yield one("storage_short", tensor("0", (4, 4), (4, 1), 12), "malformed", "in a storage of 64 bytes, expected 12 elements of 4")
    yield one("storage_wide", tensor("0", (4, 4), (4, 1), 16, kind="DoubleStorage"), "malformed", "expected 16 elements of 8")
    yield one("storage_negative", tensor("0", (4, 4), (4, 1), -16), "malformed", "without a storage")
    yield one("hundred_dims", tensor("0", (1,) * 100, (1,) * 100, 16), "malformed", "of 100 dimensions")
    yield one("fewer_strides", tensor("0", (4, 4), (1,), 16), "malformed", "of 2 dimensions")
    yield one("deflated", tensor("0", (4, 4), (4, 1), 16), "malformed", "compressed", method=zipfile.ZIP_DEFLATED)
    quantised = b"ctorch._utils\n_rebuild_qtensor\n(" + storage("0", 16, "QInt8Storage") + number(0) + sizes((4, 4)) + sizes((1 << 40, 1)) + b"(ctorch\nper_tensor_affine\nG?\xf0\x00\x00\x00\x00\x00\x00K\x00t\x89Nt" + b"R"
    yield one("quantised", quantised, "not weights", "")
    yield one("sparse", b"ctorch._utils\n_rebuild_sparse_tensor\n(ctorch\nsparse_coo\n(NNNttR", "not weights", "")
    yield one("meta", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n" + sizes((1 << 40, 1 << 40)) + sizes((1, 1)) + b"\x89tR", "not weights", "")
    yield one("of_class", b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nSize\n(" + text("touch PWNED_class") + b"t}tR", "not weights", ASKS.format("os.system"))
    yield one("parameter_of_itself", b"ctorch._utils\n_rebuild_parameter\n(}q\x05\x89}tR", "not weights", "")
    # A storage where a dictionary is meant: SETITEM on what is no dictionary (CVE-2026-24747 wrote through it).
    yield one("item_of_a_tensor", tensor("0", (4, 4), (4, 1), 16) + number(1 << 40) + number(7) + b"s", "weights", "")
    yield one("item_of_a_storage", storage("0", 16) + number(1 << 40) + number(7) + b"s", "not weights", UNFIT)
    yield one("persid_of_a_number", b"K\x01Q", "not weights", "it names no tensors")
    strange = b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(16) + b"tQ" + number(0) + sizes((4, 4)) + sizes((4, 1)) + b"\x89NtR"
    yield one("persid_strange", strange, "malformed", "without a storage")
    of_function = b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch._utils\n_rebuild_tensor_v2\n" + text("0") + text("cpu") + number(16) + b"tQ" + number(0) + sizes((4, 4)) + sizes((4, 1)) + b"\x89NtR"
    yield one("persid_of_a_function", of_function, "malformed", "without a storage")
    yield one("view", tensor("0", (4, 4), (4, 1), 16).replace(b"tQ", b"(" + text("0") + number(0) + number(4) + b"ttQ"), "not weights", "in a part of another storage")
    yield "huge_name", torch_zip(state(("w" * 60_000, tensor("0", (4, 4), (4, 1), 16))), STORAGE), "not weights", "4 KiB of one"
    many = ((f"w{i}", tensor("0", (4, 4), (4, 1), 16)) for i in range(20_000))
    yield "many_tensors", torch_zip(state(*many), STORAGE), "weights", ""
    yield "twice", torch_zip(state(("a", b"}" + text("b") + tensor("0", (4, 4), (4, 1), 16) + b"s"), weight("a.b")), STORAGE), "malformed", "twice"
    yield "no_tensors", torch_zip(state(("epoch", small(3)))), "not weights", "it names no tensors"
    yield "lone_tensor", torch_zip(b"\x80\x02" + tensor("0", (4, 4), (4, 1), 16) + b".", STORAGE), "not weights", "a single tensor"
    yield "optimizer", torch_zip(state(("state", b"}"), ("param_groups", b"]"), weight()), STORAGE), "not weights", "the state of an optimiser"
    yield "behind_stop", torch_zip(state(weight()) + b".", STORAGE), "malformed", "behind the end of data.pkl"


def legacies():
    """The format before the archive."""
    sound = state(weight())
    yield "short_storage", legacy(sound, storages=[(16, bytes(60))]), "incomplete", "found no end of the storages"
    yield "long_storage", legacy(sound, storages=[(16, bytes(68))]), "malformed", "behind the last storage"
    yield "count_lies", legacy(sound, storages=[(17, bytes(64))]), "malformed", "found a storage of 17 elements"
    yield "count_huge", legacy(sound, storages=[(1 << 62, bytes(64))]), "malformed", "expected 16 as its tensors say"
    yield "other_key", legacy(sound, keys=("1",)), "malformed", "found a storage that no tensor names"
    yield "key_twice", legacy(sound, keys=("0", "0"), storages=[(16, bytes(64))] * 2), "malformed", "found a storage twice"
    yield "no_keys", legacy(sound, keys=(), storages=()), "malformed", "in a storage that is not there"
    yield "cut", legacy(sound)[:120], "incomplete", "found a pickle that ends early"
    yield "mark", b"\x80\x02\x8a\x0a" + bytes(10) + b"." + sound, "not weights", "a pickle that torch.save did not write"


def saves():
    for name, data, words in calls():
        yield lone(f"call_{name}.pt", torch_zip(data), "not weights", words)
        is_short = len(data) < 15
        plain = "no file that torch.save wrote" if data[0] != 0x80 else "a pickle that torch.save did not write"
        yield lone(f"call_{name}_plain.bin", data, "incomplete" if is_short else "not weights", "found fewer bytes" if is_short else plain)
    for name, data, words in more_calls():
        yield lone(f"call_{name}.pt", torch_zip(data), "not weights", words)
    for name, data, words in bombs():
        yield lone(f"bomb_{name}.pt", torch_zip(data), "not weights", words)
    for name, data, verdict, words in tensors():
        yield lone(f"tensor_{name}.pth", data, verdict, words)
    for name, data, verdict, words in legacies():
        yield lone(f"legacy_{name}.pt", data, verdict, words)
    # The same call beside a model, as a trainer's record that nobody opens.
    yield Save("beside_args", "weights", "", {"model.safetensors": model("a", "b"), "training_args.bin": next(calls())[1], "optimizer.pt": next(calls())[1]})
