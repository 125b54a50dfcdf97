"""Which acts are played, in which order, with which draws: a function of the seed alone."""
import random
from dataclasses import dataclass
from typing import Callable

import act_files
import act_guest
import act_kill
import act_network
import act_state
import act_system


@dataclass(frozen=True)
class Act:
    letter: str
    play: Callable
    # In each round, and in the round of `--minutes 5`.
    often: int
    often_short: int
    # Injections of one item, for --count.
    size: int = 1
    # Seconds that it takes on two cores that are not idle.
    seconds: float = 30.0


ACTS = (
    Act("K", act_kill.at_random, 4, 2, 10, 20),
    Act("K", act_kill.at_call, 4, 3, 5, 25),
    Act("P", act_state.power, 2, 1, 5, 25),
    Act("P", act_state.power_xfs, 2, 1, 5, 25),
    Act("T", act_state.torn, 10, 10, 5, 20),
    Act("R", act_files.removals, 6, 6, 8, 25),
    Act("O", act_files.overwrites, 6, 2, 8, 25),
    Act("races", act_files.races, 2, 1, 50, 45),
    Act("E", act_state.full_disk, 1, 1, 3, 25),
    Act("E", act_state.read_only, 1, 1, 3, 30),
    Act("E", act_state.failing_calls, 3, 1, 4, 25),
    Act("E", act_state.few_descriptors, 1, 1, 4, 20),
    Act("E", act_state.small_files, 1, 1, 2, 25),
    Act("E", act_state.full_log, 1, 1, 2, 10),
    Act("E", act_state.two_daemons, 1, 1, 3, 5),
    Act("N", act_network.refusals, 3, 1, 8, 45),
    Act("N", act_network.denied, 1, 0, 2, 60),
    Act("N", act_network.hang, 2, 1, 1, 50),
    Act("N", act_network.hang_long, 1, 0, 1, 110),
    Act("N", act_network.silly_renames, 3, 1, 12, 45),
    Act("N", act_network.lies, 1, 0, 100, 70),
    Act("C", act_system.clocks, 2, 1, 6, 80),
    Act("I", act_system.overflow, 1, 1, 2, 15),
    Act("I", act_system.no_watches, 1, 1, 2, 12),
    Act("M", act_system.little, 2, 1, 2, 40),
    Act("B", act_system.backlog, 1, 1, 1, 40),
    Act("H", act_system.rude_clients, 2, 1, 3, 20),
    Act("guest", act_guest.audit, 1, 1, 1, 30),
    Act("guest", act_guest.guest, 1, 1, 1, 25),
)
LETTERS = tuple(dict.fromkeys(act.letter for act in ACTS)) + ("S",)


@dataclass(frozen=True)
class Item:
    """One act with its number; its draws come from the seed and its name."""
    act: Act
    number: int

    @property
    def name(self):
        return f"{self.act.letter}-{self.act.play.__name__}-{self.number}"

    def draw(self, seed):
        return random.Random(f"{seed}/{self.name}")


def rounds(seed, only, short):
    """Items without end, round after round; the long ones of each round first, so that it ends together."""
    number = 0
    while True:
        items = [Item(act, number * often + turn) for act in ACTS if act.letter in only
                 for often in [act.often_short if short else act.often] for turn in range(often)]
        if not items:
            return
        random.Random(f"{seed}/round/{number}").shuffle(items)
        items.sort(key=lambda item: item.act.seconds < 40)
        yield from items
        number += 1
        if short:
            return


def counted(seed, only, count):
    """As many items of each letter as it takes for so many injections."""
    for letter in only:
        acts = [act for act in ACTS if act.letter == letter]
        done, number = 0, 0
        while acts and done < count:
            act = acts[number % len(acts)]
            yield Item(act, number // len(acts))
            done, number = done + act.size, number + 1


def named(name):
    """An item by its name, for a replay."""
    letter, play, number = name.split("-")
    act = next(act for act in ACTS if act.letter == letter and act.play.__name__ == play)
    return Item(act, int(number))
