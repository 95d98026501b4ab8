"""A compaction keeps every row, its order and its columns, and reads and writes no more than it must."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs.errors import CorruptObjectError, StorageError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import chunks, verified_io
from metaxy_fs.log import compact as compact_module
from metaxy_fs.log import compactor as compaction_module
from metaxy_fs.log import merge as merging_module
from metaxy_fs.log.commit import commit
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Compaction, Options
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import ViewLoader, live_files
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, may_repeat, request, rows, write
from tests.log.compactions import delete_covered, put_compaction, read, view_of
from tests.log.faulty import FaultyStorage
from tests.support.examples import examples


def compact(storage: Storage, *, clock: LamportClock | None = None, **options: Any) -> list[Compaction]:
    """Compact as a process of its own does."""
    used = clock or LamportClock()
    loader = ViewLoader(storage, clock=used)
    chosen = Options(writer="a test", **options)
    return list(compact_partition(storage, loader, PARTITION, clock=used, options=chosen))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few rows, and batches of a few files, so that all paths are gone."""
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 8)
    monkeypatch.setattr(merging_module, "LARGE_ROWS", 5)
    monkeypatch.setattr(merging_module, "BATCH_ROWS", 12)
    monkeypatch.setattr(merging_module, "_LEAST_PART", 1)


KINDS: list[Callable[[pl.DataFrame], pl.DataFrame]] = [
    lambda frame: frame,
    lambda frame: frame.with_columns(size=pl.col("sample_id").cast(pl.Int32)),
    lambda frame: frame.with_columns(note=pl.lit("n"), size=pl.col("sample_id") * 2**40),
]
WRITES = st.lists(
    st.tuples(st.lists(st.integers(0, 30), max_size=9, unique=True), st.integers(0, 2), st.integers(1, 9)),
    min_size=1,
    max_size=12,
)


def append(storage: Storage, number: int, ids: list[int], kind: int, time: int) -> Manifest:
    clock = LamportClock(wall=lambda: time * 1000)
    return commit(storage, request(KINDS[kind](rows(*sorted(ids))), write_id=str(number)), clock=clock)


@given(data=st.data(), writes=WRITES, only_grows=st.booleans())
@examples(20)
def test_reads_are_the_same_after_any_compactions(
    data: st.DataObject, writes: list[tuple[list[int], int, int]], *, only_grows: bool
) -> None:
    storage = MemoryStorage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "MAX_FILE_ROWS", 8)
        patch.setattr(merging_module, "LARGE_ROWS", 5)
        patch.setattr(merging_module, "BATCH_ROWS", 12)
        patch.setattr(merging_module, "_LEAST_PART", 1)
        appends = []
        for number, (ids, kind, time) in enumerate(writes):
            placed = [sample + 31 * number for sample in ids] if only_grows else ids
            appends.append(append(storage, number, placed, kind, number if only_grows else time))
            if data.draw(st.booleans()):
                compact(storage, fan=data.draw(st.integers(2, 4)), full=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            covered = data.draw(st.lists(st.sampled_from(appends), min_size=1, unique_by=lambda held: held.commit))
            put_compaction(storage, covered, token="f" * 16)
        expected = plain(storage, appends)
        assert_frame_equal(read(storage), expected)
        compact(storage, full=True)
        assert_frame_equal(read(storage), expected)
        check_files(storage)
        assert may_repeat(live_files([view_of(storage)])) or not expected["sample_id"].is_duplicated().any()


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_writes_in_the_order_of_ids_are_merged_as_any_are(*, step: int, reverse: bool, small: None) -> None:
    storage = MemoryStorage()
    ids = [list(range(number * step, number * step + 4)) for number in range(9)]  # at step 3, neighbours share one
    writes = enumerate(ids[::-1] if reverse else ids)
    expected = plain(storage, [append(storage, number, each, 0, number) for number, each in writes])
    compact(storage, full=True)
    assert_frame_equal(read(storage), expected)
    check_files(storage)


def plain(storage: Storage, appends: list[Manifest]) -> pl.DataFrame:
    """What the appends alone come to."""
    copy = MemoryStorage()
    for held in appends:
        for path in (PARTITION.append_manifest(held.commit), *(PARTITION.data_file(file.name) for file in held.files)):
            copy.put(path, storage.get(path))
    return read(copy)


def check_files(storage: Storage) -> None:
    """What the format says of the files of compactions, looked at one by one, and all that `verify` knows of them."""
    findings = [finding for finding in verify(storage).findings if finding.severity == "error"]
    assert not findings
    for manifest in view_of(storage).manifests:
        names: dict[int, list[set[Any]]] = {}
        for file in manifest.files if manifest.covers else ():
            held = pl.read_parquet(storage.get(PARTITION.data_file(file.name)))
            assert held.height == file.rows
            if file.first is None:
                assert file.commit in manifest.covers.split(" ")
                continue
            order = ["sample_id", "_metaxy_time", "_metaxy_commit", "_metaxy_ordinal"]
            assert held.columns[-3:] == ["_metaxy_commit", "_metaxy_time", "_metaxy_ordinal"]
            assert held.equals(held.sort(order))
            assert file.repeats == held["sample_id"].is_duplicated().any()
            assert not file.ordered or held.select(order[1:]).equals(held.select(order[1:]).sort(pl.all()))
            keys = sorted(set(held.select("_metaxy_time", "_metaxy_commit").iter_rows()))
            assert not keys or (file.first <= keys[0] and file.last == keys[-1])
            assert not any(leaf.path[0].startswith("_metaxy_") for leaf in file.statistics)
            samples = set(held["sample_id"])
            assert all(samples.isdisjoint(other) for other in names.get(file.schema, []))
            names.setdefault(file.schema, []).append(samples)


def history(storage: Storage, *, writes: int = 12) -> list[Manifest]:
    clock = LamportClock()
    return [write(storage, n, n + 5, 100 - n, clock=clock) for n in range(writes)]


def test_a_compaction_reports_what_it_has_done() -> None:
    storage = MemoryStorage()
    appends = history(storage)
    before = {info.path for info in storage.list("")}
    [done] = compact(storage)
    new = [info for info in storage.list("") if info.path not in before]
    assert (done.manifests, done.commits, done.rows, done.files_before, done.files_after) == (12, 12, 36, 12, 1)
    assert done.bytes_before == sum(file.bytes for held in appends for file in held.files)
    assert sorted(info.path.removeprefix(f"{PARTITION}/") for info in new) == sorted(
        [f"{done.commit}-0.parquet", f"_commits/{done.commit}.table", f"_manifests/compactions/{done.commit}.json"]
    )
    assert compact(storage) == []


def test_fewer_than_a_full_tier_are_left_alone() -> None:
    storage = FaultyStorage(MemoryStorage())
    history(storage.inner, writes=9)
    assert compact(storage) == []
    assert "put" not in {verb for verb, _ in storage.requests}
    assert len(compact(storage, full=True)) == 1


def test_every_object_is_got_once() -> None:
    storage = FaultyStorage(MemoryStorage())
    history(storage.inner)
    compact(storage)
    got = [path for verb, path in storage.requests if verb == "get"]
    assert sorted(got)[: len(set(got))] == sorted(set(got))
    assert len(got) == 12 + 12 + 1  # manifests and data files, and its own manifest, which it looks at again


def test_the_table_says_of_each_commit_what_its_manifest_said() -> None:
    storage = MemoryStorage()
    appends = history(storage)
    compact(storage)
    more = history(storage, writes=3)
    [done] = compact(storage, full=True)
    manifest = json.loads(storage.get(PARTITION.compaction_manifest(done.commit)))
    data = storage.get(PARTITION.data_file(manifest["commits"]["name"]))
    table = pl.read_parquet(data)
    ordered = sorted([*appends, *more], key=lambda held: (held.time, held.commit))
    assert table["commit"].to_list() == manifest["covers"].split(" ") == [held.commit for held in ordered]
    for name in ("time", "rows", "digest", "write_id", "writer"):
        assert table[name].to_list() == [getattr(held, name) for held in ordered]
    assert table["bytes"].to_list() == [sum(file.bytes for file in held.files) for held in ordered]
    footer = json.loads(pl.read_parquet_metadata(io.BytesIO(data))["metaxy_fs"])
    assert footer == {name: value for name, value in manifest.items() if name not in ("covers", "commits", "sha256")}


def test_the_digest_tells_what_is_covered_and_not_how() -> None:
    storage, other = MemoryStorage(), MemoryStorage()
    history(storage)
    for info in storage.list(""):
        other.put(info.path, storage.get(info.path))
    compact(storage)
    compact(other, fan=3)
    compact(other, full=True)
    digests = {view_of(held).manifests[0].digest for held in (storage, other)}
    assert len(digests) == 1


def test_its_time_is_above_all_that_it_has_seen() -> None:
    storage = MemoryStorage()
    appends = [append(storage, n, [n], 0, 10**12 + n) for n in range(12)]
    clock = LamportClock(wall=lambda: 1000)
    [done] = compact(storage, clock=clock)
    [manifest] = view_of(storage).manifests
    assert manifest.commit == done.commit
    assert manifest.time > max(held.time for held in appends)
    assert write(storage, 50, clock=clock).time > manifest.time


def test_large_files_are_listed_again(small: None) -> None:
    storage = MemoryStorage()
    clock = LamportClock()
    large = write(storage, *range(20), clock=clock)
    for n in range(11):
        write(storage, n, clock=clock)
    [done] = compact(storage)
    manifest = view_of(storage).manifests[0]
    kept = [file for file in manifest.files if file.commit == large.commit]
    assert [(file.name, file.offset) for file in kept] == [
        (file.name, 8 * n) for n, file in enumerate(large.files) if file.rows >= 5
    ]
    assert done.files_after == len(kept) + 3


def test_large_files_of_ids_that_only_grow_are_not_written_twice(small: None) -> None:
    storage = MemoryStorage()
    clock = LamportClock()
    written: list[str] = []
    for n in range(60):
        write(storage, 2 * n, 2 * n + 1, clock=clock)
        for done in compact(storage, fan=3):
            written += [name for name in names(storage) if name.startswith(done.commit)]
    [final] = compact(storage, fan=3, full=True)
    manifest = view_of(storage).manifests[0]
    again = [file.name for file in manifest.files if not file.name.startswith(final.commit)]
    assert len(again) > len(manifest.files) / 2
    assert all(file.ordered for file in manifest.files)
    assert set(again) <= set(written)


def names(storage: Storage) -> list[str]:
    return [info.path.rpartition("/")[2] for info in storage.list("")]


def test_large_files_that_may_share_a_sample_are_merged_again(small: None) -> None:
    storage, clock = MemoryStorage(), LamportClock()
    for _ in range(2):
        for n in range(10):
            write(storage, n, n + 20, clock=clock)
        compact(storage)
    before = names(storage)
    expected = read(storage)
    compact(storage, full=True)
    [manifest] = view_of(storage).manifests
    assert not {file.name for file in manifest.files}.intersection(before)
    check_files(storage)
    assert_frame_equal(read(storage), expected)


def test_rows_of_compactions_whose_commits_interleave_are_put_in_order() -> None:
    storage, clock = MemoryStorage(), LamportClock()
    appends = [write(storage, 1, 2, clock=clock) for _ in range(6)]
    expected = read(storage)
    put_compaction(storage, appends[::2], token="a" * 16)
    put_compaction(storage, appends[1::2], token="b" * 16)
    compact(storage, full=True)
    check_files(storage)
    assert_frame_equal(read(storage), expected)


def test_a_commit_without_rows_keeps_the_place_of_its_columns() -> None:
    storage = MemoryStorage()
    for number, (ids, kind) in enumerate([([], 2), ([1], 1), ([2], 2)]):
        append(storage, number, ids, kind, number)
    expected = read(storage)
    assert expected.columns == ["sample_id", "data_version", "note", "size"]
    compact(storage, full=True)
    assert_frame_equal(read(storage), expected)


def test_overlaps_are_mended_also_in_large_files(small: None) -> None:
    """Neither a large file of which rows are answered for elsewhere, nor one that is alone, is listed again."""
    storage, clock = MemoryStorage(), LamportClock()
    appends = [write(storage, *range(9 * n, 9 * n + 7), clock=clock) for n in range(3)]
    appends.append(append(storage, 9, list(range(6)), 1, 0))
    expected = read(storage)
    for token, (covered, again) in enumerate([([0, 1, 3], [3]), ([1, 2, 3], []), ([0, 2], [])]):
        listed = [appends[index].commit for index in again]
        chosen = [appends[index] for index in covered]
        put_compaction(storage, chosen, token=str(token) * 16, listed_again=listed)
    assert_frame_equal(read(storage), expected)
    [done] = compact(storage)
    assert done.manifests == 3
    assert_frame_equal(read(storage), expected)


def test_one_sample_with_a_long_history_stays_in_one_file(small: None) -> None:
    storage = MemoryStorage()
    clock = LamportClock()
    for n in range(40):
        write(storage, 7, n + 10, clock=clock)
    expected = read(storage)
    compact(storage, full=True)
    check_files(storage)
    assert_frame_equal(read(storage), expected)


@pytest.mark.parametrize("ids", [["ä", "z" * 99, "\U0001f600"], [b"\xff", b"", b"\x00"]], ids=["text", "binary"])
def test_ids_of_other_types_are_merged_by_ranges(ids: list[Any], small: None) -> None:
    storage, clock = MemoryStorage(), LamportClock()
    for n in range(30):
        frame = rows(n).with_columns(sample_id=pl.Series([ids[n % 3] + ids[n % 3][:1] * n]))
        commit(storage, request(frame), clock=clock)
    expected = read(storage)
    compact(storage, full=True)
    assert len(view_of(storage).files) > 2
    assert_frame_equal(read(storage), expected)


def test_a_sample_that_is_named_by_several_columns_is_not_divided(small: None) -> None:
    storage, clock = MemoryStorage(), LamportClock()
    for n in range(30):
        frame = rows(*range(3)).with_columns(part=pl.lit(n % 4))
        commit(storage, msgspec.structs.replace(request(frame), id_columns=("part", "sample_id")), clock=clock)
    expected = read(storage)
    compact(storage, full=True)
    parts = [pl.read_parquet(storage.get(live.path)) for live in view_of(storage).files]
    samples = [set(part.select("part", "sample_id").iter_rows()) for part in parts]
    assert len(parts) > 4
    assert len(set().union(*samples)) == sum(map(len, samples)) == 12
    assert_frame_equal(read(storage), expected)


def test_two_compactors_at_once_do_no_harm() -> None:
    """The second one lists before the first has put anything; a third one repairs the overlap."""
    storage = MemoryStorage()
    appends = history(storage)
    expected = read(storage)
    compact(storage)
    write(storage, 77)
    late = FaultyStorage(storage)
    late.list = lambda *_args, **_options: [  # type: ignore[method-assign]
        info
        for info in storage.list(PARTITION.manifests)
        if "appends" in info.path and appends[0].commit not in info.path
    ]
    next(
        compact_partition(
            late,
            ViewLoader(late, clock=LamportClock()),
            PARTITION,
            clock=LamportClock(),
            options=Options(writer="late"),
        )
    )
    assert_frame_equal(read(storage).head(36), expected)
    assert read(storage).height == 37
    [repaired] = compact(storage)
    assert repaired.commits == 13
    delete_covered(storage, appends)
    assert read(storage).height == 37


def test_a_compaction_that_is_cut_short_anywhere_leaves_reads_as_they_were(small: None) -> None:
    """Each request in turn is the last; then the work is done again."""
    storage = MemoryStorage()
    history(storage)
    expected = read(storage)
    for last in range(100):
        cut = FaultyStorage(storage)
        cut.fault = lambda verb, _path, cut=cut, last=last: _interrupt(is_time=len(cut.requests) > last)
        try:
            compact(cut)
        except KeyboardInterrupt:
            assert_frame_equal(read(storage), expected)
        else:
            break
    assert last > 25
    assert len(view_of(storage).manifests) == 1
    assert_frame_equal(read(storage), expected)


def _interrupt(*, is_time: bool) -> None:
    if is_time:
        raise KeyboardInterrupt


def test_a_data_file_that_was_vacuumed_means_another_plan() -> None:
    storage = MemoryStorage()
    appends = history(storage)
    expected = read(storage)
    done: list[bool] = []

    def vacuum(_verb: str, path: str) -> None:
        if path == PARTITION.data_file(appends[3].files[0].name) and not done:
            done.append(True)
            put_compaction(storage, appends[:6])
            delete_covered(storage, appends[:6])

    [repaired] = compact(FaultyStorage(storage, vacuum), full=True)
    assert repaired.commits == 12
    assert_frame_equal(read(storage), expected)


def test_a_data_file_that_never_comes_back_ends_it() -> None:
    storage = MemoryStorage()
    appends = history(storage)
    storage.delete(PARTITION.data_file(appends[3].files[0].name))
    with pytest.raises(FileNotFoundError):
        compact(storage)


def test_a_damaged_data_file_is_not_made_part_of_a_compaction() -> None:
    storage = MemoryStorage()
    appends = history(storage)
    path = PARTITION.data_file(appends[3].files[0].name)
    data = bytearray(storage.get(path))
    data[20] ^= 1
    storage.delete(path)
    storage.put(path, bytes(data))
    with pytest.raises(CorruptObjectError, match="checksum"):
        compact(storage)
    assert not [name for name in names(storage) if "commits" in name]


def test_rows_that_do_not_add_up_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    history(storage)
    whole = compaction_module.merged
    monkeypatch.setattr(
        compaction_module, "merged", lambda *args, **options: (rows.head(-1) for rows in whole(*args, **options))
    )
    with pytest.raises(CorruptObjectError, match="36 rows by their manifests, but 35"):
        compact(storage)
    assert not [name for name in names(storage) if "compactions" in name or "commits" in name]


def test_one_that_took_a_day_refuses_to_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    history(storage)
    monkeypatch.setattr(compact_module, "wall_clock", lambda: 0)
    monkeypatch.setattr(compaction_module, "wall_clock", lambda: 24 * 60 * 60 * 1_000_000 + 1)
    with pytest.raises(StorageError, match="took longer than 86400 seconds"):
        compact(storage)
    assert len(view_of(storage).manifests) == 12


def test_a_retried_write_of_a_covered_commit_changes_nothing() -> None:
    storage = MemoryStorage()
    appends = [write(storage, n, write_id=str(n)) for n in range(12)]
    expected = read(storage)
    compact(storage)
    write(storage, 3, write_id="3")
    delete_covered(storage, appends)
    write(storage, 4, write_id="4")
    assert_frame_equal(read(storage), expected)


def test_progress_ends_with_all_that_was_known() -> None:
    storage = MemoryStorage()
    history(storage)
    calls: list[tuple[int, int]] = []
    compact(storage, progress=lambda done, known: calls.append((done, known)))
    assert calls == [(36, 72), (72, 72)]


def test_a_point_read_gets_only_files_that_may_hold_the_sample(tmp_path: Path, small: None) -> None:
    storage = LocalStorage(tmp_path)
    clock = LamportClock()
    for n in range(30):
        write(storage, n, 1000 - n, clock=clock)
    compact(storage, full=True)
    files = view_of(storage).files
    found = [live for live in files if live.file.statistics[0].min <= 990 <= live.file.statistics[0].max]
    assert len(files) > 5
    assert len(found) == 1
    assert read(storage, predicate=pl.col("sample_id") == 990)["sample_id"].to_list() == [990]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("fails", [False, True])
def test_runs_are_spilled_to_the_temporary_directory_and_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    seen: list[str] = []

    def fault(verb: str, path: str) -> str | None:
        if verb == "put":
            seen.extend(found.name for found in tmp_path.glob("*/*"))
        return "before" if fails and path.endswith(".parquet") and verb == "put" else None

    inner = MemoryStorage()
    for number in range(6):
        write(inner, *range(number, 28, 7))
    storage = FaultyStorage(inner, fault)
    if fails:
        monkeypatch.setattr(verified_io, "_FIRST_PAUSE_SECONDS", 0)
        with pytest.raises(StorageError):
            compact(storage, full=True)
    else:
        compact(storage, full=True)
    assert "0.parquet" in seen
    assert list(tmp_path.iterdir()) == []
