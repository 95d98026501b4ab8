"""What does a feature declare: which containers, made from what, by which version of the code?

Everything here is a value that is checked where it is made; sequences are kept as tuples. What needs other features
to be checked (that an upstream exists, that there is no cycle) is the graph's to check.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from metaxy_fs.errors import SpecError
from metaxy_fs.spec.keys import ContainerKey, FeatureKey

All = Literal["all"]
ALL: Final[All] = "all"
"""Stands for every container of an upstream feature, or every upstream feature."""

DEFAULT_CONTAINER: Final = ContainerKey(["default"])
DEFAULT_ID_COLUMNS: Final = ("sample_id",)


class FeatureDep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A feature is made from the rows of another one.

    Args:
        key: The upstream feature.
    """

    key: FeatureKey

    def __post_init__(self) -> None:
        _require(self.key, FeatureKey, what="FeatureDep(key=...)")


class ContainerDep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container is made from some containers of one upstream feature.

    Args:
        feature_key: The upstream feature, which must be among the feature's `deps`.
        containers: The containers of it that matter; by default all.
    """

    feature_key: FeatureKey
    containers: Sequence[ContainerKey] | All = ALL

    def __post_init__(self) -> None:
        _require(self.feature_key, FeatureKey, what="ContainerDep(feature_key=...)")
        if self.containers == ALL:
            return
        containers = _sequence(self.containers, ContainerKey, what="ContainerDep(containers=...)")
        if not containers:
            raise SpecError(
                f"ContainerDep on '{self.feature_key}' names no container; leave `containers` out to mean all."
            )
        _refuse_duplicates(containers, what=f"ContainerDep on '{self.feature_key}'")
        msgspec.structs.force_setattr(self, "containers", containers)


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a feature that has a version of its own.

    Args:
        key: The container's name, which is also its field in the `data_version` struct.
        code_version: The version of the code that makes it, a number or a text without `|`; change it to have every
            sample made again.
        deps: The upstream containers that it is made from; by default all containers of all upstream features.
    """

    key: ContainerKey = DEFAULT_CONTAINER
    code_version: int | str = 1
    deps: Sequence[ContainerDep] | All = ALL

    def __post_init__(self) -> None:
        _require(self.key, ContainerKey, what="ContainerSpec(key=...)")
        _check_code_version(self.code_version, container=self.key)
        if self.deps == ALL:
            return
        deps = _sequence(self.deps, ContainerDep, what=f"ContainerSpec(deps=...) of '{self.key}'")
        _refuse_duplicates([dep.feature_key for dep in deps], what=f"The deps of container '{self.key}'")
        msgspec.structs.force_setattr(self, "deps", deps)


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The declaration of a feature.

    Args:
        key: The feature's name.
        deps: The upstream features; none makes a root feature, whose data versions are given and not calculated.
        containers: The parts that are versioned; by default one that is called `default`.
        id_columns: The columns that together name a sample, in rows and in joins with upstream features.

    Raises:
        SpecError: A container, upstream or id column is named twice, or there is none where one is needed.
    """

    key: FeatureKey
    deps: Sequence[FeatureDep] = ()
    containers: Sequence[ContainerSpec] = msgspec.field(default_factory=lambda: (ContainerSpec(),))
    id_columns: Sequence[str] = DEFAULT_ID_COLUMNS

    def __post_init__(self) -> None:
        _require(self.key, FeatureKey, what="FeatureSpec(key=...)")
        deps = _sequence(self.deps or (), FeatureDep, what=f"FeatureSpec(deps=...) of '{self.key}'")
        _refuse_duplicates([dep.key for dep in deps], what=f"The deps of feature '{self.key}'")
        containers = _sequence(self.containers, ContainerSpec, what=f"FeatureSpec(containers=...) of '{self.key}'")
        if not containers:
            raise SpecError(
                f"Feature '{self.key}' has no containers; leave `containers` out to have one called 'default'."
            )
        _refuse_duplicates([container.key for container in containers], what=f"The containers of feature '{self.key}'")
        id_columns = _sequence(self.id_columns, str, what=f"FeatureSpec(id_columns=...) of '{self.key}'")
        if not id_columns or not all(id_columns):
            raise SpecError(
                f"Feature '{self.key}' needs at least one id column, each with a name, got {list(id_columns)!r}."
            )
        if any(name == "*" or (name.startswith("^") and name.endswith("$")) for name in id_columns):
            raise SpecError(
                f"An id column of feature '{self.key}' has a name that Polars reads as a pattern: {list(id_columns)!r}."
            )
        if "data_version" in id_columns or any(name.startswith("_metaxy_") for name in id_columns):
            raise SpecError(
                f"The id columns {list(id_columns)!r} of feature '{self.key}' hold a name with another meaning."
            )
        _refuse_duplicates(id_columns, what=f"The id columns of feature '{self.key}'")
        msgspec.structs.force_setattr(self, "deps", deps)
        msgspec.structs.force_setattr(self, "containers", containers)
        msgspec.structs.force_setattr(self, "id_columns", id_columns)

    @property
    def is_root(self) -> bool:
        """Whether the feature has no upstream."""
        return not self.deps

    @property
    def container_names(self) -> tuple[str, ...]:
        """The key strings of the containers, in the order of declaration: the fields of `data_version`."""
        return tuple(str(container.key) for container in self.containers)


def is_encodable(text: str) -> bool:
    """Whether a text can be encoded as UTF-8; one that holds half of a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _require(value: object, kind: type, *, what: str) -> None:
    if not isinstance(value, kind):
        raise SpecError(f"{what} takes a {kind.__name__}, got {value!r}.")


def _sequence(values: Any, kind: type, *, what: str) -> tuple[Any, ...]:
    """Return the values as a tuple of one kind; a lone text is a mistake, not a sequence of characters."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise SpecError(f"{what} takes a list of {kind.__name__}, got {values!r}.")
    for value in values:
        _require(value, kind, what=f"Each of {what}")
    return tuple(values)


def _refuse_duplicates(names: Sequence[object], *, what: str) -> None:
    """Names are duplicates where their strings are, since versions and columns are keyed by the strings."""
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if twice:
        raise SpecError(f"{what}: '{twice[0]}' is named more than once.")


def _check_code_version(version: object, *, container: ContainerKey) -> None:
    """Refuse what would make the preimage of a version ambiguous."""
    if isinstance(version, bool) or not isinstance(version, int | str):
        raise SpecError(f"The code_version of container '{container}' is a whole number or a text, got {version!r}.")
    if version == "" or "|" in str(version) or not is_encodable(str(version)):
        raise SpecError(
            f"The code_version of container '{container}' is a text that is not empty and has no '|', got {version!r}."
        )
