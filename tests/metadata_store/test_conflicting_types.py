"""Read, compare and verify partitions whose columns are in conflict, which only roots of earlier versions hold."""

from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore, MetadataSchemaError
from metaxy_fs.testing.store_cases import SAMPLE_ID, ids_of, pipeline, videos
from tests.older import forget_types


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of two writes that hold one column as texts and as numbers."""
    video, _ = pipeline()
    for sample, label in ((1, "a"), (2, 2)):
        FilesystemMetadataStore(tmp_path).write_metadata(video, videos([sample], label=[label]))
        forget_types(FilesystemMetadataStore(tmp_path).storage)
    return tmp_path


def test_a_read_names_the_column(root: Path) -> None:
    video, _ = pipeline()
    with pytest.raises(MetadataSchemaError, match=r"'label'.*String.*Int64"):
        FilesystemMetadataStore(root).read_metadata(video)


def test_other_columns_are_read(root: Path) -> None:
    video, _ = pipeline()
    store = FilesystemMetadataStore(root)
    assert ids_of(store.read_metadata(video, columns=[SAMPLE_ID], latest_only=True)) == [1, 2]


def test_increments_look_at_other_columns(root: Path) -> None:
    video, processed = pipeline()
    assert ids_of(FilesystemMetadataStore(root).resolve_update(processed).new) == [1, 2]
    assert not FilesystemMetadataStore(root).resolve_update(video, samples=videos([1, 2]))


def test_what_was_read_is_compared_where_nothing_was_agreed_on(root: Path) -> None:
    video, _ = pipeline()
    store = FilesystemMetadataStore(root)
    store.write_metadata(video, videos([3], score=[0.5]))
    assert store.read_metadata(video, columns=["score"]).schema["score"] == pl.Float64
    with pytest.raises(MetadataSchemaError, match="'score'"):
        store.write_metadata(video, videos([4], score=["high"]))
