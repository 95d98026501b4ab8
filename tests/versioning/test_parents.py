"""The parents that are computed again, and those whose samples are left over."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import DependencyError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.spec import FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import declare, root
from metaxy_fs.versioning.definition import DefinitionVersion
from metaxy_fs.versioning.layers import compare_parents
from tests.versioning.pieces import tiny_pieces

FILM, FRAME = FeatureKey(["film"]), FeatureKey(["frame"])
NOW, THEN = DefinitionVersion("1" * 64, {"x": "now"}), DefinitionVersion("2" * 64, {"x": "then"})
films, versions = st.integers(0, 2), st.sampled_from(["u", "v"])
stored_rows = st.tuples(films, st.integers(0, 3), versions, st.integers(0, 3).map(bool), st.booleans())


@given(st.dictionaries(films, versions), st.lists(stored_rows, unique_by=lambda row: row[:2], max_size=8))
def test_parents_are_judged_by_what_was_written_of_them_last(expected, stored):
    found = compare_parents(
        versioned([(film, version) for film, version in expected.items()], ["film"]),
        versioned([(film, frame, version) for film, frame, version, _, _ in stored], ["film", "frame"]).with_columns(
            pl.Series(
                "_metaxy_partition", [(NOW if now else THEN).partition for *_, now, _ in stored], dtype=pl.String
            ),
            pl.Series("_metaxy_redo", [redo for *_, redo in stored], dtype=pl.Boolean),
        ),
        id_columns=["film", "frame"],
        parent_columns=["film"],
        current=NOW,
        definitions=[NOW, THEN],
    )
    last = {film: is_same(expected, film, version, now) for film, _, version, now, _ in stored}
    asked = {film for film, _, version, now, redo in stored if redo and is_same(expected, film, version, now)}
    stale = [film for film in expected if film in last and (not last[film] or film in asked)]
    orphaned = [
        (film, frame)
        for film, frame, version, now, _ in stored
        if film not in expected or (film not in stale and not is_same(expected, film, version, now))
    ]
    assert found.new["film"].to_list() == [film for film in expected if film not in last]
    assert found.stale["film"].to_list() == stale
    assert found.stale["changed_containers"].to_list() == [[] if last[film] else ["x"] for film in stale]
    assert found.orphaned.select("film", "frame").rows() == orphaned
    assert found.orphaned.columns == ["film", "frame", "stored_data_version"]


def partition(now):
    return (NOW if now else THEN).partition


def is_same(expected, film, version, now):
    return now and expected.get(film) == version


def versioned(rows, ids):
    schema = {**dict.fromkeys(ids, pl.Int64), "x": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").select(*ids, pl.struct("x").alias("data_version"))


# In a store.


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return InMemoryMetadataStore() if request.param == "memory" else FilesystemMetadataStore(tmp_path / "root")


def declared(**options):
    dep = FeatureDep(key=FILM, relation="expansion", **options)
    return declare(root(FILM, id_columns=["film"]), FeatureSpec(key=FRAME, deps=[dep], id_columns=["film", "frame"]))


def films_of(**takes):
    versions = [{"default": take} for take in takes.values()]
    return pl.DataFrame({"film": list(takes), "lang": ["en" if film < "c" else "de" for film in takes]}).with_columns(
        pl.Series("data_version", versions, dtype=pl.Struct({"default": pl.String}))
    )


def frames_of(increment, **counts):
    """Return the frames of the parents to be computed: with the version of the parent, ready to be written."""
    numbers = pl.DataFrame({"film": list(counts), "frame": [list(range(count)) for count in counts.values()]})
    return increment.pending.join(numbers, on="film").explode("frame").select("film", "frame", "data_version")


def test_a_parent_is_new_until_a_sample_of_it_is_written(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    increment = store.resolve_update(frame)
    assert sorted(increment.new["film"]) == ["a", "b"]
    assert (increment.stale.height, increment.orphaned.height) == (0, 0)
    assert increment.orphaned.columns == ["film", "frame", "stored_data_version"]
    store.write_metadata(frame, frames_of(increment, a=2))
    assert store.resolve_update(frame).new["film"].to_list() == ["b"]


def test_what_is_written_with_the_version_of_a_parent_is_what_would_be_calculated(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    frames = frames_of(store.resolve_update(frame), a=2, b=1)
    assert store.calculate_data_versions(frame, frames.drop("data_version")).equals(frames)


def test_samples_that_are_not_made_again_are_orphaned_and_the_parent_is_done(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=3, b=1))
    store.write_metadata(film, films_of(a="2"))
    increment = store.resolve_update(frame)
    assert (increment.stale["film"].to_list(), increment.orphaned.height) == (["a"], 0)
    store.write_metadata(frame, frames_of(increment, a=2))
    increment = store.resolve_update(frame)
    assert not increment
    assert increment.orphaned.select("film", "frame").rows() == [("a", 2)]


def test_a_film_that_goes_back_to_an_earlier_version_is_stale(store):
    film, frame = declared()
    for take, count in (("1", 3), ("2", 2)):
        store.write_metadata(film, films_of(a=take))
        store.write_metadata(frame, frames_of(store.resolve_update(frame), a=count))
    store.write_metadata(film, films_of(a="1"))
    assert store.resolve_update(frame).stale["film"].to_list() == ["a"]


def test_samples_of_an_excluded_parent_are_orphaned(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", c="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=1, c=2))
    _, frame = declared(where="lang = 'en'")
    increment = store.resolve_update(frame)
    assert not increment
    assert increment.orphaned.select("film", "frame").rows() == [("c", 0), ("c", 1)]


def test_back_at_earlier_code_parents_are_judged_by_what_it_wrote(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=2, b=1))
    _, other = declared(optional=True)
    store.write_metadata(other, frames_of(store.resolve_update(other), a=3, b=1))
    assert [store.resolve_update(each).counts for each in (frame, other)] == [(0, 0, 0, 0, 0)] * 2
    store.write_metadata(film, films_of(b="2", c="1"))
    increment = store.resolve_update(frame)
    assert (increment.new["film"].to_list(), increment.stale["film"].to_list()) == (["c"], ["b"])
    assert increment.orphaned.select("film", "frame").rows() == [("a", 2)]


def test_a_parent_waits_for_the_other_that_its_samples_need(store):
    label = FeatureKey(["label"])
    film, labels, frame = declare(
        root(FILM, id_columns=["film"]),
        root(label, id_columns=["film"]),
        FeatureSpec(
            key=FRAME,
            deps=[FeatureDep(key=key, relation="expansion") for key in (FILM, label)],
            id_columns=["film", "frame"],
        ),
    )
    store.write_metadata(film, films_of(a="1", b="1"))
    store.write_metadata(labels, films_of(a="1", b="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=2, b=1))
    store.write_metadata(film, films_of(c="1"))
    increment = store.resolve_update(frame)
    assert increment.counts == (0, 0, 0, 1, 0)
    assert increment.waiting.rows() == [("c", ["label"])]


def test_what_failed_is_done_again_with_its_parent(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    frames = frames_of(store.resolve_update(frame), a=2, b=1)
    store.write_metadata(frame, frames.with_columns(failed=pl.col("frame") == 1))
    increment = store.resolve_update(frame, stale_if=pl.col("failed"))
    assert increment.stale.select("film", "changed_containers").rows() == [("a", [])]


def test_given_samples_are_compared_one_by_one(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=2))
    samples = pl.DataFrame({"film": ["a", "a"], "frame": [1, 2]})
    increment = store.resolve_update(frame, samples=samples)
    assert increment.new.select("film", "frame").rows() == [("a", 2)]
    assert increment.orphaned.select("film", "frame").rows() == [("a", 0)]


def test_samples_that_no_upstream_feature_tells_have_to_be_given(store):
    label = FeatureKey(["label"])
    ids = ["film", "frame"]
    film, labels, frame = declare(
        root(FILM, id_columns=["film"]),
        root(label, id_columns=ids),
        FeatureSpec(
            key=FRAME,
            deps=[FeatureDep(key=FILM, relation="expansion"), FeatureDep(key=label, optional=True)],
            id_columns=ids,
        ),
    )
    store.write_metadata(film, films_of(a="1"))
    with pytest.raises(
        DependencyError, match=r"'film' names .* by \['film'\].*'label' by \['film', 'frame'\].*samples="
    ):
        store.resolve_update(frame)
    assert store.resolve_update(frame, samples=pl.DataFrame({"film": ["a"], "frame": [0]})).new.height == 1
    store.write_metadata(labels, films_of(a="x").with_columns(frame=0))
    increment = store.resolve_update(frame, samples=pl.DataFrame({"film": ["a", "a"], "frame": [0, 1]}))
    assert increment.new["data_version"].n_unique() == 2


def frame_ids(*frames):
    return pl.DataFrame(frames, schema={"film": pl.String, "frame": pl.Int64}, orient="row")


def test_a_left_over_sample_is_orphaned_until_it_is_retired(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=3))
    store.write_metadata(film, films_of(a="2"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=2))
    increment = store.resolve_update(frame)
    assert increment.orphaned.select("film", "frame").rows() == [("a", 2)]
    store.retire(frame, increment.orphaned)
    assert store.resolve_update(frame).counts == (0, 0, 0, 0, 0)
    store.write_metadata(film, films_of(a="3"))
    assert store.resolve_update(frame).stale["film"].to_list() == ["a"]


def test_a_parent_whose_last_sample_is_retired_is_judged_by_the_others(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=2))
    store.retire(frame, frame_ids(("a", 1)))
    assert store.resolve_update(frame).counts == (0, 0, 0, 0, 0)


def test_a_parent_is_retired_once_all_of_its_samples_are(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=2, b=1))
    store.retire(frame, frame_ids(("a", 0), ("a", 1)))
    assert store.resolve_update(frame).counts == (0, 0, 0, 0, 1)
    store.write_metadata(film, films_of(a="2", b="2"))
    increment = store.resolve_update(frame)
    assert (increment.stale["film"].to_list(), increment.counts.retired) == (["b"], 1)
    store.write_metadata(frame, frame_ids(("a", 0)).with_columns(increment.stale["data_version"].head(1)))
    increment = store.resolve_update(frame)
    assert (increment.stale["film"].to_list(), increment.counts.retired) == (["b"], 0)


def test_a_parent_without_samples_is_retired_by_any_that_it_might_have(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1"))
    store.retire(frame, frame_ids(("a", 0)))
    assert store.resolve_update(frame).counts == (0, 0, 0, 0, 1)


def test_retired_in_the_current_partition_a_parent_is_not_stale_by_what_another_holds(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=3, b=1))
    _, other = declared(optional=True)
    store.retire(other, frame_ids(("a", 0)))
    increment = store.resolve_update(other)
    assert (increment.stale["film"].to_list(), increment.counts.retired) == (["b"], 1)
    assert increment.orphaned.height == 0


def test_retired_upstream_a_parent_orphans_its_samples(store):
    film, frame = declared()
    store.write_metadata(film, films_of(a="1", b="1"))
    store.write_metadata(frame, frames_of(store.resolve_update(frame), a=2, b=1))
    store.retire(film, pl.DataFrame({"film": ["a"]}))
    increment = store.resolve_update(frame)
    assert increment.orphaned.select("film", "frame").rows() == [("a", 0), ("a", 1)]
    assert not increment


def test_orphans_come_in_the_order_of_their_ids_however_the_parents_are_divided(tmp_path):
    film = root(FILM, id_columns=["film"])
    dep = FeatureDep(key=FILM, relation="expansion")
    film, frame = declare(film, FeatureSpec(key=FRAME, deps=[dep], id_columns=["frame", "film"]))
    store = FilesystemMetadataStore(tmp_path / "root")
    with tiny_pieces():
        store.write_metadata(film, films_of(a="1", b="1", c="1", d="1"))
        samples = [("a", 5), ("b", 2), ("c", 9), ("d", 1)]
        rows = pl.DataFrame(samples, schema=["film", "frame"], orient="row")
        store.write_metadata(frame, rows.with_columns(data_version=pl.struct(default=pl.lit("other"))))
        store.retire(film, pl.DataFrame({"film": ["a", "b", "c", "d"]}))
        wanted = [(frame, film) for film, frame in sorted(samples, key=lambda sample: sample[1])]
        assert store.resolve_update(frame).orphaned.select("frame", "film").rows() == wanted
        assert store.resolve_update(frame, lazy=True).orphaned.collect().select("frame", "film").rows() == wanted
