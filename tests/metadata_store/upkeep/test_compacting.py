"""Does a compaction of a store leave what is read as it was, and less to read?"""

import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore, InMemoryMetadataStore, compact, verify
from metaxy_fs.testing.store_cases import pipeline, videos


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
        compact(InMemoryMetadataStore())
