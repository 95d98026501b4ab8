"""A compaction of a store leaves less to read, and the same rows."""

from itertools import pairwise

import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore, InMemoryMetadataStore, compact, verify
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import chunks
from metaxy_fs.log import merge as relisting
from metaxy_fs.log.log import Log
from metaxy_fs.log.ranges import Span, depth, span_of
from metaxy_fs.testing.store_cases import UnreachableStore, pipeline, videos


@pytest.fixture
def store(tmp_path):
    store = FilesystemMetadataStore(tmp_path / "root")
    video, processed = pipeline()
    for start in range(0, 60, 3):
        store.write_metadata(video, videos(range(start, start + 5)))
    store.calculate_and_write_data_versions(processed, pl.DataFrame({"sample_id": range(62)}))
    return store


@pytest.mark.parametrize("full", [False, True])
def test_rows_and_increments_stay(store, full):
    video, processed = pipeline()
    before = store.read_metadata(video), store.read_metadata(video, latest_only=True)
    history = store.history(video).drop("bytes", "compacted")
    done = compact(store, video, full=full)
    fresh = FilesystemMetadataStore(store.location)
    assert sum(each.files_before for each in done) > sum(each.files_after for each in done)
    assert fresh.read_metadata(video).equals(before[0])
    assert fresh.read_metadata(video, latest_only=True).equals(before[1])
    assert fresh.history(video).drop("bytes", "compacted").equals(history)
    assert not fresh.resolve_update(processed)
    assert verify(fresh).is_sound


def test_what_is_compacted_is_not_compacted_again(store):
    assert compact(store, full=True)
    assert not compact(store)
    assert not compact(store, full=True)


def test_writes_after_a_compaction_come_after_it(store):
    video, _ = pipeline()
    compact(store, full=True)
    store.write_metadata(video, videos([100]))
    assert store.read_metadata(video)["sample_id"].to_list()[-1] == 100


def test_what_cannot_be_compacted_is_refused(store):
    with pytest.raises(ValueError, match="fan is 2 or more, got 1"):
        compact(store, fan=1)
    with pytest.raises(TypeError, match="FilesystemMetadataStore"):
        compact(UnreachableStore())


def test_a_store_in_memory_is_compacted_as_any_other():
    store = InMemoryMetadataStore()
    video, _ = pipeline()
    for number in range(12):
        store.write_metadata(video, videos([number]))
    before = store.read_metadata(video)
    compact(store, full=True)
    assert store.history(video)["compacted"].all()
    assert store.read_metadata(video).equals(before)
    assert verify(store).is_sound


def spans(store, feature):
    """Where the ids of each data file lie, as its manifest says."""
    [view] = Log(store.storage, clock=LamportClock()).views(feature.spec.key.dotted)
    return sorted((span.low, span.high) for live in view.files for span in [span_of(live.file, "sample_id")])


def test_large_files_of_random_ids_are_clustered(tmp_path, monkeypatch):
    monkeypatch.setattr(relisting, "LARGE_ROWS", 10)
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 20)
    store = FilesystemMetadataStore(tmp_path / "root")
    video, processed = pipeline()
    ids = pl.int_range(200, eager=True).shuffle(seed=1).to_list()
    for start in range(0, 200, 20):
        store.write_metadata(video, videos(ids[start : start + 20]))
    store.write_metadata(video, videos(ids[:15], take="again"))
    before = store.read_metadata(video), store.read_metadata(video, latest_only=True)
    history = store.history(video).drop("bytes", "compacted")
    compact(store, video, full=True)
    assert depth(Span(1, low, high) for low, high in spans(store, video)) > 5
    done = compact(store, video, cluster=True)
    assert [each.rows for each in done] == [215]
    assert depth(Span(1, low, high) for low, high in spans(store, video)) <= 2
    assert all(high <= low for (_, high), (low, _) in pairwise(spans(store, video)))
    fresh = FilesystemMetadataStore(store.location)
    assert fresh.read_metadata(video).equals(before[0])
    assert fresh.read_metadata(video, latest_only=True).equals(before[1])
    assert fresh.history(video).drop("bytes", "compacted").equals(history)
    assert fresh.resolve_update(processed).counts.new == 200
    assert verify(fresh).is_sound
    assert not compact(store, video, cluster=True)


def test_a_sample_in_more_rows_than_a_file_holds_does_not_keep_a_clustering_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(relisting, "LARGE_ROWS", 2)
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 2)
    store = FilesystemMetadataStore(tmp_path / "root")
    video, _ = pipeline()
    for _ in range(5):
        store.write_metadata(video, videos([1, 2]))
    compact(store, video, cluster=True)
    assert not compact(store, video, cluster=True)
    assert store.read_metadata(video)["sample_id"].to_list() == [1, 2] * 5


def test_files_that_do_not_overlap_are_not_rewritten_by_a_clustering(tmp_path, monkeypatch):
    monkeypatch.setattr(relisting, "LARGE_ROWS", 2)
    store = FilesystemMetadataStore(tmp_path / "root")
    video, _ = pipeline()
    for start in range(0, 20, 4):
        store.write_metadata(video, videos(range(start, start + 4)))
    files = set((tmp_path / "root").rglob("*-0.parquet"))
    assert len(compact(store, video, cluster=True)) == 1
    assert set((tmp_path / "root").rglob("*-0.parquet")) == files
