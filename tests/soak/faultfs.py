#!/usr/bin/env python3
"""A file system that lies, waits and refuses: `faultfs.py BACKING MOUNTPOINT`, as root.

It shows what lies in BACKING through the kernel's FUSE protocol, without a library. A file that is open when it is removed becomes
`.nfsXXXX` beside it until it is closed, as on NFS, so that the directory cannot be removed before. Orders come as lines of JSON on the
standard input, each answered by a line: {"rules": [...]} replaces the rules, {} lets go of what hangs. It ends with its input.

A rule: {"ops": [names], "pid": of whose threads, "path": part of the path, "errno": name, "delay": seconds, "hang": true, "short": true,
"flip": true, "count": how often}. All but what it does may be left out.
"""
import ctypes
import errno
import json
import os
import stat
import struct
import sys
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2
DIRECT_IO = 1
N_THREADS = 32
MAX_WRITE = 1 << 17
HEADER = struct.Struct("<IIQQIIIHH")
ATTR = struct.Struct("<6Q10I")
READ_IN = struct.Struct("<QQIIQII")
SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
FORGETS = (2, 42)

OPS = {1: "lookup", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 8: "mknod", 9: "mkdir", 10: "unlink", 11: "rmdir", 12: "rename",
       13: "link", 14: "open", 15: "read", 16: "write", 17: "statfs", 18: "release", 20: "fsync", 25: "flush", 26: "init", 27: "opendir",
       28: "readdir", 29: "releasedir", 30: "fsyncdir", 34: "access", 35: "create", 36: "interrupt", 45: "rename2"}


class Node:
    """A name in a directory; of a removed one, the place where it lies until it is closed."""

    def __init__(self, number, parent, name):
        self.number, self.parent, self.name = number, parent, name
        self.children = {}
        self.n_open = 0
        self.silly = False

    def path(self):
        parts = []
        node = self
        while node.parent:
            parts.append(node.name)
            node = node.parent
        return os.path.join(*reversed(parts)) if parts else ""


class Faults:
    """Rules, and who hangs."""

    def __init__(self):
        self.lock = threading.Lock()
        self.rules, self.let_go, self.hits = [], threading.Event(), 0
        self.hanging = 0

    def set(self, rules):
        with self.lock:
            self.rules = [dict(rule) for rule in rules]
            self.let_go.set()
            self.let_go = threading.Event()

    def find(self, op, path, tid):
        with self.lock:
            for rule in self.rules:
                if op not in rule.get("ops", [op]) or rule.get("path", "") not in path or rule.get("count", 1) == 0:
                    continue
                if "pid" in rule and not os.path.exists(f"/proc/{rule['pid']}/task/{tid}"):
                    continue
                if "count" in rule:
                    rule["count"] -= 1
                self.hits += 1
                return rule, self.let_go
        return None, None

    def apply(self, op, path, tid):
        """Waits or raises as the rule says; the rule, for what it does to data."""
        rule, let_go = self.find(op, path, tid)
        if not rule:
            return {}
        if rule.get("hang"):
            self.hanging += 1
            let_go.wait()
            self.hanging -= 1
        time.sleep(rule.get("delay", 0))
        if "errno" in rule:
            raise OSError(getattr(errno, rule["errno"]), rule["errno"])
        return rule


class FileSystem:
    def __init__(self, backing, device):
        self.backing, self.device = backing, device
        self.lock = threading.RLock()
        self.root = Node(1, None, "")
        self.nodes, self.last = {1: self.root}, 1
        self.faults = Faults()
        self.n_silly = 0

    # Names

    def real(self, node, name=None):
        path = node.path()
        return os.path.join(self.backing, path, name) if name is not None else os.path.join(self.backing, path)

    def child(self, parent, name):
        node = parent.children.get(name)
        if node is None:
            self.last += 1
            node = Node(self.last, parent, name)
            parent.children[name] = node
            self.nodes[node.number] = node
        return node

    def attr(self, path=None, fd=None):
        s = os.fstat(fd) if fd is not None else os.lstat(path)
        def split(ns):
            return divmod(ns, 1_000_000_000)
        (a, an), (m, mn), (c, cn) = split(s.st_atime_ns), split(s.st_mtime_ns), split(s.st_ctime_ns)
        return ATTR.pack(s.st_ino, s.st_size, s.st_blocks, a, m, c, an, mn, cn, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_rdev, 4096, 0)

    def entry(self, parent, name):
        attr = self.attr(self.real(parent, name))
        return struct.pack("<4Q2I", self.child(parent, name).number, 0, 0, 0, 0, 0) + attr

    # Operations; each gets the node, the rest of the request, and the rule

    def lookup(self, node, data, rule):
        return self.entry(node, name_of(data))

    def getattr(self, node, data, rule):
        return struct.pack("<QII", 0, 0, 0) + self.attr(self.real(node))

    def setattr(self, node, data, rule):
        valid, _, fh, size, _, at, mt, _, an, mn, _, mode, _, uid, gid, _ = SETATTR_IN.unpack_from(data)
        path = self.real(node)
        if valid & 1:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & 6:
            os.chown(path, uid if valid & 2 else -1, gid if valid & 4 else -1, follow_symlinks=False)
        if valid & 8:
            os.truncate(fh if valid & 64 else path, size)
        if valid & (16 | 32 | 128 | 256):
            now, old = time.time_ns(), os.lstat(path)
            atime = now if valid & 128 else at * 10**9 + an if valid & 16 else old.st_atime_ns
            mtime = now if valid & 256 else mt * 10**9 + mn if valid & 32 else old.st_mtime_ns
            os.utime(path, ns=(atime, mtime), follow_symlinks=False)
        return struct.pack("<QII", 0, 0, 0) + self.attr(path)

    def readlink(self, node, data, rule):
        return os.readlink(self.real(node)).encode()

    def symlink(self, node, data, rule):
        name, target = (part.decode() for part in data.split(b"\0")[:2])
        os.symlink(target, self.real(node, name))
        return self.entry(node, name)

    def mknod(self, node, data, rule):
        mode, rdev, _, _ = struct.unpack_from("<4I", data)
        name = name_of(data[16:])
        os.mknod(self.real(node, name), mode, rdev)
        return self.entry(node, name)

    def mkdir(self, node, data, rule):
        mode, umask = struct.unpack_from("<2I", data)
        name = name_of(data[8:])
        os.mkdir(self.real(node, name), mode & ~umask)
        return self.entry(node, name)

    def unlink(self, node, data, rule):
        name = name_of(data)
        old = node.children.get(name)
        if old and old.silly and old.n_open:
            raise OSError(errno.EBUSY, name)
        node.children.pop(name, None)
        if old and old.n_open:
            self.hide(node, old)
            return b""
        try:
            os.unlink(self.real(node, name))
        except OSError:
            if old:
                node.children[name] = old
            raise
        return b""

    def hide(self, parent, node):
        """Removed while it is open: it stays under a name of its own."""
        self.n_silly += 1
        name = f".nfs{node.number:016x}{self.n_silly:08x}"
        os.rename(self.real(parent, node.name), self.real(parent, name))
        node.name, node.silly = name, True
        parent.children[name] = node

    def rmdir(self, node, data, rule):
        os.rmdir(self.real(node, name_of(data)))
        node.children.pop(name_of(data), None)
        return b""

    def rename(self, node, data, rule, skip=8):
        to = self.nodes[struct.unpack_from("<Q", data)[0]]
        old, new = (part.decode() for part in data[skip:].split(b"\0")[:2])
        over = to.children.get(new)
        if over and over.n_open:
            to.children.pop(new)
            self.hide(to, over)
        os.rename(self.real(node, old), self.real(to, new))
        to.children.pop(new, None)
        moved = node.children.pop(old, None)
        if moved:
            moved.parent, moved.name = to, new
            to.children[new] = moved
        return b""

    def rename2(self, node, data, rule):
        if struct.unpack_from("<I", data, 8)[0]:
            raise OSError(errno.EINVAL, "flags")
        return self.rename(node, data, rule, skip=16)

    def link(self, node, data, rule):
        name = name_of(data[8:])
        os.link(self.real(self.nodes[struct.unpack_from("<Q", data)[0]]), self.real(node, name))
        return self.entry(node, name)

    def open(self, node, data, rule):
        flags = struct.unpack_from("<I", data)[0]
        fd = os.open(self.real(node), flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOATIME | os.O_NOFOLLOW))
        node.n_open += 1
        return struct.pack("<QIi", fd, DIRECT_IO, 0)

    def create(self, node, data, rule):
        flags, mode, umask, _ = struct.unpack_from("<4I", data)
        name = name_of(data[16:])
        fd = os.open(self.real(node, name), flags | os.O_CREAT, mode & ~umask)
        self.child(node, name).n_open += 1
        return self.entry(node, name) + struct.pack("<QIi", fd, DIRECT_IO, 0)

    def read(self, node, data, rule):
        fd, offset, size = READ_IN.unpack_from(data)[:3]
        if rule.get("short") and size > 1:
            size = 1 + (offset + size) % (size - 1)
        found = os.pread(fd, size, offset)
        if rule.get("flip") and found:
            changed = bytearray(found)
            changed[(offset // 512) % len(changed)] ^= 1 << offset % 8
            found = bytes(changed)
        return found

    def write(self, node, data, rule):
        fd, offset, size = READ_IN.unpack_from(data)[:3]
        return struct.pack("<II", os.pwrite(fd, data[READ_IN.size:READ_IN.size + size], offset), 0)

    def statfs(self, node, data, rule):
        s = os.statvfs(self.backing)
        return struct.pack("<5Q4I6I", s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, 255, s.f_frsize, 0, *[0] * 6)

    def release(self, node, data, rule):
        os.close(struct.unpack_from("<Q", data)[0])
        node.n_open -= 1
        if node.silly and not node.n_open:
            node.parent.children.pop(node.name, None)
            os.unlink(self.real(node))
        return b""

    def fsync(self, node, data, rule):
        os.fsync(struct.unpack_from("<Q", data)[0])
        return b""

    def flush(self, node, data, rule):
        return b""

    fsyncdir = releasedir = access = flush

    def opendir(self, node, data, rule):
        os.stat(self.real(node))
        return struct.pack("<QIi", 0, 0, 0)

    def readdir(self, node, data, rule):
        _, offset, size = READ_IN.unpack_from(data)[:3]
        out = b""
        entries = sorted(os.scandir(self.real(node)), key=lambda one: one.name)
        for at, one in enumerate(entries[offset:], offset + 1):
            name = os.fsencode(one.name)
            kind = stat.S_IFMT(one.stat(follow_symlinks=False).st_mode) >> 12
            record = struct.pack("<QQII", one.inode(), at, len(name), kind) + name
            record += b"\0" * (-len(record) % 8)
            if len(out) + len(record) > size:
                break
            out += record
        return out

    # The protocol

    def init(self, data):
        major, minor, readahead, _ = struct.unpack_from("<4I", data)
        return struct.pack("<4I2H2I2HI7I", major, min(minor, 38), readahead, 0, 64, 48, MAX_WRITE, 1, 0, 0, 0, *[0] * 7)

    def answer(self, request):
        _, code, unique, number, _, _, tid, _, _ = HEADER.unpack_from(request)
        data = request[HEADER.size:]
        if code in FORGETS or code == 36:
            return
        error, out = 0, b""
        name = OPS.get(code)
        try:
            if code == 26:
                out = self.init(data)
            elif name is None:
                error = errno.ENOSYS
            else:
                node = self.nodes[number]
                about = os.path.join(node.path(), name_of(data)) if code == 1 else node.path()
                rule = {} if name in ("release", "releasedir") else self.faults.apply(name, about, tid)
                if code in (15, 16):  # without the lock: what is read slowly holds up nobody
                    out = getattr(self, name)(node, data, rule)
                else:
                    with self.lock:
                        out = getattr(self, name)(node, data, rule)
        except OSError as failure:
            error, out = failure.errno or errno.EIO, b""
        except KeyError:
            error = errno.ESTALE
        try:
            os.write(self.device, struct.pack("<IiQ", 16 + len(out), -error, unique) + out)
        except OSError:  # nobody waits for it any more
            pass

    def serve(self):
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + (1 << 16))
            except OSError as failure:
                if failure.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return
            self.answer(request)


def name_of(data):
    return data.split(b"\0", 1)[0].decode(errors="surrogateescape")


def main(backing, at):
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other"
    if LIBC.mount(b"faultfs", at.encode(), b"fuse.faultfs", 6, options.encode()) != 0:  # MS_NODEV | MS_NOSUID
        code = ctypes.get_errno()
        print(f"mount: {os.strerror(code)}", flush=True)
        return 1
    system = FileSystem(backing, device)
    for _ in range(N_THREADS):
        threading.Thread(target=system.serve, daemon=True).start()
    print("mounted", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        system.faults.set(order.get("rules", []))
        print(json.dumps({"hits": system.faults.hits, "hanging": system.faults.hanging, "silly": system.n_silly}), flush=True)
    system.faults.set([])
    LIBC.umount2(at.encode(), MNT_DETACH)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
