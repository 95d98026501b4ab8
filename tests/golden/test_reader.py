"""The reader that was written from `docs/format.md` gives what the library gives."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from metaxy_fs import FeatureGraph, FeatureKey, FilesystemMetadataStore
from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.schema import encode_schema
from metaxy_fs.metadata_store import MetadataStore, Query
from tests.golden import reader

ROOTS = sorted(Path(__file__).parent.glob("format-*"))


@pytest.fixture(params=ROOTS, ids=lambda root: root.name)
def root(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def library(store: MetadataStore, feature: str, version: str | None) -> reader.Rows:
    """What the library reads, in the reader's terms."""
    scan = store.scan_rows(Query(key=FeatureKey.parse(feature), partition=version, with_commits=True))
    assert scan is not None
    frame = scan.rows.collect()
    marks = frame.select("_metaxy_time", "_metaxy_commit").rows()
    rows = frame.drop("_metaxy_time", "_metaxy_commit")
    return reader.Rows(msgspec.json.decode(encode_schema(rows.schema)), marks, rows.to_arrow().to_pylist())


def check(read: reader.Rows, expected: reader.Rows) -> None:
    assert read.schema == expected.schema
    assert read.commits == expected.commits
    assert [plain(row) for row in read.values] == [plain(row) for row in expected.values]


def plain(value: Any) -> Any:
    """A value that is equal to itself, also where it is no number."""
    match value:
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case float() if math.isnan(value):
            return "no number"
    return value


def test_both_find_the_same_features(root: Path) -> None:
    store = FilesystemMetadataStore(root)
    found = reader.features(root)
    assert sorted(found) == sorted(key.dotted for key in store.list_features())
    for feature, versions in found.items():
        assert versions == store.stored_versions(FeatureKey.parse(feature))


def test_both_read_the_same_rows_in_the_same_order(root: Path) -> None:
    store = FilesystemMetadataStore(root)
    for feature, versions in reader.features(root).items():
        for version in versions:
            check(reader.read(root, feature, [version]), library(store, feature, version))
        check(reader.read(root, feature, versions), library(store, feature, None))


STRAY = [
    *(".DS_Store", "._20250101T000000.000000Z-a.json", ".nfs0000000000a1b2c3", ".tmp-1", "a.json~", "#a.json#"),
    *("a.json.1a2B3c4D", "a.json.12345678.partial", "a.tmp", "a_.gstmp", "Thumbs.db", "DESKTOP.INI", "b_$folder$"),
    *("@eaDir/a.json", ".snapshot/a.json", "~lock/a.json"),
]


def test_both_pass_over_the_stray_files_of_systems_and_tools(root: Path, tmp_path: Path) -> None:
    with_stray = Path(shutil.copytree(root, tmp_path / "root"))
    for feature, versions in reader.features(root).items():
        for version in versions:
            for directory, name in itertools.product(("", "appends", "compactions"), STRAY):
                path = with_stray / feature / version / "_manifests" / directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")

    store = FilesystemMetadataStore(with_stray)
    assert reader.features(with_stray) == reader.features(root)
    for feature, versions in reader.features(root).items():
        check(reader.read(with_stray, feature, versions), reader.read(root, feature, versions))
        check(library(store, feature, None), reader.read(root, feature, versions))


@pytest.mark.parametrize("name", ["notes.txt", "appends/a (1).json", "appends/a.json.bak", "appends/x/a.json"])
def test_both_refuse_whatever_else_is_among_the_manifests(root: Path, tmp_path: Path, name: str) -> None:
    closed = Path(shutil.copytree(root, tmp_path / "root"))
    feature, [version, *_] = next(iter(reader.features(root).items()))
    path = closed / feature / version / "_manifests" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"x")

    with pytest.raises((AssertionError, ValueError)):
        reader.read(closed, feature, [version])
    with pytest.raises(CorruptObjectError, match="is no manifest"):
        library(FilesystemMetadataStore(closed), feature, version)


def test_both_give_the_same_rows_to_users(root: Path) -> None:
    store = FilesystemMetadataStore(root)
    for feature, versions in reader.features(root).items():
        rows, key = reader.read(root, feature, versions), FeatureKey.parse(feature)
        scan = store.scan_rows(Query(key=key, partition=None))
        assert scan is not None
        ids = scan.id_columns
        with FeatureGraph().use():  # which declares no feature, so all data versions are read
            for latest_only, expected in ((False, reader.shown(rows)), (True, reader.latest(rows, ids))):
                check(expected, given(store.read_metadata(key, latest_only=latest_only, with_commits=True)))


def given(frame: pl.DataFrame) -> reader.Rows:
    """What a user gets, in the reader's terms."""
    marks = frame.select(pl.col("committed_at").dt.epoch("us"), "commit").rows()
    rows = frame.drop("committed_at", "commit")
    return reader.Rows(msgspec.json.decode(encode_schema(rows.schema)), marks, rows.to_arrow().to_pylist())


def test_both_tell_the_same_of_commits(root: Path) -> None:
    store = FilesystemMetadataStore(root)
    for feature, versions in reader.features(root).items():
        commits = store.history(FeatureKey.parse(feature))
        told = commits.select(pl.col("time").dt.epoch("us"), "commit", "rows", "retired", "write_id", "tags").rows()
        assert [reader.Commit(*row[:5], json.loads(row[5] or "{}")) for row in told] == reader.history(
            root, feature, versions
        )


SNAPSHOTS = sorted(path for root in ROOTS for path in root.glob("_snapshots/*.json"))


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.stem)
def test_both_see_the_same_at_a_snapshot(path: Path) -> None:
    root = path.parents[1]
    store = FilesystemMetadataStore(root).at(path.stem)
    assert store.list_features()
    for key in store.list_features():
        for version in [*store.stored_versions(key), None]:
            check(reader.read_at(root, path.stem, key.dotted, version), library(store, key.dotted, version))
