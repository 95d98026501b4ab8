"""A filter at the storage gives exactly the rows that a filter afterwards would."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore, MetadataStore
from metaxy_fs.log import local_files, parquet
from tests.support.examples import examples
from tests.support.strategies import frames, predicates, schemas

with FeatureGraph().use():

    class Sample(Feature, spec=FeatureSpec(key=FeatureKey(["sample"]))):
        """What all of these tests write."""


Opener = Callable[[], MetadataStore]


@pytest.fixture(params=["local", "local, in part", "fetched", "fetched in part"], scope="module")
def open_store_at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """Opens an empty store each time: of files that Polars scans by itself, or of objects that are fetched for it."""
    directory: Path = tmp_path_factory.mktemp("roots")
    prefix = str(directory) if request.param.startswith("local") else "memory://pruned-reads"
    with pytest.MonkeyPatch.context() as patch:
        if request.param.endswith("in part"):
            patch.setattr(local_files, "SMALL_BYTES", 0)
            patch.setattr(parquet, "LARGE_BYTES", 1)
            patch.setattr(parquet, "ROW_GROUP_ROWS", 2)
        yield lambda: FilesystemMetadataStore(f"{prefix}/{uuid.uuid4().hex}")


@st.composite
def histories(draw: st.DrawFn) -> tuple[pl.Schema, list[pl.DataFrame], pl.Expr]:
    """Draw writes of one schema, with ids that come again, and a predicate on any of their columns."""
    schema = draw(schemas(max_columns=3))
    writes = []
    for drawn in draw(st.lists(frames(schema=schema, max_rows=6), min_size=1, max_size=4)):
        ids = draw(st.lists(st.integers(0, 9), min_size=drawn.height, max_size=drawn.height, unique=True))
        versions = [{"default": draw(st.sampled_from("xyz"))} for _ in ids]
        bookkeeping = pl.DataFrame(
            {"sample_id": ids, "data_version": versions},
            schema={"sample_id": pl.Int64, "data_version": pl.Struct({"default": pl.String})},
        )
        writes.append(drawn.hstack(bookkeeping).sort("sample_id"))
    return schema, writes, draw(predicates(pl.Schema({**schema, "sample_id": pl.Int64(), **_VERSION})))


_VERSION = {"data_version": pl.Struct({"default": pl.String})}


def write_all(store: MetadataStore, writes: list[pl.DataFrame]) -> None:
    for frame in writes:
        store.write_metadata(Sample, frame)


@examples(40)
@given(history=histories(), latest_only=st.booleans())
def test_a_pruned_read_is_the_whole_read_filtered(
    open_store_at: Opener,
    history: tuple[pl.Schema, list[pl.DataFrame], pl.Expr],
    latest_only: bool,  # noqa: FBT001  # drawn by name
) -> None:
    _, writes, predicate = history
    store = open_store_at()
    write_all(store, writes)
    everything = pl.concat(writes)
    if latest_only:
        everything = everything.unique("sample_id", keep="last", maintain_order=True)
    expected = everything.filter(predicate)
    found = store.read_metadata(Sample, filters=predicate, latest_only=latest_only)
    assert_frame_equal(found, expected)
    lazily = store.scan_metadata(Sample, latest_only=latest_only).filter(predicate).collect()
    assert_frame_equal(lazily, expected)


@examples(25)
@given(history=histories(), data=st.data())
def test_selected_columns_are_those_of_the_whole_read(
    open_store_at: Opener, history: tuple[pl.Schema, list[pl.DataFrame], pl.Expr], data: st.DataObject
) -> None:
    schema, writes, predicate = history
    store = open_store_at()
    write_all(store, writes)
    columns = data.draw(st.lists(st.sampled_from([*schema, "sample_id", "data_version"]), min_size=1, unique=True))
    expected = pl.concat(writes).filter(predicate).select(columns)
    assert_frame_equal(store.read_metadata(Sample, filters=predicate, columns=columns), expected)
