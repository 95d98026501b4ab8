"""Find what has to be computed of the rows of a group, or of what these are made from.

A group stands at the end of its branch in an explanation: what each of its rows is made from is not shown. Whether
these have to be computed is asked here as an increment asks it, from feature to feature up to the roots.
"""

from collections.abc import Iterator

import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError
from metaxy_fs.log.reading.ranges import EVERYTHING, IdRange
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.frames import show_samples
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.increments.updates import increment_within
from metaxy_fs.metadata_store.reading.queries import Read, find_scan, latest
from metaxy_fs.spec import FeatureGraph, FeatureSpec
from metaxy_fs.spec.lineage import joined_by, old_names
from metaxy_fs.versioning.ancestry import AncestorRows
from metaxy_fs.versioning.samples import sample_source


def pending_rows(store: Backend, graph: FeatureGraph, rows: AncestorRows) -> str:
    """Return what of a group has to be computed before its rows are what they should be, in words; nothing if none.

    Args:
        store: The first of the chain.
        graph: Where the feature is declared.
        rows: The group.
    """
    wanted = pl.DataFrame({column: [value] for column, value in rows.values.items()})
    for spec, found in _pending(store, graph, rows.spec, wanted):
        shown = f"{found.height} of '{spec.key}': {show_samples(found)}"
        return f"{shown} {'has' if found.height == 1 else 'have'} to be computed"
    return ""


def _pending(
    store: Backend, graph: FeatureGraph, spec: FeatureSpec, wanted: pl.DataFrame
) -> Iterator[tuple[FeatureSpec, pl.DataFrame]]:
    """Yield the samples, or parents, that are to be computed, or wait, of those rows that have some values.

    Those of the feature come first, and then those of the features that it is made from.
    """
    if spec.is_root:
        return
    try:
        samples = _samples(store, Declared(spec, graph), wanted)
        found = _of_feature(store, Declared(spec, graph), wanted, samples)
    except (DependencyError, FeatureNotFoundError):  # nothing tells which samples there should be
        return
    if found.height:
        yield spec, found
    for above in graph.upstream(spec):
        dep, ids = spec.dep(above.key), joined_by(spec, above)
        known = wanted if set(wanted.columns) <= set(ids) else samples.select(ids).unique()
        renamed = dict(zip(known.columns, old_names(dep, known.columns), strict=True))
        yield from _pending(store, graph, above, known.rename(renamed))


def _samples(store: Backend, feature: Declared, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the ids of the stored rows that have the wanted values."""
    ids = list(feature.spec.id_columns)
    read = Read(columns=tuple(dict.fromkeys((*ids, *wanted.columns))), latest_only=True)
    scan = find_scan(store, feature, read, fallback=True)
    id_range = _range(wanted, ids[0])
    rows = latest(scan, id_columns=ids, column=ids[0], within=id_range)
    return rows.join(_cast(wanted, rows.collect_schema()).lazy(), on=wanted.columns, how="semi").select(ids).collect()


def _of_feature(store: Backend, feature: Declared, wanted: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    """Return the ids of those that are to be computed, or wait."""
    ids = list(sample_source(feature.graph, feature.spec).id_columns)
    increments = increment_within(store, feature, _range(wanted, ids[0]))
    several = [
        frame.select(ids) for increment in increments for frame in (increment.new, increment.stale, increment.waiting)
    ]
    found = pl.concat(several)
    known = wanted if set(wanted.columns) <= set(ids) else samples.select(ids)
    return found.join(_cast(known, found.schema), on=known.columns, how="semi", maintain_order="left")


def _range(wanted: pl.DataFrame, column: str) -> IdRange:
    """Return the range of a column that holds the wanted values, where it can be said."""
    if column not in wanted.columns or wanted.is_empty():
        return EVERYTHING
    low, high = wanted.select(pl.col(column).min().alias("low"), pl.col(column).max().alias("high")).row(0)
    if isinstance(low, int) and not isinstance(low, bool):
        return IdRange(low, high + 1)
    return IdRange(low, high + "\0") if isinstance(low, str) else EVERYTHING


def _cast(wanted: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    return wanted.with_columns(pl.col(name).cast(schema[name], strict=False) for name in wanted.columns)
