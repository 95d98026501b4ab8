"""A local put survives a crash at any step, and nothing but a missing file looks like one."""

import errno
import multiprocessing
import os
import pickle
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metaxy_fs.errors import (
    CorruptObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageAccessError,
    StorageError,
)
from metaxy_fs.storage import LocalStorage, ObjectInfo
from metaxy_fs.storage import local as local_module
from metaxy_fs.storage import path_guard as fence_module
from metaxy_fs.storage.base import NotDurableError
from metaxy_fs.storage.local import TEMPORARY_PREFIX
from metaxy_fs.storage.path_guard import PathGuard
from tests.support.patience import PATIENCE


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def storage(root):
    return LocalStorage(root)


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The calls that change directories or sync, in order, as (verb, path relative to the test's directory)."""
    made, paths = [], {}

    def relative(path):
        name = os.path.relpath(path, tmp_path)
        return str(Path(name).with_name("temporary")) if TEMPORARY_PREFIX in name else name

    def traced(verb, function):
        def call(path, *args, **kwargs):
            made.append((verb, relative(paths.get(path, path))))
            return function(path, *args, **kwargs)

        return call

    real_open = os.open

    def traced_open(path, *args, **kwargs):
        descriptor = real_open(path, *args, **kwargs)
        paths[descriptor] = path
        return descriptor

    for verb in ("mkdir", "fsync", "unlink"):
        monkeypatch.setattr(os, verb, traced(verb, getattr(os, verb)))
    real_link = os.link
    monkeypatch.setattr(os, "link", lambda old, new: made.append(("link", relative(new))) or real_link(old, new))
    monkeypatch.setattr(os, "open", traced_open)
    return made


def test_put_syncs_the_bytes_before_the_name_and_the_name_before_it_returns(storage, calls):
    storage.put("a/x", b"1")
    calls.clear()

    storage.put("a/y", b"1")
    assert calls == [
        ("fsync", "root/a/temporary"),
        ("link", "root/a/y"),
        ("unlink", "root/a/temporary"),
        ("fsync", "root/a"),
    ]


def test_new_directories_are_synced_into_their_parents_before_the_object(storage, calls):
    storage.put("a/b/x", b"1")

    assert calls[:6] == [
        ("mkdir", "root"),
        ("fsync", "."),
        ("mkdir", "root/a"),
        ("fsync", "root"),
        ("mkdir", "root/a/b"),
        ("fsync", "root/a"),
    ]


def test_what_is_remembered_of_directories_is_bounded(root, monkeypatch):
    monkeypatch.setattr(fence_module, "REMEMBERED", 8)
    monkeypatch.setattr(local_module, "REMEMBERED", 8)
    storage = LocalStorage(root)
    for number in range(30):
        storage.put(f"a/{number}/x", b"1")
        assert len(storage._durable_directories) <= 8 + 3
        assert len(storage._guard._inside) <= 8
    assert len(storage.list("")) == 30


def test_directories_that_another_process_may_not_have_synced_are_synced_once(storage, root, calls):
    (root / "a/b").mkdir(parents=True)
    calls.clear()

    storage.put("a/b/x", b"1")
    assert calls.index(("fsync", "root")) < calls.index(("link", "root/a/b/x"))
    assert calls.index(("fsync", "root/a")) < calls.index(("link", "root/a/b/x"))
    calls.clear()
    storage.put("a/b/y", b"1")
    assert ("fsync", "root") not in calls


def test_loser_syncs_the_name_that_the_winner_may_not_have_synced(storage, calls):
    storage.put("x", b"1")
    calls.clear()

    with pytest.raises(ObjectExistsError):
        storage.put("x", b"2")
    assert calls[-1] == ("fsync", "root")


def test_warm_put_asks_for_no_status(storage, monkeypatch):
    storage.put("a/x", b"1")
    with monkeypatch.context() as patch:
        for name in ["stat", "lstat", "mkdir", "scandir"]:
            patch.setattr(os, name, None)
        storage.put("a/y", b"1")

    assert storage.get("a/y") == b"1"


def test_put_into_a_directory_that_was_removed_makes_it_again(storage, root):
    storage.put("a/b/x", b"1")
    (root / "a/b/x").unlink()
    (root / "a/b").rmdir()
    (root / "a").rmdir()

    storage.put("a/b/x", b"2")
    assert storage.get("a/b/x") == b"2"


def test_put_leaves_no_temporary_file(storage, root):
    storage.put("a/x", b"1")
    with pytest.raises(ObjectExistsError):
        storage.put("a/x", b"2")

    assert [path.name for path in (root / "a").iterdir()] == ["x"]


def test_delete_syncs_the_directory_before_it_returns(storage, calls):
    storage.put("a/x", b"1")
    calls.clear()

    storage.delete("a/x")
    assert calls == [("unlink", "root/a/x"), ("fsync", "root/a")]


def test_delete_that_fails_is_no_success(storage, monkeypatch):
    storage.put("a/x", b"1")
    for name, number in [("unlink", errno.EIO), ("fsync", errno.EIO)]:
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails(number))
            with pytest.raises(StorageError, match=os.strerror(errno.EIO)):
                storage.delete("a/x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fails(errno.EACCES))
        with pytest.raises(StorageAccessError):
            storage.delete("a/x")


def test_delete_in_a_root_that_is_a_file_is_no_success(root, storage):
    root.write_bytes(b"")

    with pytest.raises(StorageError, match="not a directory"):
        storage.delete("a/x")


def test_failed_write_leaves_no_temporary_file_and_no_object(storage, root, monkeypatch):
    storage.put("a/x", b"1")
    monkeypatch.setattr(os, "fsync", fails(errno.ENOSPC))

    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        storage.put("a/y", b"1")
    assert [path.name for path in (root / "a").iterdir()] == ["x"]


def test_temporary_files_are_no_objects(storage, root):
    storage.put("a/x", b"1")
    (root / f"a/{TEMPORARY_PREFIX}left-over").write_bytes(b"torn")

    assert [info.path for info in storage.list("")] == ["a/x"]
    with pytest.raises(StorageError, match="temporary"):
        storage.put(f"a/{TEMPORARY_PREFIX}y", b"1")


def test_temporary_files_are_left_over_until_they_are_deleted(storage, root):
    storage.put("a/b/x", b"1")
    first, second = f"{TEMPORARY_PREFIX}{1:016x}", f"a/b/{TEMPORARY_PREFIX}{2:016x}"
    for name in [first, second]:
        (root / name).write_bytes(b"torn")

    assert [(info.path, info.size) for info in storage.list_temporaries("")] == [(first, 4), (second, 4)]
    assert [info.path for info in storage.list_temporaries("a")] == [second]
    for info in storage.list_temporaries(""):
        storage.delete(info.path)
    assert storage.list_temporaries("") == []
    assert storage.get("a/b/x") == b"1"


@pytest.mark.parametrize("name", ["notes.txt", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef.txt", ""])
def test_temporary_files_of_others_are_not_left_over(storage, root, name):
    storage.put("a/x", b"1")
    (root / "a" / f"{TEMPORARY_PREFIX}{name}").write_bytes(b"precious")

    assert storage.list_temporaries("") == []


def test_a_file_system_without_room_tells_the_time(storage, root, monkeypatch):
    """Whatever asks for it may be what is going to make room."""
    storage.put("x", b"1")
    os.utime(root, (1_000_000_000, 1_000_000_000))

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = datetime.now(UTC)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        told = storage.now(probe="_clock/0123456789abcdef")
    assert abs(told - before) < timedelta(hours=1)


def test_umask_rules_the_mode_of_objects(storage, root):
    before = os.umask(0o027)
    try:
        storage.put("x", b"1")
    finally:
        os.umask(before)

    assert stat.S_IMODE((root / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_one_of_two_processes_wins_each_name(root, start_method):
    context = multiprocessing.get_context(start_method)
    barrier, results = context.Barrier(2), context.SimpleQueue()
    racers = [
        context.Process(target=race, args=(LocalStorage(root), barrier, results, name)) for name in (b"one", b"two")
    ]
    for racer in racers:
        racer.start()
    won = dict([results.get(), results.get()])
    for racer in racers:
        racer.join()

    assert won[b"one"].isdisjoint(won[b"two"])
    assert won[b"one"] | won[b"two"] == set(range(200))
    storage = LocalStorage(root)
    assert all(storage.get(f"race/{number}") == name for name, numbers in won.items() for number in numbers)


def race(storage, barrier, results, name):
    won = set()
    barrier.wait()
    for number in range(200):
        try:
            storage.put(f"race/{number}", name)
        except ObjectExistsError:
            continue
        won.add(number)
    results.put((name, won))


def test_file_system_without_hard_links_is_named_as_such(storage, monkeypatch, root):
    monkeypatch.setattr(os, "link", fails(errno.EPERM))

    with pytest.raises(StorageError, match="no hard links") as caught:
        storage.put("x", b"1")
    assert not isinstance(caught.value, StorageAccessError)
    assert list(root.iterdir()) == []


def test_sync_of_the_name_that_fails_leaves_the_outcome_unknown(storage, monkeypatch):
    storage.put("x", b"1")
    real, real_link, linked = os.fsync, os.link, []
    monkeypatch.setattr(os, "link", lambda old, new: real_link(old, new) or linked.append(new))
    monkeypatch.setattr(os, "fsync", lambda fd: fails(errno.EIO)() if linked else real(fd))

    with pytest.raises(StorageError, match="durable") as caught:
        storage.put("y", b"1")
    assert not isinstance(caught.value, StorageAccessError | ObjectExistsError)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_directories_is_used_as_it_is(storage, monkeypatch, number):
    sync_only_files(monkeypatch, number)

    storage.put("a/b/x", b"1")
    with pytest.raises(ObjectExistsError):
        storage.put("a/b/x", b"2")
    storage.put("a/y", b"1")
    storage.delete("a/y")
    assert [info.path for info in storage.list("")] == ["a/b/x"]


def test_a_directory_whose_sync_fails_is_not_passed_over(storage, monkeypatch):
    storage.put("x", b"1")
    sync_only_files(monkeypatch, errno.EIO)

    with pytest.raises(NotDurableError, match="a crash may lose it"):
        storage.put("y", b"1")


def test_a_file_whose_sync_is_not_possible_is_not_acknowledged(storage, monkeypatch):
    storage.put("x", b"1")
    monkeypatch.setattr(os, "fsync", fails(errno.EINVAL))

    with pytest.raises(StorageError, match=os.strerror(errno.EINVAL)):
        storage.put("y", b"1")
    assert [info.path for info in storage.list("")] == ["x"]


def test_a_root_whose_name_is_not_utf_8_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"has to be UTF-8, got b'.*/\\xff/root'.* rename the directory"):
        LocalStorage(os.fsdecode(bytes(tmp_path) + b"/\xff/root"))
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xfe"))
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(ValueError, match="has to be UTF-8"):
        LocalStorage("root")


def sync_only_files(monkeypatch, number):
    """Have the sync of a directory fail with an error."""
    real = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, StorageAccessError),
        (errno.EROFS, StorageAccessError),
        (errno.ENOSPC, StorageError),
        (errno.ELOOP, StorageError),
        (errno.EIO, StorageError),
    ],
)
def test_system_errors_are_no_missing_objects(storage, root, monkeypatch, number, expected):
    storage.put("a/x", b"1")
    for name in ["open", "scandir"]:
        monkeypatch.setattr(os, name, fails(number))
    monkeypatch.setattr("builtins.open", fails(number))

    for verb in (
        lambda: storage.put("a/y", b"1"),
        lambda: storage.get("a/x"),
        lambda: storage.get_many([ObjectInfo("a/x", 1)]),
        lambda: storage.list("a"),
        lambda: storage.list_directories("a"),
    ):
        with pytest.raises(StorageError, match="a") as caught:
            verb()
        assert isinstance(caught.value, StorageAccessError) == (expected is StorageAccessError)
        assert not isinstance(caught.value, ObjectNotFoundError | ObjectExistsError)
        assert str(root) in str(caught.value)


def test_name_that_is_too_long_is_a_storage_error(storage):
    with pytest.raises(StorageError, match="too long"):
        storage.put("x" * 300, b"1")


def test_loop_of_links_is_a_storage_error(storage, root):
    storage.put("a/x", b"1")
    (root / "loop").symlink_to("loop")

    with pytest.raises(StorageError) as caught:
        storage.get("loop/x")
    assert not isinstance(caught.value, ObjectNotFoundError)


def test_root_that_is_a_file_is_no_empty_root(storage, root):
    root.write_bytes(b"")

    for verb in (
        lambda: storage.put("x", b"1"),
        lambda: storage.get("x"),
        lambda: storage.list(""),
        lambda: storage.list("a"),
        lambda: storage.list_directories(""),
    ):
        with pytest.raises(StorageError, match=r"[Nn]ot a directory") as caught:
            verb()
        assert not isinstance(caught.value, ObjectNotFoundError)


def test_reading_makes_no_directories(storage, root):
    assert storage.list("") == []
    with pytest.raises(ObjectNotFoundError):
        storage.get("a")

    assert not root.exists()


def test_object_where_a_directory_is_wanted_is_a_storage_error(storage):
    storage.put("a", b"1")

    with pytest.raises(StorageError) as caught:
        storage.put("a/b", b"1")
    assert not isinstance(caught.value, ObjectExistsError)


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    LocalStorage("~/root").put("x", b"1")

    assert (tmp_path / "root/x").read_bytes() == b"1"


def test_relative_root_stays_where_it_was_opened(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("root")
    monkeypatch.chdir("/")

    assert storage.location == str(tmp_path / "root")


def test_root_directory_of_the_system_needs_no_special_care():
    assert LocalStorage("/").local_path("a/b") == "/a/b"


def test_local_path_cannot_leave_the_root(storage):
    with pytest.raises(StorageError, match="no path below"):
        storage.local_path("../secret")


def test_pickled_storage_forgets_which_directories_are_synced(storage, calls):
    storage.put("a/x", b"1")
    copy = pickle.loads(pickle.dumps(storage))  # noqa: S301  # its own bytes
    calls.clear()

    copy.put("a/y", b"1")
    assert ("fsync", "root") in calls


def fails(number):
    def call(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return call


def test_a_root_below_a_file_is_a_mistake_and_not_empty(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    storage = LocalStorage(tmp_path / "file" / "root")
    for question in (lambda: storage.list(""), lambda: storage.list_directories(""), lambda: storage.get("a")):
        with pytest.raises(StorageError, match="Not a directory"):
            question()


def test_a_temporary_file_that_cannot_be_removed_is_left_to_vacuum(storage, root, monkeypatch, calls):
    def fail(_path):
        raise OSError(errno.EIO, "the disk does not answer")

    monkeypatch.setattr(os, "unlink", fail)
    storage.put("a/b", b"1")
    monkeypatch.undo()
    assert storage.get("a/b") == b"1"
    assert calls[-1] == ("fsync", "root/a")
    assert len(storage.list_temporaries("")) == 1


@pytest.mark.parametrize("ask", [LocalStorage.get, lambda storage, path: storage.get_optional([path], max_bytes=9)])
def test_what_is_no_file_is_refused_before_it_is_opened(storage, root, monkeypatch, ask):
    storage.put("a/b", b"1")
    os.mkfifo(root / "a" / "c")
    monkeypatch.setattr("builtins.open", None)
    with pytest.raises(CorruptObjectError, match="is a pipe"):
        ask(storage, "a/c")


def test_nobody_waits_at_a_pipe_that_takes_the_place_of_a_file_when_it_was_looked_at(storage, root, monkeypatch):
    storage.put("a/b", b"1")
    os.mkfifo(root / "a" / "c")
    monkeypatch.setattr(PathGuard, "check_file", lambda _guard, _path: None)
    reader = threading.Thread(target=storage.get, args=["a/c"], daemon=True)
    reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive()


@pytest.fixture
def _folding(monkeypatch):
    """A file system that does not tell upper from lower case, as far as directories are concerned."""
    there, listed = os.path.lexists, os.listdir
    monkeypatch.setattr(os.path, "lexists", lambda path: there(path) or there(Path(path).with_name("clip")))
    monkeypatch.setattr(os, "listdir", lambda path: [name.replace("clip", "Clip") for name in listed(path)])


@pytest.mark.usefixtures("_folding")
def test_a_directory_of_a_name_that_differs_in_case_alone_is_refused(storage):
    storage.put("video/a", b"1")
    with pytest.raises(StorageError, match=r"below 'clip' in .*: 'Clip' is there"):
        storage.put("clip/b/c", b"1")


def test_names_that_differ_in_case_alone_are_two_where_the_file_system_says_so(storage):
    for name in ("clip/a", "CLIP/a", "Clip/a"):
        storage.put(name, name.encode())
    assert [storage.get(info.path).decode() for info in storage.list("")] == ["CLIP/a", "Clip/a", "clip/a"]
