"""What was acknowledged is on a disk that lost its power, whatever it had not synced."""

import errno
import os
import random
import shutil
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    CommitStateUnknownError,
    FeatureNotFoundError,
    FilesystemMetadataStore,
    StorageError,
    compact,
    copy_metadata,
    vacuum,
    verify,
)
from metaxy_fs.storage import local
from tests.trust.power import Call, Recorder, disk_after, make
from tests.trust.victims import AT_ONCE, Clip, Video, tagged


def test_what_was_acknowledged_survives_a_loss_of_power(tmp_path, soak):
    recorder = Recorder(tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    with recorder.recording():
        work(recorder, str(tmp_path / "disk" / "source"), str(tmp_path / "disk" / "target"))
    dice = random.Random(1)  # noqa: S311  # no secret
    moments = [*range(len(recorder.calls) + 1)] * 8 if soak else dice.sample(range(len(recorder.calls) + 1), 12)
    for moment in moments:
        check(recorder.calls[:moment], tmp_path / "after", dice)
    print(f"\n{len(moments)} disks after {len(recorder.calls)} calls")


@pytest.mark.parametrize("name", ["_store.json", "_definition.json", ".parquet", "appends/", "write_id"])
def test_what_the_disk_has_not_confirmed_is_not_acknowledged(tmp_path, monkeypatch, name):
    """A name that was made and could not be synced is seen by all, and may be gone after a crash."""
    store, linked, sync = FilesystemMetadataStore(tmp_path), [], local.sync_directory
    monkeypatch.setattr(os, "link", lambda old, new, link=os.link: (link(old, new), linked.append(new)))

    def fail(directory):
        if linked and ("appends/" if name == "write_id" else name) in linked[-1].removeprefix(str(tmp_path)):
            raise OSError(errno.EIO, "the disk does not answer")
        sync(directory)

    monkeypatch.setattr(local, "sync_directory", fail)
    write_id = "job" if name == "write_id" else None
    with pytest.raises(StorageError, match="durable") as caught:
        store.write_metadata(Video, tagged("tag", 3), write_id=write_id)
    assert isinstance(caught.value, CommitStateUnknownError) == (name in ("appends/", "write_id"))
    monkeypatch.setattr(local, "sync_directory", sync)
    store.write_metadata(Video, tagged("tag", 3), write_id=write_id)
    assert store.history(Video).height == (2 if name == "appends/" else 1)


def work(recorder: Recorder, root: str, target: str) -> None:
    """Do something of each kind, and say what is acknowledged."""
    for name in (root, target):
        Path(name).mkdir()  # by another process, which has not come to sync it
    store, copy = FilesystemMetadataStore(root), FilesystemMetadataStore(target)
    tags = (f"tag-{number}" for number in count())

    def write(**options: str) -> pl.DataFrame:
        rows = tagged(tag := next(tags), 3)
        store.write_metadata(Video, rows, **options)
        recorder.done(f"video {tag}")
        return rows

    for options in ({}, {"write_id": "named"}, {}):
        rows = write(**options)
    Path(root, "clip").mkdir()  # by another process
    store.calculate_and_write_data_versions(Clip, rows.drop("data_version"))
    recorder.done(f"clip {rows['write'][0]}")
    for _ in range(2):
        write()
    store.create_snapshot("kept")
    recorder.done("snapshot kept")
    copy_metadata(Video, source=store, target=copy)
    recorder.done("copy")
    for _ in range(2):
        write()
        compact(store, full=True)
        for _ in range(2):
            vacuum(store, dry_run=False, grace=AT_ONCE, retention=AT_ONCE, unsafe=True)
    store.create_snapshot("dropped")
    store.drop_snapshot("dropped")
    recorder.done("drop")
    copy_metadata(Video, source=store, target=copy)
    recorder.done("copy")


def check(calls: list[Call], top: Path, dice: random.Random) -> None:
    """Make a disk, and find on it what was acknowledged, whole and once, and nothing to repair."""
    make(disk_after(calls, dice), top)
    store, copy = FilesystemMetadataStore(top / "source"), FilesystemMetadataStore(top / "target")
    done = [call.path for call in calls if call.kind == "done"]
    of_video = [what.removeprefix("video ") for what in done if what.startswith("video ")]
    check_writes(store, Video, of_video)
    check_writes(store, Clip, [what.removeprefix("clip ") for what in done if what.startswith("clip ")])
    copied = max((place for place, what in enumerate(done) if what == "copy"), default=0)
    check_writes(copy, Video, [what.removeprefix("video ") for what in done[:copied] if what.startswith("video ")])
    if "snapshot kept" in done:
        assert store.at("kept").read_metadata(Video).height == 15
    if "drop" in done:
        assert store.list_snapshots()["name"].to_list() == ["kept"]
    for each in (store, copy):
        assert {finding.severity for finding in verify(each).findings} <= {"note"}
    shutil.rmtree(top, ignore_errors=True)


def check_writes(store: FilesystemMetadataStore, feature: type, acknowledged: list[str]) -> None:
    try:
        rows = store.read_metadata(feature)
    except FeatureNotFoundError:
        assert not acknowledged
        return
    writes = rows.group_by("write").agg(pl.len(), pl.col("of").first())
    assert writes.filter(pl.col("len") != pl.col("of")).is_empty()
    assert set(acknowledged) <= set(writes["write"])
