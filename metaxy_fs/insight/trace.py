"""The model of a trace: rows that were made from some samples, or that these were made from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import polars as pl

from metaxy_fs.markup import count, counted, fragment, note, printable, table
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.specs import join_columns, stored_names

Direction = Literal["down", "up"]

TRACED: Final = pl.Schema(
    {
        "feature": pl.String(),
        "samples": pl.Int64(),
        "stores": pl.List(pl.String()),
        "snapshots": pl.List(pl.String()),
    }
)
"""The columns of a trace's features; see `Trace`."""


class Link(NamedTuple):
    """One dep, as it is followed from rows that are known to rows that are looked for.

    Attributes:
        near: Where rows are known.
        far: Where rows are looked for.
        columns: Columns of the rows that are known, and those of the others that have the same values.
    """

    near: FeatureSpec
    far: FeatureSpec
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Trace:
    """What was made from some samples, or what they were made from.

    Every row that was ever written counts, under whatever declaration, also where a later one took its place.

    Attributes:
        direction: `"down"` to what was made from the samples, `"up"` to what they were made from.
        rows: By feature (`"video/frames"`), the feature of the samples first, then in the order in which they were
            found: the id columns, `store` (string, where the rows are), `data_version` (struct, of the last row there,
            null where that one retires the sample), `retired` (Boolean) and `snapshots` (list of strings, those that
            hold a row of the sample). One row per sample and store, sorted by ids.
        features: One row for each feature: `feature` (string), `samples` (Int64), `stores` and `snapshots` (lists of
            strings).
        snapshots: The names of all snapshots, kept in a store of the chain, that hold any of these rows, sorted.
    """

    direction: Direction
    rows: Mapping[str, pl.DataFrame]
    features: pl.DataFrame
    snapshots: tuple[str, ...]

    @classmethod
    def of(cls, direction: Direction, rows: Mapping[str, pl.DataFrame], ids: Mapping[str, tuple[str, ...]]) -> "Trace":
        """Return the trace that has these rows.

        Args:
            direction: Where it led.
            rows: See `Trace`.
            ids: The id columns of each feature.
        """
        features = [
            (
                feature,
                frame.select(ids[feature]).n_unique() if frame.height else 0,
                sorted(frame["store"].unique()),
                sorted(frame["snapshots"].explode().drop_nulls().unique()),
            )
            for feature, frame in rows.items()
        ]
        described = pl.DataFrame(features, schema=TRACED, orient="row")
        snapshots = described["snapshots"].explode().drop_nulls().unique().sort()
        return cls(direction, dict(rows), described, tuple(snapshots))

    def to_text(self) -> str:
        """Return the counts of all features as text, the feature of the samples first."""
        start, *others = self.features.iter_rows(named=True)
        what = "made from them" if self.direction == "down" else "what they were made from"
        lines = [f"{_of_feature(start)}; {what}:", *(f"  {_of_feature(row)}" for row in others if row["samples"])]
        lines += [] if len(lines) > 1 else ["  nothing"]
        return "\n".join([*lines, f"snapshots: {printable(', '.join(self.snapshots)) or 'none'}"])

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        start, *_ = self.rows
        title = f"What was made from samples of {start}" if self.direction == "down" else f"What {start} was made from"
        rows = [counted(name, frame) for name, frame in self.rows.items()]
        snapshots = note(f"snapshots: {', '.join(self.snapshots) or 'none'}")
        return fragment(title, table(self.features, rows=self.features.height), *rows, snapshots)


def links(graph: FeatureGraph, start: FeatureKey, direction: Direction) -> Iterator[tuple[FeatureSpec, list[Link]]]:
    """Yield each feature that a trace leads to, after all that lie between, with the deps by which it gets there."""
    specs = list(graph.specs.values())
    reached = {start}
    for far in specs if direction == "down" else reversed(specs):
        pairs = (_pairs_down if direction == "down" else _pairs_up)(far, specs)
        found = [_link(*pair, direction) for pair in pairs if pair[0].key in reached]
        if found:
            reached.add(far.key)
            yield far, found


def _pairs_down(far: FeatureSpec, specs: list[FeatureSpec]) -> list[tuple[FeatureSpec, FeatureSpec]]:
    above = {dep.key for dep in far.deps}
    return [(near, far) for near in specs if near.key in above]


def _pairs_up(far: FeatureSpec, specs: list[FeatureSpec]) -> list[tuple[FeatureSpec, FeatureSpec]]:
    return [(near, far) for near in specs if far.key in {dep.key for dep in near.deps}]


def _link(near: FeatureSpec, far: FeatureSpec, direction: Direction) -> Link:
    below, above = (far, near) if direction == "down" else (near, far)
    known = join_columns(below, above)
    stored = stored_names(below.dep(above.key), known)
    pairs = zip(stored, known, strict=True) if direction == "down" else zip(known, stored, strict=True)
    return Link(near, far, dict(pairs))


def _of_feature(row: Mapping[str, object]) -> str:
    stores = row["stores"]
    where = f" in {printable(', '.join(map(str, stores)))}" if isinstance(stores, list) and stores else ""
    return f"{printable(str(row['feature']))}: {count(int(str(row['samples'])), 'sample')}{where}"
