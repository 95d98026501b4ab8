"""A proof that no sample repeats is never wrong, and found where it can be."""

from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.ids import LamportClock
from metaxy_fs.log.commit import commit
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.ranges import distinct_groups
from metaxy_fs.log.statistics import ColumnStatistics
from metaxy_fs.log.view import files_of, live_files
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, may_repeat, request, write
from tests.log.compactions import put_compaction, view_of

IDS = st.one_of(
    st.lists(st.lists(st.integers(0, 30), max_size=5, unique=True), max_size=4),
    st.lists(st.lists(st.text(st.sampled_from("ab\U0001f600"), max_size=70), max_size=4, unique=True), max_size=4),
    st.lists(st.lists(st.binary(max_size=2), max_size=3, unique=True), max_size=3),
)


def written(ids: list[Any], dtype: Any = None) -> Any:
    versions = pl.struct(pl.lit("v").alias("frames")).alias("data_version")
    frame = pl.DataFrame({"sample_id": ids}, schema={"sample_id": dtype} if dtype else None).with_columns(versions)
    return commit(MemoryStorage(), request(frame.sort("sample_id")), clock=LamportClock())


def files_may_repeat(manifests: list[Manifest]) -> bool:
    return may_repeat([live for manifest in manifests for live in files_of(PARTITION, manifest)])


@given(writes=IDS)
def test_a_sample_that_repeats_is_never_proven_not_to(writes: list[list[Any]]) -> None:
    everything = [sample for ids in writes for sample in ids]
    if len(set(everything)) < len(everything):
        assert files_may_repeat([written(ids) for ids in writes])


@pytest.mark.parametrize(
    "writes",
    [[[1, 2, 3]], [[4, 5], [1, 3], []], [["a", "b"], ["c"]], [[], []], [[2**62], [2**62 + 1]]],
)
def test_appends_of_new_samples_are_proven(writes: list[list[Any]]) -> None:
    assert not files_may_repeat([written(ids) for ids in writes])


@pytest.mark.parametrize(
    "writes", [[[1, 3], [2, 4]], [[1, 2], [2]], [["a" * 1_100], ["a" * 1_100 + "b"]], [[b"a"], [b"b"]]]
)
def test_what_is_not_known_may_repeat(writes: list[list[Any]]) -> None:
    assert files_may_repeat([written(ids) for ids in writes])


def test_ids_of_two_types_may_repeat() -> None:
    assert files_may_repeat([written([1], pl.Int32), written([2], pl.Int64)])


def test_samples_that_are_named_otherwise_may_repeat() -> None:
    other = msgspec.structs.replace(write(MemoryStorage(), 7), id_columns=("data_version",))
    assert files_may_repeat([write(MemoryStorage(), 1), other])


def test_bounds_of_a_stranger_that_do_not_compare_may_repeat() -> None:
    honest = write(MemoryStorage(), 1)
    lie = ColumnStatistics(("sample_id",), 0, "a", "b")
    other = write(MemoryStorage(), 2)
    forged = msgspec.structs.replace(other, files=(msgspec.structs.replace(other.files[0], statistics=(lie,)),))
    assert files_may_repeat([honest, forged])


@given(writes=st.lists(st.lists(st.integers(0, 30), max_size=4, unique=True), max_size=7))
def test_groups_are_consecutive_and_distinct_as_they_say(writes: list[list[int]]) -> None:
    storage, clock = MemoryStorage(), LamportClock()
    for ids in writes:
        write(storage, *sorted(ids), clock=clock)
    files = live_files([view_of(storage)]) if writes else []
    groups = distinct_groups(files)
    assert [live for group, _ in groups for live in group] == [live for live in files if live.file.rows] or not any(
        writes
    )
    held = {live.first: ids for live, ids in zip(files, writes, strict=True)}
    for group, is_distinct in groups:
        samples = [sample for live in group for sample in held[live.first]]
        assert is_distinct
        assert len(set(samples)) == len(samples)


def test_a_rewrite_begins_a_group_and_later_appends_stay_in_it() -> None:
    storage, clock = MemoryStorage(), LamportClock()
    for ids in ([1, 2], [3, 4], [2, 3], [5, 6], [2]):
        write(storage, *ids, clock=clock)
    groups = distinct_groups(live_files([view_of(storage)]))
    assert [[live.file.statistics[0].min for live in group] for group, _ in groups] == [[1, 3], [2, 5], [2]]


def test_a_history_that_begins_with_a_file_of_repeated_samples_is_one_group() -> None:
    storage = MemoryStorage()
    put_compaction(storage, [write(storage, 1, 2), write(storage, 2, 3)])
    [(files, is_distinct)] = distinct_groups(view_of(storage).files)
    assert (len(files), is_distinct) == (1, False)
