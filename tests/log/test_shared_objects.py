"""The requests of a writer before its rows, and which of them wait for which."""

import builtins
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from metaxy_fs.errors import (
    CorruptObjectError,
    HashAlgorithmError,
    MetadataSchemaError,
    StorageError,
    UnsupportedFormatError,
)
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.commit import CommitRequest
from metaxy_fs.log.layout import STORE_FILE
from metaxy_fs.log.log import Log
from metaxy_fs.log.verified_io import MAX_SHARED_BYTES
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows
from tests.support.patience import PATIENCE

SPEC = b"{}"
STORE = b'{"format_version":1,"hash_algorithm":"sha256"}'


class DistantStorage(MemoryStorage):
    """A service some way off, of which a probe alone tells that it keeps what there is.

    Attributes:
        waves: The paths of the requests that were made at once, in order: what is asked in one call, and puts that wait
            for each other.
    """

    is_remote = True
    put_is_conditional = False

    def __init__(self, *, meeting: Sequence[str] = ()) -> None:
        super().__init__()
        self.waves: list[list[str]] = []
        self.meet(meeting)

    def meet(self, paths: Sequence[str]) -> None:
        """Let the next puts of these paths wait for each other."""
        self.waves.clear()
        self.meeting = dict.fromkeys(paths, threading.Barrier(max(1, len(paths))))

    def get_optional(self, paths: Sequence[str], *, max_bytes: int) -> builtins.list[bytes | None]:
        self.waves.append([f"find {path}" for path in paths])
        return super().get_optional(paths, max_bytes=max_bytes)

    def put(self, path: str, data: bytes) -> None:
        kind = "data" if path.endswith(".parquet") else path
        if kind in self.meeting:
            # Who is alone here waits in vain: so those that meet were under way at once.
            if self.meeting[kind].wait(timeout=PATIENCE) == 0:
                self.waves.append(sorted(f"put {each}" for each in self.meeting))
        else:
            self.waves.append([f"put {kind}"])
        super().put(path, data)


def log(storage: MemoryStorage, **options: Any) -> Log:
    return Log(storage, clock=LamportClock(), **options)


def puts(storage: DistantStorage) -> list[str]:
    return [each.removeprefix("put ") for wave in storage.waves for each in wave if each.startswith("put ")]


def append(storage: MemoryStorage, *, write_id: str | None = None, asked: CommitRequest | None = None) -> str:
    return log(storage).append(asked or request(rows(1), write_id=write_id), spec=SPEC).commit


def known_root(*, meeting: Sequence[str] = ()) -> DistantStorage:
    """A root with one commit, to which a new process is about to write."""
    storage = DistantStorage()
    append(storage)
    storage.meet(meeting)
    return storage


def test_a_process_that_is_new_to_a_known_partition_makes_three_round_trips() -> None:
    storage = known_root()
    commit = append(storage)
    assert storage.waves == [
        [f"find {STORE_FILE}", f"find {PARTITION.definition_file}"],
        ["put data"],
        [f"put {PARTITION.append_manifest(commit)}"],
    ]


def test_the_first_process_of_a_root_makes_four_round_trips() -> None:
    storage = DistantStorage(meeting=[STORE_FILE, PARTITION.definition_file])
    commit = append(storage)
    assert storage.waves == [
        [f"find {STORE_FILE}", f"find {PARTITION.definition_file}"],
        [f"put {STORE_FILE}", f"put {PARTITION.definition_file}"],
        ["put data"],
        [f"put {PARTITION.append_manifest(commit)}"],
    ]


def test_a_named_write_asks_whether_its_root_overwrites_while_its_rows_are_put() -> None:
    storage = known_root(meeting=[STORE_FILE, "data"])
    commit = append(storage, write_id="a")
    assert storage.waves == [
        [f"find {STORE_FILE}", f"find {PARTITION.definition_file}"],
        [f"put {STORE_FILE}", "put data"],
        [f"find {PARTITION.kept_write(commit)}"],
        [f"put {PARTITION.append_manifest(commit)}"],
        [f"find {PARTITION.kept_write(commit)}"],
    ]


def test_a_named_write_to_a_root_that_overwrites_is_not_committed() -> None:
    storage = known_root()
    held = list(storage.list(PARTITION.manifests))
    storage.put = lambda path, data: storage.waves.append([f"put {path}"])  # type: ignore[method-assign]  # takes all
    with pytest.raises(StorageError, match="overwrites objects"):
        append(storage, write_id="a")
    assert STORE_FILE in puts(storage)
    assert not any("_manifests" in path for path in puts(storage))
    assert storage.list(PARTITION.manifests) == held


def test_nothing_is_put_into_a_root_of_a_newer_format() -> None:
    storage = DistantStorage()
    storage.put(STORE_FILE, b'{"format_version":2}')
    storage.waves.clear()
    with pytest.raises(UnsupportedFormatError):
        append(storage)
    assert puts(storage) == []


def test_nothing_is_put_into_a_root_of_another_algorithm() -> None:
    storage = DistantStorage()
    storage.put(STORE_FILE, STORE)
    storage.waves.clear()
    with pytest.raises(HashAlgorithmError):
        log(storage, hash_algorithm="blake3").append(request(rows(1)), spec=SPEC)
    assert puts(storage) == []


def test_nothing_is_put_into_a_partition_that_does_not_fit() -> None:
    storage = DistantStorage()
    asked = request(rows(1))
    other = CommitRequest(
        **{name: getattr(asked, name) for name in asked.__struct_fields__} | {"id_columns": ("frame", "sample_id")}
    )
    append(storage)
    storage.delete(STORE_FILE)
    storage.waves.clear()
    with pytest.raises(MetadataSchemaError, match="names its samples by"):
        append(storage, asked=other)
    assert puts(storage) == []


def test_rows_wait_for_the_description_of_a_faster_first_writer() -> None:
    class Slower(DistantStorage):
        def put(self, path: str, data: bytes) -> None:
            if path == PARTITION.definition_file and not self.list(PARTITION.definition_file.rpartition("/")[0]):
                MemoryStorage.put(self, path, data.replace(b"sample_id", b"frame_id_"))
            super().put(path, data)

    storage = Slower()
    with pytest.raises(MetadataSchemaError, match="frame_id_"):
        append(storage)
    assert sorted(puts(storage)) == sorted([STORE_FILE, PARTITION.definition_file])


@pytest.mark.parametrize("path", [STORE_FILE, PARTITION.definition_file])
def test_an_agreement_that_is_too_large_is_refused(path: str) -> None:
    storage = DistantStorage()
    storage.put(path, b" " * (MAX_SHARED_BYTES + 1))
    with pytest.raises(CorruptObjectError, match=f"{path}.*more than the {MAX_SHARED_BYTES} bytes"):
        append(storage)


def test_a_declaration_that_later_writers_would_refuse_is_not_written() -> None:
    storage = DistantStorage()
    with pytest.raises(MetadataSchemaError, match="Declare fewer containers"):
        log(storage).append(request(rows(1)), spec=b'"' + b"x" * MAX_SHARED_BYTES + b'"')
    assert storage.list("") == []
