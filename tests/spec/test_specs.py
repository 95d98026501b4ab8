"""Meaningless declarations are refused, and the error names the culprit."""

import msgspec
import pytest

from metaxy_fs.errors import SpecError
from metaxy_fs.spec import (
    ALL,
    SAME_NAME,
    ContainerDep,
    ContainerKey,
    ContainerSpec,
    FeatureDep,
    FeatureKey,
    FeatureSpec,
)
from metaxy_fs.spec.deps import carried_names
from metaxy_fs.spec.specs import carried_columns

KEY = FeatureKey(["leaf"])
UP = FeatureKey(["up"])


def container(*parts, **options):
    return ContainerSpec(key=ContainerKey(parts), **options)


def test_feature_has_one_default_container_named_by_sample_id():
    spec = FeatureSpec(key=KEY)
    assert (spec.container_names, spec.id_columns, spec.is_root) == (("default",), ("sample_id",), True)
    assert (spec.containers[0].code_version, spec.containers[0].deps) == (1, ALL)


def test_sequences_are_kept_as_tuples():
    spec = FeatureSpec(key=KEY, deps=[FeatureDep(key=UP)], containers=[container("a")], id_columns=["x", "y"])
    assert [type(kept) for kept in (spec.deps, spec.containers, spec.id_columns)] == [tuple] * 3
    assert hash(spec) == hash(
        FeatureSpec(key=KEY, deps=(FeatureDep(key=UP),), containers=(container("a"),), id_columns=("x", "y"))
    )


def test_spec_is_read_back_from_json():
    some = ContainerDep(feature_key=UP, containers=[ContainerKey(["x"])])
    every = ContainerDep(feature_key=FeatureKey(["other"]))
    spec = FeatureSpec(
        key=KEY,
        deps=[FeatureDep(key=UP)],
        containers=[
            container("a", deps=[some, every], code_version="v2"),
            container("b"),
            container("c", deps=SAME_NAME, versioned_by="content"),
        ],
    )
    assert msgspec.json.decode(msgspec.json.encode(spec), type=FeatureSpec) == spec


def test_json_of_a_container_has_its_key_and_what_is_not_the_default():
    assert msgspec.json.encode(ContainerSpec()) == b'{"key":{"parts":["default"]}}'
    said = msgspec.to_builtins(container("a", deps=SAME_NAME, versioned_by="content", code_version=2))
    assert said == {"key": {"parts": ("a",)}, "deps": "same_name", "versioned_by": "content", "code_version": 2}


def test_spec_cannot_be_changed():
    with pytest.raises(AttributeError):
        FeatureSpec(key=KEY).key = UP


@pytest.mark.parametrize("version", [0, -1, 1, 2**64, "v1", "2026-11-30", "ü", "a_b/c.d"])
def test_code_version_is_a_number_or_a_text(version):
    assert container("a", code_version=version).code_version == version


@pytest.mark.parametrize("version", ["a|b", "|", "", True, False, 1.0, None, b"a", [1]])
def test_code_version_that_is_neither_or_ambiguous_is_refused(version):
    with pytest.raises(SpecError, match="container 'frames'") as caught:
        container("frames", code_version=version)
    assert repr(version) in str(caught.value)


REFUSALS = {
    "versions by something else": (lambda: container("a", versioned_by="hash"), "'a' is one of.*'content'.*'hash'"),
    "content versions of a root": (
        lambda: FeatureSpec(key=KEY, containers=[container("a", versioned_by="content")]),
        "'leaf' has no upstream.*container 'a' out",
    ),
    "an id column called provenance": (lambda: FeatureSpec(key=KEY, id_columns=["provenance"]), "another meaning"),
    "no containers": (lambda: FeatureSpec(key=KEY, containers=[]), "'leaf' has no containers"),
    "duplicate containers": (lambda: FeatureSpec(key=KEY, containers=[container("a"), container("a")]), "'leaf': 'a'"),
    "containers that are spelled alike": (
        lambda: FeatureSpec(key=KEY, containers=[container("a_b"), container("a", "b")]),
        "'leaf': 'a_b'",
    ),
    "duplicate deps": (lambda: FeatureSpec(key=KEY, deps=[FeatureDep(key=UP)] * 2), "'leaf': 'up'"),
    "deps that are keys": (lambda: FeatureSpec(key=KEY, deps=[UP]), r"FeatureKey\(\['up'\]\)"),
    "a lone dep": (lambda: FeatureSpec(key=KEY, deps=FeatureDep(key=UP)), "list of FeatureDep"),
    "containers that are keys": (lambda: FeatureSpec(key=KEY, containers=[ContainerKey(["a"])]), "ContainerSpec"),
    "a key of the other kind": (lambda: FeatureSpec(key=ContainerKey(["a"])), "FeatureKey"),
    "no id columns": (lambda: FeatureSpec(key=KEY, id_columns=[]), "at least one id column"),
    "an id column without a name": (lambda: FeatureSpec(key=KEY, id_columns=["a", ""]), "'leaf'"),
    "duplicate id columns": (lambda: FeatureSpec(key=KEY, id_columns=["a", "a"]), "'leaf': 'a'"),
    "a lone id column": (lambda: FeatureSpec(key=KEY, id_columns="sample_id"), "'sample_id'"),
    "an id column that is a number": (lambda: FeatureSpec(key=KEY, id_columns=[1]), "str"),
    "an id column that is a pattern": (lambda: FeatureSpec(key=KEY, id_columns=["^a.*$"]), r"\^a\.\*\$"),
    "an id column that is a star": (lambda: FeatureSpec(key=KEY, id_columns=["*"]), r"'\*'"),
    "a relation that there is not": (lambda: FeatureDep(key=UP, relation="many"), "'aggregation'.*'many'"),
    "a relation that is a list": (lambda: FeatureDep(key=UP, relation=["aggregation"]), "'aggregation'"),
    "an optional that is a number": (lambda: FeatureDep(key=UP, optional=1), "'up' takes a bool"),
    "a rename that is a list": (lambda: FeatureDep(key=UP, rename=["a"]), r"'up' takes a dict.*\['a'\]"),
    "a rename of a number": (lambda: FeatureDep(key=UP, rename={1: "a"}), "'up' takes a dict.*{1: 'a'}"),
    "a rename to nothing": (lambda: FeatureDep(key=UP, rename={"a": ""}), r"'up'.*\['a', ''\]"),
    "a rename to a pattern": (lambda: FeatureDep(key=UP, rename={"a": "^b$"}), "'up'.*pattern"),
    "a rename of the versions": (lambda: FeatureDep(key=UP, rename={"data_version": "a"}), "'up'.*data_version"),
    "a rename to a reserved name": (lambda: FeatureDep(key=UP, rename={"a": "_metaxy_x"}), "'up'.*_metaxy_x"),
    "a rename to half a character": (lambda: FeatureDep(key=UP, rename={"a": "\ud800"}), "'up'.*UTF-8"),
    "a rename of two columns to one": (lambda: FeatureDep(key=UP, rename={"a": "c", "b": "c"}), "'up': 'c'"),
    "a rename that changes nothing": (lambda: FeatureDep(key=UP, rename={"a": "a"}), "'up'.*'a'"),
    "a predicate that is empty": (lambda: FeatureDep(key=UP, where=" "), "'up' takes a predicate in SQL.*' '"),
    "a predicate that is a flag": (lambda: FeatureDep(key=UP, where=True), "'up' takes a predicate in SQL.*True"),
    "a predicate with half a character": (lambda: FeatureDep(key=UP, where="a = '\udfff'"), "'up' takes a predicate"),
    "carried columns that are a lone name": (lambda: FeatureDep(key=UP, columns="path"), "'up' takes a list of str"),
    "a carried column that is a number": (lambda: FeatureDep(key=UP, columns=[1]), "'up' takes a str, got 1"),
    "a column that is carried twice": (lambda: FeatureDep(key=UP, columns=["a", "a"]), "'up': 'a'"),
    "a carried column without a name": (lambda: FeatureDep(key=UP, columns=[""]), r"'up' need a name each"),
    "a carried column that is a pattern": (lambda: FeatureDep(key=UP, columns=["^a$"]), "'up'.*pattern"),
    "a carried column of metaxy_fs": (lambda: FeatureDep(key=UP, columns=["_metaxy_time"]), "'up'.*_metaxy_time"),
    "a carried provenance": (lambda: FeatureDep(key=UP, columns=["provenance"]), "'up'.*'provenance'"),
    "carried versions": (lambda: FeatureDep(key=UP, columns=["data_version"]), "'up'.*'data_version'"),
    **{
        f"a carried column that is called {name}": (
            lambda name=name: FeatureDep(key=UP, columns=[name]),
            f"'up' carries a column as '{name}'.*rename it: .*rename={{'{name}': 'up_{name}'}}",
        )
        for name in ("missing", "changed_containers", "stored_data_version")
    },
    "a carried column that is renamed to one of increments": (
        lambda: FeatureDep(key=UP, columns=["a"], rename={"a": "missing"}),
        "'up' carries a column as 'missing'",
    ),
    "a carried column by its new name": (
        lambda: FeatureDep(key=UP, columns=["b"], rename={"a": "b"}),
        "'up' names columns as they are stored, and 'b' is what `rename` calls 'a'",
    ),
    "a carried column that is an id": (
        lambda: FeatureSpec(key=KEY, deps=[FeatureDep(key=UP, columns=["sample_id"])]),
        "'leaf' carries column 'sample_id' of its upstream 'up'.*id columns",
    ),
    "a carried column that is called as an id": (
        lambda: FeatureSpec(
            key=KEY, id_columns=["b"], deps=[FeatureDep(key=UP, columns=["a"], rename={"a": "b"}, optional=True)]
        ),
        "'leaf' carries column 'a' of its upstream 'up' as 'b', .*id columns",
    ),
    "two carried columns of one name": (
        lambda: FeatureSpec(
            key=KEY,
            deps=[
                FeatureDep(key=UP, columns=["path"]),
                FeatureDep(key=FeatureKey(["other"]), columns=["file"], rename={"file": "path"}),
            ],
        ),
        "'path' of its upstream 'up' and one of its upstream 'other'; rename .*{'file': 'other_file'}",
    ),
    "an id column with half a character": (lambda: FeatureSpec(key=KEY, id_columns=["\ud800"]), "'leaf'.*UTF-8"),
    "a container dep on no container": (lambda: ContainerDep(feature_key=UP, containers=[]), "'up'"),
    "a container dep on one container twice": (
        lambda: ContainerDep(feature_key=UP, containers=[ContainerKey(["x"])] * 2),
        "'up': 'x'",
    ),
    "two container deps on one feature": (lambda: container("a", deps=[ContainerDep(feature_key=UP)] * 2), "'a': 'up'"),
    "a container's dep on a feature": (lambda: container("a", deps=[FeatureDep(key=UP)]), "'a'"),
}


# How a feature is related to one upstream.

SAID = {
    "relation": "aggregation",
    "optional": True,
    "rename": {"b": "c", "a": "b"},
    "where": "x > 1",
    "columns": ("path", "ü"),
}


def test_dep_says_nothing_but_its_key_by_default():
    dep = FeatureDep(key=UP)
    assert (dep.relation, dep.optional, dep.rename, dep.where, dep.columns) == ("one_to_one", False, {}, None, ())
    assert msgspec.json.encode(dep) == b'{"key":{"parts":["up"]}}'


@pytest.mark.parametrize("field", SAID)
def test_dep_that_says_more_is_read_back_from_json(field):
    dep = FeatureDep(key=UP, **{field: SAID[field]})
    assert msgspec.json.decode(msgspec.json.encode(dep), type=FeatureDep) == dep
    assert msgspec.to_builtins(dep) == {"key": {"parts": ("up",)}, field: SAID[field]}
    assert dep != FeatureDep(key=UP)
    assert hash(dep) != hash(FeatureDep(key=UP))


def test_order_of_renames_has_no_meaning_and_is_not_kept():
    one, other = (
        FeatureDep(key=UP, rename=dict(pairs)) for pairs in ([("b", "c"), ("a", "b")], [("a", "b"), ("b", "c")])
    )
    assert one == other
    assert hash(one) == hash(other)
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


def test_renames_are_kept_as_they_were_given():
    given = {"a": "b"}
    dep = FeatureDep(key=UP, rename=given)
    given["c"] = "d"
    assert dep.rename == {"a": "b"}


def test_feature_knows_its_deps_by_key():
    deps = [FeatureDep(key=UP), FeatureDep(key=FeatureKey(["other"]), optional=True)]
    assert FeatureSpec(key=KEY, deps=deps).dep(FeatureKey(["other"])).optional


def test_columns_are_carried_under_the_names_of_rename():
    deps = [
        FeatureDep(key=UP, columns=["a", "path"], rename={"a": "path", "path": "a"}),
        FeatureDep(key=FeatureKey(["other"]), columns=["missing"], rename={"missing": "gaps", "x": "y"}),
        FeatureDep(key=FeatureKey(["third"])),
    ]
    assert [carried_names(dep) for dep in deps] == [{"path": "a", "a": "path"}, {"gaps": "missing"}, {}]
    assert carried_columns(FeatureSpec(key=KEY, deps=deps)) == ("path", "a", "gaps")


@pytest.mark.parametrize(("declare", "named"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refused(declare, named):
    with pytest.raises(SpecError, match=named):
        declare()


def test_unknown_field_in_json_is_refused():
    with pytest.raises(msgspec.ValidationError, match="colour"):
        msgspec.json.decode(b'{"key":{"parts":["a"]},"colour":1}', type=FeatureSpec)


def test_keys_may_be_given_as_texts():
    dep = ContainerDep(feature_key="video/frames", containers=["left", "right/eye"])
    given = FeatureSpec(
        key="crop/faces", deps=[FeatureDep(key="video/frames")], containers=[ContainerSpec(key="face", deps=[dep])]
    )
    video = FeatureKey(["video", "frames"])
    made_from = ContainerDep(feature_key=video, containers=[ContainerKey(["left"]), ContainerKey(["right", "eye"])])
    face = ContainerSpec(key=ContainerKey(["face"]), deps=[made_from])
    assert given == FeatureSpec(key=FeatureKey(["crop", "faces"]), deps=[FeatureDep(key=video)], containers=[face])


@pytest.mark.parametrize("text", ["", "/", "video/", "video//frames", "video frames", 7, None, ["video"]])
def test_text_that_names_no_key_is_refused(text):
    for declare in (
        lambda: FeatureSpec(key=text),
        lambda: FeatureDep(key=text),
        lambda: ContainerDep(feature_key=text),
        lambda: ContainerDep(feature_key="video", containers=[text]),
        lambda: ContainerSpec(key=text),
    ):
        with pytest.raises(SpecError):
            declare()
