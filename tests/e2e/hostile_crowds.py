"""Files that are sound and name as many tensors as they can, to cost memory and time; made by a fixed recipe."""
import io
import struct
import sys
import zipfile

from hostile_kit import Record, Save, lone, number, safetensors, sizes, small, tensor, text, torch_zip, word, write

# Tensors that one file may have, and one of torch.save.
MOST, MOST_OF_TORCH = 1 << 16, 50_000


def expert(at):
    """A name as those of DeepSeek-V3."""
    return f"model.layers.{at // 768}.mlp.experts.{at // 3 % 256}.{('up', 'gate', 'down')[at % 3]}_proj.weight"


def of_safetensors(names, shapes="[2,2]", widths=16, most=16 << 20):
    """A file of so many F32 tensors as its header may name; shapes and their bytes by turns, where there are several."""
    shapes = [shapes] if isinstance(shapes, str) else shapes
    widths = [widths] if isinstance(widths, int) else widths
    entries, size, data = [], 2, 0
    for at, name in enumerate(names):
        width = widths[at % len(widths)]
        entry = f'"{name}":{{"dtype":"F32","shape":{shapes[at % len(shapes)]},"data_offsets":[{data},{data + width}]}}'
        if size + len(entry) + 1 > most:
            break
        entries.append(entry)
        size += len(entry) + 1
        data += width
    return safetensors(("{" + ",".join(entries) + "}").encode(), bytes(data))


def short_names():
    """0, 1, 2, … with 36 digits."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    at = 0
    while True:
        n, name = at, ""
        while n or not name:
            n, digit = divmod(n, 36)
            name = digits[digit] + name
        yield name
        at += 1


class Memo:
    """Writes what stands often once, and fetches it from then on."""

    def __init__(self):
        self.known = {}

    def __call__(self, made):
        if made in self.known:
            return b"h" + bytes([self.known[made]])
        at = len(self.known)
        self.known[made] = at
        return made + b"q" + bytes([at])


def of_torch(names, storage="0"):
    """The pickle of a state whose tensors are matrices of 2×2 in one storage, apart from each other."""
    memo, items = Memo(), []
    count = len(names)
    function = memo(b"ctorch._utils\n_rebuild_tensor_v2\n")
    held = b"(" + word("storage") + b"ctorch\nFloatStorage\n" + word(storage) + word("cpu") + small(count * 4) + b"tQ"
    first = True
    for at, name in enumerate(names):
        # The first builds what the others fetch: class, storage, shape and strides.
        made = (function if first else memo(b"ctorch._utils\n_rebuild_tensor_v2\n")) + b"(" + memo(held) + small(at * 4)
        made += memo(b"K\x02K\x02\x86") + memo(b"K\x02K\x01\x86") + b"\x89" + memo(b"ccollections\nOrderedDict\n)R") + b"tR"
        items.append(word(name) + made)
        first = False
    body = b"".join(b"(" + b"".join(items[at:at + 1000]) + b"u" for at in range(0, count, 1000))
    return b"\x80\x02}" + body + b"."


def of_legacy(names):
    """The same in the format before the zip archive."""
    start = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    protocol = b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}(" + word("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + word("0") + b"e."
    return start + protocol + system + of_torch(names) + keys + struct.pack("<q", 4 * len(names)) + bytes(16 * len(names))


def of_npz(names):
    front = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"
    front += b" " * (117 - len(front)) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(front)) + front + bytes(16)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), array)
    return out.getvalue()


def of_gguf(names):
    out = [b"GGUF" + struct.pack("<IQQ", 3, len(names), 0)]
    for at, name in enumerate(names):
        raw = name.encode()
        out.append(struct.pack("<Q", len(raw)) + raw + struct.pack("<IQQIQ", 2, 2, 2, 0, at * 32))
    head = b"".join(out)
    return head + bytes(-len(head) % 32) + bytes(32 * len(names))


def of_distributed(tensors, pieces):
    """A record of so many tensors in so many pieces of one row each, all in one file; and that file."""
    memo = Memo()
    module = b"ctorch.distributed.checkpoint.metadata\n"

    def made(kind, fields, module=module):
        return memo(module + kind + b"\n") + b")\x81}(" + b"".join(memo(word(key)) + value for key, value in fields) + b"ub"
    piece = torch_zip(b"\x80\x02" + tensor("0", (1, 2), (2, 1), 2) + b".", [("0", bytes(8))])
    entries, places = [], []
    properties = memo(module + b"TensorProperties\n)\x81(ctorch\nfloat32\nNNNNtb")
    for at in range(tensors):
        name, chunks = word(expert(at)), []
        for row in range(pieces):
            corner = small(row) + memo(b"K\x00") + b"\x86"
            chunks.append(made(b"ChunkStorageMetadata", [("offsets", corner), ("sizes", memo(b"K\x01K\x02\x86"))]))
            index = made(b"MetadataIndex", [("fqn", name), ("offset", corner), ("index", small(row))])
            place = made(b"_StorageInfo", [("relative_path", memo(word("__0_0.distcp"))), ("offset", b"K\x00"), ("length", small(len(piece)))],
                         b"ctorch.distributed.checkpoint.filesystem\n")
            places.append(index + place)
        entries.append(name + made(b"TensorStorageMetadata", [
            ("properties", properties if at == 0 else memo(module + b"TensorProperties\n)\x81(ctorch\nfloat32\nNNNNtb")),
            ("size", small(pieces) + b"K\x02\x86"), ("chunks", b"](" + b"".join(chunks) + b"e")]))

    def dictionary(items):
        return b"}" + b"".join(b"(" + b"".join(items[at:at + 1000]) + b"u" for at in range(0, len(items), 1000))
    return b"\x80\x02" + made(b"Metadata", [("state_dict_metadata", dictionary(entries)), ("storage_data", dictionary(places))]) + b".", piece


def of_layers(layers):
    """A record of a tensor that stacks so many layers of nothing, and its file."""
    name, shape, zeros = text("decoder.layers.weight"), sizes((layers, 0)), sizes((0, 0))
    held = torch_zip(b"\x80\x02" + tensor("0", (layers, 0), (1, 1), 2) + b".", [("0", bytes(8))])
    places = b"}(" + Record.index(name, zeros) + Record.place(text("__0_0.distcp"), number(len(held))) + b"u"
    return Record.of(b"}(" + name + Record.tensor(shape, b"](" + Record.chunk(zeros, shape) + b"e") + b"u", places), held


def everything():
    """A record that asks for as many texts, places in the memo, objects and values as are given at once."""
    text_of = b"X" + struct.pack("<I", 8_000_000) + b"t" * 8_000_000
    objects = (b"(" + b"}NNs" * 500 + b"]" * 500 + b"e") * 520
    return b"\x80\x02" + text_of + b"r" + struct.pack("<I", 0xBFFFF) + b"]" + objects + b"."


def mixture():
    """Names of a mixture of experts that a rule knows, with as many experts as fit, and their shapes."""
    named = [(f"layers.0.self_attn.{part}_proj.weight", "[2,2]") for part in "qkvo"]
    for at in range((MOST - len(named)) // 3):
        layer, expert_of = divmod(at, 512)
        named += [(f"layers.{layer}.mlp.experts.{expert_of}.{part}_proj.weight", "[2,2]") for part in ("up", "gate", "down")]
    return named


def packed(layers, experts):
    """A mixture of experts whose tensors hold all experts of a layer: few tensors, many matrices."""
    entries, data = [], 0

    def add(name, *shape):
        nonlocal data
        size = 4
        for dim in shape:
            size *= dim
        entries.append(f'"{name}":{{"dtype":"F32","shape":{list(shape)},"data_offsets":[{data},{data + size}]}}')
        data += size
    for layer in range(layers):
        for part in "qkvo":
            add(f"layers.{layer}.self_attn.{part}_proj.weight", 2, 2)
        add(f"layers.{layer}.mlp.experts.gate_up_proj", experts, 4, 2)
        add(f"layers.{layer}.mlp.experts.down_proj", experts, 2, 2)
    return safetensors(("{" + ",".join(entries) + "}").encode(), bytes(data))


def heads(layers, n):
    """A description and a model of so many heads of one row each."""
    entries, data = [], 0
    for layer in range(layers):
        for part, shape in (("q", (n, 2)), ("k", (n, 2)), ("v", (n, 2)), ("o", (2, n))):
            entries.append(f'"layers.{layer}.self_attn.{part}_proj.weight":{{"dtype":"F32","shape":{list(shape)},"data_offsets":[{data},{data + 8 * n}]}}')
            data += 8 * n
        entries.append(f'"layers.{layer}.mlp.down_proj.weight":{{"dtype":"F32","shape":[2,2],"data_offsets":[{data},{data + 16}]}}')
        data += 16
        entries.append(f'"layers.{layer}.mlp.up_proj.weight":{{"dtype":"F32","shape":[2,2],"data_offsets":[{data},{data + 16}]}}')
        data += 16
        entries.append(f'"layers.{layer}.mlp.gate_proj.weight":{{"dtype":"F32","shape":[2,2],"data_offsets":[{data},{data + 16}]}}')
        data += 16
    config = f'{{"model_type":"llama","num_attention_heads":{n},"num_key_value_heads":{n},"head_dim":1,"hidden_act":"silu"}}'
    return config.encode(), safetensors(("{" + ",".join(entries) + "}").encode(), bytes(data))


def saves():
    """Every checkpoint; most are sound."""
    experts = [expert(at) for at in range(MOST)]
    named = short_names()

    def sound(name, data):
        return lone(f"crowd_{name}", data, "weights")
    yield sound("experts.safetensors", of_safetensors(experts))
    yield sound("mixture.safetensors", of_safetensors(*zip(*mixture())))
    yield sound("packed.safetensors", packed(6, 4096))
    yield sound("too_packed.safetensors", packed(40, 4096))
    config, model = heads(20, 4096)
    yield Save("crowd_heads", "weights", "", {"config.json": config, "model.safetensors": model})
    most = [next(named) for _ in range(MOST)]
    yield sound("short.safetensors", of_safetensors(most, "[1,1]", 4))
    yield sound("empty.safetensors", of_safetensors(most, "[0]", 0))
    yield sound("vectors.safetensors", of_safetensors(most, "[1]", 4))
    yield sound("mismatch.safetensors", of_safetensors(most, ["[2,3]", "[4,5]"], [24, 80]))
    yield lone("crowd_too_many.safetensors", of_safetensors(short_names(), "[1,1]", 4), "malformed", "more than 65536 tensors")
    yield sound("experts.pth", torch_zip(of_torch(experts[:MOST_OF_TORCH]), [("0", bytes(16 * MOST_OF_TORCH))]))
    yield sound("legacy.pt", of_legacy(experts[:MOST_OF_TORCH]))
    yield sound("arrays.npz", of_npz([f"arr_{at}" for at in range(MOST)]))
    yield sound("blocks.gguf", of_gguf([f"blk.{at}.weight" for at in range(MOST)]))
    for name, tensors, pieces, verdict, words in (("tensors", 30_000, 1, "weights", ""), ("pieces", 10, 4_000, "weights", ""), ("one", 1, 40_000, "weights", ""),
                                                  ("too_many", 60_000, 1, "not weights", "objects, expected fewer")):
        record, held = of_distributed(tensors, pieces)
        yield Save(f"crowd_{name}", verdict, words, {".metadata": record, "__0_0.distcp": held})
    yield Save("crowd_everything", "not weights", "", {".metadata": everything(), "__0_0.distcp": b"x"})
    record, held = of_layers(1 << 40)
    yield Save("crowd_layers", "malformed", "layers, expected at most", {".metadata": record, "__0_0.distcp": held})


if __name__ == "__main__":
    write(saves(), sys.argv[1])
