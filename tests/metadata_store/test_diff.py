"""A diff names the samples that differ, and what they differ by."""

from datetime import UTC, date, datetime
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import (
    ContainerDep,
    ContainerSpec,
    FeatureDep,
    FeatureGraph,
    FeatureNotFoundError,
    FeatureSpec,
    InMemoryMetadataStore,
    MetadataSchemaError,
    compact,
    copy_metadata,
    open_store,
)
from tests.support.examples import examples

SAMPLES = range(4)
MADE_FROM = {"v/a": ["v/a"], "b": ["b"], "c": ["v/a", "b"], "d": ["v/a", "b"]}


def graph_of(codes):
    """Two roots, a feature of two containers made from parts of both, and one made from that and from a root."""
    x, y = (ContainerDep(feature_key="v/a", containers=[name]) for name in ("x", "y"))
    left = ContainerSpec(key="left", code_version=codes["left"], deps=[x])
    both = ContainerSpec(key="both", code_version=codes["both"], deps=[y, ContainerDep(feature_key="b")])
    last = ContainerSpec(code_version=codes["d"])
    return FeatureGraph.from_specs(
        [
            FeatureSpec(key="v/a", containers=[ContainerSpec(key="x"), ContainerSpec(key="y")]),
            FeatureSpec(key="b"),
            FeatureSpec(key="c", deps=[FeatureDep(key="v/a"), FeatureDep(key="b")], containers=[left, both]),
            FeatureSpec(key="d", deps=[FeatureDep(key="c"), FeatureDep(key="b")], containers=[last]),
        ]
    )


versions = st.sampled_from(["1", "2"])
states = st.fixed_dictionaries(
    {
        "v/a": st.dictionaries(st.sampled_from(SAMPLES), st.fixed_dictionaries({"x": versions, "y": versions})),
        "b": st.dictionaries(st.sampled_from(SAMPLES), st.fixed_dictionaries({"default": versions})),
        "codes": st.fixed_dictionaries(dict.fromkeys(["left", "both", "d"], st.integers(0, 1))),
    }
)


def bring(store, state, codes):
    """Make the store what a state says, in every feature."""
    with graph_of(codes).use():
        for name in ("v/a", "b"):
            dtype = pl.Struct(dict.fromkeys(["x", "y"] if name == "v/a" else ["default"], pl.String))
            held = pl.DataFrame(
                {"sample_id": list(state[name]), "data_version": list(state[name].values())},
                schema={"sample_id": pl.Int64, "data_version": dtype},
            )
            settle(store, name, state, store.resolve_update(name, samples=held))
        for name in ("c", "d"):
            settle(store, name, state, store.resolve_update(name))


def settle(store, name, state, increment):
    store.write_metadata(name, increment.pending)
    # An increment does not look for orphans of other definitions, if no sample is left to compare.
    held = store.read_metadata(name, latest_only=True, versions="all") if store.has_feature(name) else increment.new
    expected = {sample for sample in SAMPLES if all(sample in state[above] for above in MADE_FROM[name])}
    store.retire(name, held.filter(~pl.col("sample_id").is_in(expected)))


def causes_of(feature, sample, states, was, code):
    """What a sample that is there at both moments differs by."""

    def roots(name):
        before, after = (state[name][sample] for state in states)
        return {f"{name}/{part}" for part in before if before[part] != after[part]}

    def own(part, name):
        return {f"code of {part} {was[name]} to {code[name]}"} if was[name] != code[name] else set()

    if feature in ("v/a", "b"):
        return roots(feature)
    of_c = roots("v/a") | roots("b") | own("c/left", "left") | own("c/both", "both")
    return of_c if feature == "c" else of_c | own("d/default", "d")


def truth(feature, then, now, was, code):
    """The change and the causes of each sample of a feature that differs, told from the states alone."""
    found, above = {}, set(MADE_FROM[feature])
    for sample in SAMPLES:
        before, after = ({name for name in above if sample in state[name]} for state in (then, now))
        if before == after == above:
            if causes := causes_of(feature, sample, (then, now), was, code):
                found[sample] = ("changed", sorted(causes))
        elif above in (before, after):
            change = "added" if after == above else "removed"
            found[sample] = (change, sorted(f"{name} {change}" for name in before ^ after))
    return found


@given(states, states)
@examples(20)
def test_causes_are_those_that_the_states_tell(then, now):
    store, was = InMemoryMetadataStore(), dict.fromkeys(then["codes"], 1)
    code = {name: 1 + step for name, step in now["codes"].items()}
    bring(store, then, was)
    store.create_snapshot("then")
    bring(store, now, code)

    found, backwards = store.diff("then"), store.diff(store, "then")
    counts = dict(found.causes.group_by("feature").agg(pl.col("samples").sum()).iter_rows())
    for name in MADE_FROM:
        expected = truth(name, then, now, was, code)
        rows = found.samples(name).select("sample_id", "change", "causes").rows()
        assert {sample: (change, causes) for sample, change, causes in rows} == expected, name
        assert counts.get(name, 0) == len(expected)
        assert backwards.samples(name)["sample_id"].to_list() == sorted(expected)
    assert not store.diff(store)


def given_rows(ids, version="1"):
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": version}] * len(ids)})


def run(store, *names):
    for name in names:
        store.write_metadata(name, store.resolve_update(name).pending)


def two(code=1):
    """A feature made from another."""
    made = ContainerSpec(code_version=code)
    return FeatureGraph.from_specs(
        [FeatureSpec(key="a"), FeatureSpec(key="b", deps=[FeatureDep(key="a")], containers=[made])]
    )


def test_text_says_how_many_by_what():
    store, codes = InMemoryMetadataStore(), {"left": 1, "both": 1, "d": 1}
    state = {"v/a": {n: {"x": "1", "y": "1"} for n in range(3)}, "b": {n: {"default": "1"} for n in range(3)}}
    bring(store, state, codes)
    store.create_snapshot("monday")
    state["v/a"][0] = {"x": "2", "y": "1"}
    bring(store, state, codes | {"d": 2})
    assert str(store.diff("monday")).splitlines()[1:] == [
        "v/a: 1 changed",
        "  1 changed by v/a/x",
        "c: 1 changed",
        "  1 changed by v/a/x",
        "d: 3 changed",
        "  2 changed by code of d/default 1 to 2",
        "  1 changed by code of d/default 1 to 2 and v/a/x",
    ]
    assert "v/a/x" in store.diff("monday")._repr_html_()
    assert str(store.diff(store)).endswith(": nothing differs")


def test_text_says_once_what_came_and_went():
    store = InMemoryMetadataStore()
    with two().use():
        store.write_metadata("a", given_rows([1]))
        run(store, "b")
        store.create_snapshot("then")
        store.write_metadata("a", given_rows([2]))
        run(store, "b")
    assert str(store.diff("then")).splitlines()[1:] == ["a: 1 added", "b: 1 added", "  1 added: a added"]


def test_groups_and_expansions_inherit_causes():
    store = InMemoryMetadataStore()
    shot = FeatureSpec(
        key="shot", deps=[FeatureDep(key="film", relation="expansion")], id_columns=["sample_id", "number"]
    )
    day = FeatureSpec(key="day", deps=[FeatureDep(key="shot", relation="aggregation")], id_columns=["day"])

    def shots(*pairs):
        ids = pl.DataFrame(pairs, schema=["sample_id", "number"], orient="row")
        store.calculate_and_write_data_versions("shot", ids.with_columns(day=pl.col("number") % 2))

    with FeatureGraph.from_specs([FeatureSpec(key="film"), shot, day]).use():
        store.write_metadata("film", given_rows([1, 2]))
        shots((1, 0), (1, 1), (2, 0), (2, 2))
        run(store, "day")
        store.create_snapshot("then")
        store.write_metadata("film", given_rows([2], "2"))
        shots((2, 0), (2, 4), (1, 3))
        store.retire("shot", pl.DataFrame({"sample_id": [1, 2], "number": [1, 2]}))
        run(store, "day")

    found = store.diff("then")
    assert found.samples("shot").select("sample_id", "number", "change", "causes").rows() == [
        (1, 1, "removed", ["shot removed"]),
        (1, 3, "added", ["shot added"]),
        (2, 0, "changed", ["film/default"]),
        (2, 2, "removed", ["film/default"]),
        (2, 4, "added", ["film/default"]),
    ]
    assert found.samples("day").select("day", "causes").rows() == [
        (0, ["film/default"]),
        (1, ["shot added", "shot removed"]),
    ]


def test_what_was_stale_at_the_first_moment_has_other_rows_upstream():
    store = InMemoryMetadataStore()
    with two().use():
        store.write_metadata("a", given_rows([1]))
        run(store, "b")
        store.write_metadata("a", given_rows([1], "2"))
        store.create_snapshot("then")
        run(store, "b")
    assert store.diff("then").causes.rows() == [("b", "changed", "other rows upstream of b/default", 1)]


def test_upstream_row_that_was_written_after_is_no_cause_beside_another():
    store = InMemoryMetadataStore()
    with two(1).use():
        store.write_metadata("a", given_rows([1]))
        run(store, "b")
        store.create_snapshot("then")
    with two(2).use():
        run(store, "b")
        store.write_metadata("a", given_rows([1], "2"))
    assert store.diff("then", features=["b"]).causes.rows() == [("b", "changed", "code of b/default 1 to 2", 1)]


def test_stores_of_two_roots_are_compared():
    one, other = InMemoryMetadataStore(), InMemoryMetadataStore()
    with FeatureGraph.from_specs([FeatureSpec(key="a")]).use():
        one.write_metadata("a", given_rows([1, 2]))
        other.write_metadata("a", given_rows([2, 3]).cast({"sample_id": pl.Int32}))
    with FeatureGraph().use():
        found = one.diff(one, other)
        assert found.samples("a").select("sample_id", "change", "containers").rows() == [
            (1, "removed", ["default"]),
            (3, "added", ["default"]),
        ]
        assert one.diff(InMemoryMetadataStore()).causes.rows() == [("a", "added", "a added", 2)]
        assert one.diff(one, InMemoryMetadataStore()).causes.rows() == [("a", "removed", "a removed", 2)]


def test_compaction_between_the_moments_makes_no_difference(tmp_path):
    store = open_store(tmp_path)
    with two().use():
        for sample in range(6):
            store.write_metadata("a", given_rows([sample]))
        run(store, "b")
        store.create_snapshot("then")
        store.write_metadata("a", given_rows([1, 7], "2"))
        store.retire("a", given_rows([2, 3]))
        run(store, "b")
        before = store.diff("then")
        compact(store)
    after = open_store(tmp_path).diff("then")
    assert before.samples("a").select("sample_id", "change").rows() == [
        (1, "changed"),
        (2, "removed"),
        (3, "removed"),
        (7, "added"),
    ]
    assert before.causes.equals(after.causes)
    assert all(before.samples(name).equals(after.samples(name)) for name in ("a", "b"))


def test_chain_is_compared_with_what_it_reads_from():
    production = InMemoryMetadataStore()
    branch = InMemoryMetadataStore(fallback_stores=[production])
    with two().use():
        production.write_metadata("a", given_rows([1, 2]))
        run(production, "b")
        assert not branch.diff(production)
    with two(2).use():
        run(branch, "b")
        found = branch.diff(production)
    assert found.causes.rows() == [("b", "changed", "code of b/default 1 to 2", 2)]


def test_chain_that_falls_back_by_sample_is_compared_sample_by_sample():
    production = InMemoryMetadataStore()
    branch = InMemoryMetadataStore(fallback_stores=[production], fallback_mode="sample")
    with FeatureGraph.from_specs([FeatureSpec(key="a")]).use():
        production.write_metadata("a", given_rows([1, 2]))
        branch.write_metadata("a", given_rows([1], "2"))
        branch.create_snapshot("then")
        production.write_metadata("a", given_rows([1, 2], "3"))
    assert branch.diff("then").samples("a").select("sample_id", "change").rows() == [(2, "changed")]


def test_time_is_a_moment():
    store = InMemoryMetadataStore()
    with FeatureGraph.from_specs([FeatureSpec(key="a")]).use():
        store.write_metadata("a", given_rows([1]))
    assert store.diff(datetime(2020, 1, 1, tzinfo=UTC)).causes["samples"].to_list() == [1]


def test_container_that_came_is_named():
    store = InMemoryMetadataStore()
    for names in (["one"], ["one", "two"]):
        spec = FeatureSpec(key="a", containers=[ContainerSpec(key=name) for name in names])
        with FeatureGraph.from_specs([spec]).use():
            rows = pl.DataFrame({"sample_id": [1], "data_version": [dict.fromkeys(names, "1")]})
            store.write_metadata("a", rows)
        if len(names) == 1:
            store.create_snapshot("then")
    assert store.diff("then").samples("a").rows() == [(1, "changed", ["two"], ["a/two added"])]


@pytest.mark.parametrize(
    ("later", "causes"),
    [
        (FeatureDep(key="b"), []),
        (FeatureDep(key="b", columns=["n"], rename={"n": "size"}), []),
        (FeatureDep(key="b", optional=True), ["definition of c/default"]),
    ],
)
def test_carried_columns_are_no_cause(later, causes):
    store = InMemoryMetadataStore()
    for code, dep in ((1, FeatureDep(key="b", columns=["n", "m"])), (2, later)):
        made = FeatureSpec(key="b", deps=[FeatureDep(key="a")], containers=[ContainerSpec(code_version=code)])
        with FeatureGraph.from_specs([FeatureSpec(key="a"), made, FeatureSpec(key="c", deps=[dep])]).use():
            store.write_metadata("a", given_rows([1]))
            store.write_metadata("b", store.resolve_update("b").pending.with_columns(n=1, m=2))
            store.write_metadata("c", store.resolve_update("c").pending)
        if code == 1:
            store.create_snapshot("then")
    assert store.diff("then").samples("c")["causes"].to_list() == [["code of b/default 1 to 2", *causes]]


def test_what_is_gone_upstream_adds_nothing():
    far, near = InMemoryMetadataStore(), InMemoryMetadataStore()
    with FeatureGraph.from_specs([FeatureSpec(key="a"), FeatureSpec(key="b", deps=[FeatureDep(key="a")])]).use():
        far.write_metadata("a", given_rows([1, 2]))
        near.write_metadata("a", given_rows([1, 2]))
        run(near, "b")
        near.retire("a", pl.DataFrame({"sample_id": [1]}))
    found = near.diff(far)
    assert found.causes.rows() == [("a", "removed", "a removed", 1), ("b", "added", "b added", 2)]


def test_ids_that_a_finer_unit_tells_apart_are_two():
    one, other = InMemoryMetadataStore(), InMemoryMetadataStore()
    times = pl.Series([1_000_001], dtype=pl.Int64)
    with FeatureGraph.from_specs([FeatureSpec(key="a")]).use():
        one.write_metadata("a", given_rows(times.cast(pl.Datetime("ns"))))
        other.write_metadata("a", given_rows((times // 1000).cast(pl.Datetime("us"))))
    assert sorted(one.diff(other).samples("a")["change"]) == ["added", "removed"]


@pytest.mark.parametrize("like_one", [b"1", "1", date(1970, 1, 2), datetime(1970, 1, 1, 0, 0, 0, 1)])  # noqa: DTZ001  # ids without a zone
def test_what_cannot_be_compared_is_refused(like_one):
    one, other = InMemoryMetadataStore(), InMemoryMetadataStore()
    with FeatureGraph.from_specs([FeatureSpec(key="a")]).use():
        one.write_metadata("a", given_rows([1]))
        other.write_metadata("a", given_rows([like_one]))
    with pytest.raises(MetadataSchemaError, match="do not compare"):
        one.diff(other)
    with pytest.raises(FeatureNotFoundError, match="Did you mean"):
        one.diff(other, features=["A"])
    with pytest.raises(KeyError, match="'b' was not compared"):
        one.diff(one).samples("b")


some = st.sets(st.sampled_from(SAMPLES))


@given(st.lists(some, min_size=1, max_size=4), st.tuples(some, some))
@examples(30)
def test_copies_without_samples_differ_by_these(commits, left_out):
    """They have the same commits, with other rows."""
    with FeatureGraph.from_specs([FeatureSpec(key="b")]).use():
        whole, copies = InMemoryMetadataStore(), [InMemoryMetadataStore(), InMemoryMetadataStore()]
        for place, samples in enumerate(commits):
            written = {"sample_id": sorted(samples), "data_version": [{"default": str(place)}] * len(samples)}
            version = pl.Struct({"default": pl.String})
            whole.write_metadata("b", pl.DataFrame(written, schema={"sample_id": pl.Int64, "data_version": version}))
        whole.create_snapshot("then")
        for copied, samples in zip(copies, left_out, strict=True):
            ids = pl.DataFrame({"sample_id": sorted(samples)}, schema={"sample_id": pl.Int64})
            copy_metadata(source=whole, target=copied, exclude=ids)
        sides = [(whole, set()), *zip(copies, left_out, strict=True), (whole.at("then"), set())]
        for (before, not_then), (after, not_now) in pairwise(sides):
            rows = after.diff(before, features=["b"]).samples("b")
            then, now = (set().union(*commits) - lacking for lacking in (not_then, not_now))
            expected = dict.fromkeys(then - now, "removed") | dict.fromkeys(now - then, "added")
            assert dict(rows.select("sample_id", "change").iter_rows()) == expected


def test_stores_that_name_samples_by_other_columns_are_not_compared():
    stores = InMemoryMetadataStore(), InMemoryMetadataStore()
    for store, name in zip(stores, ("id", "name"), strict=True):
        with FeatureGraph.from_specs([FeatureSpec(key="b", id_columns=[name])]).use():
            store.write_metadata("b", pl.DataFrame({name: ["x"], "data_version": [{"default": "1"}]}))
    with pytest.raises(MetadataSchemaError, match=r"named by \['id'\] on one side and by \['name'\]"):
        stores[0].diff(stores[0], stores[1])
