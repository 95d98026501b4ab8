"""What stores answer, and refuse, where a dependency says more than its key."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from metaxy_fs.errors import DependencyError, MetadataSchemaError, SpecError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.spec import FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import declare, root
from tests.versioning.reference import sha256

EVE, LAST = datetime(1969, 12, 31), datetime.max  # noqa: DTZ001, DTZ901  # ids without a zone
UP, OTHER, OWN = FeatureKey(["up"]), FeatureKey(["other"]), FeatureKey(["own"])


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return InMemoryMetadataStore() if request.param == "memory" else FilesystemMetadataStore(tmp_path / "root")


def declared(*, ids=("sample_id",), above=("sample_id",), more=(), **options):
    deps = [FeatureDep(key=UP, **options), *more]
    specs = [root(dep.key, id_columns=above) for dep in deps]
    return declare(*specs, FeatureSpec(key=OWN, deps=deps, id_columns=ids))


def rows(versions, **columns):
    found = [{"default": version} for version in versions]
    return pl.DataFrame(columns).with_columns(pl.Series("data_version", found, dtype=pl.Struct({"default": pl.String})))


def version_of(text, *, other=None):
    before = "" if other is None else f"other/default|{other}|"
    return {"default": sha256(f"default|1|{before}up/default|{text}")}


def by_id(frame):
    return dict(frame.select("sample_id", "data_version").iter_rows())


# Predicates.


def test_predicate_holds_for_the_latest_row(store):
    up, own = declared(where="quality > 0.5")
    store.write_metadata(up, rows("abc", sample_id=[1, 2, 3], quality=[1.0, 0.0, None]))
    store.write_metadata(up, rows("de", sample_id=[1, 2], quality=[0.0, 1.0]))
    assert by_id(store.resolve_update(own).new) == {2: version_of("e")}


def test_sample_that_is_excluded_is_orphaned_and_cannot_be_given(store):
    up, own = declared(where="quality > 0.5")
    store.write_metadata(up, rows("ab", sample_id=[1, 2], quality=[1.0, 1.0]))
    store.calculate_and_write_data_versions(own, pl.DataFrame({"sample_id": [1, 2]}))
    store.write_metadata(up, rows("c", sample_id=[1], quality=[0.0]))
    increment = store.resolve_update(own)
    assert (bool(increment), increment.orphaned["sample_id"].to_list()) == (False, [1])
    with pytest.raises(DependencyError, match=r"1 of 2 .* no row in its upstream .up. that its `where` holds for: 1"):
        store.calculate_data_versions(own, pl.DataFrame({"sample_id": [1, 2]}))


def test_excluding_one_sample_makes_one_orphan_and_no_stale_sample(store):
    up, own = declared()
    store.write_metadata(up, rows(map(str, range(1_000)), sample_id=range(1_000), quality=range(1_000)))
    store.write_metadata(own, store.resolve_update(own).pending)
    _, filtered = declared(where="quality > 0")
    increment = store.resolve_update(filtered)
    assert increment.counts[:4] == (0, 0, 1, 0)
    assert increment.orphaned["sample_id"].to_list() == [0]
    assert not store.resolve_update(own)


def test_sample_that_one_upstream_excludes_is_none_although_another_has_it(store):
    up, other, own = declared(where="quality > 0.5", more=[FeatureDep(key=OTHER)])
    store.write_metadata(up, rows("ab", sample_id=[1, 2], quality=[1.0, 0.0]))
    store.write_metadata(other, rows("cd", sample_id=[1, 2]))
    assert by_id(store.resolve_update(own).new) == {1: version_of("a", other="c")}
    store.write_metadata(other, rows("e", sample_id=[3]))
    assert store.resolve_update(own).waiting.rows() == [(3, ["up"])]


def test_predicate_sees_the_stored_names_and_ids(store):
    up, own = declared(above=["name"], where="name <> 'b'", rename={"name": "sample_id", "sample_id": "name"})
    store.write_metadata(up, rows("ab", name=["a", "b"], sample_id=["b", "b"]))
    assert by_id(store.resolve_update(own).new) == {"a": version_of("a")}


@pytest.mark.parametrize("where", ["quality >", "SELECT 1", "quality; name", "*", "nosuch(quality) > 1"])
def test_text_that_is_no_predicate_is_refused(store, where):
    refused(store, where, "cannot be read as SQL")


@pytest.mark.parametrize(
    "where",
    [
        "max(quality) > 0.5", "quality > 0.5 AND avg(quality) > 0.1", "count(*) > 1", "quality > (SELECT 1)",
        "row_number() OVER (ORDER BY quality) > 1", "sum(quality) OVER (PARTITION BY name) > 1",
        "quality > lag(quality) OVER (ORDER BY name)", "unnest(tags) = 'x'", "quality IN (SELECT 1)",
    ],
)  # fmt: skip
def test_predicate_on_several_rows_is_refused(store, where):
    refused(store, where, "looks at more than one row")


@pytest.mark.parametrize(
    "where",
    [
        "EXISTS (SELECT * FROM read_csv('/no/such/file'))", "quality IN (FROM READ_PARQUET('/no/such/file'))",
        "name = E'\\'' AND EXISTS (SELECT * FROM read_csv('/no/such/file')) --'",
        'EXISTS (WITH t AS (VALUES (1)) FROM "read_csv"/**/(\'/no/such/file\'))',
    ],
)  # fmt: skip
def test_predicate_that_reads_files_is_refused_before_it_does(store, where):
    refused(store, where, "a predicate reads no files")


@pytest.mark.parametrize("where", ["quality + 1", "name", "'yes'", "NULL"])
def test_what_gives_no_truth_is_refused(store, where):
    refused(store, where, "is no predicate: it gives")


@pytest.mark.parametrize("where", ["quality > 'a'", "name + 1 > 2"])
def test_predicate_on_other_types_is_refused(store, where):
    refused(store, where, "cannot be evaluated")


def refused(store, where, named):
    up, own = declared(where=where)
    store.write_metadata(up, rows("a", sample_id=[1], quality=[1.0], name=["x"], tags=[["x"]]))
    for ask in (store.resolve_update, store.read_upstream_metadata):
        with pytest.raises(SpecError, match=named) as caught:
            ask(own)
        assert "'own' on its upstream 'up'" in str(caught.value)
        assert repr(where) in str(caught.value)


def test_predicate_on_a_column_that_there_is_not_is_refused(store):
    up, own = declared(where="sharpness > 1")
    store.write_metadata(up, rows("a", sample_id=[1], quality=[1.0]))
    with pytest.raises(MetadataSchemaError, match="'up' has no column 'sharpness'"):
        store.resolve_update(own)
    assert "excluded" in str(store.explain(own, 1))


def test_predicate_that_fails_on_a_value_is_told(store):
    up, own = declared(where="CAST(name AS INT) > 1")
    store.write_metadata(up, rows("ab", sample_id=[1, 2], name=["x", "5"]))
    asked = (
        store.resolve_update,
        store.read_upstream_metadata,
        lambda feature: store.calculate_data_versions(feature, pl.DataFrame({"sample_id": [1]})),
        lambda feature: store.explain(feature, 1),
    )
    for ask in asked:
        with pytest.raises(
            MetadataSchemaError, match=r"'CAST\(name AS INT\) > 1' of feature 'own' on .*stored rows.*x"
        ):
            ask(own)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("quality > 0.25 AND NOT (name LIKE '%b')", [1]), ("upper(name) IN ('A', 'B')", [1, 2]), ("1 = 1", [1, 2, 3]),
        ("coalesce(quality, 1) = 1 OR name = 'b'", [1, 2, 3]), ("CASE WHEN name = 'a' THEN FALSE END", []),
        ("abs(quality) BETWEEN 0.4 AND 0.6", [2]), ("length(name) % 2 = 0", [3]),
        ("name NOT IN ('select', 'from', 'b')", [1, 3]), ("data_version.default = 'w'", [2]),
    ],
)  # fmt: skip
def test_predicate_is_sql(store, where, kept):
    up, own = declared(where=where)
    store.write_metadata(up, rows("vwx", sample_id=[1, 2, 3], quality=[1.0, 0.5, None], name=["a", "b", "ab"]))
    assert sorted(by_id(store.resolve_update(own).new)) == kept


# Optional upstream features.


def test_sample_without_an_optional_row_has_a_version(store):
    up, other, own = declared(more=[FeatureDep(key=OTHER, optional=True)])
    store.write_metadata(up, rows("ab", sample_id=[1, 2]))
    nothing = {1: version_of("a", other=""), 2: version_of("b", other="")}
    assert by_id(store.resolve_update(own).new) == nothing
    store.write_metadata(own, store.resolve_update(own).pending)
    store.write_metadata(other, rows("cd", sample_id=[2, 3]))
    increment = store.resolve_update(own)
    assert by_id(increment.stale) == {2: version_of("b", other="c")}
    assert (increment.new.height, increment.orphaned.height) == (0, 0)


def test_samples_are_those_of_optional_features_where_there_are_no_others(store):
    up, other, own = declared(optional=True, more=[FeatureDep(key=OTHER, optional=True)])
    with pytest.raises(DependencyError, match=r"\['other', 'up'\], has a commit"):
        store.resolve_update(own)
    store.write_metadata(up, rows("a", sample_id=[1]))
    store.write_metadata(other, rows("b", sample_id=[2]))
    assert by_id(store.resolve_update(own).new) == {1: version_of("a", other=""), 2: version_of("", other="b")}


def test_optional_feature_that_no_store_has_is_not_among_the_upstream_rows(store):
    up, _other, own = declared(more=[FeatureDep(key=OTHER, optional=True)])
    store.write_metadata(up, rows("a", sample_id=[1]))
    assert list(store.read_upstream_metadata(own)) == ["up"]


# Groups.


def test_group_is_a_digest_of_which_row_has_which_version(store):
    up, own = declared(above=["sample_id", "part"], relation="aggregation")
    store.write_metadata(up, rows(["v", "w", "é"], sample_id=[1, 1, 2], part=["b", "a", "|"]))
    first, second = sha256("s1:a|1:ws1:b|1:v"), sha256("s1:||2:é")
    assert by_id(store.resolve_update(own).new) == {1: version_of(first), 2: version_of(second)}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, "i2:-1"), (2**63 - 1, "i19:9223372036854775807"), ("", "s0:"), ("é", "s2:é"), (b"\x00\xff", "b4:00ff"),
        (date(1969, 12, 31), "d2:-1"), (date(2024, 2, 29), "d5:19782"), (EVE, "t16:-86400.000000000"),
        (datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC), "t20:1709208000.000001000"),
        (LAST, "t22:253402300799.999999000"),
    ],
)  # fmt: skip
def test_id_in_a_group_is_written_by_its_kind(store, value, text):
    up, own = declared(above=["sample_id", "part"], relation="aggregation")
    store.write_metadata(up, rows("v", sample_id=[1], part=[value]))
    assert by_id(store.resolve_update(own).new) == {1: version_of(sha256(f"{text}|1:v"))}


def test_rows_are_grouped_by_a_column_that_is_no_id(store):
    up, own = declared(above=["part"], relation="aggregation", rename={"whole": "sample_id"})
    store.write_metadata(up, rows("abc", part=[1, 2, 3], whole=["x", "x", "y"]))
    first, second = sha256("i1:1|1:ai1:2|1:b"), sha256("i1:3|1:c")
    assert by_id(store.resolve_update(own).new) == {"x": version_of(first), "y": version_of(second)}


def test_rows_that_belong_to_no_group_are_refused_unless_they_are_excluded(store):
    up, own = declared(above=["part"], relation="aggregation")
    store.write_metadata(up, rows("ab", part=[1, 2], sample_id=[None, 5]))
    for ask in (store.resolve_update, lambda own: store.calculate_data_versions(own, pl.DataFrame({"sample_id": [5]}))):
        with pytest.raises(MetadataSchemaError, match=r"'own' groups .* 'up' by .*'sample_id'.*null"):
            ask(own)
    up, own = declared(above=["part"], relation="aggregation", where="sample_id IS NOT NULL")
    assert by_id(store.resolve_update(own).new) == {5: version_of(sha256("i1:2|1:b"))}


def test_grouping_by_what_is_no_id_is_refused(store):
    up, own = declared(above=["part"], relation="aggregation")
    store.write_metadata(up, rows("ab", part=[1, 2], sample_id=[0.5, 5]))
    with pytest.raises(MetadataSchemaError, match=r"'own' groups .* 'up' by 'sample_id', which has the type Float64"):
        store.resolve_update(own)


def test_grouping_by_a_column_that_there_is_not_is_refused(store):
    up, own = declared(above=["part"], relation="aggregation")
    store.write_metadata(up, rows("ab", part=[1, 2]))
    with pytest.raises(MetadataSchemaError, match="'up' has no column 'sample_id'"):
        store.resolve_update(own)


# What is read of the upstream features.


def test_upstream_rows_are_filtered_and_renamed(store):
    up, own = declared(above=["name"], where="quality > 0.5", rename={"name": "sample_id", "quality": "sharpness"})
    store.write_metadata(up, rows("ab", name=["a", "b"], quality=[1.0, 0.0]))
    found = store.read_upstream_metadata(own)["up"]
    assert found.to_dict(as_series=False) == {
        "sample_id": ["a"],
        "sharpness": [1.0],
        "data_version": [{"default": "a"}],
    }


@pytest.mark.parametrize(("rename", "named"), [({"gone": "x"}, "no such column"), ({"quality": "note"}, "already")])
def test_renames_that_do_not_fit_are_refused(store, rename, named):
    up, own = declared(rename=rename)
    store.write_metadata(up, rows("a", sample_id=[1], quality=[1.0], note=[""]))
    with pytest.raises(MetadataSchemaError, match=f"'own' renames column .* 'up' .*{named}"):
        store.read_upstream_metadata(own)


# What follows from a change of the declaration.


def test_change_of_a_dep_makes_all_samples_stale(store):
    up, own = declared()
    store.write_metadata(up, rows("ab", sample_id=[1, 2], quality=[1.0, 1.0]))
    store.write_metadata(own, store.resolve_update(own).pending)
    _, own = declared(optional=True)
    assert not store.has_feature(own)
    increment = store.resolve_update(own)
    assert increment.stale["changed_containers"].to_list() == [["default"], ["default"]]
    store.write_metadata(own, increment.pending)
    assert not store.resolve_update(own)
