"""What is no file of weights but lies where one would: pipes, devices, links that lead astray, and names that want to be markup, a
line of a log or a label. Made by a fixed recipe."""
import os
import socket
import sys
from pathlib import Path

from hostile_kit import model

LINK = "found {}, expected a regular file"
WHOLE = "model.safetensors"


def fifo(path):
    os.mkfifo(path)


def sock(path):
    # The name of a socket may have a hundred bytes only.
    here = os.open(path.parent, os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def link(target):
    return lambda path: path.symlink_to(target)


def directory(path):
    path.mkdir()


# (name, what is made at model.safetensors, verdict, words)
KINDS = (
    ("fifo", fifo, "not a checkpoint", LINK.format("a named pipe")),
    ("socket", sock, "not a checkpoint", LINK.format("a socket")),
    ("directory", directory, "not a checkpoint", LINK.format("a directory")),
    ("zeros", link("/dev/zero"), "not a checkpoint", LINK.format("a device")),
    ("terminal", link("/dev/tty"), "not a checkpoint", LINK.format("a device")),
    ("to_itself", link(WHOLE), "unreadable", "Too many levels of symbolic links"),
    ("to_each_other", link("other.safetensors"), "unreadable", "Too many levels of symbolic links"),
    ("to_nothing", link("nothing"), "missing", "found the file gone"),
    ("through_a_file", link("config.json/x"), "missing", "found the file gone"),
    ("to_long_name", link("x" * 300), "unreadable", "File name too long"),
    ("to_directory", link("."), "not a checkpoint", LINK.format("a directory")),
    ("to_process", link("/proc/self/mem"), "incomplete", "found 0 bytes"),
    ("to_fd", link("/proc/self/fd/0"), "not a checkpoint", LINK.format("a device")),
)

# Names of runs, each a directory with a sound save.
NAMES = (
    b'a"} 1\nPWNED{x="', b"new\nline", b"carriage\rreturn", b"escape\x1b[2J", b"quote'\"`", b"back\\slash", b"brace{}", b"<script>alert(1)</script>",
    b"invalid \xff\xfe utf-8", b"half \xe2\x82", "right\u202eleft".encode(), "line\u2028separator".encode(), "zero\u200bwidth".encode(), b"n" * 200, b"$(touch PWNED_sh)",
    b"%s%n%x", b"tab\tand\x01control", "ünï©ødé".encode(), b"-rf", b"a b", b"__name__", b"le",
)


def write(root):
    """Makes them; the names of the saves that are odd, and of the runs whose names are."""
    root = Path(root)
    for name, make, _, _ in KINDS:
        home = root / f"place_{name}"
        home.mkdir(parents=True)
        (home / "config.json").write_text("{}")
        if name == "to_each_other":
            (home / "other.safetensors").symlink_to(WHOLE)
        make(home / WHOLE)
    for name in NAMES:
        home = Path(os.fsdecode(os.fsencode(root / "names") + b"/" + name)) / "checkpoint-1"
        home.mkdir(parents=True)
        (home / WHOLE).write_bytes(model("0.weight", "1.weight"))
        (home / "trainer_state.json").write_text('{"global_step": 1}')


if __name__ == "__main__":
    write(sys.argv[1])
