"""The samples of features that differ between two moments, grouped by the changes at the root of them.

Each feature is compared by itself: its latest rows at both moments are joined on their ids. Causes go down the graph
with joins, too. A container has changed by its code, where its two definitions say so, and by what its upstream
containers have changed by, in the upstream rows that the sample is made from. What has no such cause is one: a version
that somebody gave, a sample that came or went.

A row is made from what was upstream when it was written. So an upstream row that was written later is no cause, unless
nothing else is: then it replaced the one that was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.markup import fragment, printable, table
from metaxy_fs.reserved import CAME_BY as _ROW
from metaxy_fs.reserved import CHANGED_AT as _TIME
from metaxy_fs.reserved import CHANGED_BY as _BY
from metaxy_fs.reserved import DIFFERS as _DIFFERS
from metaxy_fs.reserved import NOW as _NOW
from metaxy_fs.reserved import OF_UPSTREAM
from metaxy_fs.reserved import OWN_CHANGE as _OWN
from metaxy_fs.reserved import THEN as _THEN
from metaxy_fs.spec import ContainerSpec, Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.keys import named_key
from metaxy_fs.spec.specs import join_columns, stored_names
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, RESERVED_TIME

CHANGE: Final = "change"
CONTAINERS: Final = "containers"
CAUSES: Final = "causes"
ADDED, REMOVED, CHANGED = "added", "removed", "changed"

COUNTED: Final = pl.Schema({"feature": pl.String(), CHANGE: pl.String(), "cause": pl.String(), "samples": pl.Int64()})
"""The columns of the causes of a diff; see `Diff`."""

_CAUSES_SHOWN: Final = 50
_NEXT: Final = "\n"
"""Between causes in a text; no name holds it."""

_NONE: Final = pl.lit([], dtype=pl.List(pl.String))


@dataclass(frozen=True)
class Diff:
    """The samples that were added, removed or changed between two moments, with the causes.

    Attributes:
        before: What was compared, in words.
        after: With what, in words.
        causes: How many samples differ, by what: `feature` (string, upstream first), `change` (string: `"added"`,
            `"removed"` or `"changed"`), `cause` (string, those of one sample joined by ` and `) and `samples` (Int64,
            the most first within a feature). Each sample is counted once.

    A cause is one of these: `"video/audio"`, a version that was given to a container of a root feature;
    `"code of crop/default 2 to 3"`; `"crop/default added"` or `"removed"`, a container; `"definition of crop/default"`,
    what else its declaration says; `"video added"` or `"removed"`, samples; and `"other rows upstream of crop/default"`
    where the upstream rows are the same at both moments, but were not when the sample was made.
    """

    before: str
    after: str
    causes: pl.DataFrame
    _samples: Mapping[FeatureKey, pl.DataFrame]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return not self.causes.is_empty()

    def samples(self, feature: type[Feature] | FeatureKey | str) -> pl.DataFrame:
        """Return the samples of a feature that differ, sorted by id.

        Returns:
            The id columns, `change` (string), `containers` (list of strings, those whose version differs) and `causes`
            (list of strings, sorted).

        Raises:
            KeyError: The feature was not compared.
        """
        key = feature.spec.key if isinstance(feature, type) else named_key(FeatureKey, feature, what="A feature")
        if key not in self._samples:
            known = ", ".join(map(str, self._samples))
            raise KeyError(f"Feature '{key}' was not compared; {known or 'none'} {'were' if known else 'was'}.")
        return self._samples[key]

    def to_text(self) -> str:
        """Return a line for each feature that differs, with the causes below it."""
        title = f"{printable(self.before)} to {printable(self.after)}"
        lines = [title if self else f"{title}: nothing differs"]
        for (name,), of_feature in self.causes.group_by("feature", maintain_order=True):
            totals = of_feature.group_by(CHANGE, maintain_order=True).agg(pl.col("samples").sum())
            counts = ", ".join(f"{count:,} {change}" for change, count in totals.sort(CHANGE).iter_rows())
            lines.append(f"{printable(str(name))}: {counts}")
            # That samples of the feature itself came or went is said in its line.
            shown = of_feature.filter(pl.col("cause") != pl.concat_str(pl.lit(f"{name} "), CHANGE))
            rows = shown.select(CHANGE, "cause", "samples").iter_rows()
            lines += [_cause_line(change, printable(cause), count) for change, cause, count in rows]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return fragment(self.to_text().splitlines()[0], *([table(self.causes, rows=_CAUSES_SHOWN)] if self else []))


class ChangedRows(NamedTuple):
    """The rows of a feature that differ, with what each container of each of them has changed by.

    Attributes:
        spec: The feature.
        frame: Ids and columns that others group by, how it changed and when, and texts of causes.
    """

    spec: FeatureSpec
    frame: pl.DataFrame


def changed_rows(
    before: pl.LazyFrame | None, after: pl.LazyFrame | None, *, id_columns: Sequence[str], carried: Sequence[str] = ()
) -> pl.DataFrame:
    """Return the rows that differ between two moments.

    Args:
        before: The row of each sample that counts: ids, `data_version`, partition, time, and the carried columns.
        after: The same of the other moment, with ids and carried columns of the same types; one of the two may be
            None, for no rows.
        id_columns: What names a sample.
        carried: Columns that features downstream group by; the later value counts.

    Returns:
        Ids and carried columns, `change`, the partition at both moments, the later time, and for each container whether
        it differs.
    """
    names = sorted({*_containers(before), *_containers(after)})
    sides = [_side(rows, id_columns, carried, prefix) for rows, prefix in ((before, _THEN), (after, _NOW))]
    then, now = _both(*[side for side in sides if side is not None])
    joined = then.join(now, on=list(id_columns), how="full", coalesce=True)
    schema = joined.collect_schema()
    differs = {name: _version(schema, _THEN, name).ne_missing(_version(schema, _NOW, name)) for name in names}
    was_there, is_there = pl.col(_THEN + PARTITION).is_not_null(), pl.col(_NOW + PARTITION).is_not_null()
    change = pl.when(~was_there).then(pl.lit(ADDED)).when(~is_there).then(pl.lit(REMOVED)).otherwise(pl.lit(CHANGED))
    return (
        joined.filter(pl.any_horizontal(differs.values()))
        .select(
            *id_columns,
            *(pl.coalesce(_NOW + name, _THEN + name).alias(name) for name in carried),
            change.alias(CHANGE),
            _THEN + PARTITION,
            _NOW + PARTITION,
            pl.coalesce(_NOW + RESERVED_TIME, _THEN + RESERVED_TIME).alias(_TIME),
            *(differs[name].alias(_DIFFERS + name) for name in names),
        )
        .sort(id_columns)
        .collect()
    )


def with_causes(
    found: pl.DataFrame,
    spec: FeatureSpec,
    graph: FeatureGraph | None,
    *,
    upstream: Mapping[FeatureKey, ChangedRows],
    declared: Mapping[str, FeatureSpec],
) -> ChangedRows:
    """Return the rows that differ with texts of causes in place of what differs.

    Args:
        found: What `changed_rows` gives of the feature.
        spec: The feature.
        graph: Where its upstream features are declared; None where these are not known.
        upstream: The rows of these that differ.
        declared: The declarations of its partitions, by their versions.
    """
    above = [] if graph is None else [upstream[up.key] for up in graph.upstream(spec) if up.key in upstream]
    joined = found.join(_own_changes(found, spec, declared), on=[_THEN + PARTITION, _NOW + PARTITION], how="left")
    joined = joined.with_columns(pl.col(f"^{_OWN}.*$").fill_null(""))
    for rows in above:
        joined = _beside(joined, spec, rows)
    # What tells the causes takes few values: they are found for each combination, and joined.
    told_by = [name for name in joined.columns if name.startswith((CHANGE, _DIFFERS, _OWN, OF_UPSTREAM))]
    combinations = joined.select(told_by).unique()
    made_from = {str(c.key): _upstream_columns(c, spec, graph, above) for c in spec.containers}
    names = [name.removeprefix(_DIFFERS) for name in found.columns if name.startswith(_DIFFERS)]
    lists = [_causes(name, spec, made_from.get(name, [])).alias(_BY + name) for name in names]
    explained = _summed(combinations.with_columns(*lists, _row_causes(spec, above).alias(_ROW)), names)
    kept = [name for name in found.columns if not name.startswith(_DIFFERS)]
    frame = joined.join(explained, on=told_by, how="left", maintain_order="left")
    return ChangedRows(spec, frame.select(*kept, *(_BY + name for name in names), _ROW, CONTAINERS, CAUSES))


def samples_of(rows: ChangedRows) -> pl.DataFrame:
    """Return the samples that differ as users see them."""
    lists = [_list(pl.col(name)).alias(name) for name in (CONTAINERS, CAUSES)]
    return rows.frame.select(*rows.spec.id_columns, CHANGE, *lists)


def counted(rows: ChangedRows) -> pl.DataFrame:
    """Return how many samples of a feature differ by what, the most first."""
    cause = pl.col(CAUSES).str.replace_all(_NEXT, " and ", literal=True).alias("cause")
    groups = rows.frame.group_by(CHANGE, cause).agg(pl.len().cast(pl.Int64).alias("samples"))
    ordered = groups.sort("samples", CHANGE, "cause", descending=[True, False, False])
    return ordered.select(pl.lit(str(rows.spec.key)).alias("feature"), *list(COUNTED)[1:])


def _summed(explained: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Add which containers differ and by what in all, and turn lists into texts."""
    containers = [pl.when(_DIFFERS + name).then(pl.lit([name])).otherwise(_NONE) for name in names]
    by = [_BY + name for name in names]
    causes = pl.when(pl.col(CHANGE) == CHANGED).then(pl.concat_list(by)).otherwise(pl.col(_ROW))
    return explained.with_columns(
        _text(pl.concat_list(containers)).alias(CONTAINERS),
        _text(causes).alias(CAUSES),
        *(_text(pl.col(name)).alias(name) for name in (*by, _ROW)),
    )


def _text(causes: pl.Expr) -> pl.Expr:
    """Return a list as one text, which can be joined on."""
    return causes.list.unique().list.sort().list.join(_NEXT)


def _list(text: pl.Expr) -> pl.Expr:
    return pl.when(text == "").then(_NONE).otherwise(text.str.split(_NEXT))


def _cause_line(change: str, cause: str, count: int) -> str:
    return f"  {count:,} {change} by {cause}" if change == CHANGED else f"  {count:,} {change}: {cause}"


def _containers(rows: pl.LazyFrame | None) -> list[str]:
    dtype = None if rows is None else rows.collect_schema()[DATA_VERSION]
    return [field.name for field in dtype.fields] if isinstance(dtype, pl.Struct) else []


def _side(
    rows: pl.LazyFrame | None, id_columns: Sequence[str], carried: Sequence[str], prefix: str
) -> pl.LazyFrame | None:
    others = (DATA_VERSION, PARTITION, RESERVED_TIME, *carried)
    return None if rows is None else rows.select(*id_columns, *(pl.col(name).alias(prefix + name) for name in others))


def _both(*sides: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return both sides; one that is missing is made from the other, without rows."""
    if len(sides) == 1:
        [side] = sides
        names = side.collect_schema().names()
        is_before = any(name.startswith(_THEN) for name in names)
        old, new = (_THEN, _NOW) if is_before else (_NOW, _THEN)
        other = side.clear().rename({name: name.replace(old, new, 1) for name in names if name.startswith(old)})
        return (side, other) if is_before else (other, side)
    then, now = sides
    return then, now


def _version(schema: pl.Schema, prefix: str, container: str) -> pl.Expr:
    dtype = schema[prefix + DATA_VERSION]
    has_it = isinstance(dtype, pl.Struct) and container in {field.name for field in dtype.fields}
    return pl.col(prefix + DATA_VERSION).struct.field(container) if has_it else pl.lit(None, pl.String)


def _own_changes(found: pl.DataFrame, spec: FeatureSpec, declared: Mapping[str, FeatureSpec]) -> pl.DataFrame:
    """Return, for each pair of definitions of rows, what of each container's own has changed; null for nothing."""
    pairs = found.select(_THEN + PARTITION, _NOW + PARTITION).unique()
    names = [name.removeprefix(_DIFFERS) for name in found.columns if name.startswith(_DIFFERS)]
    columns = {
        _OWN + name: pl.Series(
            [_own_change(name, spec.key, declared.get(then), declared.get(now)) for then, now in pairs.iter_rows()],
            dtype=pl.String,
        )
        for name in names
    }
    return pairs.with_columns(**columns)


def _own_change(name: str, key: FeatureKey, then: FeatureSpec | None, now: FeatureSpec | None) -> str | None:
    if then is None or now is None:
        return None
    before, after = (next((each for each in spec.containers if str(each.key) == name), None) for spec in (then, now))
    if before is None or after is None:
        return f"{key}/{name} {'added' if before is None else 'removed'}"
    if before.code_version != after.code_version:
        return f"code of {key}/{name} {before.code_version} to {after.code_version}"
    is_same = (before, _related(then), then.id_columns) == (after, _related(now), now.id_columns)
    return None if is_same else f"definition of {key}/{name}"


def _related(spec: FeatureSpec) -> list[FeatureDep]:
    """Return the deps of a feature without what they carry, which enters no version."""
    return [
        msgspec.structs.replace(
            dep,
            columns=(),
            rename={old: new for old, new in dep.rename.items() if old not in dep.columns or new in spec.id_columns},
        )
        for dep in spec.deps
    ]


def _beside(found: pl.DataFrame, spec: FeatureSpec, above: ChangedRows) -> pl.DataFrame:
    """Add what the upstream rows that samples are made from have changed by; nothing where these have not."""
    ids = list(join_columns(spec, above.spec))
    stored = dict(zip(stored_names(spec.dep(above.spec.key), ids), ids, strict=True))
    prefix = _prefix(above.spec.key)
    is_changed = pl.col(CHANGE) == CHANGED
    by = [name for name in above.frame.columns if name.startswith(_BY)]
    rows = above.frame.select(
        *(pl.col(old).cast(found.schema[new], strict=False).alias(new) for old, new in stored.items()),
        pl.col(_TIME).alias(prefix + _TIME),
        *(pl.when(is_changed).then(pl.col(name)).otherwise(pl.lit("")).alias(prefix + name) for name in by),
        pl.when(is_changed).then(pl.lit("")).otherwise(pl.col(_ROW)).alias(prefix + _ROW),
    )
    texts = [prefix + name for name in (*by, _ROW)]
    if spec.dep(above.spec.key).relation == "aggregation":
        each = [pl.col(name).filter(pl.col(name) != "").unique().sort().str.join(_NEXT) for name in texts]
        rows = rows.group_by(ids).agg(pl.col(prefix + _TIME).min(), *each)
    joined = found.join(rows, on=ids, how="left", maintain_order="left")
    is_in_time = (pl.col(prefix + _TIME) <= pl.col(_TIME)).fill_null(value=False)
    return joined.with_columns(is_in_time.alias(prefix + _TIME), *(pl.col(name).fill_null("") for name in texts))


def _upstream_columns(
    container: ContainerSpec, spec: FeatureSpec, graph: FeatureGraph | None, above: Sequence[ChangedRows]
) -> list[tuple[FeatureKey, str]]:
    """Return the lists of causes that a container inherits, each with the feature that it comes from."""
    if graph is None:
        return []
    columns = {rows.spec.key: set(rows.frame.columns) for rows in above}
    pairs = [(up.key, _BY + str(part.key)) for up, part in graph.upstream_containers(spec, container)]
    found = [(key, name) for key, name in pairs if name in columns.get(key, ())]
    return found + [(key, _ROW) for key in dict.fromkeys(key for key, _ in pairs) if key in columns]


def _causes(name: str, spec: FeatureSpec, inherited: Sequence[tuple[FeatureKey, str]]) -> pl.Expr:
    """Return what a container of each row has changed by: nothing where it has not."""
    lists = [(_list(pl.col(_prefix(key) + column)), pl.col(_prefix(key) + _TIME)) for key, column in inherited]
    in_time = [pl.when(is_in_time).then(causes).otherwise(_NONE) for causes, is_in_time in lists]
    last = f"other rows upstream of {spec.key}/{name}" if spec.deps else f"{spec.key}/{name}"
    found = _first_of(
        pl.concat_list(_list(pl.col(_OWN + name)), *in_time),
        pl.concat_list(_NONE, *(causes for causes, _ in lists)),
        pl.lit([last]),
    )
    return pl.when(pl.col(_DIFFERS + name)).then(found).otherwise(_NONE)


def _row_causes(spec: FeatureSpec, above: Sequence[ChangedRows]) -> pl.Expr:
    """Return what each sample was added or removed by."""
    lists = [_list(pl.col(_prefix(rows.spec.key) + _ROW)) for rows in above]
    # Nothing is made from what is gone: a sample that is there all the same has come by itself.
    come = [each.list.eval(pl.element().filter(~pl.element().str.ends_with(f" {REMOVED}"))) for each in lists]
    lists = [pl.when(pl.col(CHANGE) == ADDED).then(new).otherwise(old) for new, old in zip(come, lists, strict=True)]
    own = pl.concat_list(pl.concat_str(pl.lit(f"{spec.key} "), pl.col(CHANGE)))
    parents = [rows for rows in above if spec.dep(rows.spec.key).relation == "expansion"]
    return _first_of(pl.concat_list(_NONE, *lists), pl.concat_list(_NONE, *map(_parent_causes, parents)), own)


def _parent_causes(parent: ChangedRows) -> pl.Expr:
    """Return what the parent of each sample has changed by: it then makes other samples than before."""
    prefix = _prefix(parent.spec.key)
    by = [_list(pl.col(prefix + name)) for name in parent.frame.columns if name.startswith(_BY)]
    is_made_since = pl.col(prefix + _TIME) | (pl.col(CHANGE) == REMOVED)
    return pl.when(is_made_since).then(pl.concat_list(_NONE, *by)).otherwise(_NONE)


def _first_of(*lists: pl.Expr) -> pl.Expr:
    """Return the first list that holds anything."""
    *before, last = lists
    for causes in reversed(before):
        last = pl.when(causes.list.len() > 0).then(causes).otherwise(last)
    return last


def _prefix(key: FeatureKey) -> str:
    return f"{OF_UPSTREAM}{key.string}/"
