"""Dependencies: the upstream features and containers that something is made from."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from metaxy_fs.errors import SpecError
from metaxy_fs.reserved import OF_INCREMENTS
from metaxy_fs.spec.checks import check_column_names, is_encodable, refuse_duplicates, require, sequence
from metaxy_fs.spec.keys import ContainerKey, FeatureKey, named_key

All = Literal["all"]
ALL: Final[All] = "all"
"""Stands for every container of an upstream feature, or every upstream feature."""

SameName = Literal["same_name"]
SAME_NAME: Final[SameName] = "same_name"
"""Stands for the container of the same name of each upstream feature, and for all containers of one that has none."""

Relation = Literal["one_to_one", "aggregation", "expansion"]
"""How many upstream rows make one sample, and how many samples one upstream row makes."""


class FeatureDep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A feature is made from the rows of another one.

    Args:
        key: The upstream feature: its key, or the text of that, such as `"video/processing"`.
        relation: `"one_to_one"`: one upstream row makes one sample, and the id columns are the same.
            `"aggregation"`: all upstream rows that have a sample's id columns in common make it; these may be id
            columns of the upstream feature or others. `"expansion"`: one upstream row makes many samples, whose id
            columns are those of the upstream feature and more.
        optional: Whether a sample may lack its upstream row, and still gets a version.
        rename: Columns of the upstream feature, and the names under which this one knows them. Ids are matched by
            the new names.
        where: A predicate in SQL, as `polars.sql_expr` reads it, on the latest upstream rows under the names that
            they are stored with, such as `"quality > 0.5 AND lang = 'en'"`. Rows for which it is false or null make no
            sample. It looks at one row at a time. It selects samples and enters no version: changing it makes samples
            orphaned or new, and none stale but groups whose rows change.
        columns: Columns of the upstream feature, under the names that they are stored with, that an increment carries
            beside its samples: the values of the very row that a version was made from, under the names of `rename`. A
            group carries a list for each sample, in the order of the ids of its rows. Where an optional row is missing,
            the values are null. They enter no version.

    Raises:
        SpecError: There is no such relation, or a name or the predicate cannot be one.

    Examples:
        >>> from metaxy_fs import FeatureKey
        >>> dep = FeatureDep(key=FeatureKey(["video"]), rename={"length": "video_length"}, where="length > 2")
        >>> dep.relation, dep.optional
        ('one_to_one', False)
        >>> FeatureDep(key="video", columns=["path"], rename={"path": "video_path"}).columns
        ('path',)
    """

    key: FeatureKey
    relation: Relation = "one_to_one"
    optional: bool = False
    rename: Mapping[str, str] = msgspec.field(default_factory=dict)
    where: str | None = None
    columns: Sequence[str] = ()

    if TYPE_CHECKING:  # what may be given, which is more than what is kept

        def __init__(
            self,
            *,
            key: FeatureKey | str,
            relation: Relation = "one_to_one",
            optional: bool = False,
            rename: Mapping[str, str] = ...,
            where: str | None = None,
            columns: Sequence[str] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key", named_key(FeatureKey, self.key, what="FeatureDep(key=...)"))
        if self.relation not in get_args(Relation):
            raise SpecError(f"{self._named('relation')} is one of {list(get_args(Relation))}, got {self.relation!r}.")
        # What is encoded leaves out a default if it is the very same object, which is no longer so after pickling.
        msgspec.structs.force_setattr(self, "relation", sys.intern(self.relation))
        require(self.optional, bool, what=self._named("optional"))
        msgspec.structs.force_setattr(self, "rename", _checked_names(self.rename, what=self._named("rename")))
        if self.where is not None:
            _check_predicate(self.where, what=self._named("where"))
        msgspec.structs.force_setattr(self, "columns", self._checked_columns())

    def __hash__(self) -> int:
        return hash((self.key, self.relation, self.optional, tuple(self.rename.items()), self.where, self.columns))

    def _checked_columns(self) -> tuple[str, ...]:
        """Return the columns, or say which of them cannot be carried."""
        what = self._named("columns")
        columns: tuple[str, ...] = sequence(self.columns, str, what=what)
        refuse_duplicates(columns, what=what)
        stored = {new: old for old, new in self.rename.items() if new not in self.rename}
        if renamed := [column for column in columns if column in stored]:
            raise SpecError(
                f"{what} names columns as they are stored, and {renamed[0]!r} is what `rename` calls "
                f"{stored[renamed[0]]!r}; name that one."
            )
        check_column_names(columns, what=f"The columns of {what}")
        for column in columns:
            if (new := self.rename.get(column, column)) in OF_INCREMENTS:
                raise SpecError(
                    f"{what} carries a column as {new!r}, which is a column of increments themselves; rename it: "
                    f"{rename_advice(self, column)}."
                )
        return columns

    def _named(self, field: str) -> str:
        return f"FeatureDep({field}=...) on '{self.key}'"


class ContainerDep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container is made from some containers of one upstream feature.

    Args:
        feature_key: The upstream feature, a key or its text, which must be among the feature's `deps`.
        containers: The containers of it that matter, keys or their texts; by default all.
    """

    feature_key: FeatureKey
    containers: Sequence[ContainerKey] | All = ALL

    if TYPE_CHECKING:  # what may be given, which is more than what is kept

        def __init__(
            self, *, feature_key: FeatureKey | str, containers: Sequence[ContainerKey | str] | All = ALL
        ) -> None: ...

    def __post_init__(self) -> None:
        key = named_key(FeatureKey, self.feature_key, what="ContainerDep(feature_key=...)")
        msgspec.structs.force_setattr(self, "feature_key", key)
        if self.containers == ALL:
            return
        named = sequence(self.containers, ContainerKey, str, what="ContainerDep(containers=...)")
        containers = tuple(named_key(ContainerKey, name, what="ContainerDep(containers=...)") for name in named)
        if not containers:
            raise SpecError(
                f"ContainerDep on '{self.feature_key}' names no container; leave `containers` out to mean all."
            )
        refuse_duplicates(containers, what=f"ContainerDep on '{self.feature_key}'")
        msgspec.structs.force_setattr(self, "containers", containers)


def carried_names(dep: FeatureDep) -> dict[str, str]:
    """Return the columns that a dep carries, as increments call them, and the names under which they are stored."""
    return {dep.rename.get(column, column): column for column in dep.columns}


def rename_advice(dep: FeatureDep, column: str) -> str:
    """Return how to declare that a column is carried under another name."""
    return f"FeatureDep(key=..., columns=[{column!r}], rename={{{column!r}: {f'{dep.key.string}_{column}'!r}}})"


def _checked_names(names: Any, *, what: str) -> dict[str, str]:
    """Return the names of a `rename` in the order of the old ones, or say which of them cannot be."""
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for pair in names.items() for name in pair):
        raise SpecError(f"{what} takes a dict from column to column, got {names!r}.")
    old, new = list(names), list(names.values())
    check_column_names([*old, *new], what=f"The columns of {what}")
    refuse_duplicates(new, what=f"The new names of {what}")
    same = [name for name in old if names[name] == name]
    if same:
        raise SpecError(f"{what} gives column {same[0]!r} the name that it has; leave it out.")
    return dict(sorted(names.items()))


def _check_predicate(text: Any, *, what: str) -> None:
    if not isinstance(text, str) or not text.strip() or not is_encodable(text):
        raise SpecError(f"{what} takes a predicate in SQL, such as \"quality > 0.5 AND lang = 'en'\", got {text!r}.")
