"""A directory that another user could read, write or exchange is refused, and the message says which step is weak."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.storage import path_guard as private
from metaxy_fs.storage.path_guard import open_private

Prepare = Callable[[Path], object]
OTHER_USER = 12_345


def open_below(top: Path) -> None:
    open_private(top / "team" / "cache", purpose="a cache")


def owned_by_another(path: Path) -> None:
    os.chown(path, OTHER_USER, -1)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the user may not give files away")


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777, 0o1775])
def test_a_directory_in_which_others_cannot_rename_is_taken(tmp_path: Path, mode: int) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team").chmod(mode)
    open_below(tmp_path)
    assert stat.S_IMODE((tmp_path / "team" / "cache").stat().st_mode) == 0o700
    open_below(tmp_path)


def test_missing_parents_are_made_and_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        open_private(tmp_path / "a" / "b" / "c", purpose="a cache")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")} == {0o700}


@pytest.mark.parametrize("is_parent", [False, True])
def test_a_directory_to_which_all_may_write_is_refused(tmp_path: Path, *, is_parent: bool) -> None:
    weak = tmp_path / "scratch"
    (weak / "team").mkdir(parents=True)
    (weak if is_parent else weak / "team").chmod(0o777)
    with pytest.raises(StorageError, match=r"all users may write to .*, which has no sticky bit\. Choose a directory"):
        open_below(weak)


@pytest.mark.parametrize("is_alone", [False, True])
def test_a_directory_to_which_a_group_may_write_is_refused_unless_it_is_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_alone: bool
) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team").chmod(0o775)
    monkeypatch.setattr(private, "_is_own_group", lambda _group: is_alone)
    if is_alone:
        open_below(tmp_path)
    else:
        with pytest.raises(StorageError, match=r"the group \d+ may write to .*team, which has no sticky bit"):
            open_below(tmp_path)


@as_root
def test_a_group_of_others_is_none_of_this_user_alone(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team").chmod(0o775)
    os.chown(tmp_path / "team", -1, 54_321)
    with pytest.raises(StorageError, match="the group 54321 may write"):
        open_below(tmp_path)


@as_root
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team").chmod(mode)
    owned_by_another(tmp_path / "team")
    with pytest.raises(StorageError, match=f"team belongs to the user {OTHER_USER}"):
        open_below(tmp_path)


@as_root
def test_a_link_of_another_user_is_refused_though_it_leads_to_a_safe_place(tmp_path: Path) -> None:
    (tmp_path / "safe").mkdir()
    (tmp_path / "team").symlink_to("safe")
    open_below(tmp_path)
    os.chown(tmp_path / "team", OTHER_USER, -1, follow_symlinks=False)
    with pytest.raises(StorageError, match=f"team belongs to the user {OTHER_USER}"):
        open_below(tmp_path)


@pytest.mark.parametrize("target", ["open/place", "../{top}/open/place", "{path}/open/place", "second"])
def test_what_lies_behind_a_link_is_looked_at_too(tmp_path: Path, target: str) -> None:
    (tmp_path / "open" / "place").mkdir(parents=True)
    (tmp_path / "second").symlink_to("open/place")
    (tmp_path / "team").symlink_to(target.format(top=tmp_path.name, path=tmp_path))
    open_below(tmp_path)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StorageError, match=r"all users may write to .*open"):
        open_below(tmp_path)


def test_a_link_in_the_place_of_the_directory_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "team" / "cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="no directory of this user alone"):
        open_below(tmp_path)


@pytest.mark.parametrize("target", ["team", "nowhere"])
def test_links_without_an_end_are_an_error_and_not_a_loop(tmp_path: Path, target: str) -> None:
    (tmp_path / "team").symlink_to(target)
    with pytest.raises(StorageError, match="cannot keep a cache in"):
        open_below(tmp_path)
