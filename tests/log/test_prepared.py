"""A driver that is cut short, comes twice or comes late commits all of the prepared writes once, or nothing."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import count

import msgspec
import pytest

from metaxy_fs.errors import (
    CommitStateUnknownError,
    CorruptObjectError,
    MetadataSchemaError,
    StorageError,
    WriteConflictError,
)
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import chunks, prepared
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.copy import copy_partition
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.log import Log
from metaxy_fs.log.manifest import Definition
from metaxy_fs.log.receipts import Receipt
from metaxy_fs.log.repair import repair
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import ObjectInfo, Storage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing.store_clocks import machine_at
from tests.log.commits import PARTITION, VERSION, request, rows, write
from tests.log.compactions import read, view_of
from tests.log.faulty import FaultyStorage
from tests.log.roots import contents

pytestmark = pytest.mark.usefixtures("no_pauses")

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)


def log_of(storage: Storage) -> Log:
    return Log(storage, clock=LamportClock())


def prepare(storage: Storage, *parts: Sequence[int]) -> list[Receipt]:
    """Prepare parts of these ids, each as a task of its own."""
    log = log_of(storage)
    return [log.prepare(request(rows(*ids)), spec=b"{}", task_id=str(n)) for n, ids in enumerate(parts)]


def commit(storage: Storage, receipts: Sequence[Receipt], *, write_id: str | None = None) -> None:
    log_of(storage).commit_prepared(request(rows(), write_id=write_id), receipts, spec=b"{}")


def ids(storage: Storage) -> list[int]:
    return sorted(read(storage)["sample_id"])


def errors(storage: Storage) -> list[str]:
    return [finding.problem for finding in verify(storage).findings if finding.severity != "note"]


def cut(write_id: str | None, *, how: str = "before") -> Iterator[tuple[MemoryStorage, list[Receipt]]]:
    """Yield a root and receipts for each request of a driver in which it died, before or after that was applied."""
    for allowed in count():
        storage = MemoryStorage()
        write(storage, 9)
        receipts = prepare(storage, [1, 2], [3])
        seen = count()

        def fault(_verb: str, _path: str, seen: Iterator[int] = seen, allowed: int = allowed) -> str | None:
            number = next(seen)
            return None if number < allowed else how if number == allowed else "before"

        try:
            commit(FaultyStorage(storage, fault), receipts, write_id=write_id)
        except StorageError:
            yield storage, receipts
        else:
            return


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("write_id", [None, "job"])
def test_a_driver_that_dies_shows_all_or_nothing_and_another_completes_it(write_id: str | None, how: str) -> None:
    deaths = list(cut(write_id, how=how))
    assert len(deaths) > 8
    for storage, receipts in deaths:
        assert ids(storage) in ([9], [1, 2, 3, 9])
        assert errors(storage) == []
        again = receipts if write_id is None else prepare(storage, [1, 2], [3])
        commit(storage, again, write_id=write_id)
        commit(storage, again, write_id=write_id)
        assert ids(storage) == [1, 2, 3, 9]
        assert errors(storage) == []
        assert write_id or repair(storage, dry_run=True) == []


@pytest.mark.parametrize("part", [0, 1])
def test_a_name_is_not_taken_for_committed_when_one_part_alone_was(part: int) -> None:
    for storage, receipts in cut("job"):
        commit(storage, receipts[part : part + 1])
        try:
            commit(storage, receipts, write_id="job")
        except WriteConflictError as error:
            assert "committed without that name" in str(error)  # noqa: PT017  # after which death that is does not matter
            commit(storage, receipts)
        assert ids(storage) == [1, 2, 3, 9]


def test_a_name_is_not_taken_for_committed_either_when_its_table_is_gone() -> None:
    *_, (storage, receipts) = cut("job")
    commit(storage, receipts[:1])
    clock = LamportClock()
    options = Options(writer="a test", full=True)
    list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))
    for _ in range(3):
        vacuum(storage, policy=EAGER, dry_run=False)
    with pytest.raises(WriteConflictError, match="Nothing was committed"):
        commit(storage, prepare(storage, [1, 2], [3]), write_id="job")
    assert ids(storage) == [1, 2, 9]


def test_a_task_is_not_committed_again_when_an_earlier_attempt_at_it_turns_up() -> None:
    storage = MemoryStorage()
    early, late = (prepare(storage, [1])[0] for _ in range(2))
    commit(storage, [late])
    commit(storage, [early, late, *prepare(storage, [], [2])[1:]])
    assert ids(storage) == [1, 2]


def test_an_unpublished_group_is_unproven_and_comes_to_life_only_if_somebody_vouches_for_it() -> None:
    states = []
    for storage, _ in cut("job"):
        if ids(storage) != [9]:
            continue
        before = contents(storage)
        found = repair(storage, dry_run=False)
        assert {each.state for each in found} == {"unproven"}
        assert contents(storage) == before
        states.append(len(found))
        [name, *_] = [each.name for each in found]
        if len(found) == 1:
            assert found[0].rows == 3
            repair(storage, vouched=[name], dry_run=False)
            assert ids(storage) == [1, 2, 3, 9]
            assert errors(storage) == []
    assert set(states) == {1, 2}, "two writes that no driver had grouped, then one group"


def test_vacuums_leave_nothing_of_a_driver_that_died() -> None:
    for storage, _ in cut("job"):
        shown = ids(storage)
        for _round in range(3):
            assert vacuum(storage, policy=EAGER, dry_run=False).skipped == ()
        assert ids(storage) == shown
        named = {PARTITION.data_file(file.name) for found in view_of(storage).manifests for file in found.named_files}
        assert {path for path in contents(storage) if path.endswith((".parquet", ".table"))} == named
        assert not any("/_copies/" in path for path in contents(storage))


def test_a_published_group_whose_manifest_is_lost_is_restored() -> None:
    storage = MemoryStorage()
    commit(storage, prepare(storage, [1], [2]))
    vacuum(storage, policy=EAGER, dry_run=False)
    [path] = [info.path for info in storage.list(f"{PARTITION}/_manifests/compactions")]
    manifest = storage.get(path)
    storage.delete(path)
    assert [found.state for found in repair(storage, dry_run=False)] == ["restored"]
    assert storage.get(path) == manifest


def test_two_drivers_of_one_name_at_once_commit_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    mine, theirs = prepare(storage, [1], [2]), prepare(storage, [1], [2])
    real = prepared._put_table

    def overtaken(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(prepared, "_put_table", real)
        commit(storage, theirs, write_id="job")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(prepared, "_put_table", overtaken)
    commit(storage, mine, write_id="job")
    assert ids(storage) == [1, 2]
    assert view_of(storage).commits == {receipt.commit for receipt in theirs}


def test_a_name_is_kept_when_the_group_was_compacted_and_vacuumed() -> None:
    storage = MemoryStorage()
    commit(storage, prepare(storage, [1], [2]), write_id="job")
    write(storage, 5)
    clock = LamportClock()
    options = Options(writer="a test", full=True)
    list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))
    for _ in range(3):
        vacuum(storage, policy=EAGER, dry_run=False)
    assert len(storage.list(f"{PARTITION}/_manifests")) == 1
    commit(storage, prepare(storage, [1], [2]), write_id="job")
    assert ids(storage) == [1, 2, 5]
    with pytest.raises(WriteConflictError, match="other prepared rows"):
        commit(storage, prepare(storage, [1], [3]), write_id="job")


def test_receipts_whose_files_were_compacted_and_vacuumed_are_committed_still() -> None:
    storage = MemoryStorage()
    early = prepare(storage, [1], [2])
    commit(storage, early)
    clock = LamportClock()
    options = Options(writer="a test", full=True)
    list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))
    for _ in range(3):
        vacuum(storage, policy=EAGER, dry_run=False)
    commit(storage, [*early, *prepare(storage, [], [], [3])[2:]])
    assert ids(storage) == [1, 2, 3]


@pytest.mark.parametrize(("parts", "full", "files"), [(12, False, 1), (9, False, 9), (9, True, 1), (1, True, 1)])
def test_parts_are_compacted_even_if_there_is_nothing_else(parts: int, files: int, *, full: bool) -> None:
    storage = MemoryStorage()
    commit(storage, prepare(storage, *([n, n + 1] for n in range(parts))))
    before = read(storage)
    clock = LamportClock()
    options = Options(writer="a test", full=full)
    for _ in range(2):
        list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))
        assert len(view_of(storage).files) == files
    assert read(storage).equals(before)
    assert errors(storage) == []


def test_a_name_stands_for_the_same_in_a_copy() -> None:
    source, target, other = MemoryStorage(), MemoryStorage(), MemoryStorage()
    commit(source, prepare(source, [1], [2]), write_id="job")
    commit(source, prepare(source, [3]), write_id="another")
    commit(other, prepare(other, [1], [2]), write_id="job")

    def copied(storage: Storage) -> None:
        open_for_writing(storage)
        commits = view_of(source).commits
        copy_partition(source, storage, PARTITION, commits=commits, advance=lambda _done, _total: None)

    copied(target)
    copied(target)
    commit(target, prepare(target, [2], [1]), write_id="job")
    assert ids(target) == [1, 2, 3]
    with pytest.raises(WriteConflictError, match=r"Nothing of .* was copied"):
        copied(other)
    assert ids(other) == [1, 2]


def test_parts_of_several_files_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 2)
    storage = MemoryStorage()
    commit(storage, prepare(storage, [1, 2, 3, 4, 5], [3, 6, 7]))
    assert len(view_of(storage).files) == 5
    before, clock = read(storage), LamportClock()
    assert before["sample_id"].to_list() == [1, 2, 3, 4, 5, 3, 6, 7]
    options = Options(writer="a test", full=True)
    list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))
    assert read(storage).equals(before)
    assert errors(storage) == []


# Ages, by the clock of the storage.


def test_receipts_of_a_day_ago_are_refused_whatever_the_clocks_of_machines_say() -> None:
    now = [NOW]
    storage = MemoryStorage(wall=lambda: now[0])
    with machine_at(NOW - 400 * 24 * HOUR):
        receipts = prepare(storage, [1])
    now[0] += 23 * HOUR
    with machine_at(NOW + 400 * 24 * HOUR):
        commit(storage, receipts)
    assert ids(storage) == [1]
    with machine_at(NOW + 400 * 24 * HOUR):
        receipts = prepare(storage, [2])
    now[0] += 25 * HOUR
    with machine_at(NOW - 400 * 24 * HOUR), pytest.raises(StorageError, match="were prepared 1 day, 1:00"):
        commit(storage, receipts)
    assert ids(storage) == [1]


def test_a_driver_far_ahead_commits_as_of_now() -> None:
    storage = MemoryStorage(wall=lambda: NOW)
    with machine_at(NOW):
        receipts = prepare(storage, [1], [2])
    with machine_at(NOW + 400 * 24 * HOUR):
        commit(storage, receipts)
    times = log_of(storage).commits(PARTITION.feature)["time"].to_list()
    assert len(set(times)) == 1
    assert NOW < times[0] < NOW + HOUR
    assert errors(storage) == []


def test_a_worker_that_is_ahead_a_little_is_followed() -> None:
    storage = MemoryStorage(wall=lambda: NOW)
    with machine_at(NOW + HOUR):
        receipts = prepare(storage, [1])
    with machine_at(NOW):
        commit(storage, receipts)
        write(storage, 1)
    times = log_of(storage).commits(PARTITION.feature)["time"].to_list()
    assert times[-1] > NOW + HOUR


class Timeless(MemoryStorage):
    """A storage that does not tell when objects were written."""

    def list(self, directory: str, *, limit: int | None = None) -> "list[ObjectInfo]":
        return [msgspec.structs.replace(info, modified=None) for info in super().list(directory, limit=limit)]


def test_a_storage_without_times_has_those_of_machines() -> None:
    storage = Timeless()
    with machine_at(NOW):
        old = prepare(storage, [1])
    with machine_at(NOW + 25 * HOUR), pytest.raises(StorageError, match="were prepared"):
        commit(storage, old)
    with machine_at(NOW + 23 * HOUR):
        commit(storage, old)
    assert ids(storage) == [1]


# Receipts that are not right.


def test_receipts_of_another_root_are_refused() -> None:
    storage, other = MemoryStorage(), MemoryStorage()
    with pytest.raises(StorageError, match="in another root, or a vacuum has removed it"):
        commit(storage, prepare(other, [1]))
    assert "_manifests" not in "".join(contents(storage))


def test_receipts_are_as_little_trusted_as_manifests() -> None:
    storage = MemoryStorage()
    [receipt] = prepare(storage, [1])
    for manifest in (
        receipt.manifest.replace('"rows":1', '"rows":2', 1),
        receipt.manifest.replace("-0.parquet", "/../../x.parquet"),
        "{}",
    ):
        with pytest.raises(CorruptObjectError):
            commit(storage, [msgspec.structs.replace(receipt, manifest=manifest)])
    assert "_manifests" not in "".join(contents(storage))


def test_a_feature_whose_samples_have_other_names_is_refused() -> None:
    storage = MemoryStorage()
    receipts = prepare(storage, [1])
    others = {"id_columns": ("other",), "definition": Definition(VERSION, {"sound": VERSION})}
    for name, value in others.items():
        other = msgspec.structs.replace(request(rows()), **{name: value})
        with pytest.raises(MetadataSchemaError, match=r"other|sound"):
            log_of(storage).commit_prepared(other, receipts, spec=b"{}")


def test_an_unknown_outcome_is_told_and_the_call_repeated() -> None:
    storage = MemoryStorage()
    receipts = prepare(storage, [1])

    def fault(verb: str, path: str) -> str | None:
        return "after" if verb == "put" and "compactions" in path else "before" if "compactions" in path else None

    with pytest.raises(CommitStateUnknownError, match="same receipts again"):
        commit(FaultyStorage(storage, fault), receipts)
    commit(storage, receipts)
    assert ids(storage) == [1]
