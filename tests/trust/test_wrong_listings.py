"""Listings that are wrong: in another order, with names twice, or without some of them.

A listing has no checksum. One that shows too much changes nothing. What one leaves out is not seen in it, as if it were
not there, and is seen in the next.
"""

import builtins
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from metaxy_fs import (
    CorruptObjectError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    vacuum,
    verify,
)
from metaxy_fs.storage import MemoryStorage, ObjectInfo
from tests.support.storages import StorageClock

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        pass


Change = Callable[[list[ObjectInfo]], list[ObjectInfo]]


class Listing(MemoryStorage):
    """A storage whose listings can be changed on their way."""

    def __init__(self) -> None:
        self.clock = StorageClock(datetime.now(UTC))  # that of writers is not far ahead of it
        super().__init__(wall=self.clock)
        self.change: Change = lambda infos: infos

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        return self.change(super().list(directory))[:limit]

    def without(self, path: str) -> None:
        """Leave an object out of all listings from now on."""
        self.change = lambda infos: [info for info in infos if info.path != path]

    def paths(self) -> builtins.list[str]:
        return [info.path for info in super().list("")]


def made() -> Listing:
    """Make a root of four writes, of which two are compacted, and then three, and nothing has been deleted."""
    storage = Listing()
    store = FilesystemMetadataStore(storage)
    for number in range(2):
        store.write_metadata(Video, frame(number), write_id=f"{number}")
    compact(store, full=True)
    store.write_metadata(Video, frame(2))
    compact(store, full=True)
    store.write_metadata(Video, frame(3))
    return storage


@pytest.fixture
def storage() -> Listing:
    return made()


def frame(number: int) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": [number], "data_version": [{"default": f"v{number}"}]})


def read(storage: Listing) -> list[int]:
    return FilesystemMetadataStore(storage).read_metadata(Video)["sample_id"].to_list()


def tidied(storage: Listing) -> None:
    vacuum(FilesystemMetadataStore(storage), dry_run=False)


@pytest.mark.parametrize(
    "change",
    [lambda infos: infos[::-1], lambda infos: infos * 2, lambda infos: infos[2:] + infos],
    ids=["reversed", "twice", "in pages that overlap"],
)
def test_order_and_repetitions_change_nothing(storage: Listing, change: Change) -> None:
    storage.change = change
    assert read(storage) == [0, 1, 2, 3]
    assert FilesystemMetadataStore(storage).history(Video).height == 4
    assert verify(FilesystemMetadataStore(storage)).is_sound
    for _ in range(3):
        tidied(storage)
        storage.clock.now += timedelta(days=9)
    assert read(storage) == [0, 1, 2, 3]
    assert verify(FilesystemMetadataStore(storage)).findings == ()


def test_what_a_listing_leaves_out_is_missing_from_that_read_alone(storage: Listing) -> None:
    store = FilesystemMetadataStore(storage)
    for path in storage.paths():
        storage.without(path)
        found = store.read_metadata(Video)["sample_id"].to_list()
        assert found == ([0, 1, 2] if is_last_append(storage, path) else [0, 1, 2, 3])
        storage.change = lambda infos: infos
        assert store.read_metadata(Video)["sample_id"].to_list() == [0, 1, 2, 3]


def test_an_empty_listing_is_an_empty_root(storage: Listing) -> None:
    storage.change = lambda _infos: []
    with pytest.raises(FeatureNotFoundError):
        read(storage)


def test_a_snapshot_tells_that_a_listing_has_left_something_out(storage: Listing) -> None:
    store = FilesystemMetadataStore(storage)
    store.create_snapshot("now", features=[Video])
    storage.without(next(path for path in storage.paths() if is_last_append(storage, path)))
    with pytest.raises(CorruptObjectError, match="are gone"):
        store.at("now").read_metadata(Video)


@pytest.mark.parametrize("vacuums", [0, 1, 2])
def test_a_vacuum_that_is_shown_less_deletes_nothing_that_is_needed(vacuums: int) -> None:
    for place in range(len(made().paths())):
        storage = made()
        for _ in range(vacuums):
            storage.clock.now += timedelta(days=30)
            tidied(storage)
        hidden = [*storage.paths(), "gone by now"][min(place, len(storage.paths()))]
        for is_wrong in (True, False, True, False, False):
            storage.clock.now += timedelta(days=30)
            storage.change = lambda infos: infos
            if is_wrong:
                storage.without(hidden)
            tidied(storage)
        assert read(storage) == [0, 1, 2, 3]
        assert verify(FilesystemMetadataStore(storage)).findings == ()


def is_last_append(storage: Listing, path: str) -> bool:
    """Whether a path is that of the one write that no compaction covers."""
    return "/appends/" in path and path == max(each for each in storage.paths() if "/appends/2" in each)
