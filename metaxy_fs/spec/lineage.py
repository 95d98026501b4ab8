"""The columns that join a sample with the upstream rows that it is made from."""

from collections.abc import Iterable

from metaxy_fs.errors import SpecError
from metaxy_fs.spec.deps import FeatureDep
from metaxy_fs.spec.specs import FeatureSpec


def new_names(dep: FeatureDep, columns: Iterable[str]) -> tuple[str, ...]:
    """Return the names under which a feature knows columns of an upstream feature."""
    return tuple(dep.rename.get(column, column) for column in columns)


def stored_names(dep: FeatureDep, columns: Iterable[str]) -> tuple[str, ...]:
    """Return the names under which columns of an upstream feature are stored."""
    stored = {new: old for old, new in dep.rename.items()}
    return tuple(stored.get(column, column) for column in columns)


def join_columns(spec: FeatureSpec, upstream: FeatureSpec) -> tuple[str, ...]:
    """Return the id columns of a feature by which it finds rows of an upstream feature, in the feature's order."""
    dep = spec.dep(upstream.key)
    if dep.relation != "expansion":
        return tuple(spec.id_columns)
    known = new_names(dep, upstream.id_columns)
    return tuple(column for column in spec.id_columns if column in known)


def group_row_columns(spec: FeatureSpec, upstream: FeatureSpec) -> tuple[str, ...]:
    """Return what tells the upstream rows of one sample apart, sorted: none where there is one row alone."""
    known = new_names(spec.dep(upstream.key), upstream.id_columns)
    return tuple(sorted(set(known).difference(spec.id_columns)))


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
