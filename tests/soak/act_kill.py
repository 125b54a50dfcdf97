"""K: the daemon dies at any moment, and nobody can tell afterwards."""
import time

import past
import writers
from world import World

# What its threads do with the state directory, the checkpoints and the network.
CALLS = ("pwrite64", "write", "fdatasync", "fsync", "openat", "ftruncate", "unlink", "rename", "pread64", "preadv2", "statx", "read", "getdents64")
MODELS = [model for model in writers.MODELS if model != "rewrite"]


def trainers(world, draw, n=2, count=8, interval=0.4):
    """Some that keep everything, so that a daemon that comes later can see it all."""
    models = draw.sample(MODELS, n)
    for model in models:
        world.train(model, model, interval=interval, stall=0.2, keep=0, count=count, first=draw.randrange(1, 1000))
    return models


def opened(world):
    """What a daemon says first is what was recorded."""
    n_before = len(past.copied(world.state).measured())
    daemon = world.start()
    body = daemon.wait("the first body", lambda body: True)
    told = body.total("checkpoints_analyzed_total")
    world.ledger.check(2, told >= n_before, f"{told} counted at the start, {n_before} recorded")
    world.ledger.check(13, body.value("state_store_ok") == 1, "the state does not open")
    return daemon


def at_rest(world, words):
    """Every save is recorded once, and a daemon that was never killed tells the same as one that reads the record."""
    ledger = world.ledger
    opened(world)
    world.wait_recorded()
    world.verify_log()
    ledger.check(8, world.daemon.stop() == 0, "a daemon that is asked to stop ends with 0")
    opened(world)
    body = world.wait_recorded()
    recorded = world.verify(body)
    world.daemon.stop()
    undisturbed = world.rebuilt()
    if body and undisturbed:
        world.equal_facts(body, undisturbed, words)
    aside = list(world.state.glob("*.corrupt-*"))
    ledger.check(13, not aside, f"{aside} moved aside")
    return recorded


def at_random(lab, name, draw, n=10):
    """SIGKILL between two calls of the clock."""
    world = World(lab, name)
    try:
        trainers(world, draw)
        for _ in range(n):
            daemon = opened(world) if draw.random() < 0.5 else world.start()
            time.sleep(draw.uniform(0.02, 0.9))
            daemon.kill()
            lab.ledger.injected("K", "SIGKILL at random times")
        world.finish_trainers()
        recorded = at_rest(world, "after kills at random times")
        lab.ledger.injected("K", "SIGKILL at random times", 0, saves_recorded_once=len(recorded.measured()))
    finally:
        world.end()


def at_call(lab, name, draw, n=5):
    """SIGKILL in the N-th system call of a kind, of any thread."""
    what = "SIGKILL in the N-th write, sync, rename, open, read"
    world = World(lab, name)
    try:
        trainers(world, draw)
        for _ in range(n):
            call, when = draw.choice(CALLS), round(1.08 ** draw.randrange(60))
            trace = lab.traced("/dev/null", call, [f"{call}:signal=KILL:when={when}"])
            try:
                daemon = world.start(wrap=trace)
            except world.lab.unavailable:
                daemon = world.daemon
            until = time.monotonic() + 6
            while daemon.alive() and time.monotonic() < until:
                time.sleep(0.02)
            reached = not daemon.alive()
            daemon.kill()
            lab.ledger.injected("K", what, int(reached), **({} if reached else {"calls_not_reached": 1}))
        world.finish_trainers()
        recorded = at_rest(world, "after kills in system calls")
        lab.ledger.injected("K", what, 0, saves_recorded_once=len(recorded.measured()))
    finally:
        world.end()
