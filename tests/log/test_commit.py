"""A write is all or nothing, whatever happens to its requests."""

import errno
import hashlib
import itertools
import os
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import (
    CommitStateUnknownError,
    ObjectExistsError,
    StorageAccessError,
    StorageError,
    WriteConflictError,
)
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import chunks
from metaxy_fs.log import commit as commit_module
from metaxy_fs.log.manifest import FileHeader
from metaxy_fs.log.scan import reading_schema, scan_files
from metaxy_fs.log.verified_io import put_idempotent
from metaxy_fs.log.view import ViewLoader, live_files
from metaxy_fs.storage import local
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, rows, write
from tests.log.compactions import put_compaction, read
from tests.log.faulty import FaultyStorage

pytestmark = pytest.mark.usefixtures("no_pauses")


def ids(storage: Storage) -> list[int]:
    """Every id that a reader sees, in order."""
    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    if view is None:
        return []
    files = live_files([view])
    schema = reading_schema(files, location="", columns=None)
    return scan_files(storage, files, schema=schema).collect()["sample_id"].to_list()


def test_a_write_is_two_puts_the_data_first() -> None:
    storage = FaultyStorage(MemoryStorage())
    manifest = write(storage, 1, 2)
    assert storage.requests == [
        ("put", PARTITION.data_file(manifest.files[0].name)),
        ("put", PARTITION.append_manifest(manifest.commit)),
    ]


def test_rows_come_back_in_commit_order() -> None:
    storage, clock = MemoryStorage(), LamportClock()
    for i in (3, 1, 2):
        write(storage, i, clock=clock)
    assert ids(storage) == [3, 1, 2]


@pytest.mark.parametrize("kind", [".parquet", ".json"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_lost_put_is_found_out_and_mended(kind: str, when: str) -> None:
    faults = iter([when])

    def fault(verb: str, path: str) -> str | None:
        return next(faults, None) if verb == "put" and path.endswith(kind) else None

    storage = FaultyStorage(MemoryStorage(), fault)
    write(storage, 1)
    assert ids(storage.inner) == [1]
    assert next(faults, None) is None


def test_a_data_file_that_cannot_be_put_leaves_nothing_visible() -> None:
    def fault(verb: str, path: str) -> str | None:
        return "before" if verb == "put" and path.endswith(".parquet") else None

    storage = FaultyStorage(MemoryStorage(), fault)
    with pytest.raises(StorageError) as caught:
        write(storage, 1)
    assert not isinstance(caught.value, CommitStateUnknownError)
    assert ids(storage.inner) == []


def test_a_manifest_whose_outcome_cannot_be_asked_is_an_unknown_commit() -> None:
    storage = FaultyStorage(MemoryStorage(), lambda _verb, path: "after" if path.endswith(".json") else None)
    with pytest.raises(
        CommitStateUnknownError, match=r"lists commit (\w+)\.(\w+)-(\w+), .*_manifests/appends/\1\.\2-\3\.json exists"
    ):
        write(storage, 1)
    assert ids(storage.inner) == [1]


class Refusing(FaultyStorage):
    """A root whose client repeats a put that was cut off, and tells of the refusal of the repetition.

    Args:
        inner: Where the objects are.
        kind: How the names of those end whose puts are refused.
        is_applied: Whether the first of the two requests was applied.
        is_silent: Whether all later requests are refused, too.
    """

    def __init__(self, inner: Storage, kind: str, *, is_applied: bool, is_silent: bool = False) -> None:
        super().__init__(inner)
        self.kind = kind
        self.is_applied = is_applied
        self.is_silent = is_silent
        self.is_refusing = False

    def put(self, path: str, data: bytes) -> None:
        self._refuse_if_told()
        if not path.endswith(self.kind):
            return super().put(path, data)
        self.requests.append(("put", path))
        if self.is_applied:
            self.inner.put(path, data)
        self.is_refusing = self.is_silent
        raise StorageAccessError("denied")

    def get(self, path: str) -> bytes:
        self._refuse_if_told()
        return super().get(path)

    def _refuse_if_told(self) -> None:
        if self.is_refusing:
            raise StorageAccessError("denied")


def test_what_ends_a_write_tells_which_commit_it_was() -> None:
    storage = Refusing(MemoryStorage(), ".parquet", is_applied=False)
    with pytest.raises(StorageAccessError) as caught:
        write(storage, 1, write_id="job 7")
    error = caught.value
    assert (error.feature, error.root, error.write_id) == ("video/processing", storage.location, "job 7")
    assert error.commit == f"write-{hashlib.sha256(b'job 7').hexdigest()[:32]}"


@pytest.mark.parametrize("kind", [".parquet", ".json"])
def test_a_refused_put_is_not_tried_again(kind: str) -> None:
    storage = Refusing(MemoryStorage(), kind, is_applied=False)
    with pytest.raises(StorageAccessError):
        write(storage, 1)
    assert [verb for verb, path in storage.requests if path.endswith(kind)] == ["put", "get"]
    assert ids(storage.inner) == []


@pytest.mark.parametrize("kind", [".parquet", ".json"])
def test_a_put_that_was_applied_before_its_repetition_was_refused_has_happened(kind: str) -> None:
    storage = Refusing(MemoryStorage(), kind, is_applied=True)
    write(storage, 1)
    assert ids(storage.inner) == [1]


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_refusal_of_a_data_file_is_one_of_the_write(is_applied: bool) -> None:  # noqa: FBT001  # a parameter
    storage = Refusing(MemoryStorage(), ".parquet", is_applied=is_applied, is_silent=True)
    with pytest.raises(StorageAccessError):
        write(storage, 1)
    assert ids(storage.inner) == []


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_refused_manifest_that_cannot_be_asked_for_is_an_unknown_commit(is_applied: bool) -> None:  # noqa: FBT001
    storage = Refusing(MemoryStorage(), ".json", is_applied=is_applied, is_silent=True)
    with pytest.raises(CommitStateUnknownError, match="lists commit"):
        write(storage, 1)
    assert ids(storage.inner) == [1] * is_applied


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_a_manifest_for_which_there_is_no_room_is_known_not_to_be_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def fill(path: str, data: bytes) -> None:
        if "/_manifests/" in path:
            raise OSError(reason, os.strerror(reason))
        write_synced(path, data)

    storage, write_synced = LocalStorage(tmp_path), local.write_synced
    monkeypatch.setattr(local, "write_synced", fill)
    with pytest.raises(StorageError, match=os.strerror(reason)) as caught:
        write(storage, 1)
    assert not isinstance(caught.value, CommitStateUnknownError)
    assert ids(storage) == []


@pytest.mark.parametrize("write_id", [None, "job"])
def test_a_manifest_that_no_reader_would_take_is_not_put(monkeypatch: pytest.MonkeyPatch, write_id: str | None) -> None:
    storage = MemoryStorage()
    write(storage, 1)
    monkeypatch.setattr(commit_module, "MAX_MANIFEST_BYTES", 500)
    with pytest.raises(StorageError, match="Nothing was committed") as caught:
        write(storage, 2, write_id=write_id)
    assert not isinstance(caught.value, CommitStateUnknownError)
    assert ids(storage) == [1]


def test_a_name_that_holds_other_bytes_is_never_taken_for_success() -> None:
    storage = MemoryStorage()
    storage.put("a", b"theirs")
    with pytest.raises(ObjectExistsError, match="other content"):
        put_idempotent(storage, "a", b"ours")


class Garbling(FaultyStorage):
    """A network that loses the answer to the put of an object, and damages the first answer that holds it."""

    def __init__(self, inner: MemoryStorage) -> None:
        super().__init__(inner, lambda verb, _path: "after" if verb == "put" else None)
        self.garbled = 0

    def get(self, path: str) -> bytes:
        data = super().get(path)
        self.garbled += 1
        return bytes(len(data)) if self.garbled == 1 else data


def test_one_damaged_answer_does_not_make_an_object_that_of_another() -> None:
    storage = Garbling(MemoryStorage())
    put_idempotent(storage, "a", b"ours")
    assert storage.garbled == 2


@given(faults=st.lists(st.sampled_from([None, None, "before", "after"]), max_size=30))
def test_an_acknowledged_write_is_read_once_and_a_failed_one_at_most_once(faults: list[str | None]) -> None:
    plan = itertools.chain(faults, itertools.repeat(None))
    storage = FaultyStorage(MemoryStorage(), lambda _verb, _path: next(plan))
    acknowledged, unknown, clock = [], [], LamportClock()
    for i in range(4):
        try:
            write(storage, i, clock=clock)
            acknowledged.append(i)
        except CommitStateUnknownError:
            unknown.append(i)
        except StorageError:
            continue
    seen = ids(storage.inner)
    assert len(seen) == len(set(seen))
    assert set(acknowledged) <= set(seen) <= {*acknowledged, *unknown}


def test_a_write_that_took_a_day_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 24 * 60 * 60 * 1_000_000 + 1])
    monkeypatch.setattr(commit_module, "wall_clock", lambda: next(times))
    storage = MemoryStorage()
    with pytest.raises(StorageError, match="Nothing was committed"):
        write(storage, 1)
    assert ids(storage) == []


def test_a_retried_write_id_is_the_same_commit() -> None:
    storage = MemoryStorage()
    first = write(storage, 1, 2, write_id="job 7")
    assert write(storage, 1, 2, write_id="job 7") == first
    assert ids(storage) == [1, 2]


def test_a_writer_orders_what_it_writes_after_a_commit_that_it_found_made() -> None:
    storage = MemoryStorage()
    ahead, behind = LamportClock(lambda: 2_000_000), LamportClock(lambda: 1_000_000)
    found = write(storage, 1, write_id="job 7", clock=ahead)
    assert write(storage, 1, write_id="job 7", clock=behind) == found
    assert write(storage, 2, clock=behind).time > found.time


def test_a_write_id_with_other_rows_is_refused_and_changes_nothing() -> None:
    storage = MemoryStorage()
    write(storage, 1, 2, write_id="job 7")
    with pytest.raises(WriteConflictError, match=r"'job 7'.*2 rows.*the 1 rows given now"):
        write(storage, 1, write_id="job 7")
    assert ids(storage) == [1, 2]


def test_equal_rows_in_other_bytes_are_the_same_write(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    first = write(storage, 1, 2, write_id="job 7")
    monkeypatch.setattr("metaxy_fs.log.commit.content_digest", lambda _schema, _pages: "f" * 64)
    assert write(storage, 1, 2, write_id="job 7") == first


def test_the_second_of_two_racing_attempts_finds_the_first() -> None:
    storage = MemoryStorage()
    racing: list[str] = []

    def fault(verb: str, path: str) -> None:
        if verb == "put" and path.endswith(".json") and not racing:
            racing.append(path)
            write(storage, 1, write_id="job 7")

    write(FaultyStorage(storage, fault), 1, write_id="job 7")
    assert racing
    assert ids(storage) == [1]


class Moving(MemoryStorage):
    """A root of which a vacuum takes the manifest of a covered write when its copy has been asked for so many times."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.questions = questions

    def get(self, path: str) -> bytes:
        try:
            return super().get(path)
        finally:
            if "/_writes/" in path:
                self.questions -= 1
                if self.questions == 0:
                    append = PARTITION.append_manifest(path.rpartition("/")[2].removesuffix(".json"))
                    self.put(path, super().get(append))
                    self.delete(append)


@pytest.mark.parametrize("questions", [1, 2])
def test_a_retried_write_is_found_that_a_vacuum_moves_meanwhile(questions: int) -> None:
    storage = MemoryStorage()
    first = write(storage, 1, write_id="job 7")
    put_compaction(storage, [first])
    moving = Moving(questions)
    for info in storage.list(""):
        moving.put(info.path, storage.get(info.path))
    assert write(moving, 1, write_id="job 7") == first
    assert moving.questions <= 0


@pytest.mark.parametrize("questions", [1, 2])
def test_other_rows_are_refused_also_while_a_vacuum_moves_the_manifest(questions: int) -> None:
    moving = Moving(3)
    first = write(moving, 1, write_id="job 7")
    put_compaction(moving, [first])
    moving.questions = questions
    with pytest.raises(WriteConflictError):
        write(moving, 2, write_id="job 7")
    assert read(moving)["sample_id"].to_list() == [1]


def test_every_data_file_can_rebuild_the_header_of_its_manifest() -> None:
    storage = MemoryStorage()
    manifest = write(storage, 1, write_id="job 7")
    data = storage.get(PARTITION.data_file(manifest.files[0].name))
    header = msgspec.json.decode(pl.read_parquet_metadata(data)["metaxy_fs"], type=FileHeader)
    assert (header.commit, header.time, header.feature) == (manifest.commit, manifest.time, manifest.feature)
    assert (header.definition, header.id_columns, header.write_id) == (manifest.definition, ("sample_id",), "job 7")
    assert bytes(header.schema) == bytes(manifest.schema)


def test_every_data_file_tells_which_of_how_many_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 2)
    storage = MemoryStorage()
    datas = [storage.get(PARTITION.data_file(file.name)) for file in write(storage, 1, 2, 3, 4, 5).files]
    footers = [pl.read_parquet_metadata(data)["metaxy_fs"] for data in datas]
    headers = [msgspec.json.decode(footer, type=FileHeader) for footer in footers]
    assert [(header.part, header.parts) for header in headers] == [(0, None), (1, None), (2, 3)]


@given(write_id=st.text(min_size=1, max_size=50))
def test_any_text_can_name_a_write(write_id: str) -> None:
    storage = MemoryStorage()
    found = write(storage, 1, write_id=write_id)
    assert write(storage, 1, write_id=write_id) == found
    assert ids(storage) == [1]
    assert found.commit == f"write-{hashlib.sha256(write_id.encode()).hexdigest()[:32]}"


def test_the_digest_of_rows_depends_on_the_rows_alone() -> None:
    first, second, other = write(MemoryStorage(), 1, 2), write(MemoryStorage(), 1, 2), write(MemoryStorage(), 1, 3)
    assert first.digest == second.digest != other.digest
    assert first.files[0].sha256 != second.files[0].sha256


def test_a_large_write_is_one_commit_of_several_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 2)
    storage = MemoryStorage()
    manifest = write(storage, 1, 2, 3, 4, 5, write_id="job 7")
    assert [(file.rows, file.statistics[0].min) for file in manifest.files] == [(2, 1), (2, 3), (1, 5)]
    assert ids(storage) == [1, 2, 3, 4, 5]
    assert write(storage, 1, 2, 3, 4, 5, write_id="job 7") == manifest


def test_a_large_write_that_fails_between_its_files_is_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 2)
    storage = FaultyStorage(MemoryStorage(), lambda verb, path: "before" if verb == "put" and "-1." in path else None)
    with pytest.raises(StorageError):
        write(storage, 1, 2, 3)
    assert ids(storage.inner) == []


def test_an_empty_write_is_a_commit() -> None:
    storage = MemoryStorage()
    assert write(storage).rows == 0
    assert ViewLoader(storage, clock=LamportClock()).has_commit(PARTITION)
    assert rows().height == 0
