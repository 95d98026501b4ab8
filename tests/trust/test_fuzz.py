"""A manifest of any content gives rows or an error of the library, and touches no file outside of the root.

Manifests of writes and of compactions are changed in their structure: other types, huge numbers, deep nests, fields
that come twice, lack or are strange, texts that are no texts, long lists. Time and memory are bounded.
"""

import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metaxy_fs import FeatureKey, FilesystemMetadataStore, MetaxyError
from metaxy_fs.metadata_store import compact
from tests.trust.damage import run
from tests.trust.test_broken import Old, Video, rows
from tests.trust.test_limits import peak

QUICK, SOAK = 120, 10_000
MEMORY = 4 << 30
"""What the reader may map. Polars and Python alone map one and a half."""

Json = Any

ODD_TEXTS = ["", "..", "../x", "/etc/passwd", "s3://bucket/x", "C:\\x", "x\n", "\u202ex", "%s"]
ODD_VALUES: list[Callable[[random.Random], str]] = [
    lambda _dice: "null",
    lambda _dice: "true",
    lambda _dice: "NaN",
    lambda _dice: "-Infinity",
    lambda _dice: "1e999",
    lambda _dice: "-0.0",
    lambda _dice: "9" * 400,
    lambda dice: str(dice.choice([-1, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, 10**18])),
    lambda dice: "[" * dice.choice([10, 1_000, 100_000]),
    lambda dice: "[" * (n := dice.choice([10, 1_000])) + "]" * n,
    lambda dice: '{"a":' * (n := dice.choice([10, 1_000])) + "1" + "}" * n,
    lambda dice: "[" + ",".join(["0"] * dice.choice([1_000, 1_000_000])) + "]",
    lambda dice: json.dumps(["x"] * dice.choice([1_000, 100_000])),
    lambda _dice: '"\\ud800"',
    lambda _dice: '"\\u0000"',
    lambda dice: json.dumps(dice.choice(ODD_TEXTS)),
    lambda dice: json.dumps("x" * dice.choice([300, 1_000_000])),
    lambda _dice: "[]",
    lambda _dice: "{}",
    lambda _dice: "",
]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Change a manifest in one to three places."""
    fields = json.loads(data)
    del fields["sha256"]  # who wants to be believed leaves it out
    text = json.dumps(fields, separators=(",", ":"))
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        text = dice.choice([with_odd_value, with_odd_value, without_field, with_field_twice, with_swapped])(text, dice)
    return text.encode("utf-8", "surrogatepass")


def places(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, held in items for place in places(held, (*path, key)))]


def with_odd_value(text: str, dice: random.Random) -> str:
    return _changed(text, dice, lambda parent, key: parent.__setitem__(key, "@odd@")).replace(
        '"@odd@"', dice.choice(ODD_VALUES)(dice)
    )


def without_field(text: str, dice: random.Random) -> str:
    return _changed(text, dice, lambda parent, key: parent.__delitem__(key))


def with_field_twice(text: str, dice: random.Random) -> str:
    """Repeat a field of an object or an item of a list; the second may differ."""
    if '"' not in text:
        return text
    start = dice.choice([at for at, letter in enumerate(text) if letter == '"'])
    end = text.find(",", start)
    return text if end < 0 else f"{text[:end]},{text[start:end]}{text[end:]}"


def with_swapped(text: str, dice: random.Random) -> str:
    """Put another value of the manifest in the place of one."""
    try:
        fields = json.loads(text)
        found = places(fields)[1:]  # from Python 3.12 on, what nests too deeply for this is parsed all the same
    except (ValueError, RecursionError):
        return text
    value = fields
    for key in dice.choice(found) if found else ():
        value = value[key]
    return _changed(text, dice, lambda parent, key: parent.__setitem__(key, value))


def _changed(text: str, dice: random.Random, change: Callable[[Any, Any], object]) -> str:
    try:
        fields = json.loads(text)
        found = places(fields)[1:]
    except (ValueError, RecursionError):
        return text[: dice.randrange(len(text) + 1)]
    if found:
        *above, key = dice.choice(found)
        parent = fields
        for step in above:
            parent = parent[step]
        change(parent, key)
    return json.dumps(fields, separators=(",", ":"))


# The child.


def main(directory: str, count: int, seed: int) -> None:
    """Read a root as often, each time with a manifest that was changed, and print what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    root, opened = Path(directory, "root"), set[str]()
    targets = [*root.glob("video/*/_manifests/appends/*.json"), *root.glob("*/*/_manifests/compactions/*.json")]
    originals = {path: path.read_bytes() for path in targets}
    sys.addaudithook(lambda event, arguments: opened.add(str(arguments[0])) if event == "open" else None)
    read_all(root)
    dice, found, slowest = random.Random(seed), Counter[str](), 0.0  # noqa: S311
    for _ in range(count):
        path = dice.choice(targets)
        path.write_bytes(mutated(originals[path], dice))
        begun = time.perf_counter()
        found[outcome(root)] += 1
        slowest = max(slowest, time.perf_counter() - begun)
        path.write_bytes(originals[path])
    strange = sorted(
        path for path in opened if not path.startswith(directory) and not path.startswith(("/proc", sys.prefix))
    )
    print(json.dumps({"found": found, "slowest": round(slowest, 2), "peak": peak(), "opened": strange[:5]}))


def outcome(root: Path) -> str:
    try:
        read_all(root)
    except MetaxyError as error:
        return "refused" if str(root) in str(error) else f"unnamed {type(error).__name__}: {str(error)[:200]}"
    except BaseException as error:  # noqa: BLE001  # a panic is no Exception
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "rows"


def read_all(root: Path) -> None:
    store = FilesystemMetadataStore(root)
    for key in (FeatureKey(["video"]), FeatureKey(["old"])):
        store.read_metadata(key)
        store.read_metadata(key, filters=pl.col("sample_id") == 3, latest_only=True)
        store.read_metadata(key, filters=pl.col("length") > 2, columns=["sample_id"])
        store.history(key)
        store.at("train").read_metadata(key)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A root of two features, of which one is compacted, and a snapshot of both."""
    store = FilesystemMetadataStore(tmp_path / "root")
    for feature in (Video, Old):
        for write in range(3):
            store.write_metadata(feature, rows(write))
    compact(store, Old, full=True)
    store.create_snapshot("train")
    return tmp_path


def test_any_manifest_gives_rows_or_an_error_that_names_it(directory: Path, *, soak: bool) -> None:
    rounds = SOAK // 1_000 if soak else 1
    for seed in range(rounds):
        count = SOAK // rounds if soak else QUICK
        done = run("-m", "tests.trust.test_fuzz", str(directory), str(count), str(seed))
        assert done.returncode == 0, done.stderr[-2_000:]
        told = json.loads(done.stdout)
        print(seed, told)
        assert set(told["found"]) <= {"rows", "refused"}
        assert told["found"]["refused"] > count // 2
        assert told["slowest"] < 120
        assert not told["opened"]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
