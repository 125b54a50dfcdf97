"""What the daemon has recorded, read from its database as anybody may."""
import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

FILE = "history.sqlite"


class Recorded:
    """All saves of a state directory with their rows, as of now; what a writer left half written is taken back, as every reader must."""

    def __init__(self, state):
        self.saves, self.errors = [], []
        path = Path(state) / FILE
        if not path.exists():
            return
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30)) as db:
            db.row_factory = sqlite3.Row
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'saves'").fetchone():
                return  # cut off before it was made
            runs = {row["id"]: row["name"] for row in db.execute("SELECT id, name FROM runs")}
            matrices, pairs = {}, {}
            for row in db.execute("SELECT * FROM matrices ORDER BY save, position"):
                matrices.setdefault(row["save"], []).append(dict(row))
            for row in db.execute("SELECT * FROM pairs ORDER BY save, position"):
                pairs.setdefault(row["save"], []).append(dict(row))
            for row in db.execute("SELECT * FROM saves ORDER BY id"):
                save = dict(row)
                save["run"] = runs.get(save["run"], "?")
                save["matrices"], save["pairs"] = matrices.get(save["id"], []), pairs.get(save["id"], [])
                self.saves.append(save)
            self.counters = {(runs.get(row["run"], ""), row["name"], row["label"]): row["value"] for row in db.execute("SELECT * FROM counters")}
            self.errors = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]

    def measured(self):
        return [save for save in self.saves if save["state"] == "analyzed"]

    def keys(self):
        return [(save["path"], save["modified_ns"], save["size_bytes"]) for save in self.saves]


def copied(state):
    """What a copy of the database says, of one that no daemon has open: what was left half written there is left as it is."""
    with tempfile.TemporaryDirectory() as here:
        for path in Path(state).glob(FILE + "*"):
            if path.is_file():
                shutil.copy(path, here)
        return Recorded(here)
