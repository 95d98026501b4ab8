"""A store of another kind is a handful of methods: the one that the docs build passes the suite."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.metadata_store import CommitRecord, MetadataStore
from metaxy_fs.testing import StoreSuite
from metaxy_fs.testing.store_cases import VIDEO, ids_of, pipeline, videos

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "your-own-backend.md"
THREADS, WRITES = 4, 10


def store_of_the_page():
    code = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
    names = {"__name__": "page"}
    exec(code, names)  # noqa: S102  # as a reader would
    return names["DirectoryStore"]


DirectoryStore = store_of_the_page()


class TestDirectoryStore(StoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path):
        return lambda name="", fallback_stores=(): DirectoryStore(
            tmp_path / f"store {name}", fallback_stores=fallback_stores
        )


def test_writers_at_once_take_a_number_each(tmp_path):
    video, _ = pipeline()

    def work(worker):
        store = DirectoryStore(tmp_path)
        for at in range(WRITES):
            store.write_metadata(video, videos([worker * WRITES + at]))
            store.write_metadata(video, videos([-1 - at]), write_id=f"job {at}")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    store = DirectoryStore(tmp_path)
    assert sorted(ids_of(store.read_metadata(video))) == list(range(-WRITES, THREADS * WRITES))
    assert store.history(video)["time"].is_sorted()
    assert store.history(video)["time"].n_unique() == (THREADS + 1) * WRITES


def test_record_is_refused_that_is_none_or_of_a_later_version(tmp_path):
    video, _ = pipeline()
    store = DirectoryStore(tmp_path)
    store.write_metadata(video, videos([1]))
    [record] = store.commits_since(VIDEO, 0)

    assert CommitRecord.decode(record.encode()) == record
    with pytest.raises(CorruptObjectError, match="no record of a commit"):
        CommitRecord.decode(record.encode()[:-1])
    with pytest.raises(UnsupportedFormatError, match="format 2"):
        CommitRecord.decode(record.encode()[:-1] + b',"format":2}')


def test_store_without_the_methods_cannot_be_made():
    class Nothing(MetadataStore):
        pass

    with pytest.raises(
        TypeError, match=r"append_rows.*location.*scan_rows.*stored_commits.*stored_features.*stored_versions"
    ):
        Nothing()
