"""Objects of a newer version are told from damaged ones, and left alone."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore, UnsupportedFormatError, compact, copy_metadata, repair, vacuum, verify
from tests.golden.compacted import AFTER, BEFORE, Clip, ClipBefore, Kinds

GOLDEN = Path(__file__).parent / "format-1-sealed-compacted"
OVERLAPPING = "clip.raw/a50b1e5e7b1c3912"
VACUUMED = "clip.raw/458381671a0109b2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "root"))


def of_newer_format(root: Path, pattern: str) -> None:
    """Let an object say that it is of format 2, and be otherwise as no version 1 is; the least one of a pattern."""
    path = min(root.glob(pattern))
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps({"format_version": 2, "invented": fields}))


def read(root: Path) -> None:
    FilesystemMetadataStore(root).read_metadata(ClipBefore)


def write(root: Path) -> None:
    FilesystemMetadataStore(root).write_metadata(ClipBefore, BEFORE[0])


def calculate(root: Path) -> None:
    assert FilesystemMetadataStore(root).hash_algorithm


def compact_all(root: Path) -> None:
    compact(FilesystemMetadataStore(root), ClipBefore, full=True)


def look_back(root: Path) -> None:
    FilesystemMetadataStore(root).at("early")


def list_all(root: Path) -> None:
    FilesystemMetadataStore(root).list_snapshots()


def copy(root: Path) -> None:
    copy_metadata(ClipBefore, source=FilesystemMetadataStore(root), target=FilesystemMetadataStore(root.parent / "x"))


APPEND = f"{OVERLAPPING}/_manifests/appends/{max((GOLDEN / OVERLAPPING).glob('_manifests/appends/2*.json')).name}"
COMPACTION = f"{OVERLAPPING}/_manifests/compactions/*.json"
DEFINITION = f"{OVERLAPPING}/_definition.json"
SNAPSHOT = "_snapshots/early.json"


@pytest.mark.parametrize(
    ("pattern", "action"),
    [
        (APPEND, read),
        (APPEND, compact_all),
        (APPEND, copy),
        (COMPACTION, read),
        (COMPACTION, compact_all),
        (COMPACTION, copy),
        (DEFINITION, write),
        (DEFINITION, copy),
        ("_store.json", write),
        ("_store.json", calculate),
        (SNAPSHOT, look_back),
        (SNAPSHOT, list_all),
    ],
)
def test_who_needs_a_newer_object_is_told_to_upgrade(root: Path, pattern: str, action: Callable[[Path], Any]) -> None:
    of_newer_format(root, pattern)
    with pytest.raises(UnsupportedFormatError, match=r"has format version 2; .*Upgrade metaxy_fs") as caught:
        action(root)
    assert str(min(root.glob(pattern))) in str(caught.value)


def test_a_job_does_not_take_what_it_once_wrote_for_the_write_of_another(root: Path) -> None:
    for path in root.glob(f"{VACUUMED}/_writes/*.json"):
        of_newer_format(root, str(path.relative_to(root)))
    with (
        pytest.raises(UnsupportedFormatError, match="has format version 2"),
        FilesystemMetadataStore(root).buffered(Clip, rows=6, seconds=None, write_id="long job") as buffer,
    ):
        buffer.write(pl.concat(AFTER[:2]))


@pytest.mark.parametrize("pattern", [APPEND, COMPACTION, f"{VACUUMED}/_vacuum/*.json"])
def test_a_vacuum_leaves_a_partition_that_it_does_not_understand(root: Path, pattern: str) -> None:
    of_newer_format(root, pattern)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    found = vacuum(FilesystemMetadataStore(root), dry_run=False)
    [skipped] = found.skipped
    assert "has format version 2" in skipped.problem
    partition = str(min(root.glob(pattern)).relative_to(root)).split("/_")[0]
    assert skipped.path == partition
    assert {path: path.read_bytes() for path in before if path.is_relative_to(root / partition)} == {
        path: data for path, data in before.items() if path.is_relative_to(root / partition)
    }


@pytest.mark.parametrize("pattern", [APPEND, COMPACTION, DEFINITION, "_store.json", SNAPSHOT])
def test_repair_replaces_nothing_that_is_newer(root: Path, pattern: str) -> None:
    of_newer_format(root, pattern)
    path = min(root.glob(pattern))
    before = path.read_bytes()
    with suppress(UnsupportedFormatError):
        repair(FilesystemMetadataStore(root), dry_run=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("pattern", [APPEND, COMPACTION, DEFINITION, "_store.json", SNAPSHOT])
def test_verify_names_what_is_newer(root: Path, pattern: str) -> None:
    of_newer_format(root, pattern)
    path = str(min(root.glob(pattern)).relative_to(root))
    findings = [finding for finding in verify(FilesystemMetadataStore(root)).findings if finding.path == path]
    assert findings
    assert any("format version 2" in finding.problem for finding in findings)
    assert not any("Restore it from a backup" in finding.remedy for finding in findings)


def test_other_features_are_read_and_written(root: Path) -> None:
    """A newer object stands in the way of what needs it, and of nothing else."""
    of_newer_format(root, COMPACTION)
    of_newer_format(root, SNAPSHOT)
    store = FilesystemMetadataStore(root)
    assert store.read_metadata(Clip).height == sum(rows.height for rows in AFTER)
    store.write_metadata(Clip, AFTER[0])
    assert store.read_metadata(Kinds).height == 4
    assert store.at("middle").list_features()
