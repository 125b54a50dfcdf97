"""The fourteen invariants with their counts, and the faults with theirs."""
import threading
from dataclasses import dataclass, field

INVARIANTS = {
    1: "completeness: every save that stood still for long enough is recorded, and once",
    2: "counters equal what is recorded after every start, and never fall",
    3: "equality: every number is what an independent recomputation says",
    4: "no torn value: every record is of one save as its trainer wrote it",
    5: "no zombies: series end with their run, none is there twice, promtool agrees",
    6: "restart equivalence: killed, never killed and rebuilt tell the same",
    7: "training directory untouched",
    8: "trainer unharmed: no exception, its order of files, its space back",
    9: "memory: peak within its budget, no slope",
    10: "descriptors, threads and children: as many as before, none deleted for more than 1 s",
    11: "liveness: /metrics answers within 250 ms (p99), nothing waits at the end",
    12: "errors visible: a fault moves its counter and is told once, not over and over",
    13: "state: it opens after every kill, power cut and damage; the damaged one is kept aside once",
    14: "security: nothing is started, called or opened beyond roots and state",
}
# Of one invariant, so that a bad day stays readable.
MAX_TOLD = 12
MAX_WORDS = 1500


@dataclass
class Fault:
    """One row of the table."""
    letter: str
    what: str
    injected: int = 0
    results: dict = field(default_factory=dict)
    # Measured numbers, of which the largest counts.
    worst: dict = field(default_factory=dict)
    skipped: set = field(default_factory=set)


class Skipped(Exception):
    """This machine cannot do that; the words say why."""


class Ledger:
    """Shared by all acts and threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.checks = {number: 0 for number in INVARIANTS}
        self.violations = {number: [] for number in INVARIANTS}
        self.faults = {}
        self.context = threading.local()

    def within(self, words):
        """What the violations of this thread are said to belong to, from now on."""
        self.context.words = words

    def check(self, number, holds, words="", n=1):
        with self.lock:
            self.checks[number] += n
            if not holds:
                where = getattr(self.context, "words", "")
                words = f"{where}: {words}" if where else words
                self.violations[number].append(words if len(words) <= MAX_WORDS else words[:MAX_WORDS // 2] + " ... " + words[-MAX_WORDS // 2:])
                print(f"VIOLATION of {number} in {self.violations[number][-1]}", flush=True)
        return holds

    def checked(self, number, wrong, n):
        """Many checks at once: `wrong` says which failed."""
        with self.lock:
            self.checks[number] += n - len(wrong)
        for words in wrong:
            self.check(number, False, words)

    def fault(self, letter, what):
        with self.lock:
            return self.faults.setdefault((letter, what), Fault(letter, what))

    def injected(self, letter, what, n=1, worst=None, **results):
        fault = self.fault(letter, what)
        with self.lock:
            fault.injected += n
            for name, count in results.items():
                fault.results[name] = fault.results.get(name, 0) + count
            for name, value in (worst or {}).items():
                fault.worst[name] = max(fault.worst.get(name, value), value)

    def skipped(self, letter, what, why):
        fault = self.fault(letter, what)
        with self.lock:
            fault.skipped.add(why)

    def failing(self):
        """Names of the items that have a violation."""
        told = [words.split(" ")[0].split(":")[0] for found in self.violations.values() for words in found]
        return {name for name in told if name.count("-") >= 2}

    def failed(self):
        return sum(len(found) for found in self.violations.values())

    def report(self):
        """The tables, in Markdown."""
        lines = ["| fault | injected | result |", "|---|---|---|"]
        for (letter, what), fault in sorted(self.faults.items()):
            words = [f"{count} {name.replace('_', ' ')}" for name, count in fault.results.items()]
            words += [f"{name} {value:g}" for name, value in fault.worst.items()]
            words += [f"skipped: {why}" for why in sorted(fault.skipped)]
            lines.append(f"| {letter}: {what} | {fault.injected} | {', '.join(words)} |")
        lines += ["", "| invariant | checks | violations |", "|---|---|---|"]
        for number, words in INVARIANTS.items():
            lines.append(f"| {number}. {words} | {self.checks[number]} | {len(self.violations[number])} |")
        for number, found in self.violations.items():
            for words in found[:MAX_TOLD]:
                lines.append(f"violation of {number}: {words}")
            if len(found) > MAX_TOLD:
                lines.append(f"violation of {number}: and {len(found) - MAX_TOLD} more")
        return "\n".join(lines)
