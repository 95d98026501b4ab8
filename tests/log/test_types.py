"""Writers that begin at once agree on types all the same."""

import json

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.log import Log
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows
from tests.log.faulty import FaultyStorage


def write(storage: Storage, sample: int, **columns: object) -> None:
    frame = rows(sample).with_columns(pl.lit(value).alias(name) for name, value in columns.items())
    Log(storage, clock=LamportClock()).append(request(frame), spec=b"{}")


def written(storage: Storage) -> int:
    view = Log(storage, clock=LamportClock()).view(PARTITION)
    return 0 if view is None else len(view.commits)


def types(storage: Storage) -> list[object]:
    infos = storage.list(f"{PARTITION}/_types")
    return [json.loads(storage.get(info.path))["columns"] for info in sorted(infos, key=lambda info: info.path)]


def overtaken(storage: Storage, path: str, **columns: object) -> FaultyStorage:
    """A storage on which another writer puts an object just before this one does."""
    is_done = []

    def fault(verb: str, name: str) -> None:
        if verb == "put" and name == path and not is_done:
            is_done.append(True)
            write(storage, 2, **columns)

    return FaultyStorage(storage, fault)


@pytest.mark.parametrize("path", [PARTITION.definition_file, PARTITION.types_file(1)])
def test_the_slower_of_two_writers_refuses_its_own_type(path: str) -> None:
    storage = MemoryStorage()
    if path != PARTITION.definition_file:
        write(storage, 1)
    before = written(storage)
    with pytest.raises(MetadataSchemaError, match=r"'note'.*Int32.*String"):
        write(overtaken(storage, path, note="a"), 3, note=3)
    assert written(storage) == before + 1


def test_the_slower_of_two_writers_adds_what_the_faster_has_not() -> None:
    storage = MemoryStorage()
    write(storage, 1)
    write(overtaken(storage, PARTITION.types_file(1), note="a"), 3, note="b", size=0.5)
    assert types(storage) == [[["note", "string"]], [["size", "float64"]]]
    assert written(storage) == 3


@pytest.mark.parametrize(("other", "own"), [(0.5, 2**60), (2**60, 0.5)])
def test_the_slower_of_two_writers_refuses_integers_beside_floats(other: float, own: float) -> None:
    storage = MemoryStorage()
    write(storage, 1, size=1)
    with pytest.raises(MetadataSchemaError, match=r"'size'.*2\^53"):
        write(overtaken(storage, PARTITION.types_file(1), size=other), 3, size=own)
    assert written(storage) == 2


def test_what_is_settled_costs_no_request() -> None:
    storage = FaultyStorage(MemoryStorage())
    log = Log(storage, clock=LamportClock())
    log.append(request(rows(1).with_columns(size=0.5)), spec=b"{}")
    log.append(request(rows(2).with_columns(size=pl.lit(2, pl.Int64), nothing=None)), spec=b"{}")
    log.append(request(rows(3).with_columns(note=pl.lit("a"))), spec=b"{}")
    storage.requests.clear()
    log.append(request(rows(4).with_columns(note=pl.lit("b"), size=pl.lit(1, pl.Int8))), spec=b"{}")
    assert [verb for verb, _ in storage.requests] == ["put", "put"]
    assert types(storage) == [[["note", "string"]]]


def test_an_answer_that_is_lost_is_no_other_writer() -> None:
    storage = MemoryStorage()
    write(storage, 1)
    faulty = FaultyStorage(storage, lambda verb, path: "after" if verb == "put" and "/_types/" in path else None)
    write(faulty, 2, note="a")
    assert types(storage) == [[["note", "string"]]]
    assert written(storage) == 2


def test_rows_fit_what_others_have_agreed_on_in_a_process_that_begins() -> None:
    """A column without a value fits any, and ids are brought to the first type that is agreed on."""
    storage = MemoryStorage()
    empty = rows().with_columns(sample_id=pl.Series([], dtype=pl.Null))
    small = rows(1).with_columns(pl.col("sample_id").cast(pl.Int16), note=pl.lit("a"))
    for frame in (empty, small, rows(2).with_columns(note=pl.lit(1.5)).clear()):
        Log(storage, clock=LamportClock()).append(request(frame), spec=b"{}")
    assert types(storage) == [[["sample_id", "int16"], ["note", "string"]]]
    with pytest.raises(MetadataSchemaError, match=r"'sample_id'.* is Int16 .*does not hold 100000"):
        write(storage, 100_000)
    assert written(storage) == 3
