"""What can somebody who may write to a root do to those who read it? Nothing but lie about the rows there."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metaxy_fs import CorruptObjectError, FeatureKey, FilesystemMetadataStore, MetaxyError
from metaxy_fs.metadata_store import verify
from tests.trust.test_broken import Video, rows

VIDEO = FeatureKey(["video"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of one feature, beside the root of somebody else."""
    for name in ("root", "private"):
        FilesystemMetadataStore(tmp_path / name).write_metadata(Video, rows(0))
    return tmp_path / "root"


def read(root: Path) -> pl.DataFrame:
    """What a new process reads of a feature in all its data versions."""
    return FilesystemMetadataStore(root).read_metadata(VIDEO)


def partition(root: Path) -> Path:
    (found,) = root.glob("video/*")
    return found


def data_file(root: Path) -> Path:
    (found,) = root.glob("video/*/*.parquet")
    return found


def manifest(root: Path) -> Path:
    (found,) = root.glob("video/*/_manifests/appends/*.json")
    return found


def forge(root: Path, change: Callable[[Any], object]) -> None:
    """Change the manifest as somebody would who knows the format."""
    fields = json.loads(manifest(root).read_bytes())
    del fields["sha256"]
    change(fields)
    manifest(root).write_text(json.dumps(fields))


# What is a link, and where it may lead.

LINKED: dict[str, Callable[[Path], Path]] = {
    "feature": lambda root: root / "video",
    "partition": partition,
    "manifests": lambda root: partition(root) / "_manifests",
    "appends": lambda root: partition(root) / "_manifests" / "appends",
    "manifest": manifest,
    "data file": data_file,
}


@pytest.mark.parametrize("kind", LINKED)
@pytest.mark.parametrize("is_relative", [True, False])
def test_a_link_out_of_the_root_is_not_followed(root: Path, tmp_path: Path, kind: str, *, is_relative: bool) -> None:
    path = LINKED[kind](root)
    outside = tmp_path / "elsewhere"
    path.rename(outside)
    path.symlink_to(os.path.relpath(outside, path.parent) if is_relative else outside)
    with pytest.raises(CorruptObjectError, match="is a link") as caught:
        read(root)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["manifest", "data file"])
def test_a_link_to_a_file_of_the_root_is_that_file(root: Path, kind: str) -> None:
    expected = read(root)
    path = LINKED[kind](root)
    path.rename(root / "moved")
    path.symlink_to(root / "moved")
    assert read(root).equals(expected)


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(root)
    assert read(tmp_path / "current").equals(read(root))
    FilesystemMetadataStore(tmp_path / "current").write_metadata(Video, rows(1))
    assert read(root).height == 8


def test_nothing_is_written_or_deleted_through_a_link(root: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    shutil.rmtree(root / "video")
    (root / "video").symlink_to(private / "video")
    before = {path: path.read_bytes() for path in private.rglob("*") if path.is_file()}
    store = FilesystemMetadataStore(root)
    with pytest.raises(CorruptObjectError, match="is a link"):
        store.write_metadata(Video, rows(1))
    with pytest.raises(CorruptObjectError, match="is a link"):
        store.storage.delete(f"video/{data_file(private).parent.name}/{data_file(private).name}")
    assert {path: path.read_bytes() for path in private.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["partition", "manifests"])
def test_links_in_a_circle_end_a_listing(root: Path, place: str) -> None:
    directory = LINKED[place](root)
    for name in ("a", "b"):
        (directory / name).symlink_to(directory)
    with pytest.raises(CorruptObjectError, match="is a link"):
        verify(FilesystemMetadataStore(root))


# What is no file.


@pytest.mark.parametrize("kind", ["manifest", "data file"])
def test_a_pipe_is_not_waited_on(root: Path, kind: str) -> None:
    path = LINKED[kind](root)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(MetaxyError) as caught:
        read(root)
    assert str(path) in str(caught.value)


def test_a_link_to_a_device_is_not_opened(root: Path) -> None:
    path = manifest(root)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CorruptObjectError, match="is a link"):
        read(root)


def test_a_pipe_whose_manifest_gives_no_size_is_not_waited_on(root: Path) -> None:
    forge(root, lambda fields: fields["files"][0].update(bytes=0))
    path = data_file(root)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptObjectError, match="pipe"):
        read(root)
