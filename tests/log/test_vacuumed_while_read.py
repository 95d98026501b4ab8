"""Rows that are taken in parts are found where others have put them meanwhile."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.log import Log
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.ranges import IdRange
from metaxy_fs.log.scan import Selection
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.compactions import delete_covered, put_compaction, read
from tests.log.faulty import FaultyStorage

PIECE = IdRange(low=5, high=25, is_part=True)
ALONE = IdRange(low=5, high=25)
"""The same, where the ranges beside it are not read."""


@pytest.fixture(params=["remote", "local"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MemoryStorage() if request.param == "remote" else LocalStorage(tmp_path)


def history(storage: Storage) -> list[Manifest]:
    """A large first group in which no sample repeats, and a small one that rewrites some."""
    first = [write(storage, *range(10 * n, 10 * n + 10)) for n in range(4)]
    return [*first, write(storage, 7, 17)]


def select(storage: Storage) -> Selection:
    log = Log(storage, clock=LamportClock())
    view = log.view(PARTITION)
    assert view is not None
    return log.select([view])


def vacuum(storage: Storage, appends: list[Manifest]) -> None:
    """Put what stands for all in files of a few rows each, remove the rest, and go on writing."""
    put_compaction(storage, appends, file_rows=6)
    delete_covered(storage, appends)
    write(storage, 8, 99)


@pytest.mark.parametrize("id_range", [PIECE, ALONE])
def test_a_range_is_read_from_the_files_that_hold_its_commits_now(storage: Storage, id_range: IdRange) -> None:
    appends = history(storage)
    expected = read(storage).filter(pl.col("sample_id").is_between(5, 24))
    selection = select(storage)
    vacuum(storage, appends)
    assert_frame_equal(selection.within("sample_id", id_range).rows.collect(), expected)


@pytest.mark.parametrize("id_range", [PIECE, ALONE])
def test_a_file_that_goes_between_two_gets_is_looked_for(id_range: IdRange) -> None:
    """Nothing but what may lie in the range is fetched, also of the files that hold it then."""
    storage = FaultyStorage(MemoryStorage())
    appends = history(storage.inner)
    expected = read(storage.inner).filter(pl.col("sample_id").is_between(5, 24))
    selection = select(storage).within("sample_id", id_range)
    storage.fault = once(lambda path: path.endswith(".parquet"), lambda: vacuum(storage.inner, appends))
    storage.requests.clear()
    assert_frame_equal(selection.rows.collect(), expected)
    fetched = [path for verb, path in storage.requests if verb == "get" and path.endswith(".parquet")]
    old = {PARTITION.data_file(file.name) for append in appends for file in append.files}
    assert 1 < len([path for path in fetched if path not in old and "commits" not in path]) < 7


def once(when: Callable[[str], bool], act: Callable[[], object]) -> Callable[[str, str], None]:
    done: list[bool] = []

    def fault(verb: str, path: str) -> None:
        if verb == "get" and when(path) and not done:
            done.append(True)
            act()

    return fault


def test_layers_of_a_range_are_read_from_the_files_that_hold_its_commits_now(storage: Storage) -> None:
    appends = history(storage)
    expected = read(storage).filter(pl.col("sample_id").is_between(5, 24))
    piece = select(storage).within("sample_id", PIECE)
    assert len(piece.layers()) == 2
    piece = select(storage).within("sample_id", PIECE)
    vacuum(storage, appends)
    assert_frame_equal(pl.concat(rows for rows, _ in piece.layers()).collect(), expected)


def test_a_file_that_never_comes_back_is_an_error(storage: Storage) -> None:
    appends = history(storage)
    selection = select(storage)
    name = appends[1].files[0].name
    storage.delete(PARTITION.data_file(name))
    with pytest.raises(CorruptObjectError, match=rf"gone, though it is committed: .*{name}"):
        selection.within("sample_id", PIECE).rows.collect()


@pytest.mark.parametrize("is_range", [False, True])
def test_layers_are_read_from_other_files_if_theirs_go_before(storage: Storage, *, is_range: bool) -> None:
    appends = history(storage)
    rows = read(storage)
    expected = rows.filter(pl.col("sample_id").is_between(5, 24)) if is_range else rows
    selection = select(storage)
    layers = (selection.within("sample_id", PIECE) if is_range else selection).layers()
    assert len(layers) == (2 if is_range or isinstance(storage, LocalStorage) else 1)
    vacuum(storage, appends)
    assert_frame_equal(pl.concat(rows for rows, _ in layers).collect(), expected)
