"""How much of everything a root takes, in which time and memory.

Each case runs in a process of its own, of which the peak of memory is taken: `python -m tests.trust.test_limits CASE N`
prints what each step took. The quick run takes a hundredth of what the docs state, or a tenth.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    MetaxyError,
    SpecError,
)
from metaxy_fs.log import chunks
from metaxy_fs.metadata_store import compact
from tests.trust.damage import run

Steps = dict[str, tuple[float, int]]
"""Seconds, and the answer, of each step."""


def declared(name: str, containers: int = 1, version: int = 1, above: str | None = None) -> type[Feature]:
    """Declare a feature in the active graph."""
    specs = [ContainerSpec(key=ContainerKey([f"c{n}"]), code_version=version) for n in range(containers)]
    deps = [] if above is None else [FeatureDep(key=FeatureKey([above]))]
    spec = FeatureSpec(key=FeatureKey([name]), deps=deps, containers=specs)
    return type(name, (Feature,), {}, spec=spec)


def frame(rows: int, containers: int = 1, start: int = 0) -> pl.DataFrame:
    ids = pl.int_range(start, start + rows, eager=True).alias("sample_id")
    versions = pl.DataFrame({f"c{n}": ids.cast(pl.String) for n in range(containers)})
    return pl.DataFrame({"sample_id": ids, "data_version": versions.to_struct()})


def features(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    """Features in chains of a hundred, each made from the one before it."""
    made = [declared(f"f{n}", above=f"f{n - 1}" if n % 100 else None) for n in range(count)]
    return {
        "write to each": lambda: sum(store.write_metadata(feature, frame(10)) is None for feature in made),
        "list_features": lambda: len(store.list_features()),
        "resolve_update of the deepest": lambda: len(store.resolve_update(made[min(99, count - 1)]).stale),
        "what_if at the top": lambda: store.what_if(made[0], code_versions={"c0": 2}).height,
    }


def partitions(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    """One feature under many definitions."""
    made = []
    for version in range(count):
        with FeatureGraph().use():
            made.append(declared("f", version=version))
        store.write_metadata(made[-1], frame(1))
    return {
        "read the current one": lambda: store.read_metadata(made[-1]).height,
        "history": lambda: store.history(made[-1]).height,
        "list_features": lambda: len(store.list_features()),
        "has_feature": lambda: int(store.has_feature(FeatureKey(["f"]))),
    }


def all_partitions(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    """One feature under many definitions, all of which are read together."""
    steps = partitions(store, count)
    del steps["list_features"], steps["has_feature"], steps["history"]
    with FeatureGraph().use():
        last = declared("f", version=count - 1)
    return steps | {
        "read all": lambda: store.read_metadata(last, versions="all").height,
        "resolve_update": lambda: store.resolve_update(last, samples=frame(1)).stale.height,
    }


def columns(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    feature = declared("f")
    rows = frame(1_000).with_columns(pl.lit(n).alias(f"x{n}") for n in range(count))
    return {
        "write": lambda: store.write_metadata(feature, rows) is None,
        "write again": lambda: store.write_metadata(feature, rows) is None,
        "read all": lambda: store.read_metadata(feature).width,
        "read one of the latest": lambda: store.read_metadata(feature, columns=["x7"], latest_only=True).height,
        "compact": lambda: len(compact(store, feature, full=True)),
    }


def containers(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    feature = declared("f", containers=count)
    return {
        "write": lambda: store.write_metadata(feature, frame(10, count)) is None,
        "read": lambda: len(store.read_metadata(feature)["data_version"].struct.fields),
        "latest": lambda: store.read_metadata(feature, latest_only=True).height,
    }


def texts(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    """Rows with a text of a mebibyte each."""
    feature = declared("f")
    rows = frame(count).with_columns(pl.Series("text", [chr(97 + n % 26) * 2**20 for n in range(count)]))
    return {
        "write": lambda: store.write_metadata(feature, rows) is None,
        "read": lambda: store.read_metadata(feature)["text"].str.len_bytes().sum() >> 20,
        "read one": lambda: store.read_metadata(feature, filters=pl.col("sample_id") == 5).height,
    }


def ids_in_filter(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    """Five times as many samples in five files, of which every fifth is asked for, and then those of one file."""
    feature = declared("f")
    for write in range(5):
        store.write_metadata(feature, frame(count, start=write * count))
    some, near = (pl.Series(ids, dtype=pl.Int64) for ids in (range(0, 5 * count, 5), range(count)))
    read = partial(store.read_metadata, feature)
    return {
        "is_in of a Series": lambda: read(filters=pl.col("sample_id").is_in(some.implode())).height,
        "is_in of a list": lambda: read(filters=pl.col("sample_id").is_in(some.to_list())).height,
        "of the latest": lambda: read(filters=pl.col("sample_id").is_in(some.implode()), latest_only=True).height,
        "of one file": lambda: read(filters=pl.col("sample_id").is_in(near.implode())).height,
    }


def files(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    """A commit of so many data files, each of one row."""
    chunks.MAX_FILE_ROWS = 1
    feature = declared("f")
    return {
        "write": lambda: store.write_metadata(feature, frame(count)) is None,
        "read": lambda: store.read_metadata(feature).height,
        "read one": lambda: store.read_metadata(feature, filters=pl.col("sample_id") == 5).height,
        "history": lambda: store.history(feature).height,
    }


def names(store: FilesystemMetadataStore, count: int) -> dict[str, Callable[[], object]]:
    """A column and a write_id of so many letters."""
    feature, long = declared("f"), "x" * count
    return {
        "column": lambda: store.write_metadata(feature, frame(1).with_columns(pl.lit(1).alias(long))) is None,
        "write_id": lambda: store.write_metadata(feature, frame(1), write_id=long) is None,
        "read": lambda: store.read_metadata(feature).null_count().item(0, long),
    }


CASES: dict[str, tuple[Callable[[FilesystemMetadataStore, int], dict[str, Callable[[], object]]], int, int]] = {
    "features": (features, 20, 1_000),
    "partitions": (partitions, 100, 10_000),
    "all partitions": (all_partitions, 50, 10_000),
    "columns": (columns, 100, 2_000),
    "containers": (containers, 200, 10_000),
    "texts": (texts, 20, 500),
    "ids in a filter": (ids_in_filter, 10_000, 1_000_000),
    "files": (files, 200, 100_000),
    "names": (names, 10_000, 1_000_000),
}
ANSWERS: dict[str, Callable[[int], list[int]]] = {
    "features": lambda n: [n, n, 10, min(n, 100)],
    "partitions": lambda n: [1, n, 1, 1],
    "all partitions": lambda n: [1, n, 0],
    "columns": lambda n: [1, 1, n + 2, 1_000, 1],
    "containers": lambda n: [1, n, 10],
    "texts": lambda n: [1, n, 1],
    "ids in a filter": lambda n: [n, n, n, n],
    "files": lambda n: [1, n, 1, 1],
    "names": lambda _n: [1, 1, 1],
}


def main(case: str, count: int) -> None:
    os.fsync = os.fstat  # type: ignore[assignment]  # as in all tests; what a disk adds to each write is stated elsewhere
    steps: Steps = {}
    with tempfile.TemporaryDirectory() as directory, FeatureGraph().use():
        for name, step in CASES[case][0](FilesystemMetadataStore(directory), count).items():
            begun = time.perf_counter()
            answer: Any = step()
            steps[name] = round(time.perf_counter() - begun, 2), int(answer)
    print(json.dumps({"steps": steps, "peak": peak()}))


def peak() -> int:
    """Return the peak of this process in MiB; `getrusage` has that of its parent in it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


@pytest.mark.parametrize("case", CASES)
def test_so_much_works(case: str, *, soak: bool) -> None:
    _, quick, full = CASES[case]
    count = full if soak else quick
    done = run("-m", "tests.trust.test_limits", case, str(count), seconds=7_200)
    assert done.returncode == 0, done.stderr[-2_000:]
    told = json.loads(done.stdout)
    print(f"{case} {count:,}: {told}")
    assert [answer for _, answer in told["steps"].values()] == ANSWERS[case](count)
    assert all(seconds < 600 for seconds, _ in told["steps"].values())
    assert told["peak"] < 4_096


def test_a_key_has_two_hundred_letters() -> None:
    with FeatureGraph().use():
        declared("k" * 200)
        with pytest.raises(SpecError, match="200"):
            declared("k" * 201)


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x"] * 5_000)])
def test_a_root_whose_name_the_system_does_not_take_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    with FeatureGraph().use():
        feature = declared("f")
        for act in (lambda store: store.write_metadata(feature, frame(1)), lambda store: store.read_metadata(feature)):
            with pytest.raises(MetaxyError, match="File name too long"):
                act(FilesystemMetadataStore(root))


def test_a_root_may_lie_deep(tmp_path: Path) -> None:
    # Deeper ones work as well, but pytest could not remove them: shutil.rmtree of Python 3.11 recurses.
    root = tmp_path / "/".join(["x"] * 400)
    with FeatureGraph().use():
        feature = declared("f")
        FilesystemMetadataStore(root).write_metadata(feature, frame(1))
        assert FilesystemMetadataStore(root).read_metadata(feature).height == 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
