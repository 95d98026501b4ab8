"""Files that systems and tools put anywhere close no partition; anything else below `_manifests` does."""

from pathlib import Path

import pytest

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.layout import is_stray
from metaxy_fs.log.repair import repair
from metaxy_fs.log.unreferenced import read_partition_state
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage import open_storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.roots import root
from tests.servers.s3 import S3Server, obstore_of
from tests.storage.bypasses import BotoObjects

COMMIT = "20250101T000000.000000Z-0123456789abcdef"
STRAY = [
    *(".DS_Store", f"._{COMMIT}.json", ".nfs0000000000a1b2c300000001", ".fuse_hidden0000001a00000001", ".tmp-ab12"),
    *(f".{COMMIT}.json.Xa3f9Q", f"{COMMIT}.json.1a2b3c4d.partial", f".syncthing.{COMMIT}.json.tmp"),
    *(
        f"~syncthing~{COMMIT}.json.tmp",
        f"{COMMIT}.json~",
        f"#{COMMIT}.json#",
        f".#{COMMIT}.json",
        f".{COMMIT}.json.swp",
    ),
    *(f"{COMMIT}.json.8e6fBcA1", f"{COMMIT}.json_.gstmp", "Thumbs.db", "desktop.ini", "Desktop.ini", "x_$folder$"),
    *(".AppleDouble/x.json", f"@eaDir/{COMMIT}.json", f".~tmp~/{COMMIT}.json", f".stversions/{COMMIT}.json"),
]
"""Of macOS, NFS, FUSE, copies between roots, rsync, rclone, Syncthing, editors, object stores' tools and Windows."""

FOREIGN = [
    *("notes.txt", f"{COMMIT}", f"{COMMIT}.json.bak", f"{COMMIT} (1).json", f"{COMMIT} (conflicted copy).json"),
    *(f"sub/{COMMIT}.json", f"{COMMIT}.jsonx", f"{COMMIT}.json.12345"),
]
"""What somebody put there on purpose, perhaps a manifest under another name."""


@pytest.mark.parametrize("directory", ["", "appends/", "compactions/"])
@pytest.mark.parametrize("name", STRAY)
def test_a_stray_file_is_passed_over_by_everyone(name: str, directory: str) -> None:
    storage, _ = root()
    before = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    storage.put(path := f"{PARTITION.manifests}/{directory}{name}", b"not a manifest")

    assert ViewLoader(storage, clock=LamportClock()).load(PARTITION) == before
    assert read_partition_state(storage, PARTITION).inventory.misplaced == ()
    assert [(finding.severity, finding.path) for finding in verify(storage).findings] == [("note", path)]
    assert repair(storage, dry_run=False) == []
    write(storage, 9)
    assert storage.get(path) == b"not a manifest"


@pytest.mark.parametrize("directory", ["", "appends/", "compactions/"])
@pytest.mark.parametrize("name", FOREIGN)
def test_anything_else_below_the_manifests_is_refused(name: str, directory: str) -> None:
    storage, _ = root()
    storage.put(f"{PARTITION.manifests}/{directory}{name}", b"")

    with pytest.raises(CorruptObjectError, match="is no manifest"):
        ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    with pytest.raises(CorruptObjectError, match="is no manifest"):
        read_partition_state(storage, PARTITION)
    assert not verify(storage).is_sound


@pytest.mark.parametrize("marker", ["", "/appends", "/compactions", "/", "/appends/", "/compactions/"])
def test_an_empty_object_in_the_place_of_a_directory_marks_it(marker: str) -> None:
    path = f"{PARTITION.manifests}{marker}"
    assert is_stray(path, PARTITION, size=0)
    assert not is_stray(path, PARTITION, size=1)


@pytest.mark.parametrize("name", ["_vacuum/._x.json", f"_damaged/{COMMIT}/._x.json", f"_writes/._{COMMIT}.json"])
def test_a_companion_of_macos_is_none_of_the_objects_of_a_partition(name: str) -> None:
    storage, _ = root()
    storage.put(f"{PARTITION}/{name}", b"\x00\x05\x16\x07")

    inventory = read_partition_state(storage, PARTITION).inventory
    assert (inventory.records, inventory.damaged) == ((), {})
    assert [info.path for info in inventory.stray] == [f"{PARTITION}/{name}"]
    assert repair(storage, dry_run=False) == []
    assert verify(storage).is_sound


def test_the_evidence_of_a_commit_with_an_odd_id_is_no_stray_file() -> None:
    storage, _ = root()
    for commit in ("job.tmp", "job.0123abcd", "job.partial"):
        storage.put(PARTITION.damaged_manifest(commit, "ab"), b"x")

    assert {*read_partition_state(storage, PARTITION).inventory.damaged} == {"job.tmp", "job.0123abcd", "job.partial"}


def test_a_partition_of_stray_files_alone_does_not_exist() -> None:
    storage = MemoryStorage()
    storage.put(f"{PARTITION.manifests}/appends/.DS_Store", b"x")
    loader = ViewLoader(storage, clock=LamportClock())

    assert not loader.has_commit(PARTITION)
    assert loader.load(PARTITION) is None
    write(storage, 1)
    assert loader.has_commit(PARTITION)


def test_a_stray_file_of_a_local_root_may_be_gone_or_lead_nowhere(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    write(storage, 1)
    lock = tmp_path / str(PARTITION) / "_manifests" / "appends" / ".#x.json"
    lock.symlink_to("user@machine.4711:1700000000")

    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    assert len(view.manifests) == 1


@pytest.mark.parametrize("client", ["s3fs", "obstore"])
def test_markers_of_consoles_and_of_hadoop_close_no_partition(s3_server: S3Server, s3_bucket: str, client: str) -> None:
    if client == "s3fs":
        storage = open_storage(s3_server.url(s3_bucket, "root"), storage_options=s3_server.storage_options)
    else:
        storage = open_storage(f"{s3_bucket}/root", filesystem=obstore_of(s3_server))
    write(storage, 1)
    others = BotoObjects(s3_server, s3_bucket, f"root/{PARTITION}/")
    for name in ["", "_manifests/", "_manifests/appends/", "_manifests/compactions/", "_manifests/appends_$folder$"]:
        others.put(name, b"")

    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    assert len(view.manifests) == 1
    assert read_partition_state(storage, PARTITION).inventory.misplaced == ()
