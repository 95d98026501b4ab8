"""Many processes write and read at once, and no row is lost, repeated or torn."""

import multiprocessing
from typing import Any

import polars as pl
import pytest

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureNotFoundError, FeatureSpec, FilesystemMetadataStore

ROWS = 5

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """Declared where processes that are spawned find it."""


def batch(writer: int, number: int) -> pl.DataFrame:
    """One write: all of its rows say which write they are of, so a half of one would show."""
    ids = [f"{writer}-{number}-{row}" for row in range(ROWS)]
    versions = pl.struct(pl.lit("v").alias("default")).alias("data_version")
    return pl.DataFrame({"sample_id": ids, "write": [f"{writer}-{number}"] * ROWS}).with_columns(versions)


def write_all(root: str, options: dict[str, Any], writer: int, writes: int) -> None:
    store = FilesystemMetadataStore(root, storage_options=options)
    for number in range(writes):
        store.write_metadata(Video, batch(writer, number))


def read_until(root: str, options: dict[str, Any], done: Any, counts: Any) -> None:
    """Read again and again: writes are whole, and what was seen once is seen forever."""
    store, seen, reads = FilesystemMetadataStore(root, storage_options=options), set[str](), 0
    while not done.is_set() or reads == 0:
        try:
            rows = store.read_metadata(Video)
        except FeatureNotFoundError:
            assert not seen
            continue
        ids = rows["sample_id"].to_list()
        assert len(ids) == len(set(ids)), "a row was seen twice"
        assert seen <= set(ids), "a row that was seen is gone"
        assert rows.group_by("write").len()["len"].unique().to_list() == [ROWS], "half a write was seen"
        seen, reads = set(ids), reads + 1
    counts.put(reads)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_writers_and_readers_see_each_row_exactly_once(
    where: str,
    request: pytest.FixtureRequest,
    soak: bool,  # noqa: FBT001
) -> None:
    many, writes, watching = (8, 50, 2) if soak else (4, 15, 1)
    if where == "local":
        root, options = str(request.getfixturevalue("tmp_path") / "root"), {}
    else:
        server = request.getfixturevalue("s3_server")
        root, options = server.url(request.getfixturevalue("s3_bucket"), "root"), server.storage_options
    context = multiprocessing.get_context("spawn")
    done, counts = context.Event(), context.Queue()
    readers = [context.Process(target=read_until, args=(root, options, done, counts)) for _ in range(watching)]
    writers = [context.Process(target=write_all, args=(root, options, n, writes)) for n in range(many)]
    for process in [*readers, *writers]:
        process.start()
    for process in writers:
        process.join()
    done.set()
    for process in readers:
        process.join()
    assert [process.exitcode for process in [*writers, *readers]] == [0] * (many + watching)
    assert min(counts.get() for _ in readers) > 0
    ids = FilesystemMetadataStore(root, storage_options=options).read_metadata(Video)["sample_id"].to_list()
    assert sorted(ids) == sorted(id_ for w in range(many) for n in range(writes) for id_ in batch(w, n)["sample_id"])
