"""Answers that are whole and wrong, while the object is as it was written."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    CorruptObjectError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    copy_metadata,
    vacuum,
    verify,
)
from metaxy_fs.log import parquet
from metaxy_fs.log.repair import repair
from metaxy_fs.storage import MemoryStorage, ObjectInfo, ObjectRange
from metaxy_fs.storage.cache import CachedStorage, DiskCache

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        pass


class Misled(MemoryStorage):
    """A root behind something that answers wrongly.

    Attributes:
        is_wrong: Says of a path whether the next answer about it is to be wrong.
        asked: The paths that were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_wrong: Callable[[str], bool] = lambda _path: False
        self.asked: list[str] = []

    def get(self, path: str) -> bytes:
        return self._answered(path, super().get(path))

    def get_many(self, objects: Sequence[ObjectInfo]) -> list[bytes]:
        # The inherited one asks `get` for each.
        return super().get_many(objects)

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes]:
        return [self._answered(part.path, MemoryStorage.get(self, part.path)[part.start : part.end]) for part in ranges]

    def _answered(self, path: str, data: bytes) -> bytes:
        self.asked.append(path)
        if not self.is_wrong(path):
            return data
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x20]) + data[middle + 1 :]

    def mislead(self, part: str, *, times: int) -> None:
        """Let so many answers about objects be wrong whose path has some part."""
        remaining = iter(range(times))
        self.asked.clear()
        self.is_wrong = lambda path: part in path and next(remaining, None) is not None

    def about(self, part: str) -> int:
        """Return how often objects were asked for whose path has some part."""
        return sum(part in path for path in self.asked)


def rows(*ids: int) -> pl.DataFrame:
    versions = pl.struct(pl.format("v{}", "sample_id").alias("default")).alias("data_version")
    return pl.DataFrame({"sample_id": ids, "more": ["x" * 300] * len(ids)}).with_columns(versions)


@pytest.fixture
def storage() -> Misled:
    made = Misled()
    store = FilesystemMetadataStore(made)
    store.write_metadata(Video, rows(1), write_id="first")
    store.write_metadata(Video, rows(2, 3))
    return made


def read(storage: Misled | CachedStorage) -> list[int]:
    return FilesystemMetadataStore(storage).read_metadata(Video)["sample_id"].to_list()


@pytest.mark.parametrize("part", ["appends/write-", "-0.parquet"])
def test_a_read_asks_once_more_for_what_cannot_be_right(storage: Misled, part: str) -> None:
    objects = sum(part in info.path for info in storage.list(""))
    storage.mislead(part, times=1)
    assert read(storage) == [1, 2, 3]
    assert storage.about(part) == objects + 1


@pytest.mark.parametrize("part", ["appends/write-", "-0.parquet"])
def test_a_read_asks_no_third_time(storage: Misled, part: str) -> None:
    objects = sum(part in info.path for info in storage.list(""))
    storage.mislead(part, times=100)
    with pytest.raises(CorruptObjectError, match=part):
        read(storage)
    assert storage.about(part) == objects + 1


@pytest.mark.parametrize("part", ["_manifests/compactions", "_commits/", "_snapshots/now"])
def test_what_stands_for_many_commits_is_asked_for_once_more(storage: Misled, part: str) -> None:
    store = FilesystemMetadataStore(storage)
    assert compact(store, full=True)
    store.create_snapshot("now", features=[Video])
    storage.mislead(part, times=1)
    other = FilesystemMetadataStore(storage)
    assert other.history(Video).height == 2
    assert other.at("now").read_metadata(Video).height == 3
    assert storage.about(part) >= 2


@pytest.mark.parametrize("column", ["sample_id", "more"])
def test_a_part_of_a_large_file_is_asked_for_once_more(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    storage = Misled()
    FilesystemMetadataStore(storage).write_metadata(Video, rows(*range(5_000)))
    read_column = lambda: FilesystemMetadataStore(storage).read_metadata(Video, columns=[column])  # noqa: E731
    right = read_column()
    storage.mislead(".parquet", times=0)
    read_column()
    asked = storage.about(".parquet")
    assert asked > 1
    for place in range(asked):
        remaining = iter([False] * place + [True])
        storage.is_wrong = lambda path, answers=remaining: ".parquet" in path and next(answers, False)
        assert read_column().equals(right)


@pytest.mark.parametrize("part", ["_store.json", "_definition.json", "appends/write-"])
def test_a_write_asks_once_more_for_what_cannot_be_right(storage: Misled, part: str) -> None:
    storage.mislead(part, times=1)
    FilesystemMetadataStore(storage).write_metadata(Video, rows(1), write_id="first")
    assert storage.about(part) >= 2
    assert FilesystemMetadataStore(storage).history(Video).height == 2


@pytest.mark.parametrize("part", ["appends/write-", "_manifests/compactions", "_commits/", "-0.parquet"])
def test_nothing_is_reported_nor_mended_that_only_looked_damaged(storage: Misled, part: str) -> None:
    assert compact(FilesystemMetadataStore(storage), full=True)
    FilesystemMetadataStore(storage).write_metadata(Video, rows(4), write_id="second")
    storage.mislead(part, times=1)
    assert verify(FilesystemMetadataStore(storage)).is_sound
    storage.mislead(part, times=1)
    assert [each for each in repair(storage, dry_run=False) if each.state != "unproven"] == []


@pytest.mark.parametrize("part", ["appends/", "-0.parquet"])
def test_a_copy_asks_once_more(storage: Misled, part: str) -> None:
    target = MemoryStorage()
    storage.mislead(part, times=1)
    copy_metadata(Video, source=FilesystemMetadataStore(storage), target=FilesystemMetadataStore(target))
    assert FilesystemMetadataStore(target).read_metadata(Video).height == 3


def retry(storage: MemoryStorage) -> int:
    """Write the named writes again, and return how many commits there are."""
    store = FilesystemMetadataStore(storage)
    store.write_metadata(Video, rows(1), write_id="first")
    store.write_metadata(Video, rows(4), write_id="second")
    return store.history(Video).height


def vacuumed(storage: MemoryStorage) -> int:
    zero = timedelta(0)
    for _ in range(3):
        done = vacuum(FilesystemMetadataStore(storage), dry_run=False, grace=zero, retention=zero, unsafe=True)
        assert not done.skipped
        assert {removal.state for removal in done.removals} <= {"deleted", "waiting"}
    return len(storage.list(""))


def copied(storage: MemoryStorage) -> tuple[int, int]:
    target = MemoryStorage()
    copy_metadata(Video, source=FilesystemMetadataStore(storage), target=FilesystemMetadataStore(target))
    return FilesystemMetadataStore(target).read_metadata(Video).height, retry(target)


OPERATIONS: dict[str, Callable[[MemoryStorage], object]] = {
    "read": lambda storage: FilesystemMetadataStore(storage).read_metadata(Video, with_commits=True).height,
    "history": lambda storage: FilesystemMetadataStore(storage).history(Video).height,
    "algorithm": lambda storage: FilesystemMetadataStore(storage).hash_algorithm,
    "snapshot": lambda storage: FilesystemMetadataStore(storage).at("now").read_metadata(Video).height,
    "retry": retry,
    "retry after a vacuum": lambda storage: (vacuumed(storage), retry(storage)),
    "compact": lambda storage: [done.rows for done in compact(FilesystemMetadataStore(storage), Video, full=True)],
    "vacuum": vacuumed,
    "copy": copied,
    "verify": lambda storage: verify(FilesystemMetadataStore(storage)).is_sound,
    "repair": lambda storage: [each.state for each in repair(storage, dry_run=False)],
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_wrong_answer_to_any_request_changes_nothing(operation: str) -> None:
    expected, place = OPERATIONS[operation](history()), 0
    while True:
        storage, wrong = history(), iter([False] * place + [True])
        storage.is_wrong = lambda _path, wrong=wrong: next(wrong, False)
        assert OPERATIONS[operation](storage) == expected, storage.asked
        storage.is_wrong = lambda _path: False
        assert verify(FilesystemMetadataStore(storage)).is_sound
        assert retry(storage) == 3
        if next(wrong, None) is not None:
            break
        place += 1
    assert place > 0


def history() -> Misled:
    """Make a root of two named writes and one without a name, two of which are compacted, and a snapshot."""
    storage = Misled()
    store = FilesystemMetadataStore(storage)
    store.write_metadata(Video, rows(1), write_id="first")
    store.write_metadata(Video, rows(2, 3))
    compact(store, full=True)
    store.write_metadata(Video, rows(4), write_id="second")
    store.create_snapshot("now", features=[Video])
    return storage


@pytest.mark.parametrize("part", ["appends/write-", "-0.parquet"])
def test_a_cache_does_not_keep_what_was_wrong(storage: Misled, part: str, tmp_path: Path) -> None:
    cached = CachedStorage(storage, DiskCache(tmp_path))
    storage.mislead(part, times=1)
    assert read(cached) == [1, 2, 3]
    storage.mislead(part, times=0)
    assert read(cached) == [1, 2, 3]
    assert storage.asked == []


@pytest.mark.parametrize("part", ["appends/write-", "-0.parquet"])
def test_a_cache_that_has_kept_what_was_wrong_is_asked_past(storage: Misled, part: str, tmp_path: Path) -> None:
    cached = CachedStorage(storage, DiskCache(tmp_path))
    storage.mislead(part, times=100)
    with pytest.raises(CorruptObjectError):
        read(cached)
    storage.mislead(part, times=0)
    assert read(cached) == [1, 2, 3]
