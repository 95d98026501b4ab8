"""Read, compare and verify partitions whose columns are in conflict, which only roots of earlier versions hold."""

import re
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from metaxy_fs import (
    CorruptObjectError,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    MetadataSchemaError,
    compact,
    verify,
)
from metaxy_fs.testing.store_cases import SAMPLE_ID, ids_of, pipeline, videos
from tests.support.older import forget_types


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of two writes that hold one column as texts and as numbers."""
    video, _ = pipeline()
    for sample, label in ((1, "a"), (2, 2)):
        FilesystemMetadataStore(tmp_path).write_metadata(video, videos([sample], label=[label]))
        forget_types(FilesystemMetadataStore(tmp_path).storage)
    return tmp_path


def test_a_read_names_the_column(root: Path) -> None:
    video, _ = pipeline()
    with pytest.raises(MetadataSchemaError, match=r"'label'.*String.*Int64"):
        FilesystemMetadataStore(root).read_metadata(video)


def test_other_columns_are_read(root: Path) -> None:
    video, _ = pipeline()
    store = FilesystemMetadataStore(root)
    assert ids_of(store.read_metadata(video, columns=[SAMPLE_ID], latest_only=True)) == [1, 2]


def test_increments_look_at_other_columns(root: Path) -> None:
    video, processed = pipeline()
    assert ids_of(FilesystemMetadataStore(root).resolve_update(processed).new) == [1, 2]
    assert not FilesystemMetadataStore(root).resolve_update(video, samples=videos([1, 2]))


def test_what_was_read_is_compared_where_nothing_was_agreed_on(root: Path) -> None:
    video, _ = pipeline()
    store = FilesystemMetadataStore(root)
    store.write_metadata(video, videos([3], score=[0.5]))
    assert store.read_metadata(video, columns=["score"]).schema["score"] == pl.Float64
    with pytest.raises(MetadataSchemaError, match="'score'"):
        store.write_metadata(video, videos([4], score=["high"]))


@pytest.mark.parametrize("is_compacted", [False, True])
def test_verify_names_the_column(root: Path, *, is_compacted: bool) -> None:
    store = FilesystemMetadataStore(root)
    if is_compacted:
        compact(store, full=True)
    found = verify(store)
    [error] = [finding for finding in found.findings if finding.severity == "error"]
    assert re.search(r"'label' as String in \S+ and as Int64 in \S+, and no type", error.problem)
    assert not found.is_sound


def test_verify_names_integers_that_no_float_holds(tmp_path: Path) -> None:
    video, _ = pipeline()
    store = FilesystemMetadataStore(tmp_path)
    for sample, size in enumerate([1, 0.5, 2**60]):
        FilesystemMetadataStore(tmp_path).write_metadata(video, videos([sample], size=[size]))
        forget_types(store.storage)
        if sample < 2:
            assert verify(store).is_sound
            assert store.read_metadata(video).height == sample + 1
    [error] = verify(store).findings
    assert "'size' as Int64" in error.problem
    with pytest.raises(MetadataSchemaError, match="'size'"):
        store.read_metadata(video)


def test_verify_names_types_that_writers_cannot_use(tmp_path: Path) -> None:
    video, _ = pipeline()
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(video, videos([1]))
    for name in ("a", "b", "c"):
        store.write_metadata(video, videos([2], {name: ["x"]}))
    assert verify(store).is_sound
    first, second, _ = sorted(tmp_path.glob("*/*/_types/*.json"))
    first.write_bytes(b"{}")
    second.unlink()
    assert [(finding.path[-8:], finding.severity) for finding in verify(store).findings] == [
        ("s/1.json", "error"),
        ("s/2.json", "warning"),
    ]
    with pytest.raises(CorruptObjectError, match=r"_types/1\.json"):
        FilesystemMetadataStore(tmp_path).write_metadata(video, videos([3], new=[1]))
    assert FilesystemMetadataStore(tmp_path).read_metadata(video).height == 4


@pytest.mark.parametrize("kind", ["files", "memory"])
@pytest.mark.parametrize("is_current", [True, False], ids=["a row under it", "none under it"])
def test_definitions_whose_ids_never_match_are_left_out_of_an_increment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, *, is_current: bool
) -> None:
    (texts, _), (numbers, _), (now, processed) = (pipeline(frames=version) for version in (1, 2, 3))
    store = FilesystemMetadataStore(tmp_path) if kind == "files" else InMemoryMetadataStore()
    store.write_metadata(texts, videos(["a"]))
    store.write_metadata(numbers, videos([1, 2]))
    if is_current:
        store.write_metadata(now, videos([2]))
    increment = store.resolve_update(now, samples=videos([1, 2, 3]))
    assert (ids_of(increment.stale), ids_of(increment.new)) == (([1], [3]) if is_current else ([1, 2], [3]))
    assert store.resolve_update(now, samples=videos([1, 2, 3]), lazy=True).collect().counts == increment.counts
    [message] = {record.getMessage() for record in caplog.records}
    assert re.fullmatch(r"The ids of feature 'video/processing' in .* of other types under .*", message)
    store.write_metadata(now, videos([1, 2, 3]))
    caplog.clear()
    assert not store.resolve_update(now, samples=videos([1, 2, 3]))
    assert ids_of(store.resolve_update(processed).new) == [1, 2, 3]
    assert not caplog.records


@pytest.mark.parametrize("mode", ["feature", "sample"])
@pytest.mark.parametrize("is_current", [True, False])
def test_explanations_leave_them_out_as_increments_do(mode: Literal["feature", "sample"], *, is_current: bool) -> None:
    (texts, processed_then), (now, processed) = (pipeline(frames=version) for version in (1, 2))
    far = InMemoryMetadataStore()
    store = InMemoryMetadataStore(fallback_stores=[far], fallback_mode=mode)
    far.write_metadata(texts, videos(["1"]))
    far.write_metadata(processed_then, far.resolve_update(processed_then).pending)
    store.write_metadata(now, videos([1, 2]))
    if is_current:
        store.write_metadata(processed, store.resolve_update(processed, where=pl.col(SAMPLE_ID) == 1).pending)
    statuses = ["up to date" if is_current else "new", "new"]
    assert [store.explain(processed, sample).status for sample in (1, 2)] == statuses
    with pytest.raises(MetadataSchemaError, match="holds Int64, got '1'"):
        store.explain(now, "1")


def test_stale_if_leaves_them_out_too(tmp_path: Path) -> None:
    (texts, _), (now, _) = pipeline(frames=1), pipeline(frames=2)
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(texts, videos(["a"], status=["failed"]))
    store.write_metadata(now, videos([1], status=["failed"]))
    increment = store.resolve_update(now, samples=videos([1, 2]), stale_if=pl.col("status") == "failed")
    assert (ids_of(increment.stale), ids_of(increment.new)) == ([1], [2])
