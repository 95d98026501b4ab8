"""Every snapshot, time, history and copy is the same after any writes, compactions and vacuums."""

from contextlib import suppress
from datetime import datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    MetadataSchemaError,
    MetadataStore,
    compact,
    copy_metadata,
    vacuum,
)
from metaxy_fs.storage import MemoryStorage
from tests.support.examples import examples
from tests.support.older import forget_types

KEY = FeatureKey(["video"])
PLAIN = ["sample_id", "data_version"]

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=KEY)):
        """A feature."""


IDS = st.sampled_from([[], [1], [2], [1, 2], [3, 4, 5], [0, 9]])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), IDS, st.integers(0, 3)),
        st.tuples(st.just("compact"), st.booleans(), st.integers(2, 3)),
        st.tuples(st.sampled_from(["vacuum", "snapshot", "remember"])),
    ),
    min_size=4,
    max_size=16,
)


def rows(ids: list[int], kind: int) -> pl.DataFrame:
    frame = pl.DataFrame(
        {"sample_id": ids, "data_version": [{"default": f"v{sample}"} for sample in ids]},
        schema={"sample_id": pl.Int64(), "data_version": pl.Struct({"default": pl.String()})},
    )
    match kind:
        case 1:
            return frame.with_columns(size=pl.col("sample_id").cast(pl.Int32))
        case 2:
            return frame.with_columns(note=pl.lit("n"), size=pl.col("sample_id") + 0.5)
        case 3:
            return frame.with_columns(size=pl.col("sample_id") + 2**60)
    return frame


def seen(store: MetadataStore, columns: list[str] | None) -> list[pl.DataFrame]:
    """Whatever can be asked of a moment."""
    return [
        store.read_metadata(Video, with_commits=True, columns=columns),
        store.read_metadata(Video, latest_only=True, columns=columns),
        store.read_metadata(Video, filters=pl.col("sample_id") == 1, columns=columns),
        store.history(Video).drop("compacted"),
    ]


def is_readable(store: MetadataStore, columns: list[str] | None) -> bool:
    try:
        store.read_metadata(Video, columns=columns)
    except ValueError:
        return False
    return True


class Told:
    """What a moment gave when it was the present."""

    def __init__(self, store: MetadataStore, columns: list[str] | None = None) -> None:
        # Where integers and floats do not go together, the column cannot be read.
        self.columns = columns if is_readable(store, columns) else PLAIN
        self.frames = seen(store, self.columns)

    def check(self, store: MetadataStore) -> None:
        for found, expected in zip(seen(store, self.columns), self.frames, strict=True):
            assert_frame_equal(found, expected)


class Root:
    """A root to which things happen, and what its moments gave when they were the present."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.store = FilesystemMetadataStore(self.storage)
        self.snapshots: dict[str, Told] = {}
        self.times: dict[datetime, Told] = {}

    def apply(self, step: tuple[object, ...]) -> None:
        match step:
            case ("write", list() as ids, int() as kind):
                # Where types are agreed on, integers that no float holds are refused beside floats, and the reverse.
                with suppress(MetadataSchemaError):
                    self.another().write_metadata(Video, rows(ids, kind))
            case ("compact", bool() as full, int() as fan):
                compact(self.another(), full=full, fan=fan)
            case ("vacuum",):
                for _ in range(2):
                    vacuum(self.store, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
            case ("snapshot",):
                name = f"s{len(self.snapshots)}"
                self.store.create_snapshot(name)
                self.snapshots[name] = Told(self.store)
            case _:
                # A time does not keep what its rows were read as, and later values may not go together with floats.
                self.times[self.store.history(Video)["time"][-1]] = Told(self.store, PLAIN)

    def another(self) -> FilesystemMetadataStore:
        """The root as another process sees it."""
        return FilesystemMetadataStore(self.storage)

    def check(self) -> None:
        for store in (self.store, self.another()):
            for name, told in self.snapshots.items():
                told.check(store.at(name))
            for moment, told in self.times.items():
                told.check(store.at(moment))


@given(steps=STEPS, is_older=st.booleans())
@examples(15)
def test_a_moment_is_the_same_for_ever(steps: list[tuple[object, ...]], *, is_older: bool) -> None:
    root = Root()
    root.apply(("write", [1, 7], 0))
    if is_older:
        forget_types(root.storage)
    for step in steps:
        root.apply(step)
    root.check()
    present, target = Told(root.another()), FilesystemMetadataStore(MemoryStorage())
    copy_metadata(Video, source=root.store, target=target)
    present.check(target)
    root.apply(("compact", True, 2))
    assert copy_metadata(Video, source=root.store, target=target).added == 0
    present.check(target)
