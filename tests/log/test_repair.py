"""Repair puts back exactly what was committed."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import ObjectNotFoundError, StorageError
from metaxy_fs.log.repair import Restoration, repair
from metaxy_fs.log.verify import verify
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.faulty import FaultyStorage
from tests.log.roots import contents, edit, manifest_of, pin, replace, root

pytestmark = pytest.mark.usefixtures("no_pauses")


def states(restorations: list[Restoration]) -> list[tuple[str, str]]:
    return [(restoration.state, restoration.path) for restoration in restorations]


def test_a_sound_root_needs_no_repair() -> None:
    storage, _ = root()
    before = contents(storage)
    assert repair(storage, dry_run=False) == []
    assert contents(storage) == before


@given(data=st.data())
def test_a_damaged_manifest_is_put_back_byte_by_byte(data: st.DataObject) -> None:
    storage, _ = root()
    before = contents(storage)
    path = data.draw(st.sampled_from([path for path in before if "_manifests" in path]))
    damaged = before[path][: data.draw(st.integers(0, len(before[path]) - 1))]
    replace(storage, path, damaged)
    assert states(repair(storage, dry_run=False)) == [("restored", path)]
    after = contents(storage)
    added = {path: after.pop(path) for path in after.keys() - before.keys()}
    assert [data for path, data in added.items() if "_damaged" in path] == [damaged]
    assert after == before
    assert verify(storage).findings == ()


def test_a_dry_run_changes_nothing() -> None:
    storage, first = root()
    replace(storage, manifest_of(first), b"{")
    before = contents(storage)
    [found] = repair(storage, dry_run=True)
    assert (found.state, found.path, found.rows) == ("restorable", manifest_of(first), 3)
    assert "cannot be decoded" in found.reason
    assert contents(storage) == before


def test_an_orphan_of_a_write_that_died_is_never_committed_by_itself() -> None:
    storage, _ = root()
    dying = FaultyStorage(storage, lambda verb, path: "before" if verb != "get" and path.endswith(".json") else None)
    with pytest.raises(StorageError):
        write(dying, 7)
    before = contents(storage)
    [found] = repair(storage, dry_run=False)
    assert found.state == "unproven"
    assert contents(storage) == before


def test_a_lost_manifest_is_put_back_if_the_user_vouches_for_it() -> None:
    storage, first = root()
    before = contents(storage)
    storage.delete(manifest_of(first))
    [found] = repair(storage, dry_run=True)
    assert (found.state, found.name, found.rows) == ("unproven", first.commit, 3)
    [found] = repair(storage, vouched=[first.commit], dry_run=False)
    assert found.state == "restored"
    after = contents(storage)
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("name", ["nothing", ""])
def test_vouching_for_what_is_not_there_is_a_mistake(name: str) -> None:
    storage, _ = root()
    with pytest.raises(ObjectNotFoundError, match="memory has no lost commit with data files"):
        repair(storage, vouched=[name], dry_run=True)


@pytest.mark.parametrize("part", [0, 1])
def test_a_manifest_without_all_of_its_data_files_is_lost(part: int) -> None:
    storage, first = root()
    replace(storage, manifest_of(first), b"")
    storage.delete(PARTITION.data_file(first.files[part].name))
    before = contents(storage)
    [found] = repair(storage, vouched=[first.commit], dry_run=False)
    assert found.state == "lost"
    assert "all that is left of its data files are the parts" in found.reason
    assert contents(storage) == before


def test_a_manifest_without_any_data_file_is_lost() -> None:
    storage, _ = root()
    storage.put(PARTITION.append_manifest("stray"), b"")
    [found] = repair(storage, dry_run=False)
    assert (found.state, found.path) == ("lost", PARTITION.append_manifest("stray"))
    assert "none of its data files is there" in found.reason


def test_a_manifest_is_lost_if_a_data_file_is_damaged_too() -> None:
    storage, first = root()
    replace(storage, manifest_of(first), b"")
    path = PARTITION.data_file(first.files[0].name)
    replace(storage, path, storage.get(path)[:-9])
    assert [found.state for found in repair(storage, dry_run=False)] == ["lost"]


def test_a_manifest_is_not_made_from_the_files_of_two_commits() -> None:
    storage, first = root()
    other = write(storage, 8)
    replace(storage, manifest_of(first), b"")
    stolen = storage.get(PARTITION.data_file(other.files[0].name))
    replace(storage, PARTITION.data_file(first.files[1].name), stolen)
    [found] = repair(storage, dry_run=False)
    assert found.state == "lost"
    assert "do not agree" in found.reason


def test_a_commit_of_another_partition_is_not_put_here() -> None:
    storage, first = root()
    other = MemoryStorage()
    name = first.files[0].name.replace("-0.", "-9.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.log.commits.VERSION", "f" * 64)
        strange = write(other, 1)
    storage.put(PARTITION.data_file(name), other.get(PARTITION.data_file(strange.files[0].name)))
    assert repair(storage, dry_run=False) == []


def test_files_that_no_writer_would_make_are_not_committed() -> None:
    storage, first = root()
    replace(storage, manifest_of(first), b"")
    path = PARTITION.data_file(first.files[0].name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaxy_fs.log.recovery.check_commit", lambda *_, **__: iter(()))
        patch.setattr("metaxy_fs.log.verify_contents._id_problems", lambda *_: iter(["has no ids"]))
        [found] = repair(storage, dry_run=False)
    assert (found.state, found.reason.endswith(f"{path.rpartition('/')[2]} has no ids")) == ("lost", True)


def test_a_manifest_of_a_newer_format_is_left_alone() -> None:
    storage, first = root()
    edit(storage, manifest_of(first), lambda manifest: manifest.update(format_version=2, new="x"))
    before = contents(storage)
    assert repair(storage, dry_run=False) == []
    assert contents(storage) == before


def test_of_two_attempts_that_left_all_files_the_damaged_manifest_tells_the_one() -> None:
    storage, manifest = two_attempts()
    before = contents(storage)
    path = manifest_of(manifest)
    replace(storage, path, before[path][:-1])
    assert states(repair(storage, dry_run=False)) == [("restored", path)]
    assert contents(storage)[path] == before[path]


def test_of_two_attempts_that_left_all_files_none_is_guessed() -> None:
    storage, manifest = two_attempts()
    before = contents(storage)
    path = manifest_of(manifest)
    replace(storage, path, b"")
    [found] = repair(storage, dry_run=False)
    assert found.state == "lost"
    assert "several attempts" in found.reason
    name = manifest.files[0].name.removesuffix("-0.parquet")
    assert name in found.reason
    assert states(repair(storage, vouched=[name], dry_run=False)) == [("restored", path)]
    assert contents(storage)[path] == before[path]


def two_attempts():
    """A root in which two attempts of one write left their data files; the second was committed."""
    storage, _ = root()
    lost = FaultyStorage(storage, lambda verb, path: "before" if "_manifests" in path else None)
    with pytest.raises(StorageError):
        write(lost, 5, 6, write_id="job 8")
    return storage, write(storage, 5, 6, write_id="job 8")


def test_an_attempt_that_lost_is_not_offered() -> None:
    storage, _ = two_attempts()
    assert repair(storage, dry_run=True) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["put", "delete"])
@pytest.mark.parametrize("place", ["_damaged", "_manifests"])
def test_a_repair_that_is_cut_short_is_taken_up_again(place: str, verb: str, when: str) -> None:
    storage, first = root()
    before = contents(storage)
    replace(storage, manifest_of(first), b"damaged")

    def fault(asked: str, path: str) -> str | None:
        return when if asked == verb and place in path else None

    with contextlib.suppress(StorageError):
        repair(FaultyStorage(storage, fault), dry_run=False)
    repair(storage, dry_run=False)
    after = contents(storage)
    assert {path: after[path] for path in before} == before
    assert b"damaged" in after.values()


def test_one_feature_is_repaired_alone() -> None:
    storage, first = root()
    replace(storage, manifest_of(first), b"")
    assert repair(storage, feature="video", dry_run=False) == []
    assert len(repair(storage, feature="video.processing", dry_run=False)) == 1


def test_a_lost_manifest_of_a_commit_that_a_snapshot_names_is_put_back() -> None:
    storage, first = root()
    pin(storage, first.commit)
    before = contents(storage)
    storage.delete(manifest_of(first))
    [found] = repair(storage, dry_run=False)
    assert (found.state, found.reason) == ("restored", "the snapshot 'train' names it")
    after = contents(storage)
    assert {path: after[path] for path in before} == before


def test_a_snapshot_does_not_tell_which_of_two_attempts_was_committed() -> None:
    storage, manifest = two_attempts()
    pin(storage, manifest.commit)
    storage.delete(manifest_of(manifest))
    assert [found.state for found in repair(storage, dry_run=False)] == ["unproven", "unproven"]
