"""What a distant root is asked at once, so that many partitions and many threads cost little more than one."""

import builtins
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest

from metaxy_fs import (
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
)
from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.storage.memory import MemoryStorage
from tests.support.patience import PATIENCE

VERSIONS = 50
THREADS = 8


class DistantStorage(MemoryStorage):
    """A service some way off. Requests of a kind that is to meet wait until so many of them are under way at once."""

    is_remote = True

    def __init__(self) -> None:
        super().__init__()
        self.meetings: dict[str, threading.Barrier] = {}
        self._is_met: Callable[[str], bool] = lambda _path: True
        self._waited: Counter[str] = Counter()
        self._counting = threading.Lock()

    def meet(self, *kinds: str, count: int, where: Callable[[str], bool] = lambda _path: True) -> None:
        """Let the first requests of these kinds for some paths wait for each other; one that waits in vain fails."""
        self._waited.clear()
        self.meetings = {kind: threading.Barrier(count, timeout=PATIENCE) for kind in kinds}
        self._is_met = where

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        self._meet("list", directory)
        return super().list(directory, limit=limit)

    def get_optional(self, paths: Sequence[str], *, max_bytes: int) -> builtins.list[bytes | None]:
        self._meet("find", paths[0])
        return super().get_optional(paths, max_bytes=max_bytes)

    def put(self, path: str, data: bytes) -> None:
        self._meet("put data" if path.endswith(".parquet") else "put", path)
        super().put(path, data)

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        for ending, kind in {".json": "get manifests", ".table": "get tables"}.items():
            if objects and objects[0].path.endswith(ending):
                self._meet(kind, objects[0].path)
        return super().get_many(objects)

    def _meet(self, kind: str, path: str) -> None:
        with self._counting:
            is_met = kind in self.meetings and self._is_met(path) and self._waited[kind] < self.meetings[kind].parties
            self._waited[kind] += is_met
        if is_met:
            self.meetings[kind].wait()


def declare_both(code_version: int, name: str = "crop") -> tuple[type[Feature], type[Feature]]:
    """A root feature, and one that is made from it."""
    with FeatureGraph().use():

        class Clip(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]))):
            pass

        class Made(
            Feature,
            spec=FeatureSpec(
                key=FeatureKey([name]),
                deps=[FeatureDep(key=Clip.spec.key)],
                containers=[ContainerSpec(code_version=code_version)],
            ),
        ):
            pass

    return Clip, Made


def declare(code_version: int, name: str = "crop") -> type[Feature]:
    return declare_both(code_version, name)[1]


def frame(*ids: int) -> pl.DataFrame:
    versions = pl.struct(pl.format("v{}", "sample_id").alias("default")).alias("data_version")
    return pl.DataFrame({"sample_id": list(ids)}).with_columns(versions)


@pytest.fixture
def storage() -> DistantStorage:
    """A root of one feature that has seen many code versions."""
    storage = DistantStorage()
    store = FilesystemMetadataStore(storage)
    for code_version in range(VERSIONS):
        store.write_metadata(declare(code_version), frame(code_version))
    return storage


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.read_metadata(declare(0), versions="all").height,
        lambda store: store.history(declare(0)).height,
    ],
)
def test_partitions_are_listed_and_got_at_once(
    storage: DistantStorage, read: Callable[[FilesystemMetadataStore], int]
) -> None:
    storage.meet("list", "get manifests", count=VERSIONS)
    assert read(FilesystemMetadataStore(storage)) == VERSIONS


def test_an_increment_asks_the_other_partitions_at_once(storage: DistantStorage) -> None:
    clip, current = declare_both(0)
    FilesystemMetadataStore(storage).write_metadata(clip, frame(*range(VERSIONS)))
    [commit] = FilesystemMetadataStore(storage).read_metadata(current, with_commits=True)["commit"].to_list()
    [own] = {info.path.rpartition("/")[0] for info in storage.list("crop") if f"/{commit}-" in info.path}
    is_other = lambda path: path.startswith("crop/") and not path.startswith(own)  # noqa: E731  # reads best in place
    storage.meet("list", "get manifests", count=VERSIONS - 1, where=is_other)
    # Its sample 0 is done; all others have a row under some other code version.
    counts = FilesystemMetadataStore(storage).resolve_update(current).counts
    assert counts.stale == VERSIONS
    assert counts.new == 0


def test_the_features_of_a_root_and_their_partitions_are_listed_at_once() -> None:
    storage = DistantStorage()
    store = FilesystemMetadataStore(storage)
    features = [declare(code_version, f"feature{code_version % 10}") for code_version in range(VERSIONS)]
    for feature in features:
        store.write_metadata(feature, frame(1))
    storage.meet("list", count=VERSIONS)
    assert len(FilesystemMetadataStore(storage).list_features()) == 10


def test_tables_of_commits_are_got_at_once(storage: DistantStorage) -> None:
    store = FilesystemMetadataStore(storage)
    for code_version in range(VERSIONS):
        store.write_metadata(declare(code_version), frame(VERSIONS + code_version))
    compact(store, full=True)
    storage.meet("get tables", count=VERSIONS)
    assert FilesystemMetadataStore(storage).history(declare(0)).height == 2 * VERSIONS


def test_a_moment_asks_its_partitions_at_once(storage: DistantStorage) -> None:
    store = FilesystemMetadataStore(storage)
    store.create_snapshot("all")
    then = store.at("all")
    storage.meet("list", count=VERSIONS)
    assert then.read_metadata(declare(0), versions="all").height == VERSIONS


def test_first_writes_of_threads_to_several_features_do_not_wait_for_each_other() -> None:
    storage = DistantStorage()
    store = FilesystemMetadataStore(storage)
    features = [declare(0, f"feature{number}") for number in range(THREADS)]
    storage.meet("find", "put data", count=THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(store.write_metadata, feature, frame(1)) for feature in features]:
            done.result()
    assert len(store.list_features()) == THREADS


def test_threads_ask_for_the_hash_algorithm_at_once() -> None:
    storage = DistantStorage()
    store = FilesystemMetadataStore(storage)
    storage.meet("find", count=THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        asked: list[Any] = [pool.submit(lambda: store.hash_algorithm) for _ in range(THREADS)]
        assert {each.result() for each in asked} == {"sha256"}


def test_first_writes_of_threads_to_one_partition_agree_on_it_once() -> None:
    storage = DistantStorage()
    store = FilesystemMetadataStore(storage)
    feature = declare(0)
    found: list[Sequence[str]] = []
    get_optional = storage.get_optional

    def counted(paths: Sequence[str], *, max_bytes: int) -> list[bytes | None]:
        found.append(paths)
        return get_optional(paths, max_bytes=max_bytes)

    storage.get_optional = counted  # type: ignore[method-assign]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: store.write_metadata(feature, frame(number)), range(THREADS)))
    assert len(found) == 1
    assert store.read_metadata(feature).height == THREADS
