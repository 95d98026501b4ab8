"""Contents of the golden root of compactions; `python -m tests.golden.compacted DIRECTORY` writes one.

Files are small there: eight rows at most, in row groups of three, and from five rows on they count as large. So a few
writes make what millions would. Commits that overlap in two compactions come from two copies of the root, of which each
is compacted by itself.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import polars as pl

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    vacuum,
)
from metaxy_fs.versioning.definition import definition_version

FRAMES, AUDIO = ContainerKey(["frames"]), ContainerKey(["audio"])
CLIP, SHOT, SCENE, RATING, KINDS = (
    FeatureKey(parts) for parts in (["clip", "raw"], ["shot"], ["scene"], ["rating"], ["kinds"])
)


def _clip(code_version: int) -> type[Feature]:
    containers = [ContainerSpec(key=FRAMES), ContainerSpec(key=AUDIO, code_version=code_version)]
    spec = FeatureSpec(key=CLIP, containers=containers, id_columns=["clip"])

    class Clip(Feature, spec=spec):
        """Many small writes of drifting columns."""

    return Clip


with FeatureGraph().use():
    ClipBefore = _clip(1)

with FeatureGraph().use():
    Clip = _clip(2)

    class Rating(Feature, spec=FeatureSpec(key=RATING, id_columns=["title"])):
        """What few scenes have."""

    class Shot(
        Feature,
        spec=FeatureSpec(
            key=SHOT,
            deps=[FeatureDep(key=CLIP, relation="expansion", where="length > 80")],
            id_columns=["clip", "number"],
        ),
    ):
        """Two to a clip."""

    class Scene(
        Feature,
        spec=FeatureSpec(
            key=SCENE,
            deps=[
                FeatureDep(key=SHOT, relation="aggregation", where="sharp"),
                FeatureDep(key=RATING, rename={"title": "clip"}, optional=True),
            ],
            id_columns=["clip"],
        ),
    ):
        """One of the sharp shots of a clip."""

    class Kinds(Feature, spec=FeatureSpec(key=KINDS, id_columns=["day", "name"])):
        """Columns of every type, twice, of which the second are other ones."""


def clips(*ids: int, **columns: pl.Expr) -> pl.DataFrame:
    """Rows of these clips, from which their versions follow."""
    versions = pl.struct(
        pl.format("f{}", "clip").alias("frames"), pl.format("a{}-{}", "clip", pl.lit(len(ids))).alias("audio")
    )
    return pl.DataFrame({"clip": ids}, schema={"clip": pl.Int64}).with_columns(data_version=versions, **columns)


LENGTH = pl.col("clip").cast(pl.Int32)
BEFORE = [
    clips(0, 1, 2, zeta=pl.lit("z"), length=LENGTH),
    clips(3, 4, length=pl.col("clip") * 2**33, note=pl.format("note {}", "clip")),
    clips(5, 6, zeta=pl.lit("y"), length=LENGTH),
    clips(length=LENGTH, mark=pl.lit(None, pl.Decimal(9, 2))),  # no rows, and a column of its own
    clips(7, length=LENGTH.cast(pl.Float32) / 2),
    clips(*range(8, 28), length=LENGTH),  # several files
    clips(1, 3, length=LENGTH),
    clips(9, length=LENGTH, mark=pl.lit(Decimal("1.5"), pl.Decimal(9, 2))),
    clips(2, 9, length=LENGTH),
    clips(2, 30, length=LENGTH),
]
"""What is written under the first definition of `Clip`, compacted twice over, and once again."""

AFTER = [clips(*range(10 * n, 10 * n + 3), length=LENGTH) for n in range(15)] + [clips(31, 99, length=LENGTH)]
"""What is written under the second."""

DAYS = [date(2024, 2, 29), date(2024, 2, 29), date(1900, 1, 1)]
NAMES = ["ü", "", "a" * 100]
KINDS_FIRST = pl.DataFrame(
    {
        "day": DAYS,
        "name": NAMES,
        "data_version": [{"default": f"k{i}"} for i in range(3)],
        "at": pl.Series([datetime(2024, 1, 1, 12), None, datetime(1969, 12, 31, 23, 59, 59)], dtype=pl.Datetime("ms")),  # noqa: DTZ001
        "zoned": pl.Series([datetime(2024, 1, 1, tzinfo=UTC)] * 3, dtype=pl.Datetime("us", "Europe/Berlin")),
        "lasts": pl.Series([timedelta(seconds=1), None, timedelta(days=-1)], dtype=pl.Duration("ms")),
        "clock": [time(23, 59, 59, 999_999), None, time(0)],
        "price": pl.Series([Decimal("1.50"), None, Decimal("-0.01")], dtype=pl.Decimal(10, 2)),
        "kind": pl.Series(["x", None, "y"], dtype=pl.Enum(["x", "y"])),
        "group": pl.Series(["g", "h", None], dtype=pl.Categorical),
        "raw": [b"\x00\xff", b"", None],
        "small": pl.Series([0, 255, None], dtype=pl.UInt8),
        "pair": pl.Series([[1, 2], None, [3, None]], dtype=pl.Array(pl.Int16, 2)),
        "many": pl.Series([[1], [], None], dtype=pl.List(pl.Int8)),
        "deep": [{"box": {"x": 1.5}}, None, {"box": None}],
        "nothing": pl.Series([None] * 3, dtype=pl.Null),
        "odd": [float("nan"), float("inf"), -0.0],
        "flag": [True, False, None],
    }
)
KINDS_SECOND = pl.DataFrame(
    {
        "day": DAYS[:1],
        "name": ["ü"],
        "data_version": [{"default": "again"}],
        "at": pl.Series([datetime(2024, 1, 1, 12, 0, 0, 1)], dtype=pl.Datetime("us")),  # noqa: DTZ001
        "lasts": pl.Series([timedelta(microseconds=1)], dtype=pl.Duration("us")),
        "price": pl.Series([Decimal("0.0001")], dtype=pl.Decimal(10, 4)),
        "kind": pl.Series(["z"], dtype=pl.Enum(["z"])),
        "group": ["text"],
        "small": pl.Series([-1], dtype=pl.Int8),
        "many": pl.Series([[2**40]], dtype=pl.List(pl.Int64)),
        "deep": [{"box": {"y": "new"}, "other": 1}],
        "nothing": ["something"],
        "odd": pl.Series([2**53], dtype=pl.Int64),
    }
)
SHARP = pl.col("number") == 0


def write(directory: Path) -> None:
    """Write a golden root."""
    with small_files():
        store = FilesystemMetadataStore(directory)
        _write_after(store)
        _write_before(store, directory)
        for rows in (KINDS_FIRST, KINDS_SECOND):
            _write_anew(directory, Kinds, rows)
        _write_related(store)
        store.create_snapshot("all")


def _write_before(store: FilesystemMetadataStore, directory: Path) -> None:
    """Two compactions that overlap, what came after both, and snapshots of what came before.

    One of these sees no first write, as it would if that had been on its way. So other columns come first there.
    """
    for number, rows in enumerate(BEFORE[:6]):
        _write_anew(directory, ClipBefore, rows, write_id=f"job {number}" if number % 2 else None)
    store.create_snapshot("early", features=[ClipBefore])
    with _apart(directory) as one, _apart(directory) as other:
        compact(one, ClipBefore, full=True)
        for rows in BEFORE[6:8]:
            _write_anew(directory, ClipBefore, rows)
        _bring(store, other)
        # Without the first write, so that neither covers what the other one does.
        [first, *_] = sorted(_partition(other).glob("_manifests/appends/2*.json"))
        first.unlink()
        other.create_snapshot("partial", features=[ClipBefore])
        shutil.copy(Path(other.location) / "_snapshots" / "partial.json", directory / "_snapshots")
        compact(other, ClipBefore, full=True)
        for copy in (one, other):
            _bring(copy, store)
    for rows in BEFORE[8:]:
        _write_anew(directory, ClipBefore, rows)


def _write_anew(directory: Path, feature: type[Feature], rows: pl.DataFrame, *, write_id: str | None = None) -> None:
    """Write as another process does: one that has seen integers refuses floats, which statistics may yet allow."""
    FilesystemMetadataStore(directory).write_metadata(feature, rows, write_id=write_id)


def _write_after(store: FilesystemMetadataStore) -> None:
    """A job that has written piece by piece, compactions of compactions, and what a vacuum has left of all that."""
    with store.buffered(Clip, rows=6, seconds=None, write_id="long job") as buffer:
        for rows in AFTER[:6]:
            buffer.write(rows)
    compact(store, Clip, fan=2)
    store.create_snapshot("middle", features=[Clip])
    for several in (AFTER[6:13], AFTER[13:15]):
        for rows in several:
            store.write_metadata(Clip, rows)
        compact(store, Clip, full=True)
    vacuum(store, Clip, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
    store.write_metadata(Clip, AFTER[15])


def _write_related(store: FilesystemMetadataStore) -> None:
    """Versions by expansion, aggregation, an optional upstream feature, `where` and `rename`."""
    increment = store.resolve_update(Shot)
    shots = pl.concat([increment.pending.with_columns(number=pl.lit(number)) for number in (0, 1)])
    store.write_metadata(Shot, shots.with_columns(sharp=SHARP))
    store.write_metadata(Rating, pl.DataFrame({"title": [11, 12], "data_version": [{"default": "16"}] * 2}))
    store.write_metadata(Scene, store.resolve_update(Scene).pending, write_id="scenes")


@contextmanager
def small_files() -> Iterator[None]:
    """Let few rows be many."""
    small = {
        "chunks.MAX_FILE_ROWS": 8,
        "parquet.ROW_GROUP_ROWS": 3,
        "merge.LARGE_ROWS": 5,
        "parquet.LARGE_BYTES": 1,
    }
    with ExitStack() as patches:
        for name, value in small.items():
            patches.enter_context(patch(f"metaxy_fs.log.{name}", value))
        yield


@contextmanager
def _apart(directory: Path) -> Iterator[FilesystemMetadataStore]:
    """Give a store on a copy of a root."""
    with TemporaryDirectory() as copy:
        yield FilesystemMetadataStore(shutil.copytree(directory, Path(copy) / "root"))


def _bring(source: FilesystemMetadataStore, target: FilesystemMetadataStore) -> None:
    """Add what a copy has and its root lacks of one partition: the objects of somebody who was slow."""
    for path in sorted(_partition(source).rglob("*.*"), key=_manifests_last):
        copy = Path(target.location) / path.relative_to(source.location)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def _partition(store: FilesystemMetadataStore) -> Path:
    return Path(store.location) / CLIP.dotted / definition_version(ClipBefore.graph, CLIP).partition


def _manifests_last(path: Path) -> tuple[bool, str]:
    return path.suffix == ".json", path.name


if __name__ == "__main__":
    write(Path(sys.argv[1]))
