"""Reads of a compacted root give the same rows as before, in the same order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import fetch
from metaxy_fs.log.commit import commit
from metaxy_fs.log.log import Log
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.view import ViewLoader, live_files
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.storage.open import open_storage
from tests.log.commits import PARTITION, may_repeat, request, rows, write
from tests.log.compactions import delete_covered, put_compaction, read, view_of
from tests.log.faulty import FaultyStorage
from tests.servers.s3 import S3Server
from tests.support.examples import examples

EXTRA: list[Callable[[pl.DataFrame], pl.DataFrame]] = [
    lambda frame: frame,
    lambda frame: frame.with_columns(size=pl.col("sample_id").cast(pl.Int32)),
    lambda frame: frame.with_columns(note=pl.lit("n"), size=pl.col("sample_id") * 2**40),
]


def append(storage: Storage, ids: list[int], *, kind: int = 0, clock: LamportClock | None = None, **options: Any):
    frame = EXTRA[kind](rows(*sorted(ids)))
    return commit(storage, request(frame, **options), clock=clock or LamportClock())


def ticking(*times: int) -> LamportClock:
    """A clock that stands at the next of these times each time, however skewed."""
    return LamportClock(wall=iter(times).__next__)


WRITES = st.lists(
    st.tuples(st.lists(st.integers(0, 12), max_size=6, unique=True), st.integers(0, 2), st.integers(1, 6)),
    min_size=1,
    max_size=8,
)


@given(data=st.data(), writes=WRITES)
@examples(30)
def test_rows_come_back_in_the_same_order_whatever_is_compacted(
    data: st.DataObject, writes: list[tuple[list[int], int, int]]
) -> None:
    """Times collide and go backwards, schemas differ, compactions overlap, and what is covered may be gone."""
    storage = MemoryStorage()
    appends = [
        append(storage, ids, kind=kind, clock=ticking(time * 1000), write_id=str(n))
        for n, (ids, kind, time) in enumerate(writes)
    ]
    expected = read(storage)
    predicate = pl.col("sample_id").is_in([1, 5, 7])
    for token in range(data.draw(st.integers(1, 3))):
        covered = data.draw(st.lists(st.sampled_from(appends), min_size=1, unique_by=lambda append: append.commit))
        again = data.draw(st.sets(st.sampled_from([append.commit for append in covered])))
        rows_a_file = data.draw(st.sampled_from([2, 5, 100]))
        put_compaction(storage, covered, token=str(token) * 16, listed_again=again, file_rows=rows_a_file)
        if data.draw(st.booleans()):
            for held in covered:
                storage.delete(PARTITION.append_manifest(held.commit))
    assert_frame_equal(read(storage), expected)
    assert_frame_equal(read(storage, predicate=predicate), expected.filter(predicate))
    limit = data.draw(st.integers(0, expected.height + 1))
    assert_frame_equal(read(storage, limit=limit), expected.head(limit))
    assert_frame_equal(read(storage, limit=limit, predicate=predicate), expected.head(limit).filter(predicate))
    if expected["sample_id"].is_duplicated().any():
        assert may_repeat(live_files([view_of(storage)]))


@pytest.fixture(params=["local", "memory", "fsspec", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path)
    if request.param == "memory":
        return MemoryStorage()
    if request.param == "fsspec":
        return open_storage(f"memory://{tmp_path.name}")
    server: S3Server = request.getfixturevalue("s3_server")
    bucket = request.getfixturevalue("s3_bucket")
    return open_storage(server.url(bucket, "root"), storage_options=server.storage_options)


def history(storage: Storage) -> list[Manifest]:
    """Six writes that repeat samples, bring columns, and hold nothing."""
    ids = [[1, 5, 9], [2, 5], [], [1, 2, 3], [7], [0, 9]]
    return [append(storage, held, kind=kind) for held, kind in zip(ids, [0, 1, 2, 0, 1, 2], strict=True)]


def test_every_storage_reads_the_same_after_a_compaction(storage: Storage) -> None:
    appends = history(storage)
    expected = read(storage)
    put_compaction(storage, appends[:4], listed_again=[appends[3].commit], file_rows=3)
    assert_frame_equal(read(storage), expected)
    put_compaction(storage, appends, file_rows=3)
    assert_frame_equal(read(storage), expected)
    delete_covered(storage, appends)
    assert_frame_equal(read(storage), expected)
    assert read(storage, predicate=pl.col("sample_id") == 9)["sample_id"].to_list() == [9, 9]


def test_overlapping_compactions_answer_once_for_each_commit(storage: Storage) -> None:
    appends = [*history(storage), append(storage, [8])]
    expected = read(storage)
    put_compaction(storage, appends[:4], token="b" * 16)
    put_compaction(storage, appends[2:6], token="a" * 16)
    put_compaction(storage, [appends[0], appends[3], appends[6]], token="c" * 16, listed_again=[appends[3].commit])
    delete_covered(storage, appends, data=False)
    assert_frame_equal(read(storage), expected)


def test_covered_appends_are_not_fetched() -> None:
    storage = FaultyStorage(MemoryStorage())
    appends = history(storage.inner)
    compaction = put_compaction(storage.inner, appends[:5])
    view_of(storage)
    assert storage.requests == [
        ("list", PARTITION.manifests),
        ("get", PARTITION.compaction_manifest(compaction)),
        ("get", PARTITION.append_manifest(appends[5].commit)),
    ]


def test_a_view_gets_the_new_compaction_alone() -> None:
    storage = FaultyStorage(MemoryStorage())
    appends = history(storage.inner)
    loader = ViewLoader(storage, clock=LamportClock())
    loader.load(PARTITION)
    compaction = put_compaction(storage.inner, appends)
    storage.requests.clear()
    view = loader.load(PARTITION)
    assert view is not None
    assert [manifest.commit for manifest in view.manifests] == [compaction]
    assert storage.requests[1:] == [("get", PARTITION.compaction_manifest(compaction))]


def test_a_commit_that_follows_a_compaction_is_ordered_after_it() -> None:
    storage, clock = MemoryStorage(), LamportClock(wall=lambda: 1_000)
    put_compaction(storage, [append(storage, [1], clock=ticking(9_000_000))])
    ViewLoader(storage, clock=clock).load(PARTITION)
    assert write(storage, 2, clock=clock).time > 9_000_001


def vanishing(storage: Storage, when: Callable[[str, str], bool], act: Callable[[], object]) -> FaultyStorage:
    """A storage in which something happens just before the first request of a kind."""
    done: list[bool] = []

    def fault(verb: str, path: str) -> None:
        if when(verb, path) and not done:
            done.append(True)
            act()

    return FaultyStorage(storage, fault)


def test_an_append_that_is_vacuumed_after_the_listing_is_found_in_its_compaction() -> None:
    storage = MemoryStorage()
    appends = history(storage)
    expected = read(storage)

    def vacuum() -> None:
        put_compaction(storage, appends)
        delete_covered(storage, appends)

    assert_frame_equal(read(vanishing(storage, lambda verb, path: verb == "get", vacuum)), expected)


def test_a_manifest_that_never_comes_back_is_an_error_after_a_few_listings() -> None:
    storage = FaultyStorage(MemoryStorage())
    [manifest] = [append(storage.inner, [1])]
    listed = storage.inner.list(PARTITION.manifests)
    storage.inner.delete(PARTITION.append_manifest(manifest.commit))
    storage.list = lambda *_args, **_options: listed  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError):
        view_of(storage)
    assert len(storage.requests) == 5


@pytest.mark.parametrize("batch", [1, 100])
def test_a_scan_goes_on_in_other_files_where_its_own_are_gone(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after it has given rows; what was appended since the scan was made is not among them."""
    monkeypatch.setattr(fetch, "BATCH_FILES", batch)
    storage = MemoryStorage()
    appends = [append(storage, [n, n + 10, 3]) for n in range(20, 26)]
    expected = read(storage)

    def vacuum() -> None:
        put_compaction(storage, [*appends, append(storage, [99])], file_rows=4)
        delete_covered(storage, appends)
        append(storage, [100])

    last = PARTITION.data_file(appends[-1].files[0].name)
    log = Log(vanishing(storage, lambda _verb, path: path == last, vacuum), clock=LamportClock())
    view = log.view(PARTITION)
    assert view is not None
    scanned = log.select([view]).rows
    assert_frame_equal(scanned.collect(), expected)


def test_a_scan_of_local_files_looks_for_them_again(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    appends = history(storage)
    expected = read(storage)
    log = Log(storage, clock=LamportClock())
    view = log.view(PARTITION)
    assert view is not None
    put_compaction(storage, appends)
    delete_covered(storage, appends)
    assert_frame_equal(log.select([view]).rows.collect(), expected)


def test_a_data_file_that_never_comes_back_is_an_error(storage: Storage) -> None:
    appends = history(storage)
    storage.delete(PARTITION.data_file(appends[0].files[0].name))
    log = Log(storage, clock=LamportClock())
    view = log.view(PARTITION)
    assert view is not None
    with pytest.raises(Exception, match="gone, though it is committed") as caught:
        log.select([view]).rows.collect()
    assert appends[0].files[0].name in str(caught.value)


def test_files_of_disjoint_ids_are_proven_to_repeat_nothing() -> None:
    storage = MemoryStorage()
    appends = [append(storage, [n, n + 10]) for n in range(5)]
    put_compaction(storage, appends, file_rows=3)
    assert not may_repeat(live_files([view_of(storage)]))
    append(storage, [14, 15])
    assert may_repeat(live_files([view_of(storage)]))


def test_samples_that_repeat_within_a_compacted_file_are_known() -> None:
    storage = MemoryStorage()
    put_compaction(storage, [append(storage, [1]), append(storage, [1])])
    assert may_repeat(live_files([view_of(storage)]))
