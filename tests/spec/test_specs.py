"""Are declarations that have no meaning refused, with the culprit named?"""

import msgspec
import pytest

from metaxy_fs.errors import SpecError
from metaxy_fs.spec import ALL, ContainerDep, ContainerKey, ContainerSpec, FeatureDep, FeatureKey, FeatureSpec

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
        containers=[container("a", deps=[some, every], code_version="v2"), container("b")],
    )
    assert msgspec.json.decode(msgspec.json.encode(spec), type=FeatureSpec) == spec


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
    "a key that is a text": (lambda: FeatureSpec(key="leaf"), "'leaf'"),
    "a key of the other kind": (lambda: FeatureSpec(key=ContainerKey(["a"])), "FeatureKey"),
    "no id columns": (lambda: FeatureSpec(key=KEY, id_columns=[]), "at least one id column"),
    "an id column without a name": (lambda: FeatureSpec(key=KEY, id_columns=["a", ""]), "'leaf'"),
    "duplicate id columns": (lambda: FeatureSpec(key=KEY, id_columns=["a", "a"]), "'leaf': 'a'"),
    "a lone id column": (lambda: FeatureSpec(key=KEY, id_columns="sample_id"), "'sample_id'"),
    "an id column that is a number": (lambda: FeatureSpec(key=KEY, id_columns=[1]), "str"),
    "an id column that is a pattern": (lambda: FeatureSpec(key=KEY, id_columns=["^a.*$"]), r"\^a\.\*\$"),
    "an id column that is a star": (lambda: FeatureSpec(key=KEY, id_columns=["*"]), r"'\*'"),
    "a dep on a text": (lambda: FeatureDep(key="up"), "'up'"),
    "a container dep on a text": (lambda: ContainerDep(feature_key="up"), "'up'"),
    "a container dep on no container": (lambda: ContainerDep(feature_key=UP, containers=[]), "'up'"),
    "a container dep on one container twice": (
        lambda: ContainerDep(feature_key=UP, containers=[ContainerKey(["x"])] * 2),
        "'up': 'x'",
    ),
    "a container dep on texts": (lambda: ContainerDep(feature_key=UP, containers=["x"]), "'x'"),
    "two container deps on one feature": (lambda: container("a", deps=[ContainerDep(feature_key=UP)] * 2), "'a': 'up'"),
    "a container's dep on a feature": (lambda: container("a", deps=[FeatureDep(key=UP)]), "'a'"),
    "a container key that is a text": (lambda: ContainerSpec(key="a"), "'a'"),
}


@pytest.mark.parametrize(("declare", "named"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refused(declare, named):
    with pytest.raises(SpecError, match=named):
        declare()


def test_unknown_field_in_json_is_refused():
    with pytest.raises(msgspec.ValidationError, match="colour"):
        msgspec.json.decode(b'{"key":{"parts":["a"]},"colour":1}', type=FeatureSpec)
