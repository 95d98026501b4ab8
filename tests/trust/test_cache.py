"""A cache on this machine saves requests, and changes nothing else."""

import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from obstore.fsspec import FsspecStore

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    open_store,
    vacuum,
    verify,
)
from metaxy_fs.errors import FeatureNotFoundError
from metaxy_fs.log import parquet
from metaxy_fs.storage.cache import DiskCache
from tests.servers.s3 import S3Server, obstore_of

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """What all of these tests write."""


def frame(*ids: int) -> pl.DataFrame:
    versions = pl.struct(pl.format("v{}", "sample_id").alias("default")).alias("data_version")
    return pl.DataFrame({"sample_id": list(ids)}, schema={"sample_id": pl.Int64}).with_columns(versions)


Opener = Callable[[], FilesystemMetadataStore]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def filesystem(s3_server: S3Server) -> FsspecStore:
    return obstore_of(s3_server)


@pytest.fixture
def uncached(filesystem: FsspecStore, s3_bucket: str) -> FilesystemMetadataStore:
    return FilesystemMetadataStore(f"{s3_bucket}/root", filesystem=filesystem)


@pytest.fixture
def opened(filesystem: FsspecStore, s3_bucket: str, directory: Path) -> Opener:
    """Opens a store each time that has learnt nothing yet, and shares the cache with the others."""
    return lambda: FilesystemMetadataStore(f"{s3_bucket}/root", filesystem=filesystem, cache_dir=directory)


def entries(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_second_read_costs_the_listing(s3_server: S3Server, opened: Opener) -> None:
    for number in range(5):
        opened().write_metadata(Video, frame(number))
    first = opened().read_metadata(Video)
    s3_server.clear_requests()
    assert opened().read_metadata(Video).equals(first)
    assert s3_server.kinds() == ["LIST"]


def test_a_second_read_of_parts_costs_the_listing(
    s3_server: S3Server, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    opened().write_metadata(Video, frame(*range(100)))
    wanted = {"columns": ["sample_id"], "filters": pl.col("sample_id") > 70}
    first = opened().read_metadata(Video, **wanted)
    assert first["sample_id"].to_list() == list(range(71, 100))
    s3_server.clear_requests()
    assert opened().read_metadata(Video, **wanted).equals(first)
    assert s3_server.kinds() == ["LIST"]


def test_what_others_write_meanwhile_is_read(
    s3_server: S3Server, opened: Opener, uncached: FilesystemMetadataStore
) -> None:
    opened().write_metadata(Video, frame(1))
    opened().read_metadata(Video)
    uncached.write_metadata(Video, frame(2))
    s3_server.clear_requests()
    assert opened().read_metadata(Video)["sample_id"].to_list() == [1, 2]
    assert s3_server.kinds() == ["LIST", "GET", "GET"]


def test_what_is_gone_from_the_root_is_gone(opened: Opener, uncached: FilesystemMetadataStore) -> None:
    opened().write_metadata(Video, frame(1))
    opened().read_metadata(Video)
    for info in uncached.storage.list(""):
        uncached.storage.delete(info.path)
    with pytest.raises(FeatureNotFoundError):
        opened().read_metadata(Video)


def test_a_root_that_was_made_anew_is_read_anew(opened: Opener, uncached: FilesystemMetadataStore) -> None:
    """The job that writes it has one `write_id`, so its manifest has the same name and the same size."""
    opened().write_metadata(Video, frame(1), write_id="job")
    opened().read_metadata(Video)
    for info in uncached.storage.list(""):
        uncached.storage.delete(info.path)
    time.sleep(1.1)  # S3 tells in seconds when an object was written
    opened().write_metadata(Video, frame(2), write_id="job")
    assert opened().read_metadata(Video)["sample_id"].to_list() == [2]


def test_what_was_compacted_and_vacuumed_is_read_as_before(opened: Opener, uncached: FilesystemMetadataStore) -> None:
    for number in range(3):
        opened().write_metadata(Video, frame(number, number + 1))
    first = opened().read_metadata(Video)
    compact(uncached, Video, full=True)
    for _ in range(2):
        vacuum(uncached, grace=timedelta(0), retention=timedelta(0), unsafe=True, dry_run=False)
    left = [info.path for info in uncached.storage.list("") if info.path.endswith((".parquet", ".table"))]
    assert [Path(path).suffix for path in sorted(left)] == [".parquet", ".table"]
    assert opened().read_metadata(Video).equals(first)
    assert uncached.read_metadata(Video).equals(first)


def test_maintenance_looks_at_the_root_itself(opened: Opener, uncached: FilesystemMetadataStore) -> None:
    opened().write_metadata(Video, frame(1))
    opened().read_metadata(Video)
    assert verify(opened()).findings == ()
    [file] = [info.path for info in uncached.storage.list("") if info.path.endswith(".parquet")]
    uncached.storage.delete(file)
    assert [finding.path for finding in verify(opened()).findings] == [file]


def test_an_altered_entry_is_fetched_again(s3_server: S3Server, opened: Opener, directory: Path) -> None:
    opened().write_metadata(Video, frame(1, 2, 3))
    first = opened().read_metadata(Video)
    dice = random.Random(1)  # noqa: S311  # dice, not secrets
    for entry in entries(directory) * 5:
        data = bytearray(entry.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        entry.write_bytes(data)
        s3_server.clear_requests()
        assert opened().read_metadata(Video).equals(first)
        assert s3_server.kinds() == ["LIST", "GET"]


def test_names_in_the_cache_tell_no_credential(s3_server: S3Server, opened: Opener, directory: Path) -> None:
    opened().write_metadata(Video, frame(1))
    opened().read_metadata(Video)
    shown = " ".join(str(path.relative_to(directory)) for path in directory.rglob("*"))
    assert len(entries(directory)) == 2
    assert not any(secret in shown for secret in ("test", "root", "video"))
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def content(key: int) -> bytes:
    """What all processes take for the content of an object."""
    return bytes([key]) * (1_000 + 100 * key)


def use(directory: Path, seed: int, rounds: int) -> bool:
    """Ask for entries, and put those that are missing, as a reader does; return whether each was right."""
    dice = random.Random(seed)  # noqa: S311  # dice, not secrets
    cache, is_right = DiskCache(directory, max_bytes=SMALL), True
    for _ in range(rounds):
        key = dice.randrange(40)
        found = cache.get(str(key))
        is_right &= found in (None, content(key))
        if found is None:
            cache.put(str(key), content(key))
    return is_right


SMALL = 80_000
"""Half of what all entries come to."""


def forked(work: Callable[[], bool]) -> int:
    """Do some work in a process of its own, which exits with 0 if the answer is yes."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = int(not work())
        finally:
            os._exit(code)
    return pid


def test_processes_share_a_cache_that_is_too_small_for_them(directory: Path, *, soak: bool) -> None:
    """Each evicts what the others need, and none finds anything but what was put."""
    rounds = 20_000 if soak else 300
    workers = [forked(lambda seed=seed: use(directory, seed, rounds)) for seed in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 4
    DiskCache(directory, max_bytes=SMALL).put("last", b"")
    assert sum(path.stat().st_blocks * 512 for path in entries(directory)) <= SMALL + 4_096


def test_a_killed_process_leaves_a_cache_that_others_use(directory: Path, *, soak: bool) -> None:
    dice = random.Random(2)  # noqa: S311  # dice, not secrets
    for seed in range(500 if soak else 10):
        victim = forked(lambda seed=seed: use(directory, seed, 10**9))
        time.sleep(dice.random() / 50)
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        assert use(directory, seed, 100)


def test_every_remote_root_of_a_chain_is_cached(directory: Path, tmp_path: Path) -> None:
    roots = [f"memory://{uuid.uuid4().hex}/{name}" for name in ("staging", "production")]
    for count, root in enumerate(reversed(roots), start=1):
        FilesystemMetadataStore(root).write_metadata(Video, frame(1))
        store = open_store(tmp_path / "dev", *roots, cache_dir=directory)
        assert store.read_metadata(Video).height == 1
        assert len(entries(directory)) == 2 * count


def test_a_local_root_is_not_cached(directory: Path, tmp_path: Path) -> None:
    store = FilesystemMetadataStore(tmp_path / "root", cache_dir=directory)
    store.write_metadata(Video, frame(1))
    assert store.read_metadata(Video).height == 1
    assert entries(directory) == []
