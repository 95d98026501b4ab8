"""The model of a plan: what a run of a whole graph would compute, and how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from metaxy_fs.markup import count, fragment, printable, table
from metaxy_fs.reserved import AFTER_UPSTREAM, CAUSE, KIND
from metaxy_fs.spec import Feature, FeatureKey
from metaxy_fs.spec.keys import named_key
from metaxy_fs.versioning.columns import refuse_id_columns

FEATURES: Final = pl.Schema(
    {
        "feature": pl.String(),
        "new": pl.Int64(),
        "stale": pl.Int64(),
        "after_upstream": pl.Int64(),
        "waiting": pl.Int64(),
        "orphaned": pl.Int64(),
        "unknown": pl.Int64(),
        "missing": pl.List(pl.String()),
        "seconds": pl.Float64(),
    }
)
"""The columns of a plan's features; see `Plan`."""

CAUSES: Final = pl.Schema({"feature": pl.String(), "cause": pl.String(), "samples": pl.Int64()})
"""The columns of a plan's causes; see `Plan`."""

PENDING: Final = {KIND: "kind", CAUSE: "cause", AFTER_UPSTREAM: "after_upstream"}
"""The columns of pending samples beside their ids, and what they are called where they are shown."""

_SHOWN: Final = ("new", "stale", "after_upstream", "waiting", "orphaned", "unknown")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


@dataclass(frozen=True)
class Plan:
    """What a run of a whole graph would compute, feature by feature, before anything runs.

    A run computes, upstream first, what `resolve_update` finds pending in each feature, and commits it.

    Attributes:
        features: One row for each feature, upstream first: `feature` (string, such as `"video/frames"`), `new` and
            `stale` (Int64, the samples that the run computes; parents, where one upstream row makes many samples),
            `after_upstream` (Int64, how many of these cannot be computed, or would get another version, before
            upstream has run), `waiting` and `orphaned` (Int64, how many there are after the run), `unknown` (Int64,
            how many new upstream rows there will be of which nobody knows yet what they make here; the counts are those
            without them), `missing` (list of strings, the required upstream features without any row, so that nothing
            can be counted) and `seconds` (Float64, how long it takes to compute; null where no row tells).
        causes: Why samples are stale, each under one cause: `feature`, `cause` (string, such as
            `"code of video/frames/default 1 to 2"`) and `samples` (Int64).
        is_exact: Whether the counts are what the run will find. They are at most that where features upstream have
            `unknown`, and at least where outputs have versions of their own, of which nobody knows whether they change.

    Examples:
        >>> from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec, InMemoryMetadataStore
        >>> with FeatureGraph().use() as graph:
        ...
        ...     class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        ...         pass
        ...
        ...     dep = FeatureDep(key=Video.spec.key)
        ...
        ...     class Faces(Feature, spec=FeatureSpec(key=FeatureKey(["faces"]), deps=[dep])):
        ...         pass
        >>> store = InMemoryMetadataStore()
        >>> store.write_metadata(Video, pl.DataFrame({"sample_id": [1, 2], "data_version": [{"default": "v1"}] * 2}))
        >>> plan = store.plan(Faces)
        >>> plan.features.select("feature", "new", "stale").rows()
        [('video', 0, 0), ('faces', 2, 0)]
        >>> plan.pending(Faces)["sample_id"].to_list()
        [1, 2]
    """

    features: pl.DataFrame
    causes: pl.DataFrame
    is_exact: bool
    _pending: Mapping[FeatureKey, pl.DataFrame]
    _untold: str | None = None
    """The column of seconds that was asked for, where no row tells any."""

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return self.samples > 0

    @property
    def samples(self) -> int:
        """How many samples the run computes in all features together."""
        return int(self.features.select(pl.col("new").sum() + pl.col("stale").sum()).item())

    @property
    def seconds(self) -> float | None:
        """How long the run computes in all, None where no feature that has something to compute tells."""
        known = self.features.get_column("seconds").drop_nulls()
        return float(known.sum()) if known.len() else None

    def pending(self, feature: type[Feature] | FeatureKey | str) -> pl.DataFrame:
        """Return the samples of a feature, or the parents, that the run computes.

        Returns:
            The id columns, `kind` (`"new"` or `"stale"`), `cause` (string, null where new) and `after_upstream`
            (Boolean, as it is counted in `features`).

        Raises:
            KeyError: The plan does not hold the feature.
            MetadataSchemaError: An id column has the name of one of the other columns.
        """
        key = feature.spec.key if isinstance(feature, type) else named_key(FeatureKey, feature, what="A feature")
        if key not in self._pending:
            known = ", ".join(map(str, self._pending))
            raise KeyError(f"The plan has no samples of feature '{key}'; it has some of {known or 'none'}.")
        pending = self._pending[key]
        refuse_id_columns(PENDING.values(), ids=pending.drop(PENDING).columns, key=key, what="the frame of a plan")
        return pending.rename(PENDING)

    def to_text(self) -> str:
        """Return the plan as a table with the causes below each feature."""
        names = self._shown_counts()
        has_seconds = self.seconds is not None
        header = ["feature", *(name.replace("_", " ") for name in names), *(["time"] if has_seconds else [])]
        rows = [self._cells(row, names, has_seconds=has_seconds) for row in self.features.iter_rows(named=True)]
        widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
        lines = [self._title(), _line(header, widths)]
        for row, cells in zip(self.features.iter_rows(named=True), rows, strict=True):
            lines.append(_line(cells, widths))
            lines += [f"  {note}" for note in self._notes(row)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        causes = [] if self.causes.is_empty() else [table(self.causes, rows=self.causes.height)]
        told = {"missing": self.features["missing"].list.len().sum() > 0, "seconds": self.seconds is not None}
        shown = self.features.select("feature", *self._shown_counts(), *(name for name in told if told[name]))
        return fragment(self._title(), table(shown, rows=shown.height), *causes)

    def _shown_counts(self) -> list[str]:
        return [name for name in _SHOWN if name not in ("after_upstream", "unknown") or self.features[name].sum()]

    def _title(self) -> str:
        seconds = self.seconds
        untold = "" if self._untold is None else f"; no row has a value of {printable(self._untold)!r} yet"
        time = untold if seconds is None else f", {self._how_sure()} {duration(seconds)}"
        about = "" if self.is_exact else "about "
        samples = count(self.samples, "sample")
        features = count(self.features.height, "feature")
        return f"Plan of {features}: {about}{samples} to compute{time}"

    def _how_sure(self) -> str:
        """Return whether the time is that of all samples, or of the features alone that tell theirs."""
        is_silent = pl.col("seconds").is_null() & (pl.col("new") + pl.col("stale") > 0)
        return "at least" if self.features.select(is_silent.any()).item() else "about"

    def _cells(self, row: Mapping[str, object], names: Sequence[str], *, has_seconds: bool) -> list[str]:
        seconds = row["seconds"]
        time = [duration(seconds) if isinstance(seconds, float) else ""] if has_seconds else []
        return [printable(str(row["feature"])), *(f"{row[name]:,}" for name in names), *time]

    def _notes(self, row: Mapping[str, object]) -> list[str]:
        if row["missing"]:
            return [f"nothing can be counted: {', '.join(map(str, row['missing']))} has no rows"]  # type: ignore[call-overload]
        found = self.causes.filter(pl.col("feature") == row["feature"])
        return [f"{samples:,} stale by {printable(cause)}" for _, cause, samples in found.iter_rows()]


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it has.

    Examples:
        >>> duration(0.25), duration(75), duration(7300), duration(200_000)
        ('0.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < _MINUTE / 6 else f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE)} s"
    if seconds < _DAY:
        return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"
    return f"{int(seconds // _DAY)} d {int(seconds % _DAY // _HOUR)} h"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
