"""Which rows of which features is a sample made from, directly or not?

Where one row upstream makes one sample or many, its ids are told by those of the sample. Where a group of rows makes
it, their ids are not, so what each of them is made from is left out: the group stands at the end of its branch.
"""

from collections.abc import Mapping

import msgspec

from metaxy_fs.spec import FeatureDep, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.lineage import joined_by, old_names
from metaxy_fs.versioning.explanation import RowsRef


class AncestorRows(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a feature, or a group of rows.

    Attributes:
        ref: What they are called.
        spec: The feature.
        values: What the rows have in columns of it, under the names that these are stored with.
        below: The feature that is made from them; None for the sample in question.
        upstream: What the row is made from, by feature; nothing of a group.
    """

    ref: RowsRef
    spec: FeatureSpec
    values: Mapping[str, object]
    below: FeatureSpec | None
    upstream: Mapping[FeatureKey, RowsRef]

    @property
    def dep(self) -> FeatureDep | None:
        """How the feature below is made from them."""
        return None if self.below is None else self.below.dep(self.spec.key)

    @property
    def is_group(self) -> bool:
        """Whether these are several rows, or may be."""
        return self.dep is not None and self.dep.relation == "aggregation"


_Found = tuple[FeatureSpec, dict[str, object], RowsRef, FeatureSpec | None]
"""A feature, the values and the name of its rows, and the feature below."""


def ancestry(graph: FeatureGraph, spec: FeatureSpec, sample: Mapping[str, object]) -> list[AncestorRows]:
    """Return the sample, and all rows that it is made from, upstream before downstream.

    Args:
        graph: Where the feature is declared.
        spec: The feature.
        sample: The values of its id columns.
    """
    found: dict[RowsRef, AncestorRows] = {}
    waiting: list[_Found] = [(spec, dict(sample), RowsRef(spec.key), None)]
    while waiting:
        current, values, ref, below = waiting.pop()
        is_end = below is not None and below.dep(current.key).relation == "aggregation"
        above = [] if is_end else [_above(current, upstream, values, sample) for upstream in graph.upstream(current)]
        upstream = {each[0].key: each[2] for each in above}
        found[ref] = AncestorRows(ref=ref, spec=current, values=values, below=below, upstream=upstream)
        waiting += [each for each in above if each[2] not in found]
    order = {key: place for place, key in enumerate(list(graph.specs))}
    return sorted(found.values(), key=lambda rows: (order[rows.ref.feature], rows.ref.rows))


def _above(
    spec: FeatureSpec, upstream: FeatureSpec, values: Mapping[str, object], sample: Mapping[str, object]
) -> _Found:
    """Return the rows of an upstream feature that a row is made from."""
    dep, ids = spec.dep(upstream.key), joined_by(spec, upstream)
    wanted = {old: values[new] for old, new in zip(old_names(dep, ids), ids, strict=True)}
    shown = ", ".join(f"{column}={value!r}" for column, value in wanted.items())
    name = f"all of {shown}" if dep.relation == "aggregation" else "" if wanted == sample else shown
    name = " ".join(filter(None, (name, dep.where and f"where {dep.where}")))
    return upstream, wanted, RowsRef(upstream.key, name), spec
