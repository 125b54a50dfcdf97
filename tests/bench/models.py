"""The models that are measured: names, shapes and types of their tensors, as Hugging Face saves them."""
import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def directory(given=None):
    """Where the synthetic checkpoints lie."""
    named = given or os.environ.get("WEIGHTVANE_BENCH_DIR")
    target = os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target"
    return Path(named) if named else Path(target) / "bench"


@dataclass(frozen=True)
class Model:
    """`saves` are the steps written: 100, 200 (moved by a little), 300 (the bytes of 200)."""
    family: str
    width: int
    inner: int
    layers: int
    heads: int
    kv: int
    vocab: int
    dtype: str = "BF16"
    saves: tuple = (100, 200, 300)
    whole: int = 0  # layers of the model it is a part of

    def config(self, layers):
        if self.family == "gpt2":
            return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": self.width, "n_head": self.heads,
                    "n_layer": layers, "n_positions": 1024, "n_inner": None, "vocab_size": self.vocab,
                    "tie_word_embeddings": True, "activation_function": "gelu_new", "dtype": "float32"}
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.width,
                "intermediate_size": self.inner, "num_hidden_layers": layers, "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv, "head_dim": self.width // self.heads, "hidden_act": "silu",
                "vocab_size": self.vocab, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
                "rms_norm_eps": 1e-6, "dtype": "bfloat16"}

    def outside(self):
        """Tensors outside the stack of layers: (name, shape)."""
        w, v = self.width, self.vocab
        if self.family == "gpt2":
            return [("transformer.wte.weight", (v, w)), ("transformer.wpe.weight", (1024, w)),
                    ("transformer.ln_f.weight", (w,)), ("transformer.ln_f.bias", (w,))]
        return [("model.embed_tokens.weight", (v, w)), ("model.norm.weight", (w,)), ("lm_head.weight", (v, w))]

    def layer(self, i):
        """Tensors of one layer: (name, shape); of GPT-2 rows are inputs, of llama outputs."""
        w, n = self.width, self.inner
        if self.family == "gpt2":
            at = f"transformer.h.{i}."
            shapes = {"ln_1.weight": (w,), "ln_1.bias": (w,), "attn.c_attn.weight": (w, 3 * w), "attn.c_attn.bias": (3 * w,),
                      "attn.c_proj.weight": (w, w), "attn.c_proj.bias": (w,), "ln_2.weight": (w,), "ln_2.bias": (w,),
                      "mlp.c_fc.weight": (w, n), "mlp.c_fc.bias": (n,), "mlp.c_proj.weight": (n, w), "mlp.c_proj.bias": (w,)}
        else:
            at, narrow = f"model.layers.{i}.", w // self.heads * self.kv
            shapes = {"input_layernorm.weight": (w,), "self_attn.q_proj.weight": (w, w), "self_attn.k_proj.weight": (narrow, w),
                      "self_attn.v_proj.weight": (narrow, w), "self_attn.o_proj.weight": (w, w),
                      "post_attention_layernorm.weight": (w,), "mlp.gate_proj.weight": (n, w),
                      "mlp.up_proj.weight": (n, w), "mlp.down_proj.weight": (w, n)}
        return [(at + name, shape) for name, shape in shapes.items()]

    def parameters(self, layers=None):
        layers = self.layers if layers is None else layers

        def count(tensors):
            return sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for _, shape in tensors)
        return count(self.outside()) + layers * count(self.layer(0))


def llama(width, inner, layers, heads, kv=None, vocab=32000, **more):
    return Model("llama", width, inner, layers, heads, kv or heads, vocab, **more)


TWO = (100, 200)
MODELS = {
    "gpt2": Model("gpt2", 768, 3072, 12, 12, 12, 50257, "F32"),
    "llama483m": llama(2048, 5632, 8, 32, 4, whole=22),
    "llama7b4": llama(4096, 11008, 4, 32, whole=32),
    "llama70b2": llama(8192, 28672, 2, 64, 8, 1024, saves=TWO, whole=80),
    "llama10m": llama(256, 688, 8, 4, vocab=8192, saves=TWO),
    "llama30m": llama(512, 1376, 7, 8, vocab=8192, saves=TWO),
    "llama100m": llama(768, 2048, 12, 12, vocab=8192, saves=TWO),
    "llama300m": llama(1024, 2816, 22, 16, vocab=8192, saves=TWO),
}
# The same shards with fewer layers, as hard links: two sizes of one shape give the cost of a layer.
PARTS = {"llama483m": 2, "llama7b4": 2, "llama70b2": 1}
