"""Somebody who may write to a root can lie about its rows to readers, and do nothing else to them."""

import builtins
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from metaxy_fs import (
    ContainerKey,
    CorruptObjectError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    MetadataSchemaError,
    MetaxyError,
    SpecError,
)
from metaxy_fs.cli.main import main
from metaxy_fs.log.footer import decode_struct
from metaxy_fs.metadata_store import copy_metadata, vacuum, verify
from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.versioning.definition import definition_version
from tests.support import thrift
from tests.trust.test_broken import Video, rows

VIDEO = FeatureKey(["video"])


@pytest.fixture(autouse=True)
def no_declarations() -> Iterator[None]:
    """A key is looked for in what the root holds, whatever other tests have declared."""
    with FeatureGraph().use():
        yield


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
    fields.pop("sha256", None)
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


# What a manifest or a record may have somebody do.

ESCAPES = ["a\x1b[31mb", "a\u202eb", "a\rb", "a\x07b"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_cannot_speak_to_the_terminal_of_a_reader(root: Path, name: str) -> None:
    (partition(root) / "_manifests" / name).write_bytes(b"")
    with pytest.raises(CorruptObjectError) as caught:
        read(root)
    assert str(caught.value).isprintable()
    assert ascii(name)[1:-1] in str(caught.value)


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("place", ["partition", "manifests"])
def test_a_name_cannot_speak_to_the_terminal_of_who_verifies(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, place: str
) -> None:
    (LINKED[place](root) / name).write_bytes(b"")
    main(["verify", "--root", str(root)])
    printed = "".join(capsys.readouterr())
    assert ascii(name)[1:-1] in printed
    assert printed.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "name", ["../../../private/video", "/etc/passwd", "../_store.json", "_definition.json", "x.parquet", ""]
)
def test_a_vacuum_deletes_nothing_that_a_record_names_and_the_partition_does_not_hold(root: Path, name: str) -> None:
    before = {path for path in root.parent.rglob("*") if path.is_file()}
    records = partition(root) / "_vacuum"
    records.mkdir()
    names = [name, data_file(root).name]
    (records / "1.json").write_text(json.dumps({"format_version": 1, "unnamed": names, "named": []}))
    at_once = timedelta(0)
    vacuum(FilesystemMetadataStore(root), dry_run=False, grace=at_once, retention=at_once, unsafe=True)
    after = {path for path in root.parent.rglob("*") if path.is_file() and "_vacuum" not in path.parts}
    assert after == before
    assert read(root).height == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["files"][0].update(name="../../../private/x.parquet"),
        lambda fields: fields["files"][0].update(bytes=2**53 - 1),
        lambda fields: fields["files"][0].update(sha256="0" * 64),
        lambda fields: fields.update(feature=["audio"]),
        lambda fields: fields.update(schema=[["x", "no such type"]]),
    ],
)
def test_nothing_of_a_forged_commit_is_promoted(root: Path, tmp_path: Path, change: Callable[[Any], object]) -> None:
    forge(root, change)
    target = FilesystemMetadataStore(tmp_path / "mine")
    with pytest.raises(CorruptObjectError):
        copy_metadata(VIDEO, source=FilesystemMetadataStore(root), target=target)
    assert target.list_features() == []
    assert not list((tmp_path / "mine").rglob("_manifests/*/*.json"))


def test_a_schema_of_a_million_columns_is_refused_before_it_is_made(root: Path) -> None:
    forge(root, lambda fields: fields.update(schema=[[f"{number:x}", "int8"] for number in range(1_000_000)]))
    with pytest.raises(CorruptObjectError, match="A schema has at most 4194304 bytes") as caught:
        read(root)
    assert str(manifest(root)) in str(caught.value)


def test_columns_of_which_no_reader_would_take_the_schema_are_not_written(root: Path) -> None:
    names = [letter * 2_000_000 for letter in "abc"]
    with pytest.raises(MetadataSchemaError, match="shorten the names"):
        FilesystemMetadataStore(root).write_metadata(
            Video, rows(1).with_columns(pl.lit(1).alias(name) for name in names)
        )
    assert read(root).height == 4


def bomb(promised: int) -> bytes:
    """A Parquet file of one column, whose first page promises to unfold to so many bytes."""
    buffer = io.BytesIO()
    rows(0).select("sample_id").write_parquet(buffer, compression="zstd")
    data = buffer.getvalue()
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    page, footer = decode_struct(data[4:]), decode_struct(data[begin:-8])
    head = len(thrift.encode_struct(page))
    body = thrift.encode_struct(page | {2: thrift.field(thrift.I32, promised)}) + data[4 + head : begin]
    column = footer[4].value.values[0][1].value.values[0][3].value
    for field, more in ((7, len(body) - (begin - 4)), (9, len(body) - (begin - 4))):  # sizes, and where rows begin
        if field == 7 or column[9].value > 4:
            column[field] = thrift.field(thrift.I64, column[field].value + more)
    end = thrift.encode_struct(footer)
    return b"".join((b"PAR1", body, end, len(end).to_bytes(4, "little"), b"PAR1"))


def plant(root: Path, data: bytes) -> None:
    """Put other bytes in the place of the data file, and have the manifest describe them."""
    data_file(root).write_bytes(data)
    entry = {"rows": 4, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "statistics": []}
    forge(root, lambda fields: (fields["files"][0].update(entry), fields.update(schema=[["sample_id", "int64"]])))


def test_a_page_that_promises_gigabytes_is_refused(root: Path) -> None:
    whole = rows(0).height * 8
    plant(root, bomb(whole))
    assert read(root)["sample_id"].to_list() == [0, 1, 2, 3]
    plant(root, bomb(2**31 - 1))
    with pytest.raises(CorruptObjectError, match="no Parquet file that can be read") as caught:
        read(root)
    assert str(data_file(root)) in str(caught.value)


def fragmented(groups: int) -> bytes:
    """A Parquet file of one column that claims to be made of so many row groups, each of them the same rows."""
    buffer = io.BytesIO()
    rows(0).select("sample_id").write_parquet(buffer)
    data = buffer.getvalue()
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = decode_struct(data[begin:-8])
    kept = footer[4].value
    footer[4] = thrift.field(thrift.LIST, kept._replace(values=kept.values * groups))
    footer[3] = thrift.field(thrift.I64, footer[3].value * groups)
    encoded = thrift.encode_struct(footer)
    return data[:begin] + encoded + len(encoded).to_bytes(4, "little") + data[-4:]


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_file_of_a_hundred_thousand_row_groups_is_refused_before_they_are_read(root: Path, kind: str) -> None:
    plant(root, fragmented(1))
    assert read(root)["sample_id"].to_list() == [0, 1, 2, 3]
    plant(root, fragmented(100_000))
    store = FilesystemMetadataStore(root)
    if kind == "remote":
        storage = MemoryStorage()
        for info in store.storage.list(""):
            storage.put(info.path, store.storage.get(info.path))
        store = FilesystemMetadataStore(storage)
    with pytest.raises(CorruptObjectError, match="100000 row groups"):
        store.read_metadata(VIDEO)
    assert any("100000 row groups" in finding.problem for finding in verify(store).findings)


def test_a_file_that_claims_a_huge_size_is_not_made_room_for(root: Path) -> None:
    forge(root, lambda fields: (fields["files"][0].update(rows=2**52), fields.update(rows=2**52)))
    assert read(root).height in (0, 4)


# What keys can be mistaken for each other.

LOOKALIKES = [
    "vide\u043e",
    "vid\u00e9o",
    "vide\u0301o",
    "video\u200b",
    "\u202evideo",
    "vi\uff44eo",
    "video\n",
    "v\u0131deo",
]


@pytest.mark.parametrize("name", LOOKALIKES)
@pytest.mark.parametrize("kind", [FeatureKey, ContainerKey])
def test_a_key_has_no_letters_that_look_like_others(name: str, kind: type[FeatureKey | ContainerKey]) -> None:
    with pytest.raises(SpecError):
        kind([name])


@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_directory_that_looks_like_a_feature_is_none(root: Path, name: str) -> None:
    shutil.copytree(root / "video", root / name)
    assert FilesystemMetadataStore(root).list_features() == [VIDEO]


@pytest.mark.parametrize("name", ["_store.json", "_definition.json"])
def test_an_object_that_writers_share_is_not_read_to_its_end_if_it_is_larger_than_any(root: Path, name: str) -> None:
    [found] = root.rglob(name)
    with found.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CorruptObjectError, match=name):
        FilesystemMetadataStore(root).write_metadata(Video, rows(1))


class FoldingStorage(MemoryStorage):
    """A file system that keeps the case of names, and does not tell upper from lower case when it looks for one."""

    def put(self, path: str, data: bytes) -> None:
        super().put(self._held(path), data)

    def get(self, path: str) -> bytes:
        return super().get(self._held(path))

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        below = f"{directory}/".lower() if directory else ""
        found = [info for info in super().list("") if info.path.lower().startswith(below)][:limit]
        return [msgspec.structs.replace(info, path=directory + info.path[len(directory) :]) for info in found]

    def list_directories(self, directory: str) -> builtins.list[str]:
        below = len(directory) + 1 if directory else 0
        names = {info.path[below:].partition("/") for info in self.list(directory)}
        return sorted({name for name, slash, _ in names if slash})

    def _held(self, path: str) -> str:
        return next((info.path for info in super().list("") if info.path.lower() == path.lower()), path)


def test_keys_that_differ_in_case_alone_are_not_mixed_where_names_are_folded() -> None:
    with FeatureGraph().use():

        class Lower(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]))):
            pass

        class Upper(Feature, spec=FeatureSpec(key=FeatureKey(["Clip"]))):
            pass

    frame = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "a"}]})
    storage = FoldingStorage()
    store = FilesystemMetadataStore(storage)
    store.write_metadata(Lower, frame)
    path = next(info.path for info in storage.list("") if info.path.endswith("_definition.json"))
    mine, theirs = path.split("/")[1], definition_version(Upper.graph, Upper.spec.key).partition
    for info in list(storage.list("")):
        if mine in info.path:  # as if the two had the same version, which takes a collision of digests
            storage.put(info.path.replace(mine, theirs), storage.get(info.path))
    with pytest.raises(MetaxyError, match="clip"):
        store.read_metadata(Upper)
    with pytest.raises(MetaxyError, match="clip"):
        store.write_metadata(Upper, frame)
