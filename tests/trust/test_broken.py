"""A damaged object is refused by name, or makes no difference.

Every object of a root is damaged in turn, and all is read that a user may read of it. What comes out is right, or an
error of the library that names the object.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    CorruptObjectError,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
)
from metaxy_fs.metadata_store import compact, copy_metadata
from metaxy_fs.storage import LocalStorage, MemoryStorage
from tests.log.roots import replace
from tests.trust.damage import Damage, all_damages, damaged, outcome, outcomes, some_damages

QUICK = 20
"""Damages of each kind of object in a quick run."""

with FeatureGraph().use():

    class Video(
        Feature, spec=FeatureSpec(key=FeatureKey(["video"]), containers=[ContainerSpec(key=ContainerKey(["frames"]))])
    ):
        """Some writes, of which each rewrites a sample."""

    class Faces(Feature, spec=FeatureSpec(key=FeatureKey(["faces"]), deps=[FeatureDep(key=FeatureKey(["video"]))])):
        """What is made from it."""

    class Old(
        Feature, spec=FeatureSpec(key=FeatureKey(["old"]), containers=[ContainerSpec(key=ContainerKey(["frames"]))])
    ):
        """Another one."""


def rows(write: int, count: int = 4) -> pl.DataFrame:
    """The rows of a write; its first sample is the last one of the write before."""
    ids = pl.int_range(write * (count - 1), write * (count - 1) + count, eager=True)
    return pl.DataFrame({"sample_id": ids}).with_columns(
        pl.format("s3://bucket/{}.mp4", "sample_id").alias("path"),
        (pl.col("sample_id") * 0.37 + write).alias("length"),
        pl.struct(pl.format("{}-{}", "sample_id", pl.lit(write)).alias("frames")).alias("data_version"),
    )


@pytest.fixture(params=["appends", "compacted"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root of three writes, and a snapshot of two; half of the tests have those compacted."""
    store = FilesystemMetadataStore(tmp_path / "root")
    store.write_metadata(Video, rows(0))
    store.write_metadata(Video, rows(1), write_id="job 7")
    if request.param == "compacted":
        compact(store, Video, full=True)
    store.create_snapshot("train")
    store.write_metadata(Video, rows(2))
    return tmp_path / "root"


def everything(root: Path) -> list[pl.DataFrame]:
    """All that can be read of a root."""
    store = FilesystemMetadataStore(root)
    return [
        store.read_metadata(Video, with_commits=True),
        store.read_metadata(Video, latest_only=True),
        store.read_metadata(Video, filters=pl.col("length") > 2, columns=["sample_id"]),
        store.read_metadata(Video, filters=pl.col("sample_id") == 3),
        store.history(Video),
        store.at("train").read_metadata(Video),
    ]


def objects(root: Path) -> dict[str, Path]:
    """One object of each kind that readers look at."""
    (partition,) = root.glob("video/*/")
    compactions = sorted(partition.glob("_manifests/compactions/*.json"))
    if not compactions:
        manifests = sorted(partition.glob("_manifests/appends/*.json"))
        found = {"append": manifests[0], "named append": manifests[-1], "data": min(partition.glob("*-0.parquet"))}
    else:
        (table,) = partition.glob("_commits/*.table")
        (data,) = partition.glob(f"{compactions[0].stem}-[0-9].parquet")
        found = {"compaction": compactions[0], "rewritten data": data, "commit table": table}
    return found | {"snapshot": root / "_snapshots" / "train.json"}


def damages(path: Path, *, soak: bool) -> Iterable[Damage]:
    size = path.stat().st_size
    return all_damages(size, seed=size) if soak else some_damages(size, QUICK, seed=size)


def test_a_damaged_object_is_refused_by_name_or_as_good_as_whole(root: Path, *, soak: bool) -> None:
    expected = everything(root)
    for kind, path in objects(root).items():
        found = outcomes(path, damages(path, soak=soak), lambda: everything(root), expected)
        counted = Counter(what for _, what in found)
        print(f"{kind:12} {path.stat().st_size:6} bytes: {dict(counted)}")
        assert set(counted) <= {"right", "refused"}, kind


def test_a_damaged_description_is_refused_by_writers_or_as_good_as_whole(tmp_path: Path, *, soak: bool) -> None:
    def written_again() -> list[pl.DataFrame]:
        store = FilesystemMetadataStore(tmp_path)
        store.write_metadata(Video, rows(0), write_id="job 7")
        assert store.hash_algorithm == "sha256"
        return [store.read_metadata(Video)]

    expected = written_again()
    for path in (tmp_path / "_store.json", *tmp_path.glob("video/*/_definition.json")):
        counted = Counter(what for _, what in outcomes(path, damages(path, soak=soak), written_again, expected))
        print(f"{path.name:16} {path.stat().st_size:6} bytes: {dict(counted)}")
        assert set(counted) <= {"right", "refused"}, path.name
        assert counted["refused"]


def many_rows(count: int) -> pl.DataFrame:
    """Rows that hardly shrink."""
    ids = pl.int_range(count, eager=True).alias("sample_id")
    return pl.DataFrame({"sample_id": ids, "length": ids.hash(1), "width": ids.hash(2)}).with_columns(
        pl.struct(pl.format("{}-0", "sample_id").alias("frames")).alias("data_version")
    )


SIZES = {"small": 1_000, "medium": 30_000, "large": 140_000}
"""Rows of files that are read here, compared whole before Polars reads them, and column by column."""


def large_file(root: Path, count: int = SIZES["medium"]) -> tuple[Path, pl.DataFrame]:
    """Write rows that take a file which is not read whole and at once, and return it and them."""
    frame = many_rows(count)
    FilesystemMetadataStore(root).write_metadata(Video, frame)
    (path,) = root.glob("video/*/*.parquet")
    return path, frame


def test_a_file_that_is_read_by_polars_is_refused_once_it_is_damaged(tmp_path: Path) -> None:
    path, frame = large_file(tmp_path)
    found = outcomes(
        path,
        some_damages(path.stat().st_size, QUICK, seed=1),
        lambda: [FilesystemMetadataStore(tmp_path).read_metadata(Video)],
        [frame],
    )
    assert {what for _, what in found} == {"refused"}


READS: dict[str, Callable[[FilesystemMetadataStore], pl.DataFrame]] = {
    "all": lambda store: store.read_metadata(Video),
    "a column": lambda store: store.read_metadata(Video, columns=["length"]),
    "a field": lambda store: store.read_metadata(Video, filters=pl.col("data_version").struct.field("frames") == "7-0"),
    "a range": lambda store: store.read_metadata(Video, filters=pl.col("sample_id").is_between(65_000, 66_000)),
    "the latest of a range": lambda store: store.read_metadata(
        Video, filters=pl.col("sample_id") < 9, columns=["width"], latest_only=True
    ),
    "marked": lambda store: store.read_metadata(
        Video, filters=pl.col("sample_id") == 70_000, columns=["width"], with_commits=True
    ),
    "lazily": lambda store: store.scan_metadata(Video).filter(pl.col("sample_id") > 139_000).select("width").collect(),
    "lazily, of all definitions": lambda store: store.scan_metadata(Video, versions="all").select("length").collect(),
}


@pytest.mark.parametrize("is_local", [True, False], ids=["local", "remote"])
@pytest.mark.parametrize("read", READS)
def test_no_read_of_a_part_takes_a_damaged_value(tmp_path: Path, read: str, *, is_local: bool, soak: bool) -> None:
    storage, frame = LocalStorage(tmp_path) if is_local else MemoryStorage(), many_rows(140_000)
    FilesystemMetadataStore(storage).write_metadata(Video, frame)
    (path,) = [info.path for info in storage.list("") if info.path.endswith(".parquet")]
    whole = storage.get(path)
    expected = [READS[read](FilesystemMetadataStore(storage))]
    found = Counter[str]()
    for position, bits in some_damages(len(whole), 1_000 if soak else 100, seed=4):
        replace(storage, path, damaged(whole, (position, bits or 0x10)))
        store = FilesystemMetadataStore(storage)
        found[outcome(lambda store=store: [READS[read](store)], expected, name=path)] += 1
    print(f"{len(whole)} bytes: {dict(found)}")
    assert found["refused"]
    assert set(found) <= {"right", "refused"}


@pytest.mark.parametrize("size", ["medium", "large"])
def test_a_damaged_footer_of_a_large_local_file_is_named(tmp_path: Path, size: str, *, soak: bool) -> None:
    path, frame = large_file(tmp_path, SIZES[size])
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    chosen = pl.col("sample_id").is_between(10, 20)
    found = outcomes(
        path,
        [
            (len(data) - footer + at, bits)
            for at, bits in some_damages(footer, 2_000 if soak else QUICK, seed=3)
            if bits
        ],
        lambda: [FilesystemMetadataStore(tmp_path).read_metadata(Video, filters=chosen)],
        [frame.filter(chosen)],
    )
    counted = Counter(what for _, what in found)
    print(f"footer of {footer} bytes: {dict(counted)}")
    assert set(counted) == {"refused"}


@pytest.mark.parametrize("beyond", [8, 64, 2_000])
def test_a_large_file_that_polars_cannot_read_is_named(tmp_path: Path, beyond: int) -> None:
    path, _ = large_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * beyond + data[4 + beyond :])
    with pytest.raises(CorruptObjectError, match="checksum") as caught:
        FilesystemMetadataStore(tmp_path).read_metadata(Video)
    assert str(path) in str(caught.value)


def test_a_large_damaged_file_is_named_where_a_predicate_is_looked_at(tmp_path: Path) -> None:
    with FeatureGraph().use() as graph:
        graph.add(Video.spec)

        class Long(
            Feature,
            spec=FeatureSpec(
                key=FeatureKey(["long"]), deps=[FeatureDep(key=FeatureKey(["video"]), where="length > 9")]
            ),
        ):
            """What a predicate chooses."""

    path, _ = large_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) - 5_004) + data[-5_000:])  # the footer is whole
    for ask in ("resolve_update", "read_upstream_metadata"):
        with pytest.raises(CorruptObjectError, match=path.name):
            getattr(FilesystemMetadataStore(tmp_path), ask)(Long)


OPERATIONS: dict[str, Callable[[FilesystemMetadataStore, pl.DataFrame], object]] = {
    "read": lambda store, _ids: store.read_metadata(Video),
    "read the latest": lambda store, _ids: store.read_metadata(Video, latest_only=True),
    "read a chain": lambda store, _ids: FilesystemMetadataStore(MemoryStorage(), fallback_stores=[store]).read_metadata(
        Video
    ),
    "read upstream": lambda store, _ids: store.read_upstream_metadata(Faces),
    "calculate": lambda store, ids: store.calculate_data_versions(Faces, ids),
    "calculate lazily": lambda store, ids: store.calculate_data_versions(Faces, ids.lazy()),
    "calculate and write": lambda store, ids: store.calculate_and_write_data_versions(Faces, ids),
    "resolve": lambda store, _ids: store.resolve_update(Faces),
    "resolve lazily": lambda store, _ids: store.resolve_update(Faces, lazy=True),
    "explain": lambda store, _ids: store.explain(Faces, 7),
    "compact": lambda store, _ids: compact(store, Video, full=True),
    "copy the latest": lambda store, _ids: copy_metadata(
        Video, source=store, target=FilesystemMetadataStore(MemoryStorage()), which="latest"
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_names_the_file_that_polars_cannot_read(tmp_path: Path, operation: str) -> None:
    path, frame = large_file(tmp_path)
    FilesystemMetadataStore(tmp_path).write_metadata(Video, frame.head(3))
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 64 + data[68:])  # the head of its first page
    with pytest.raises(CorruptObjectError) as caught:
        OPERATIONS[operation](FilesystemMetadataStore(tmp_path), frame.select("sample_id"))
    assert path.name in str(caught.value)


def test_a_named_job_that_is_tried_again_names_the_damaged_file(tmp_path: Path) -> None:
    frame = many_rows(30_000)
    with FilesystemMetadataStore(tmp_path).buffered(Video, write_id="job") as buffer:
        buffer.write(frame)
    path = max(tmp_path.glob("video/*/*.parquet"), key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 64 + data[68:])
    again = pl.concat([frame.head(2), frame.head(1).with_columns(sample_id=pl.lit(-1, pl.Int64))])
    with (
        pytest.raises(CorruptObjectError) as caught,
        FilesystemMetadataStore(tmp_path).buffered(Video, write_id="job") as buffer,
    ):
        buffer.write(again)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_was_found_right_is_looked_at_again_once_it_has_changed(tmp_path: Path, size: str) -> None:
    path, frame = large_file(tmp_path, SIZES[size])
    store = FilesystemMetadataStore(tmp_path)
    assert store.read_metadata(Video).equals(frame)
    path.write_bytes(damaged(path.read_bytes(), (path.stat().st_size // 2, 0x10)))  # a value, which Polars takes
    with pytest.raises(CorruptObjectError, match="checksum"):
        store.read_metadata(Video)


def test_an_error_of_the_filter_is_not_taken_for_damage(tmp_path: Path) -> None:
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Video, rows(0))
    with pytest.raises(pl.exceptions.PolarsError):
        store.read_metadata(Video, filters=pl.col("path").cast(pl.Int64, strict=True) > 1)


def test_a_damaged_file_of_a_remote_root_is_refused() -> None:
    storage = MemoryStorage()
    FilesystemMetadataStore(storage).write_metadata(Video, rows(0))
    (path,) = [info.path for info in storage.list("") if info.path.endswith(".parquet")]
    whole = storage.get(path)
    found = Counter[str]()
    for damage in some_damages(len(whole), QUICK, seed=2):
        replace(storage, path, damaged(whole, damage))
        found[outcome(lambda: [FilesystemMetadataStore(storage).read_metadata(Video)], [rows(0)], name=path)] += 1
    assert set(found) == {"refused"}


def test_a_damaged_footer_of_a_file_that_is_fetched_in_pieces_is_named(*, soak: bool) -> None:
    storage, frame = MemoryStorage(), many_rows(140_000)
    FilesystemMetadataStore(storage).write_metadata(Video, frame)
    (path,) = [info.path for info in storage.list("") if info.path.endswith(".parquet")]
    whole, chosen = storage.get(path), pl.col("sample_id").is_between(1_000, 2_000)
    expected = [frame.filter(chosen).select("sample_id", "length")]
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    found = Counter[str]()
    for position, bits in some_damages(footer, 2_000 if soak else QUICK, seed=3):
        replace(storage, path, damaged(whole, (len(whole) - footer + position, bits or 0x10)))
        store = FilesystemMetadataStore(storage)
        read = partial(store.read_metadata, Video, filters=chosen, columns=["sample_id", "length"])
        found[outcome(lambda read=read: [read()], expected, name=path)] += 1
    print(f"footer of {footer} bytes: {dict(found)}")
    assert set(found) == {"refused"}
