"""What a job did is logged, with counts."""

import logging
from datetime import UTC, datetime

import polars as pl
import pytest

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    copy_metadata,
    repair,
    vacuum,
    verify,
)

with FeatureGraph().use():

    class Frames(Feature, spec=FeatureSpec(key=FeatureKey(["frames"]))):
        pass


ROWS = pl.DataFrame({"sample_id": [1, 2], "data_version": [{"default": "a"}, {"default": "b"}]})


@pytest.fixture
def store(tmp_path):
    store = FilesystemMetadataStore(tmp_path / "root")
    store.write_metadata(Frames, ROWS)
    return store


def lines(caplog, job):
    caplog.clear()
    with caplog.at_level(logging.INFO, "metaxy_fs"):
        job()
    return caplog.messages


def test_a_commit(store, caplog):
    [line] = lines(caplog, lambda: store.write_metadata(Frames, ROWS))
    commit = store.history(Frames)["commit"][-1]
    assert line == f"{store.location}: committed 2 rows of feature frames as {commit}; 0 of them retire a sample"


def test_a_retirement_and_its_undoing(store, caplog):
    before = datetime.now(UTC)
    [line] = lines(caplog, lambda: store.retire(Frames, ROWS.select("sample_id").head(1)))
    assert "committed 1 rows of feature frames" in line
    assert line.endswith("1 of them retire a sample")
    [line] = lines(caplog, lambda: store.restore(Frames, at=before))
    assert line.endswith("0 of them retire a sample")


def test_upkeep(store, tmp_path, caplog):
    store.write_metadata(Frames, ROWS)
    [line] = lines(caplog, lambda: compact(store, full=True))
    assert f"{store.location}: compacted 2 commits of frames/" in line
    assert lines(caplog, lambda: vacuum(store, dry_run=True)) == [f"{store.location}: vacuum (dry run): 2 waiting"]
    assert lines(caplog, lambda: verify(store)) == [f"{store.location}: verify of 2 commits: 1 note"]
    assert lines(caplog, lambda: repair(store, dry_run=False)) == [f"{store.location}: repair: nothing found"]
    target = FilesystemMetadataStore(tmp_path / "target")
    [line] = lines(caplog, lambda: copy_metadata(Frames, source=store, target=target))
    assert line.startswith(
        f"{target.location}: copied 2 commits of feature frames from {store.location}, 2 of them new"
    )


def test_a_read_names_its_objects(store, caplog):
    with caplog.at_level(logging.DEBUG, "metaxy_fs"):
        FilesystemMetadataStore(store.location).read_metadata(Frames)
    text = caplog.text
    assert "list frames/" in text
    assert "_manifests/appends/" in text
    assert ".parquet: " in text
