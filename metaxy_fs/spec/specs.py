"""The spec of a feature: its containers, their code versions, and the columns that join it with upstream features.

Everything here is a value that is checked where it is made; sequences are kept as tuples. What needs other features
to be checked (that an upstream exists, that there is no cycle) is the graph's to check.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from metaxy_fs.errors import SpecError
from metaxy_fs.spec.checks import check_column_names, is_encodable, refuse_duplicates, sequence
from metaxy_fs.spec.deps import ALL, SAME_NAME, All, ContainerDep, FeatureDep, SameName, carried_names, rename_advice
from metaxy_fs.spec.keys import ContainerKey, FeatureKey, named_key

DEFAULT_CONTAINER: Final = ContainerKey(["default"])
DEFAULT_ID_COLUMNS: Final = ("sample_id",)

VersionedBy = Literal["provenance", "content"]
"""What the version of a container stands for: what it is made from, or what came out."""


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a feature that has a version of its own.

    Args:
        key: The container's name, a key or its text, which is also its field in the `data_version` struct.
        code_version: The version of the code that makes it, a number or a string without `|`; change it to have every
            sample made again.
        deps: The upstream containers that it is made from; by default all containers of all upstream features.
            `SAME_NAME` takes the container of the same name from each upstream feature, and all containers of one that
            has none of this name. It means the same, and gives the same versions, as naming them one by one.
        versioned_by: `"provenance"`: its version is calculated from what it is made from. `"content"`: the writer of a
            row gives it, such as a checksum of the output, and the row keeps what it was made from in the column
            `provenance`. If the output is the same after an upstream change, nothing downstream has changed. A root
            feature has only versions that the writer gives, so it takes the default.

    Examples:
        >>> ContainerSpec(key=ContainerKey(["mask"]), versioned_by="content").versioned_by
        'content'
    """

    key: ContainerKey = msgspec.field(default_factory=lambda: DEFAULT_CONTAINER)  # so that it is never left out
    code_version: int | str = 1
    deps: Sequence[ContainerDep] | All | SameName = ALL
    versioned_by: VersionedBy = "provenance"

    if TYPE_CHECKING:  # what may be given, which is more than what is kept

        def __init__(
            self,
            *,
            key: ContainerKey | str = DEFAULT_CONTAINER,
            code_version: int | str = 1,
            deps: Sequence[ContainerDep] | All | SameName = ALL,
            versioned_by: VersionedBy = "provenance",
        ) -> None: ...

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key", named_key(ContainerKey, self.key, what="ContainerSpec(key=...)"))
        _check_code_version(self.code_version, container=self.key)
        if self.versioned_by not in get_args(VersionedBy):
            raise SpecError(
                f"The versioned_by of container '{self.key}' is one of {list(get_args(VersionedBy))}, "
                f"got {self.versioned_by!r}."
            )
        msgspec.structs.force_setattr(self, "versioned_by", sys.intern(self.versioned_by))  # see `FeatureDep`
        if isinstance(self.deps, str) and self.deps in (ALL, SAME_NAME):
            msgspec.structs.force_setattr(self, "deps", sys.intern(self.deps))
            return
        deps = sequence(self.deps, ContainerDep, what=f"ContainerSpec(deps=...) of '{self.key}'")
        refuse_duplicates([dep.feature_key for dep in deps], what=f"The deps of container '{self.key}'")
        msgspec.structs.force_setattr(self, "deps", deps)


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The declaration of a feature.

    Args:
        key: The feature's name: a key, or the text of one, such as `"video/processing"`.
        deps: The upstream features; none makes a root feature, whose data versions are given and not calculated.
        containers: The parts that are versioned; by default one that is called `default`.
        id_columns: The columns that together name a sample, in rows and in joins with upstream features.

    Raises:
        SpecError: A container, upstream, id or carried column is named twice, or there is none where one is needed.

    Examples:
        >>> from metaxy_fs import FeatureDep, FeatureKey
        >>> spec = FeatureSpec(
        ...     key=FeatureKey(["faces"]),
        ...     deps=[FeatureDep(key=FeatureKey(["video"]))],
        ...     containers=[ContainerSpec(code_version=2)],
        ... )
        >>> spec.id_columns, spec.container_names, spec.is_root
        (('sample_id',), ('default',), False)
    """

    key: FeatureKey
    deps: Sequence[FeatureDep] = ()
    containers: Sequence[ContainerSpec] = msgspec.field(default_factory=lambda: (ContainerSpec(),))
    id_columns: Sequence[str] = DEFAULT_ID_COLUMNS

    if TYPE_CHECKING:  # what may be given, which is more than what is kept

        def __init__(
            self,
            *,
            key: FeatureKey | str,
            deps: Sequence[FeatureDep] = (),
            containers: Sequence[ContainerSpec] = ...,
            id_columns: Sequence[str] = DEFAULT_ID_COLUMNS,
        ) -> None: ...

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key", named_key(FeatureKey, self.key, what="FeatureSpec(key=...)"))
        deps = sequence(self.deps or (), FeatureDep, what=f"FeatureSpec(deps=...) of '{self.key}'")
        refuse_duplicates([dep.key for dep in deps], what=f"The deps of feature '{self.key}'")
        containers = sequence(self.containers, ContainerSpec, what=f"FeatureSpec(containers=...) of '{self.key}'")
        if not containers:
            raise SpecError(
                f"Feature '{self.key}' has no containers; leave `containers` out to have one called 'default'."
            )
        refuse_duplicates([container.key for container in containers], what=f"The containers of feature '{self.key}'")
        id_columns = sequence(self.id_columns, str, what=f"FeatureSpec(id_columns=...) of '{self.key}'")
        if not id_columns:
            raise SpecError(f"Feature '{self.key}' needs at least one id column, got {list(id_columns)!r}.")
        check_column_names(id_columns, what=f"The id columns of feature '{self.key}'")
        content = [str(container.key) for container in containers if container.versioned_by == "content"]
        if content and not deps:
            raise SpecError(
                f"Feature '{self.key}' has no upstream features, so the writer gives all of its versions; leave "
                f"versioned_by=\"content\" of container '{content[0]}' out."
            )
        refuse_duplicates(id_columns, what=f"The id columns of feature '{self.key}'")
        _check_carried(self.key, deps, id_columns)
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

    def dep(self, key: FeatureKey) -> FeatureDep:
        """Return how the feature is made from one of its upstream features."""
        return next(dep for dep in self.deps if dep.key == key)


def carried_columns(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the columns that increments of a feature carry from upstream, in the order of its deps."""
    return tuple(column for dep in spec.deps for column in carried_names(dep))


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


def _check_code_version(version: object, *, container: ContainerKey) -> None:
    """Refuse what would make the preimage of a version ambiguous."""
    if isinstance(version, bool) or not isinstance(version, int | str):
        raise SpecError(f"The code_version of container '{container}' is a whole number or a string, got {version!r}.")
    if version == "" or "|" in str(version) or not is_encodable(str(version)):
        raise SpecError(
            f"The code_version of container '{container}' is a string that is not empty and has no '|', "
            f"got {version!r}."
        )


def _check_carried(key: FeatureKey, deps: Sequence[FeatureDep], id_columns: Sequence[str]) -> None:
    """Refuse two columns of one name beside the samples of an increment."""
    carried_by: dict[str, FeatureDep] = {}
    for dep in deps:
        for name, stored in carried_names(dep).items():
            if name in id_columns:
                raise SpecError(
                    f"Feature '{key}' carries column '{stored}' of its upstream '{dep.key}' as '{name}', which is "
                    f"one of its id columns {list(id_columns)}: leave it out if it is that id, or rename it: "
                    f"{rename_advice(dep, stored)}."
                )
            other = carried_by.setdefault(name, dep)
            if other is not dep:
                raise SpecError(
                    f"Feature '{key}' carries a column '{name}' of its upstream '{other.key}' and one of its upstream "
                    f"'{dep.key}'; rename one of them: {rename_advice(dep, stored)}."
                )
