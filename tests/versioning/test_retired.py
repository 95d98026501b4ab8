"""Retired rows upstream: groups and optional rows do without them, and nothing depends on how work is divided."""

import polars as pl
import pytest

from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore, pieces
from metaxy_fs.spec import FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import declare, root

FRAME, FILM, RATING = FeatureKey(["frame"]), FeatureKey(["film"]), FeatureKey(["rating"])


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return InMemoryMetadataStore() if request.param == "memory" else FilesystemMetadataStore(tmp_path / "root")


def declared(**options):
    frame, rating = root(FRAME, id_columns=["film", "frame"]), root(RATING, id_columns=["film"])
    deps = [
        FeatureDep(key=FRAME, relation="aggregation", **options),
        FeatureDep(key=RATING, optional=True),
    ]
    return declare(frame, rating, FeatureSpec(key=FILM, deps=deps, id_columns=["film"]))


def rows(ids, *keys):
    frame = pl.DataFrame(keys, schema=dict.fromkeys(ids, pl.Int64), orient="row")
    return frame.with_columns(data_version=pl.struct(pl.lit("v").alias("default")))


def frames(*keys):
    return rows(["film", "frame"], *keys)


def films(*keys):
    return rows(["film"], *((key,) for key in keys))


def test_a_group_is_made_from_the_rows_that_are_not_retired(store):
    frame, _, film = declared()
    store.write_metadata(frame, frames((1, 1), (1, 2), (2, 1)))
    store.write_metadata(film, store.resolve_update(film).pending)
    store.retire(frame, frames((1, 2), (2, 1)))
    increment = store.resolve_update(film)
    assert increment.stale["film"].to_list() == [1]
    assert increment.orphaned["film"].to_list() == [2]
    assert store.explain(film, 2).status == "excluded"

    alone = InMemoryMetadataStore()
    alone.write_metadata(frame, frames((1, 1)))
    assert alone.resolve_update(film).new["data_version"].equals(increment.stale["data_version"])


def test_a_group_whose_rows_are_all_retired_is_missing_where_it_is_given(store):
    frame, _, film = declared()
    store.write_metadata(frame, frames((1, 1), (2, 1)))
    store.retire(frame, frames((2, 1)))
    increment = store.resolve_update(film, samples=pl.DataFrame({"film": [1, 2]}))
    assert increment.new["film"].to_list() == [1]
    assert increment.waiting.rows() == [(2, ["frame"])]


def test_an_optional_row_that_is_retired_is_none(store):
    frame, rating, film = declared()
    store.write_metadata(frame, frames((1, 1)))
    without = store.resolve_update(film).new["data_version"]
    store.write_metadata(rating, films(1))
    assert not store.resolve_update(film).new["data_version"].equals(without)
    store.retire(rating, films(1))
    assert store.resolve_update(film).new["data_version"].equals(without)


def test_a_predicate_on_rows_does_not_bring_an_older_one_to_light(store):
    frame, _, film = declared(where="sharp")
    store.write_metadata(frame, frames((1, 1), (2, 1)).with_columns(sharp=True))
    store.write_metadata(frame, frames((1, 2)).with_columns(sharp=True))
    store.retire(frame, frames((1, 2), (2, 1)))
    increment = store.resolve_update(film)
    assert increment.new["film"].to_list() == [1]


@pytest.mark.parametrize("lazy", [False, True])
def test_retired_samples_are_counted_range_by_range(store, monkeypatch, *, lazy):
    frame, _, film = declared()
    store.write_metadata(frame, frames(*((number, 1) for number in range(40))))
    for numbers in (range(10), range(20, 30)):
        store.write_metadata(film, store.resolve_update(film, samples=films(*numbers).select("film")).pending)
    store.retire(film, films(*range(5, 45, 5)))
    monkeypatch.setattr(pieces, "PIECE_ROWS", 4)
    monkeypatch.setattr(pieces, "ROW_GROUP_ROWS", 1)
    increment = store.resolve_update(film, lazy=True).collect() if lazy else store.resolve_update(film)
    assert increment.new["film"].to_list() == [*range(11, 15), *range(16, 20), *range(31, 35), *range(36, 40)]
    assert increment.counts == (16, 0, 0, 0, 7)


@pytest.mark.parametrize("relation", ["one_to_one", "aggregation"])
def test_what_another_upstream_still_has_is_orphaned_and_does_not_wait(store, relation):
    """Else what was made from a bad sample would stay among the latest rows, named by nothing."""
    is_group = relation == "aggregation"
    bad, rating = root(FRAME, id_columns=["film", "frame"] if is_group else ["film"]), root(RATING, id_columns=["film"])
    deps = [FeatureDep(key=FRAME, relation=relation), FeatureDep(key=RATING)]
    bad, rating, film = declare(bad, rating, FeatureSpec(key=FILM, deps=deps, id_columns=["film"]))
    of_film = (lambda *keys: frames(*((key, 1) for key in keys))) if is_group else films
    store.write_metadata(bad, of_film(1, 2))
    store.write_metadata(rating, films(1, 2, 3))
    store.write_metadata(film, store.resolve_update(film).pending)
    store.retire(bad, of_film(2, 4))

    increment = store.resolve_update(film)
    assert increment.counts == (0, 0, 1, 1, 0)
    assert increment.orphaned["film"].to_list() == [2]
    assert increment.waiting.rows() == [(3, ["frame"])]
    assert [store.explain(film, number).status for number in (1, 2, 3)] == ["up to date", "excluded", "waiting"]

    store.write_metadata(bad, of_film(2))
    assert store.resolve_update(film).counts == (0, 0, 0, 1, 0)


def test_a_sample_whose_optional_rows_are_all_retired_is_orphaned_and_explained_so(store):
    deps = [FeatureDep(key=FRAME, optional=True), FeatureDep(key=RATING, optional=True)]
    above = [root(key, id_columns=["film"]) for key in (FRAME, RATING)]
    frame, rating, film = declare(*above, FeatureSpec(key=FILM, deps=deps, id_columns=["film"]))
    for each in (frame, rating):
        store.write_metadata(each, films(1, 2, 3))
    store.write_metadata(film, store.resolve_update(film).pending)
    store.retire(frame, films(2, 3))
    store.retire(rating, films(2))

    increment = store.resolve_update(film)
    assert (increment.orphaned["film"].to_list(), increment.stale["film"].to_list()) == ([2], [3])
    assert [store.explain(film, number).status for number in (1, 2, 3)] == ["up to date", "excluded", "stale"]
