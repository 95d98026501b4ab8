"""Read a root in which one object was damaged."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl

from metaxy_fs.errors import MetaxyError

Outcome = str
"""`right`, `refused` (an error of the library that names the object), or what went wrong."""

Damage = tuple[int, int | None]
"""A position, and the bits to flip in the byte there; None to cut the object off before it."""


def all_damages(size: int, *, seed: int) -> Iterator[Damage]:
    """Yield a flip of one bit at each position of an object, and the cut before every tenth."""
    dice = random.Random(seed)  # noqa: S311
    for position in range(size):
        yield position, 1 << dice.randrange(8)
    yield from ((position, None) for position in range(0, size, 10))


def some_damages(size: int, count: int, *, seed: int) -> list[Damage]:
    """Return damages of any kind at random positions."""
    dice = random.Random(seed)  # noqa: S311
    return [(dice.randrange(size), dice.choice((1 << dice.randrange(8), 0xFF, None))) for _ in range(count)]


def damaged(data: bytes, damage: Damage) -> bytes:
    """Return the bytes of an object after it was damaged."""
    position, bits = damage
    if bits is None:
        return data[:position]
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]


def outcome(read: Callable[[], list[pl.DataFrame]], expected: list[pl.DataFrame], *, name: str) -> Outcome:
    """Return what came of reading a root of which one object, of this name, is damaged."""
    try:
        found = read()
    except MetaxyError as error:
        return "refused" if name in str(error) else f"refused without a name: {error}"
    except BaseException as error:  # noqa: BLE001  # a panic is no Exception
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    is_right = all(one.equals(other) for one, other in zip(found, expected, strict=True))
    return "right" if is_right else "WRONG ROWS"


def outcomes(
    path: Path, damages: Iterable[Damage], read: Callable[[], list[pl.DataFrame]], expected: list[pl.DataFrame]
) -> Iterator[tuple[Damage, Outcome]]:
    """Damage an object in each of these ways, read, and put it back."""
    whole = path.read_bytes()
    try:
        for damage in damages:
            path.write_bytes(damaged(whole, damage))
            yield damage, outcome(read, expected, name=path.name)
    finally:
        path.write_bytes(whole)


def run(*arguments: str, seconds: float = 3_600) -> "subprocess.CompletedProcess[str]":
    """Run Python in a process of its own, in which a crash is seen."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "POLARS_MAX_THREADS": "2"},
    )
