"""What is read of a root where few samples are wanted, and what a chain of stores carries."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec, InMemoryMetadataStore, MetadataStore
from metaxy_fs.log import parquet
from metaxy_fs.metadata_store import FilesystemMetadataStore
from metaxy_fs.storage import MemoryStorage, ObjectInfo, ObjectRange
from metaxy_fs.testing.store_carried import CLIP, CUT, clip_and_cut, clips, made_from, paths, rows, shots
from metaxy_fs.testing.store_cases import container, declare, root, samples
from tests.support.examples import examples
from tests.versioning.pieces import tiny_pieces


class CountingStorage(MemoryStorage):
    """Notes which data files are fetched, and how much of them."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: dict[str, int] = {}

    def get_many(self, objects: Sequence[ObjectInfo]) -> list[bytes]:
        found = super().get_many(objects)
        self._note([(info.path, len(data)) for info, data in zip(objects, found, strict=True)])
        return found

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes]:
        found = super().get_ranges(ranges)
        self._note([(part.path, len(data)) for part, data in zip(ranges, found, strict=True)])
        return found

    def _note(self, fetched: list[tuple[str, int]]) -> None:
        for path, size in fetched:
            if path.endswith(".parquet"):
                self.fetched[path] = self.fetched.get(path, 0) + size

    def counted(self, action: Callable[[], object]) -> dict[str, int]:
        """Return the bytes that an action fetches of data files, by path."""
        self.fetched.clear()
        action()
        return dict(self.fetched)


def features_of(fetched: dict[str, int]) -> list[str]:
    """Return the features of data files, sorted."""
    return sorted(path.split("/")[0] for path in fetched)


def written_apart(clip: type[Feature], cut: type[Feature]) -> tuple[CountingStorage, MetadataStore]:
    """Write ten clips, and what is made from them, each in a commit of its own."""
    storage = CountingStorage()
    store = FilesystemMetadataStore(storage)
    for i in range(10):
        store.write_metadata(clip, clips(i))
    pending = store.resolve_update(cut).pending
    for row in pending.iter_slices(1):
        store.write_metadata(cut, row)
    return storage, store


@pytest.mark.parametrize(
    "where",
    [
        pl.col("sample_id") == 3,
        pl.col("sample_id").is_between(3, 3) & pl.col("path").str.ends_with("mp4"),
        (pl.col("path") == "3.mp4") & pl.col("sample_id").is_in([3]),
    ],
    ids=str,
)
def test_files_whose_ids_are_ruled_out_are_fetched_from_neither_side(where: pl.Expr) -> None:
    clip, cut = clip_and_cut()
    storage, store = written_apart(clip, cut)
    assert not store.resolve_update(cut)
    assert features_of(storage.counted(lambda: store.resolve_update(cut, where=where))) == ["clip", "cut"]
    store.write_metadata(clip, clips(3, take="again"))
    again = storage.counted(lambda: store.resolve_update(cut, where=where, lazy=True))
    assert features_of(again) == ["clip", "clip", "cut"]


def test_files_are_ruled_out_by_ids_under_other_names() -> None:
    dep = FeatureDep(key=CLIP, columns=["path"], rename={"sample_id": "film"})
    clip, cut = declare(root(CLIP), made_from(dep, id_columns=("film",)))
    storage, store = written_apart(clip, cut)
    for where in (pl.col("film") == 3, ~(pl.col("film") != 3), pl.col("film").is_in([3]) | (pl.col("film") < 0)):
        assert features_of(storage.counted(lambda where=where: store.resolve_update(cut, where=where))) == [
            "clip",
            "cut",
        ]


def test_files_of_groups_are_ruled_out_by_the_ids_of_groups() -> None:
    shot_key = FeatureKey(["shot"])
    dep = FeatureDep(key=shot_key, relation="aggregation", columns=["path"])
    shot, cut = declare(root(shot_key, id_columns=["clip", "number"]), made_from(dep, id_columns=("clip",)))
    storage = CountingStorage()
    store = FilesystemMetadataStore(storage)
    for row in shots().iter_slices(1):
        store.write_metadata(shot, row)
    assert len(storage.counted(lambda: store.resolve_update(cut, where=pl.col("clip") == "b"))) == 1
    assert len(storage.counted(lambda: store.resolve_update(cut, where=pl.col("clip") == "a"))) == 3


def test_row_groups_whose_ids_are_ruled_out_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 1_000)
    clip, cut = clip_and_cut()
    storage = CountingStorage()
    store = FilesystemMetadataStore(storage)
    text = pl.concat_str(pl.col("sample_id").hash(seed).cast(pl.String) for seed in range(5))
    store.write_metadata(clip, clips(*range(10_000)).with_columns(path=text))
    store.write_metadata(cut, store.resolve_update(cut).pending)
    with tiny_pieces():  # a predicate of few ids is no reason to fetch the whole file for the ranges beside them
        whole = storage.counted(lambda: store.resolve_update(cut))
        few = storage.counted(lambda: store.resolve_update(cut, where=pl.col("sample_id") < 100))
    assert few.keys() <= whole.keys()
    assert sum(few.values()) < sum(whole.values()) / 3


def test_row_groups_of_other_samples_are_not_fetched_for_a_calculation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 1_000)
    clip, cut = clip_and_cut()
    storage = CountingStorage()
    store = FilesystemMetadataStore(storage)
    text = pl.concat_str(pl.col("sample_id").hash(seed).cast(pl.String) for seed in range(5))
    versions = pl.struct(text.alias("default")).alias("data_version")
    store.write_metadata(clip, clips(*range(10_000)).with_columns(versions))
    with tiny_pieces():
        few = storage.counted(lambda: store.calculate_data_versions(cut, samples([5, 6])))
        whole = storage.counted(lambda: store.calculate_data_versions(cut, samples(range(0, 10_000, 500))))
    assert few.keys() == whole.keys()
    assert sum(few.values()) < sum(whole.values()) / 3


def test_other_partitions_are_not_read_for_samples_outside() -> None:
    (clip, before), (_, cut) = (
        clip_and_cut(),
        declare(
            root(CLIP),
            FeatureSpec(key=CUT, deps=[FeatureDep(key=CLIP, columns=["path"])], containers=[container("default", 2)]),
        ),
    )
    storage = CountingStorage()
    store = FilesystemMetadataStore(storage)
    store.write_metadata(clip, clips(1, 2, 3))
    store.write_metadata(before, store.resolve_update(before).pending)
    store.write_metadata(cut, store.resolve_update(cut, where=pl.col("path") != "3.mp4").pending)
    assert features_of(storage.counted(lambda: store.resolve_update(cut, where=pl.col("path") != "3.mp4"))) == [
        "clip",
        "cut",
    ]
    assert features_of(storage.counted(lambda: store.resolve_update(cut))) == ["clip", "cut", "cut"]


def test_columns_that_nobody_carries_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    clip, cut = declare(root(CLIP), made_from(FeatureDep(key=CLIP, columns=["size"])))
    storage = CountingStorage()
    store = FilesystemMetadataStore(storage)
    many = list(range(2_000))
    store.write_metadata(clip, clips(*many, size=many, text=[f"{i}" * 200 for i in many]))
    (fetched,) = storage.counted(lambda: store.resolve_update(cut)).values()
    assert fetched < 200_000
    assert store.resolve_update(cut).new.columns == ["sample_id", "size", "data_version"]


WRITES = st.dictionaries(st.integers(0, 4), st.sampled_from(["", "x", "y"]), max_size=4)


@given(st.lists(st.lists(WRITES, min_size=1, max_size=2), min_size=1, max_size=3), st.integers(0, 5), st.data())
@examples(30)
def test_a_chain_by_sample_carries_the_nearest_row(
    layers: list[list[dict[int, str]]], limit: int, data: st.DataObject
) -> None:
    clip, cut = clip_and_cut()
    store: MetadataStore | None = None
    known: dict[int, str] = {}
    for writes in reversed(layers):
        below = [] if store is None else [store]
        store = InMemoryMetadataStore(fallback_stores=below, fallback_mode="sample")
        for takes in writes:
            for take in ("", "x", "y"):
                store.write_metadata(clip, clips(*(i for i, each in takes.items() if each == take), take=take))
            known |= {i: f"{i}{take}.mp4" for i, take in takes.items()}
    assert store is not None
    assert paths(store.resolve_update(cut).new) == known
    done = data.draw(st.sets(st.integers(0, 6)))
    store.write_metadata(cut, rows(sample_id=sorted(done)).cast({"sample_id": pl.Int64}))
    increment = store.resolve_update(cut, where=pl.col("sample_id") < limit)
    inside = {i: path for i, path in known.items() if i < limit}
    assert paths(increment.new) == {i: path for i, path in inside.items() if i not in done}
    assert paths(increment.stale) == {i: path for i, path in inside.items() if i in done}
    assert set(increment.orphaned["sample_id"]) == {i for i in done if i < limit} - known.keys()
    by_path = store.resolve_update(cut, where=pl.col("path").cast(pl.String).str.contains("x"))
    assert paths(by_path.pending) == {i: path for i, path in known.items() if "x" in path}
    assert by_path.orphaned.is_empty()


def test_where_on_a_carried_column_of_a_feature_that_has_no_rows() -> None:
    label = FeatureKey(["label"])
    with FeatureGraph().use():
        clip, _, cut = declare(
            root(CLIP),
            root(label),
            made_from(FeatureDep(key=CLIP), FeatureDep(key=label, columns=["n"], optional=True)),
        )
    store = InMemoryMetadataStore()
    store.write_metadata(clip, clips(1))
    assert store.resolve_update(cut, where=pl.col("n") > 1).new.is_empty()
    assert store.resolve_update(cut, where=pl.col("n").is_null()).new.height == 1
