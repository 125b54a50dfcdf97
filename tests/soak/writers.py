"""How savers write, call by call, with a pause wherever the disk or the network may hold them up.

| model | file | how |
|---|---|---|
| safetensors-0.7 | checkpoint-N/model.safetensors | in place with O_TRUNC, the length grows |
| safetensors-0.8 | the same | .tmpXXXXXX of mode 0600, ftruncate to the whole length, written, renamed |
| torch | checkpoint-N/pytorch_model.bin | in place with O_TRUNC, the archive's end record last |
| dcp | step-N/ | __0_0.distcp in place and synced, .metadata.tmp, renamed to .metadata |
| preallocate | checkpoint-N/model.safetensors | in place, the whole length at once, then filled |
| staged | checkpoint-N/ | written as tmp-checkpoint-N/, the directory renamed |
| rewrite | model.safetensors | one file written over in place, without O_TRUNC |
| plain | model-N.safetensors | in place with O_TRUNC; nothing but its close says that it is complete |

A directory checkpoint-N gets its trainer_state.json last, as the Hugging Face trainer writes it. Nothing but `dcp` is synced.
"""
import json
import os
import random
from pathlib import Path

import formats
from content import Save

# The four of the promises first.
HF = ("safetensors-0.7", "safetensors-0.8", "torch", "preallocate", "staged")
MODELS = ("safetensors-0.7", "safetensors-0.8", "torch", "dcp", "preallocate", "staged", "rewrite", "plain")


def loss(step):
    """What the trainer's record says of a step."""
    return 4.0 / (1 + step)


def nothing():
    """No pause."""


def flush(fd, parts, pause):
    """Writes all parts in order, with pauses between and within large ones."""
    for part in parts:
        view = memoryview(part)
        cut = len(view) // 2 if len(view) > 4096 else len(view)
        for piece in (view[:cut], view[cut:]):
            while piece:
                piece = piece[os.write(fd, piece):]
            pause()


def truncated(path, parts, pause, sync=False):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        pause()
        flush(fd, parts, pause)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def renamed(path, parts, pause):
    letters = "".join(random.SystemRandom().choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=6))
    other = path.with_name(f".tmp{letters}")
    fd = os.open(other, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, sum(map(len, parts)))
        pause()
        flush(fd, parts, pause)
    finally:
        os.close(fd)
    os.rename(other, path)


def preallocated(path, parts, pause):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        # Some file systems have no fallocate, and none makes a file shorter.
        os.ftruncate(fd, sum(map(len, parts)))
        pause()
        flush(fd, parts, pause)
    finally:
        os.close(fd)


def rewritten(path, parts, pause):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        # First, so that the last byte is the last change.
        os.ftruncate(fd, sum(map(len, parts)))
        flush(fd, parts, pause)
    finally:
        os.close(fd)


def text(path, words):
    with open(path, "w") as file:
        file.write(words)


def trainer_state(step):
    history = [{"epoch": 1.0, "learning_rate": 1e-3, "loss": loss(step), "step": step}]
    return json.dumps({"global_step": step, "max_steps": 1 << 40, "log_history": history}, indent=2)


def path_of(run, model, step):
    """What a save is known by, below the directory of its run; one that is written over, by that directory."""
    names = {"dcp": f"step-{step}", "rewrite": ".", "plain": f"model-{step}.safetensors"}
    return Path(run) / names.get(model, f"checkpoint-{step}")


def write(directory, model, save: Save, pause=nothing):
    """Saves; returns the path that the save is known by."""
    path = path_of(directory, model, save.step)
    if model in ("rewrite", "plain"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        head, data = formats.safetensors(save.tensors(), {"format": "pt", "step": str(save.step)})
        if model == "rewrite":
            rewritten(path / "model.safetensors", [head, *data], pause)
        else:
            truncated(path, [head, *data], pause)
        return path
    into = path.with_name(f"tmp-{path.name}") if model == "staged" else path
    into.mkdir(parents=True, exist_ok=True)
    pause()
    if model == "dcp":
        parts, record = formats.distributed(save.tensors())
        truncated(into / "__0_0.distcp", parts, pause, sync=True)
        truncated(into / ".metadata.tmp", [record], pause, sync=True)
        os.rename(into / ".metadata.tmp", into / ".metadata")
        return path
    weights(into, model, save, pause)
    pause()
    # What else lies in such a directory; nobody should open it.
    text(into / "optimizer.pt", "no weights" * 100)
    text(into / "rng_state.pth", "no weights")
    pause()
    text(into / "trainer_state.json", trainer_state(save.step))
    if model == "staged":
        pause()
        os.rename(into, path)
    return path


def weights(into, model, save, pause):
    if model == "torch":
        truncated(into / "pytorch_model.bin", formats.state_dict(save.tensors(), "pytorch_model"), pause)
        return
    head, data = formats.safetensors(save.tensors(), {"format": "pt"})
    how = {"safetensors-0.8": renamed, "preallocate": preallocated}.get(model, truncated)
    how(into / "model.safetensors", [head, *data], pause)


def pauses(draw, longest, n=3):
    """A pause that stalls about `n` times a save: of a seeded length up to `longest` seconds in all."""
    import time

    def pause():
        if draw.random() < 0.25:
            time.sleep(draw.random() * longest / n)
    return pause if longest else nothing
