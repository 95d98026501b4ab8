"""Whether declarations fit each other: id columns, renames and containers of upstream features, and no circle."""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from metaxy_fs.errors import SpecError
from metaxy_fs.spec.deps import ALL, ContainerDep, FeatureDep
from metaxy_fs.spec.keys import FeatureKey
from metaxy_fs.spec.specs import ContainerSpec, FeatureSpec, new_names


def check_relation(spec: FeatureSpec, dep: FeatureDep, upstream: FeatureSpec) -> None:
    """Refuse a relation that the id columns of both sides make impossible.

    Raises:
        SpecError: They do.
    """
    own, known = set(spec.id_columns), set(new_names(dep, upstream.id_columns))
    sides = (
        f"Feature '{spec.key}' names its samples by {list(spec.id_columns)}, its upstream '{upstream.key}' by "
        f"{list(new_names(dep, upstream.id_columns))}{' after the renames' if dep.rename else ''}"
    )
    _check_renames(spec, dep, upstream)
    match dep.relation:
        case "one_to_one":
            if own != known:
                raise SpecError(
                    f"{sides}; one row is made from one row, so the id columns must be the same. Rename them, or "
                    'declare relation="aggregation" or relation="expansion".'
                )
        case "aggregation":
            if known <= own:
                raise SpecError(
                    f"{sides}; in an aggregation several upstream rows make one sample, so there must be an id column "
                    "of the upstream that is none of the feature."
                )
            _check_groups(spec, dep, upstream)
        case "expansion":
            if not known < own:
                raise SpecError(
                    f"{sides}; in an expansion one upstream row makes many samples, so these must be named by the id "
                    "columns of the upstream and at least one more."
                )


def check_containers(spec: FeatureSpec, specs: Mapping[FeatureKey, FeatureSpec]) -> None:
    """Refuse a container that is made from what there is not.

    Args:
        spec: The feature.
        specs: The features that it may be made from.

    Raises:
        SpecError: An upstream feature is not among the deps of the feature, or lacks a container.
    """
    for container in spec.containers:
        for dep in () if isinstance(container.deps, str) else container.deps:
            if dep.feature_key not in {upstream.key for upstream in spec.deps}:
                raise SpecError(
                    f"Container '{container.key}' of feature '{spec.key}' depends on feature '{dep.feature_key}', "
                    f"which is not among the feature's deps {[str(upstream.key) for upstream in spec.deps]}; add a "
                    "FeatureDep for it."
                )
            _check_containers_exist(spec, container, dep, specs[dep.feature_key])


def upstream_first(specs: Mapping[FeatureKey, FeatureSpec]) -> list[FeatureKey]:
    """Return the keys in an order that `add` accepts; upstreams that are nowhere are left for `add` to name."""
    if circle := find_circle(specs):
        raise SpecError(in_a_circle(circle))
    return list(_sorter(specs).static_order())


def find_circle(specs: Mapping[FeatureKey, FeatureSpec]) -> list[FeatureKey]:
    """Return features that depend on each other in a circle, the first once more at the end; none if there are none."""
    try:
        _sorter(specs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def in_a_circle(circle: Sequence[FeatureKey]) -> str:
    """Return the message about features that depend on each other in a circle."""
    spelled = " -> ".join(map(str, circle))
    return f"Features depend on each other in a circle: {spelled}. Remove one of these deps."


def taken_name(key: FeatureKey, known_key: FeatureKey, *, declared_by: str | None = None) -> str:
    """Return the message about two keys of one string, which would share the versions and columns named after it."""
    whose = "" if declared_by is None else f", declared by class {declared_by}"
    return (
        f"{key!r} is called '{key.string}' in versions, and this graph already holds a feature of that name, "
        f"{known_key!r}{whose}. Give one of them another key, or declare it in a graph of its own: "
        "`with FeatureGraph().use():`."
    )


def no_longer_fits(key: FeatureKey, changed: FeatureKey, error: SpecError) -> str:
    """Return the message about a feature that does not fit what was declared again upstream."""
    return (
        f"Feature '{key}' no longer fits its upstream since '{changed}' was declared again: {error} Declare '{key}' "
        "again, too."
    )


def _check_containers_exist(
    spec: FeatureSpec, container: ContainerSpec, dep: ContainerDep, upstream: FeatureSpec
) -> None:
    for key in () if dep.containers == ALL else dep.containers:
        if key not in {candidate.key for candidate in upstream.containers}:
            raise SpecError(
                f"Container '{container.key}' of feature '{spec.key}' depends on {key!r} of '{upstream.key}', "
                f"which has only {[candidate.key for candidate in upstream.containers]}."
            )


def _check_renames(spec: FeatureSpec, dep: FeatureDep, upstream: FeatureSpec) -> None:
    """Refuse two id columns of one name."""
    for new in dep.rename.values():
        if new in upstream.id_columns and new not in dep.rename:
            raise SpecError(
                f"Feature '{spec.key}' renames a column of its upstream '{upstream.key}' to '{new}', which is the name "
                "of an id column there; rename that one too."
            )


def _check_groups(spec: FeatureSpec, dep: FeatureDep, upstream: FeatureSpec) -> None:
    """Refuse to group rows by a column that is known by another name."""
    for column in spec.id_columns:
        if column in dep.rename and column not in dep.rename.values():
            raise SpecError(
                f"Feature '{spec.key}' groups the rows of its upstream '{upstream.key}' by '{column}', and renames "
                f"this column to '{dep.rename[column]}'."
            )


def _sorter(specs: Mapping[FeatureKey, FeatureSpec]) -> TopologicalSorter[FeatureKey]:
    return TopologicalSorter({key: [d.key for d in spec.deps if d.key in specs] for key, spec in specs.items()})
