"""Histories of a feature that random numbers decide.

Histories are longer than those of Hypothesis and cost less each, so many are run; none is shrunk. The newest process
mostly runs on, while older ones stand where something is at stake.
"""

import random
from dataclasses import dataclass
from datetime import timedelta

from tests.proof.compactor import Choose, by_dice
from tests.proof.world import TO_THE_END, Station, World
from tests.support.stepped_storage import Ending

STOPS = {
    "write": ("end", "end", "put manifest", "put data"),
    "retire": ("end", "end", "put manifest", "put data"),
    "retry": ("end", "end", "put manifest", "get data"),
    "read": ("end", "list", "list", "get manifest", "get data", 2, 3, 4, 5),
    "compact": ("end", "end", "end", "get data", "put data", "put manifest", "put manifest"),
    "vacuum": ("end", "end", "end", "list", "delete"),
}
SPANS = (timedelta(minutes=40), timedelta(hours=2), timedelta(hours=2), timedelta(hours=22), timedelta(days=8))
FAULTS = (Ending.LOST, Ending.UNHEARD, Ending.LATE, Ending.ANSWERED)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How often dice choose what.

    Attributes:
        jobs: Kinds of jobs, each as often as it is likely.
        spans: What time passes at once, each as often as it is likely; none if it only passes with requests.
        stalling: Kinds of jobs that may be left standing; others run to their end.
        faults: The share of actions that let requests fail, or kill a process.
        actions: How many actions a history has.
    """

    jobs: tuple[str, ...] = (
        *("write", "write", "retire", "retry", "read", "read"),
        *("compact", "compact", "vacuum", "vacuum"),
    )
    spans: tuple[timedelta, ...] = SPANS
    stalling: tuple[str, ...] = tuple(STOPS)
    faults: float = 0.15
    actions: int = 60


def roam(seed: int, *, ordered: bool, mix: Mix) -> int:
    """Live through one history, and return how many requests it had.

    Raises:
        BrokenPromiseError: The log broke a promise.
    """
    dice = random.Random(seed)  # noqa: S311  # nothing secret
    with World(seed=seed, ordered=ordered) as world:
        newest = world.stations[0]
        for _ in range(mix.actions):
            newest = _act(world, dice, mix, newest)
        world.drain()
        return world.steps


def overtake(seed: int, *, ordered: bool) -> None:
    """Let a compaction be superseded and vacuumed while a reader stands in the middle of the listing of compactions.

    Raises:
        BrokenPromiseError: The log broke a promise.
    """
    with World(seed=seed, ordered=ordered) as world:
        reader, other, *_ = world.stations

        def grow(choose: Choose) -> None:
            for _ in range(2):
                world.write(other, {1: None}, name=None)
                other.follow(TO_THE_END)
            world.compact_by_hand(other, choose=choose)
            other.follow(TO_THE_END)

        grow(lambda manifests: manifests)
        grow(lambda manifests: [manifest for manifest in manifests if not manifest.covers])
        world.vacuum(other)
        other.follow(TO_THE_END)
        world.read(reader, latest_only=False)
        reader.follow([(1 + seed % 8, [])])
        grow(lambda manifests: [manifests[0], *(manifest for manifest in manifests if not manifest.covers)])
        world.vacuum(other)
        other.follow(TO_THE_END)
        world.drain()


def outlast(seed: int, *, ordered: bool) -> None:
    """Let a compaction stand still, before it puts anything, until all that it has read was rewritten and vacuumed.

    Raises:
        BrokenPromiseError: The log broke a promise.
    """
    with World(seed=seed, ordered=ordered) as world:
        slow, other, *_ = world.stations
        for _ in range(3):
            world.write(other, {1: None}, name=None)
            other.follow(TO_THE_END)
        world.compact_by_hand(slow, choose=lambda manifests: manifests)
        slow.follow([("put data", [])])
        world.compact_by_hand(other, choose=lambda manifests: manifests, rewrites_all=True)
        other.follow(TO_THE_END)
        for _ in range(3):
            world.wait(timedelta(days=8))
            world.vacuum(other)
            other.follow(TO_THE_END)
        world.drain()


def _act(world: World, dice: random.Random, mix: Mix, newest: Station) -> Station:
    """Do one thing, and return the station whose process came last."""
    idle = [station for station in world.stations if station.is_idle]
    busy = [station for station in world.stations if not station.is_idle]
    fate = dice.random()
    if mix.spans and fate < 0.15:
        world.wait(dice.choice(mix.spans))
    elif busy and fate < 0.15 + mix.faults:
        _harm(dice, dice.choice(busy))
    elif world.simulation.bucket.late and fate < 0.35:
        world.simulation.bucket.land(dice.randrange(len(world.simulation.bucket.late)))
    elif idle and (not busy or fate < 0.7):
        return _start(world, dice, mix, dice.choice(idle))
    elif busy:
        station = newest if not newest.is_idle and dice.random() < 0.5 else dice.choice(busy)
        station.follow([(dice.choice(("end", "list", "get manifest", "put manifest", "delete", 1, 2)), [])])
    return newest


def _start(world: World, dice: random.Random, mix: Mix, station: Station) -> Station:
    kind = dice.choice(mix.jobs)
    named = [write for write in world.oracle.writes if write.name is not None]
    if kind == "retry" and named:
        world.retry(station, dice.choice(named))
    elif kind == "retire":
        world.retire(station, sorted(dice.sample(range(7), dice.randint(1, 4))))
    elif kind == "read":
        world.read(station, latest_only=dice.random() < 0.3)
    elif kind == "compact" and dice.random() < 0.5:
        world.compact(station, full=dice.random() < 0.5)
    elif kind == "compact":
        world.compact_by_hand(station, choose=by_dice(dice.getrandbits(16)))
    elif kind == "vacuum":
        world.vacuum(station)
    else:
        notes = {sample: dice.choice((None, "a")) for sample in dice.sample(range(7), dice.randint(1, 5))}
        world.write(station, notes, name=f"job {len(world.oracle.writes)}" if dice.random() < 0.4 else None)
    station.follow([(dice.choice(STOPS[kind]) if kind in mix.stalling else "end", [])])
    return station


def _harm(dice: random.Random, station: Station) -> None:
    if dice.random() < 0.2:
        station.kill()
    else:
        faults = [dice.choice(FAULTS) for _ in range(dice.randint(1, 6))]
        station.follow([(dice.choice(("put manifest", "put data", 0)), faults)])
