"""Explain why a sample of a chain of stores has the version that it has."""

from collections.abc import Mapping

import msgspec

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.chain import chain
from metaxy_fs.metadata_store.backends.damage import names_damage
from metaxy_fs.metadata_store.backends.hashing import chain_algorithm
from metaxy_fs.metadata_store.explaining.ancestors import held_rows
from metaxy_fs.metadata_store.explaining.pending import pending_rows
from metaxy_fs.spec import FeatureGraph, FeatureSpec
from metaxy_fs.versioning.ancestry import AncestorRows, ancestry
from metaxy_fs.versioning.explanation import Explanation
from metaxy_fs.versioning.held import HeldRows
from metaxy_fs.versioning.provenance import explain_sample


@names_damage
def explain(store: Backend, feature: Declared, sample_id: object) -> Explanation:
    """Return why a sample of a feature has its versions."""
    sample = _by_column(sample_id, feature.spec)
    algorithm = chain_algorithm(store, fallback=True)
    ancestors = ancestry(feature.graph, feature.spec, sample)
    held = {rows.ref: _held(store, feature.graph, rows, algorithm=algorithm) for rows in ancestors}
    if not any(one.history for one in held.values()):
        raise _unknown_sample(store, feature.spec, sample)
    return explain_sample(feature.graph, ancestors, held=held, algorithm=algorithm)


def _held(store: Backend, graph: FeatureGraph, rows: AncestorRows, *, algorithm: str) -> HeldRows:
    """Return what the chain holds of some rows; of a group also what of it has to be computed."""
    held = held_rows(store, graph, rows, algorithm=algorithm)
    is_current = rows.is_group and held.current is not None
    return msgspec.structs.replace(held, pending=pending_rows(store, graph, rows)) if is_current else held


def _by_column(sample_id: object, spec: FeatureSpec) -> dict[str, object]:
    """Return the value of each id column, in the order of declaration."""
    columns = list(spec.id_columns)
    if isinstance(sample_id, Mapping):
        given = list(sample_id)
        values = [sample_id.get(column) for column in columns]
        fits = sorted(map(str, given)) == sorted(columns)
    else:
        values = list(sample_id) if isinstance(sample_id, tuple) else [sample_id]
        fits = len(values) == len(columns)
    if not fits:
        raise MetadataSchemaError(
            f"Feature '{spec.key}' names its samples by {columns}; got {sample_id!r}. Give a value for each: one "
            "alone for one column, a tuple in that order, or a mapping of column to value."
        )
    if None in values:
        raise MetadataSchemaError(f"An id of feature '{spec.key}' is never null, got {sample_id!r}.")
    return dict(zip(columns, values, strict=True))


def _unknown_sample(store: Backend, spec: FeatureSpec, sample: Mapping[str, object]) -> Exception:
    shown = ", ".join(f"{column}={value!r}" for column, value in sample.items())
    searched = ", ".join(candidate.location for candidate in chain(store, fallback=True))
    if spec.is_root:
        return FeatureNotFoundError(
            f"Feature '{spec.key}' has no row of the sample {shown}, under no data version; searched {searched}. "
            "Write it first, or correct the id."
        )
    return DependencyError(
        f"Neither feature '{spec.key}' nor any that it is made from has a row of the sample {shown}; searched "
        f"{searched}. Write it to the root features first, or correct the id."
    )
