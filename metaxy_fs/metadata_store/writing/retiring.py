"""Retire samples, and restore the latest rows of a moment: ordinary commits, of which some rows retire a sample.

Theory of operation. A row that retires a sample has the sample's ids, no version, and says so in a column of its own.
It is a row like others to the log, so that compaction, copies and snapshots carry it. Reads leave it out, after they
have chosen the latest row of each sample: a sample whose latest row retires it is not there.
"""

from collections.abc import Mapping

import polars as pl

from metaxy_fs.errors import FeatureNotFoundError
from metaxy_fs.log.objects.tags import check_tags
from metaxy_fs.log.writing.chunks import Chunks
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.frames import FrameLike, check_ids, to_frame
from metaxy_fs.metadata_store.backends.backend import Backend, Query
from metaxy_fs.metadata_store.backends.chain import chain
from metaxy_fs.metadata_store.writing.appending import append
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION, RETIRED, version_type

REASON = "reason"
"""The tag that says why samples were retired or restored."""


def retire(
    store: Backend, feature: Declared, ids: FrameLike, *, reason: str | None, tags: Mapping[str, str] | None
) -> None:
    """Commit that some samples exist no more.

    Raises:
        MetadataSchemaError: The id columns do not name each sample once.
        FeatureNotFoundError: The rows are in a fallback store, and would all be hidden.
    """
    tags = with_reason(store, reason, tags)
    spec = feature.spec
    samples = to_frame(ids)
    check_ids(samples, spec)
    refuse_hiding(store, feature, "retire")
    if samples.height:
        _see_commits(store, feature)
        rows = retired_rows(samples, spec).sort(spec.id_columns)
        append(store, feature, Chunks.of(rows), tags=tags)


def _see_commits(store: Backend, feature: Declared) -> None:
    """Look at the commits that are there, so that the next one comes after them whatever the clocks say.

    A retirement means the rows that exist. Its time alone would put it before those of a writer whose clock is ahead,
    and the samples would stay.
    """
    store.scan_rows(Query(key=feature.key, partition=feature.definition.partition, columns=frozenset()))


def retired_rows(samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return the rows that retire some samples."""
    return samples.select(
        *spec.id_columns,
        pl.lit(None, version_type(spec)).alias(DATA_VERSION),
        pl.lit(value=True).alias(RETIRED),
    )


def with_reason(store: Backend, reason: str | None, tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return the tags of a commit that was given a reason, checked as they will be kept."""
    together = {**check_tags(tags), **({} if reason is None else {REASON: reason})}
    check_tags(store.tags, together)
    return together


def refuse_hiding(store: Backend, feature: Declared, what: str) -> None:
    """Refuse a commit to a store that has none, where it would hide all rows of a fallback store."""
    partition = feature.definition.partition
    if store.fallback_mode == "sample" or store.has_version(feature.key, partition):
        return
    for other in chain(store, fallback=True):
        if other is not store and other.has_version(feature.key, partition):
            raise FeatureNotFoundError(
                f"{store.location} has no rows of feature '{feature.key}' under data version {partition}: reads take "
                f"them from its fallback store {other.location}, and a commit that {what}s a few samples here would "
                f"hide all of those. Open {other.location} by itself and {what} them there, or open the chain with "
                'fallback_mode="sample".'
            )
