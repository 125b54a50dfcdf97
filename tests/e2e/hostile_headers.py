"""safetensors files and their indices that contradict themselves; made by a fixed recipe."""
import json
import struct

from hostile_kit import Save, entry, legacy, lone, model, safetensors, state, torch_zip, weight

BAD = "found a bad header, expected safetensors JSON"
F = bytes(4)


def headers():
    """(name, file, verdict, words)"""
    def of(*entries, data=F):
        return safetensors("{" + ",".join(entries) + "}", data)
    yield "length", struct.pack("<Q", (1 << 63) - 1) + b"{}", "malformed", "found a header of 9223372036854775807 bytes"
    yield "length_of_nothing", struct.pack("<Q", 0) + b"{}", "malformed", "found a header of 0 bytes"
    yield "length_above", struct.pack("<Q", (16 << 20) + 1) + b"{}", "malformed", "found a header of 16777217 bytes"
    yield "length_all", b"\xff" * 16, "malformed", "found a header of 18446744073709551615 bytes"
    yield "length_beyond", struct.pack("<Q", 1000) + b"{}", "incomplete", "expected a header of 1008"
    # One of these overflowed safetensors-rs 0.8, where overflows are looked for.
    yield "sum_wraps", of(entry(dtype='"U8"', shape=f"[{(1 << 64) - 9}]", offsets=f"[0,{(1 << 64) - 9}]")), "malformed", "of more than 2^48 elements"
    yield "sum_wraps_by_two", of(entry("a", '"U8"', f"[{1 << 47}]", f"[0,{1 << 47}]"), entry("b", '"U8"', f"[{1 << 47}]", f"[{1 << 47},{1 << 48}]")), "incomplete", "expected 281474976710"
    yield "empty", b"", "incomplete", "found 0 bytes"
    yield "seven_bytes", bytes(7), "incomplete", "found 7 bytes"
    yield "length_alone", struct.pack("<Q", 2), "incomplete", "expected a header of 10"
    yield "no_tensors", safetensors("{}"), "weights", ""
    yield "no_tensors_but_data", safetensors("{}", b"x"), "malformed", "1 more than expected"
    yield "large_header", safetensors(b'{"' + b"a" * (15 << 20) + b'":1}'), "malformed", "expected a name of at most 4096 bytes"
    yield "spaces", safetensors(b"{" + b" " * (15 << 20) + entry().encode() + b"}", F), "weights", ""
    many = b",".join(b'"t%d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}' % n for n in range(200_000))
    yield "overlapping", safetensors(b"{" + many + b"}", F), "malformed", "more than 65536 tensors in one file"
    yield "deep_json", safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "malformed", BAD
    yield "deep_lists", safetensors(b'{"w":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"), "malformed", BAD
    yield "rank", safetensors(b'{"w":{"dtype":"F32","shape":[' + b",".join([b"1"] * 100_000) + b'],"data_offsets":[0,4]}}', F), "malformed", "expected a list of at most 64"
    yield "rank_65", of(entry(shape=str([1] * 65))), "malformed", "expected a list of at most 64"
    yield "twice", of(entry(), entry(offsets="[4,8]"), data=F * 2), "malformed", "found tensor `w` twice"
    yield "twice_by_escape", of(entry(), entry("\\u0077", offsets="[4,8]"), data=F * 2), "malformed", "found tensor `w` twice"
    yield "twice_empty", of(entry(shape="[0]", offsets="[0,0]"), entry(shape="[0]", offsets="[0,0]"), data=b""), "malformed", "found tensor `w` twice"
    yield "key_twice", of('"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}'), "malformed", "a key of tensor `w` twice"
    yield "offsets_twice", of('"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}'), "malformed", "a key of tensor `w` twice"
    yield "on_another", of(entry("a"), entry("b", offsets="[2,6]"), data=F * 2), "malformed", "without hole or overlap"
    yield "same_place", of(entry("a"), entry("b")), "malformed", "without hole or overlap"
    yield "a_hole", of(entry("a"), entry("b", offsets="[8,12]"), data=F * 3), "malformed", "without hole or overlap"
    yield "a_hole_in_front", of(entry(offsets="[4,8]"), data=F * 2), "malformed", "without hole or overlap"
    yield "backwards", of(entry(offsets="[4,0]")), "malformed", "expected the end behind the start"
    yield "beyond", of(entry(shape="[1,100]", offsets="[0,400]")), "incomplete", "by the header"
    yield "too_long", of(entry(), data=F * 2), "malformed", "4 more than expected by the header"
    yield "size_lies", of(entry(shape="[2,2]")), "malformed", "found 4 bytes for tensor `w`, expected 16"
    yield "odd_bits", of(entry(dtype='"F4"', shape="[3]", offsets="[0,2]")), "malformed", "expected whole bytes"
    for name, offsets in (("negative", "[-4,0]"), ("halves", "[0.5,4.5]"), ("texts", '["0","4"]'), ("three", "[0,4,8]"), ("one", "[0]"), ("none", "null"), ("2_64", "[0,18446744073709551616]")):
        yield f"offsets_{name}", of(entry(offsets=offsets)), "malformed", BAD
    for name, shape in (("negative", "[-1,-1]"), ("half", "[0.5]"), ("text", '"11"'), ("2_64", "[18446744073709551616]"), ("list", "[[1]]"), ("nan", "[NaN]"), ("infinity", "[Infinity]"), ("object", "{}")):
        yield f"shape_{name}", of(entry(shape=shape)), "malformed", BAD
    yield "product", of(entry(shape=f"[{1 << 32},{1 << 32}]")), "malformed", "of more than 2^48 elements"
    yield "product_wraps", of(entry(shape=f"[{1 << 32},{1 << 32},4]", offsets="[0,0]"), data=b""), "malformed", "of more than 2^48 elements"
    yield "product_of_nothing", of(entry(shape=f"[{1 << 40},{1 << 40},0]", offsets="[0,0]"), data=b""), "malformed", "of more than 2^48 elements"
    for name, dtype in (("unknown", '"F128"'), ("lower", '"f32"'), ("number", "32"), ("null", "null"), ("long", '"' + "F" * 10_000 + '"')):
        yield f"dtype_{name}", of(entry(dtype=dtype)), "malformed", BAD
    yield "nan", safetensors('{"w":NaN}'), "malformed", BAD
    yield "a_list", safetensors("[]"), "malformed", BAD
    yield "a_text", safetensors('"w"'), "malformed", BAD
    yield "entry_is_list", safetensors('{"w":[1,2]}'), "malformed", BAD
    yield "entry_is_null", safetensors('{"w":null}'), "malformed", BAD
    yield "lacks_dtype", safetensors('{"w":{"shape":[1],"data_offsets":[0,4]}}', F), "malformed", "no dtype"
    yield "lacks_shape", safetensors('{"w":{"dtype":"F32","data_offsets":[0,4]}}', F), "malformed", "no shape"
    yield "lacks_offsets", safetensors('{"w":{"dtype":"F32","shape":[1]}}', F), "malformed", "no data_offsets"
    yield "unclosed", safetensors("{" + entry(), F), "malformed", BAD
    yield "trailing_comma", safetensors("{" + entry() + ",}", F), "malformed", BAD
    yield "two_documents", safetensors("{" + entry() + "}{}", F), "malformed", BAD
    yield "comment", safetensors("{/* */" + entry() + "}", F), "malformed", BAD
    yield "byte_order_mark", safetensors(b"\xef\xbb\xbf{" + entry().encode() + b"}", F), "malformed", BAD
    yield "utf_16", safetensors(("{" + entry() + "}").encode("utf-16"), F), "malformed", "not UTF-8"
    yield "utf_8_broken", safetensors(b"{" + entry().encode().replace(b"w", b"\xff") + b"}", F), "malformed", "not UTF-8"
    yield "utf_8_overlong", safetensors(b"{" + entry().encode().replace(b"w", b"\xc0\xaf") + b"}", F), "malformed", "not UTF-8"
    yield "surrogate", safetensors("{" + entry("\\ud800") + "}", F), "malformed", BAD
    yield "raw_control", safetensors("{" + entry("a\x01b") + "}", F), "malformed", BAD
    yield "zeros", safetensors(bytes(100), F), "malformed", BAD
    yield "name_of_5000", of(entry("n" * 5000)), "malformed", "expected a name of at most 4096 bytes"
    for name, metadata in (("number", '{"a":1}'), ("list", "[]"), ("deep", '{"a":{"b":"c"}}'), ("twice", '{"a":"1","a":"2"}')):
        yield f"metadata_{name}", safetensors('{"__metadata__":' + metadata + "," + entry() + "}", F), "malformed", BAD
    yield "metadata_again", safetensors('{"__metadata__":{},"__met\\u0061data__":{},' + entry() + "}", F), "malformed", "`__metadata__` twice"
    keys = ",".join(f'"{n}":""' for n in range(70_000))
    yield "metadata_70000", safetensors('{"__metadata__":{' + keys + "}," + entry() + "}", F), "malformed", "more than 65536 metadata keys"
    yield "a_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not a checkpoint", "found a git-lfs pointer"
    yield "a_page", b"<!DOCTYPE html><html></html>", "not a checkpoint", "found an HTML page"
    yield "an_archive", torch_zip(state(weight()), [("0", bytes(64))]), "not a checkpoint", "found a zip archive"
    yield "gguf", b"GGUF\x03\0\0\0" + bytes(64), "not a checkpoint", "found a GGUF file"
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(64), "not a checkpoint", "found an HDF5 file"
    yield "legacy", legacy(state(weight())), "malformed", "found a header of"
    whole = model("a", "b", "c")
    n = len(whole) - 12
    for where, at in (("length", 4), ("brace", 9), ("header", n // 2), ("last_brace", n - 1), ("data", n), ("first", n + 4), ("last", len(whole) - 1)):
        yield f"cut_in_{where}", whole[:at], "incomplete", f"found {at} bytes"


def index(shards, ending=".safetensors", **more):
    return json.dumps({"metadata": {"total_size": 8}, "weight_map": shards, **more}).encode()


def indices():
    """(name, files, verdict, words)"""
    name = "model.safetensors.index.json"
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    sound = {one: model("a", "b"), two: model("c")}
    right = {"a": one, "b": one, "c": two}
    plain = "expected a plain .safetensors file name"
    yield "sound", {name: index(right), **sound}, "weights", ""
    for what, shard in (("up", "../../../../etc/passwd"), ("up_with_ending", "../x.safetensors"), ("absolute", "/etc/passwd.safetensors"), ("below", "a/x.safetensors"),
                        ("hidden", ".x.safetensors"), ("nothing", ""), ("dots", ".."), ("zero", "x\0.safetensors"), ("other_ending", "x.bin"), 
                        ("itself", name), ("a_device", "/dev/zero"), ("of_home", "~/x"), ("a_url", "http://127.0.0.1:9/x.safetensors")):
        yield f"leads_{what}", {name: index({"a": shard}), **sound}, "malformed", plain
    yield "leads_long", {name: index({"a": "x" * 250 + ".safetensors"}), **sound}, "malformed", "found a bad index: shard `xxx"
    yield "backslash", {name: index({"a": "a\\x.safetensors"}), **sound}, "incomplete", "expected the shard that"
    yield "lacks_a_shard", {name: index(right), one: sound[one]}, "incomplete", "expected the shard that"
    yield "lacks_a_tensor", {name: index({**right, "d": two}), **sound}, "incomplete", "found no tensor `d`"
    yield "tensor_elsewhere", {name: index({**right, "c": one}), one: sound[one]}, "incomplete", "found no tensor `c`"
    yield "one_more_tensor", {name: index({"a": one, "c": two}), **sound}, "incomplete", "expected only those of the index"
    yield "in_two_shards", {name: index(right), one: sound[one], two: model("c", "b")}, "malformed", "in 2 shards, expected it in one"
    yield "a_shard_cut", {name: index(right), one: sound[one], two: sound[two][:-1]}, "incomplete", "by the header"
    yield "a_shard_broken", {name: index(right), one: sound[one], two: safetensors("{}", b"x")}, "malformed", "1 more than expected"
    yield "a_shard_empty", {name: index(right), one: sound[one], two: b""}, "incomplete", "found 0 bytes"
    yield "cut", {name: index(right)[:50], **sound}, "incomplete", "found an index that ends early"
    yield "empty", {name: b"", **sound}, "incomplete", "found an index that ends early"
    yield "map_twice", {name: b'{"weight_map":{"a":"a.safetensors"},"weight_map":{}}'}, "malformed", "weight_map twice"
    yield "tensor_twice", {name: f'{{"weight_map":{{"a":"{one}","a":"{two}"}}}}'.encode(), **sound}, "malformed", "tensor `a` twice"
    yield "tensor_twice_by_escape", {name: f'{{"weight_map":{{"a":"{one}","\\u0061":"{one}"}}}}'.encode(), **sound}, "malformed", "tensor `a` twice"
    for what, said in (("no_map", b"{}"), ("list", b"[]"), ("map_is_list", b'{"weight_map":[]}'), ("map_empty", b'{"weight_map":{}}'), ("number", b'{"weight_map":{"a":1}}'),
                       ("not_json", b"weight_map"), ("behind", index(right) + b"x"), ("utf_8", b'{"weight_map":{"\xff":"a.safetensors"}}')):
        yield what, {name: said, **sound}, "malformed", "found a bad index"
    yield "deep", {name: b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", **sound}, "malformed", "found a bad index"
    yield "10000_shards", {name: index({str(n): f"{n}.safetensors" for n in range(10_000)})}, "malformed", "more than 4096 shards"
    yield "4000_shards", {name: index({str(n): f"{n}.safetensors" for n in range(4_000)})}, "incomplete", "expected the shard that"
    yield "300000_tensors", {name: index({str(n): one for n in range(300_000)}), **sound}, "malformed", "more than 2^18 tensors"
    older = "pytorch_model.bin.index.json"
    yield "bin_leads_up", {older: b'{"weight_map":{"w":"/etc/passwd"}}'}, "malformed", "expected a plain .bin file name"
    yield "bin_lacks_a_shard", {older: b'{"weight_map":{"w":"a.bin"}}'}, "incomplete", "expected the shard that"
    yield "bin_calls", {older: b'{"weight_map":{"w":"a.bin"}}', "a.bin": torch_zip(b"\x80\x02cos\nsystem\n(" + b"X\x01\0\0\0xtR.")}, "not weights", "`os.system`"


def saves():
    for name, data, verdict, words in headers():
        yield lone(f"header_{name}.safetensors", data, verdict, words)
    for name, files, verdict, words in indices():
        yield Save(f"index_{name}", verdict, words, files)
