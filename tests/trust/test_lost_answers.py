"""Every put of the library outlives the loss of its answer, in each operation."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import polars as pl
import pytest

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    copy_metadata,
    vacuum,
)
from metaxy_fs.ids import driven_by
from metaxy_fs.storage import MemoryStorage, Storage
from metaxy_fs.testing import Fault, Faults, FaultyStorage
from tests.support.patience import Hurried

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        pass


class Operation(NamedTuple):
    """Something that puts objects: what has to be there before, what is done, and what of it can be seen."""

    prepare: Callable[[Storage], object]
    run: Callable[[Storage], object]
    rows: int
    commits: int
    snapshots: int = 0


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    with driven_by(Hurried()):
        yield


def write(storage: Storage, *ids: int, write_id: str | None = None) -> None:
    rows = pl.DataFrame({"sample_id": ids, "data_version": [{"default": "v"}] * len(ids)})
    FilesystemMetadataStore(storage).write_metadata(Video, rows, write_id=write_id)


def write_some(storage: Storage) -> None:
    for number in range(3):
        write(storage, number, write_id=None if number else "first")


def write_and_compact(storage: Storage) -> None:
    write_some(storage)
    merge(storage)


def merge(storage: Storage) -> None:
    assert compact(FilesystemMetadataStore(storage), full=True)


def copy(storage: Storage) -> None:
    source = MemoryStorage()
    write_and_compact(source)
    write(source, 3, write_id="second")
    copy_metadata(Video, source=FilesystemMetadataStore(source), target=FilesystemMetadataStore(storage))


def vacuum_all(storage: Storage) -> None:
    no_time = timedelta()
    done = vacuum(FilesystemMetadataStore(storage), dry_run=False, grace=no_time, retention=no_time, unsafe=True)
    assert any("_manifests/appends" in removal.path for removal in done.removals)


OPERATIONS = {
    "write": Operation(lambda storage: None, lambda storage: write(storage, 1, 2), rows=2, commits=1),
    "named write": Operation(
        lambda storage: None, lambda storage: write(storage, 1, 2, write_id="a"), rows=2, commits=1
    ),
    "named write again": Operation(
        lambda storage: write(storage, 1, write_id="a"),
        lambda storage: write(storage, 1, write_id="a"),
        rows=1,
        commits=1,
    ),
    "snapshot": Operation(
        write_some,
        lambda storage: FilesystemMetadataStore(storage).create_snapshot("now", features=[Video]),
        rows=3,
        commits=3,
        snapshots=1,
    ),
    "compaction": Operation(write_some, merge, rows=3, commits=3),
    "vacuum": Operation(write_and_compact, vacuum_all, rows=3, commits=3),
    "copy": Operation(lambda storage: None, copy, rows=4, commits=4),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.REPEATED])
def test_put_whose_answer_is_lost_has_happened_once(name: str, fault: Fault) -> None:
    operation = OPERATIONS[name]
    puts = puts_of(operation)
    assert puts > 0
    for place in range(puts):
        inner = MemoryStorage()
        operation.prepare(inner)
        faulty = FaultyStorage(inner, at_put(place, fault))

        operation.run(faulty)

        assert [met.fault for met in faulty.met] == [fault]
        store = FilesystemMetadataStore(inner)
        assert store.read_metadata(Video).height == operation.rows
        assert store.history(Video).height == operation.commits
        assert store.list_snapshots().height == operation.snapshots


def at_put(place: int, fault: Fault) -> Faults:
    remaining = iter([*[None] * place, fault])
    return lambda verb, path: next(remaining, None) if verb == "put" else None


def puts_of(operation: Operation) -> int:
    inner, puts = MemoryStorage(), []
    operation.prepare(inner)
    operation.run(FaultyStorage(inner, lambda verb, path: puts.append(path) if verb == "put" else None))
    return len(puts)
