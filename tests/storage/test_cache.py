"""Bytes that were fetched once are found again, whole or not at all."""

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.storage import MemoryStorage, ObjectInfo, ObjectRange, Storage, open_storage
from metaxy_fs.storage.cache import CachedStorage, DiskCache
from tests.servers import ObjectServer
from tests.servers.s3 import obstore_of


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


def entries(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_what_was_put_is_found_by_its_key_alone(cache: DiskCache) -> None:
    cache.put("a", b"1")
    cache.put("b", b"")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"1", b"", None)


@pytest.mark.parametrize("place", [0, 3, 4, -1])
def test_an_altered_entry_is_none(cache: DiskCache, tmp_path: Path, place: int) -> None:
    cache.put("a", b"12345")
    [entry] = entries(tmp_path)
    data = bytearray(entry.read_bytes())
    data[place] ^= 1
    entry.write_bytes(data)
    assert cache.get("a") is None
    assert entries(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8])
def test_a_short_entry_is_none(cache: DiskCache, tmp_path: Path, size: int) -> None:
    cache.put("a", b"12345")
    [entry] = entries(tmp_path)
    entry.write_bytes(entry.read_bytes()[:size])
    assert cache.get("a") is None


def test_what_was_not_used_for_the_longest_time_gives_way(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", max_bytes=100_000)
    for number in range(40):
        cache.put(str(number), b"x" * 8_000)
        for age, path in enumerate(sorted(entries(tmp_path), key=lambda path: path.stat().st_mtime)):
            os.utime(path, (age, age))  # some disks note times in seconds
        assert cache.get("0") is not None
        assert sum(path.stat().st_blocks * 512 for path in entries(tmp_path)) <= 100_000 * 1.2
    assert cache.get("39") is not None
    assert cache.get("20") is None


def test_what_another_process_has_put_counts(tmp_path: Path) -> None:
    for number in range(40):
        DiskCache(tmp_path / "cache", max_bytes=100_000).put(str(number), b"x" * 8_000)
    assert sum(path.stat().st_blocks * 512 for path in entries(tmp_path)) <= 100_000


def test_an_entry_of_more_than_a_quarter_is_not_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", max_bytes=1_000)
    cache.put("a", b"x" * 251)
    assert cache.get("a") is None


def test_what_a_dead_process_has_left_goes(tmp_path: Path) -> None:
    DiskCache(tmp_path / "cache").put("a", b"1")
    [entry] = entries(tmp_path)
    for name, time in (("dead.new", 0), ("alive.new", entry.stat().st_mtime)):
        entry.with_name(name).write_bytes(b"half")
        os.utime(entry.with_name(name), (time, time))
    DiskCache(tmp_path / "cache").put("b", b"1")
    assert {path.name for path in entries(tmp_path) if path.suffix} == {"alive.new"}


def test_the_directory_is_private(cache: DiskCache, tmp_path: Path) -> None:
    cache.put("a", b"1")
    [directory] = (tmp_path / "cache").iterdir()
    assert directory.stat().st_mode & 0o077 == 0


def link_elsewhere(path: Path) -> None:
    path.rmdir()
    path.symlink_to(path.parent.parent)


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o755), link_elsewhere])
def test_a_directory_that_others_can_reach_is_refused(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    directory = tmp_path / "cache" / "metaxy_fs-cache-1"
    directory.mkdir(parents=True)
    spoil(directory)
    with pytest.raises(StorageError, match="this user alone"):
        DiskCache(tmp_path / "cache").get("a")


def stray_file(path: Path) -> None:
    (path / ".DS_Store").write_bytes(b"x")


def stray_directory(path: Path) -> None:
    (path / ".nfs0001" / "below" / "that").mkdir(parents=True)


def stray_file_among_entries(path: Path) -> None:
    next(each for each in path.iterdir() if each.is_dir()).joinpath(".DS_Store").write_bytes(b"x" * 200_000)


def directory_in_the_place_of_an_entry(path: Path) -> None:
    (path / "00" / ("0" * 62)).mkdir(parents=True)
    os.utime(path / "00" / ("0" * 62), (1, 1))


STRAY = [stray_file, stray_directory, stray_file_among_entries, directory_in_the_place_of_an_entry]


@pytest.mark.parametrize("spoil", STRAY)
def test_what_others_put_into_a_cache_does_not_end_eviction(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    cache = DiskCache(tmp_path / "cache", max_bytes=100_000)
    cache.put("first", b"x")
    spoil(tmp_path / "cache" / "metaxy_fs-cache-1")
    foreign = {path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".")}
    for number in range(40):
        cache.put(str(number), b"x" * 8_000)

    kept = [path for path in entries(tmp_path) if path not in foreign]
    assert sum(path.stat().st_blocks * 512 for path in kept) <= 100_000 * 1.2
    assert cache.get("39") is not None
    assert all(path.exists() for path in foreign)


def test_a_cache_that_another_user_could_exchange_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(StorageError, match="below your home directory"):
        DiskCache(tmp_path / "shared").get("a")
    (tmp_path / "home").mkdir()
    cache = DiskCache(tmp_path / "home" / "cache")
    cache.put("a", b"1")
    assert cache.get("a") == b"1"


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match="cannot keep a cache"):
        DiskCache(tmp_path / "cache").get("a")


def test_a_disk_that_takes_nothing_fails_no_read(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    cache.put("a", b"1")
    monkeypatch.setattr(Path, "replace", full)
    cache.put("b", b"1")
    assert (cache.get("a"), cache.get("b")) == (b"1", None)


def test_a_cache_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache_bytes"):
        DiskCache(tmp_path, max_bytes=0)


class CountingStorage(MemoryStorage):
    """Notes what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[ObjectInfo | ObjectRange] = []

    def get_many(self, objects: Sequence[ObjectInfo]) -> list[bytes]:
        self.fetched += objects
        return super().get_many(objects)

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes]:
        self.fetched += ranges
        return super().get_ranges(ranges)


def test_objects_and_parts_are_fetched_once(cache: DiskCache) -> None:
    inner = CountingStorage()
    for name in "abc":
        inner.put(name, name.encode() * 3)
    storage = CachedStorage(inner, cache)
    a, b, c = (ObjectInfo(name, 3) for name in "abc")
    assert storage.get_many([a, b]) == [b"aaa", b"bbb"]
    assert storage.get_many([c, b, a, c]) == [b"ccc", b"bbb", b"aaa", b"ccc"]
    for _ in range(2):
        assert storage.get_ranges([ObjectRange("a", 0, 2), ObjectRange("a", 1, 2)]) == [b"aa", b"a"]
    assert inner.fetched == [a, b, c, ObjectRange("a", 0, 2), ObjectRange("a", 1, 2)]


def test_an_object_that_was_written_at_another_time_is_another(cache: DiskCache) -> None:
    inner = MemoryStorage()
    storage = CachedStorage(inner, cache)
    for data in (b"1", b"2"):
        inner.put("a", data)
        assert storage.get_many(inner.list("")) == [data]
        inner.delete("a")


class ElsewhereStorage(MemoryStorage):
    """Another root, which agrees with the first one in all that a listing tells."""

    @property
    def identity(self) -> str:
        return "elsewhere"


def test_an_object_of_another_root_is_another(cache: DiskCache) -> None:
    for inner, data in ((MemoryStorage(), b"here"), (ElsewhereStorage(), b"away")):
        inner.put("a", data)
        storage = CachedStorage(inner, cache)
        assert storage.get_many([ObjectInfo("a", 4)]) == [data]
        assert storage.get_ranges([ObjectRange("a", 0, 2)]) == [data[:2]]


@pytest.fixture(params=["s3fs", "gcsfs", "obstore"])
def remote(request: pytest.FixtureRequest) -> Storage:
    """A root of a service, through each client."""
    kind = "gcs" if request.param == "gcsfs" else "s3"
    server: ObjectServer = request.getfixturevalue(f"{kind}_server")
    bucket = request.getfixturevalue(f"{kind}_bucket")
    if request.param == "obstore":
        return open_storage(f"{bucket}/root", filesystem=obstore_of(server))
    return open_storage(server.url(bucket, "root"), storage_options=server.storage_options)


def test_an_object_that_was_written_anew_is_another_whatever_the_time(remote: Storage, cache: DiskCache) -> None:
    storage = CachedStorage(remote, cache)
    for data in (b"first", b"other"):
        storage.put("a", data)
        [found] = storage.list("")
        assert found.tag
        # As within one tick of the clock of the service.
        assert storage.get_many([msgspec.structs.replace(found, modified=None)]) == [data]
        storage.delete("a")


def test_roots_of_one_name_on_two_services_are_two() -> None:
    options = [{"endpoint_url": f"http://127.0.0.1:{port}", "secret": "hunter2"} for port in (1, 2)]
    options += [{"client_kwargs": {"endpoint_url": "http://127.0.0.1:3"}}, {}]
    identities = [open_storage("s3://bucket/root", storage_options=each).identity for each in options]
    assert len(set(identities)) == 4
    assert not any("hunter2" in identity for identity in identities)


def test_a_cache_travels_to_other_processes(cache: DiskCache) -> None:
    cache.put("a", b"1")
    assert pickle.loads(pickle.dumps(cache)).get("a") == b"1"  # noqa: S301  # its own bytes
