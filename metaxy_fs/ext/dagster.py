"""Make Dagster assets of features: data versions, plans and counts come from the store.

Theory of operation. An asset runs `MetadataStore.materialize`, which commits in time and computes nothing twice, so
Dagster may retry it, cancel it or start it again. Its code version is the data version of the feature, its data version
the fingerprint of the rows that there are afterwards: downstream assets are stale for Dagster where rows have changed.
"""

import re
from collections.abc import Callable, Mapping
from functools import reduce
from hashlib import sha256
from operator import or_
from typing import Any, Final

import polars as pl

try:
    import dagster as dg
except ImportError as error:
    raise ImportError("metaxy_fs.ext.dagster needs Dagster: pip install 'metaxy_fs[dagster]'") from error

from metaxy_fs.config import load_config
from metaxy_fs.insight.fingerprint import fingerprint_of
from metaxy_fs.metadata_store import FeatureNotFoundError, Materialization, MetadataStore
from metaxy_fs.metadata_store.features import FeatureLike, key_of, require_declaration
from metaxy_fs.metadata_store.frames import FrameLike
from metaxy_fs.metadata_store.materialize import OnError
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.columns import DATA_VERSION

__all__ = ["StoreResource", "asset_key", "feature_asset"]

Samples = Callable[[MetadataStore], FrameLike]
"""What lists the samples of a root feature that there are now, as `MetadataStore.materialize` takes them."""

Where = Callable[[str], pl.Expr]
"""What tells the samples of a partition of Dagster from the others, given its key."""

_ALONE: Final = re.compile(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*")

RESOURCE: Final = "metaxy"
"""The name that assets look for the store under."""


class StoreResource(dg.ConfigurableResource):  # type: ignore[type-arg,unused-ignore]  # of no value but itself
    """A store that a configuration file names, for the assets of a code location.

    Attributes:
        store: The name of the store in the file; by default the one that `Config.store` takes.
        config_file: The file; by default the one that `load_config` finds.

    Examples:
        >>> import dagster as dg
        >>> definitions = dg.Definitions(resources={"metaxy": StoreResource(store="prod")})
    """

    store: str | None = None
    config_file: str | None = None

    def open(self) -> MetadataStore:
        """Open the store with its fallback stores.

        Raises:
            ConfigError: There is no such file or store.
        """
        return load_config(self.config_file).store(self.store)


def asset_key(feature: FeatureLike) -> dg.AssetKey:
    """Return the key of the asset of a feature: `video/frames` is the asset `["video", "frames"]`.

    Examples:
        >>> asset_key("video/frames").path
        ['video', 'frames']
    """
    return dg.AssetKey(list(key_of(feature).parts))


def feature_asset(
    feature: FeatureLike,
    compute: Callable[[pl.DataFrame], FrameLike],
    *,
    samples: Samples | None = None,
    where: Where | None = None,
    partitions_def: dg.PartitionsDefinition[str] | None = None,
    batch_rows: int = 1_000,
    on_error: OnError = "raise",
    retire_orphaned: bool = False,
    resource_key: str = RESOURCE,
    **asset: Any,
) -> dg.AssetsDefinition:
    """Return the asset of a feature; materialising it computes and commits what the feature lacks.

    The assets of the upstream features are its deps. Each commit is tagged with the run (`dagster_run`) and, if there
    is one, the partition (`dagster_partition`), which `history` shows. Asset metadata: `plan` (before), `new`, `stale`,
    `waiting`, `orphaned`, `retired`, `failed` and `written` (samples), `seconds`, and `explain`, the command that says
    why a sample is what it is. A retry computes what is missing still.

    Args:
        feature: A Feature class, or a key that the active graph holds.
        compute: As for `MetadataStore.materialize`.
        samples: A function of the store that returns the samples there are; a root feature needs it.
        where: A function of a partition key that returns the predicate on its samples; needs `partitions_def`.
        partitions_def: The partitions of the asset; one run of several of them computes all of their samples.
        batch_rows: As for `MetadataStore.materialize`.
        on_error: As for `MetadataStore.materialize`; with `"skip"`, failed samples are counted in the metadata.
        retire_orphaned: As for `MetadataStore.materialize`.
        resource_key: The name of the resource: a `StoreResource`, or a `MetadataStore` itself.
        asset: Further options of `dagster.asset`, such as `group_name`, `retry_policy` or `automation_condition`.

    Raises:
        ValueError: There is `where` without `partitions_def`, or the other way round.
        SpecError: The feature is not declared.

    Examples:
        >>> import dagster as dg
        >>> import polars as pl
        >>> from metaxy_fs import Feature, FeatureGraph, FeatureSpec, InMemoryMetadataStore
        >>> with FeatureGraph().use():
        ...
        ...     class Video(Feature, spec=FeatureSpec(key="video")):
        ...         pass
        >>> def list_videos(store):
        ...     return pl.DataFrame({"sample_id": [1, 2], "data_version": [{"default": "v1"}] * 2})
        >>> videos = feature_asset(Video, lambda batch: batch, samples=list_videos)
        >>> with dg.DagsterInstance.ephemeral() as instance:
        ...     result = dg.materialize([videos], instance=instance, resources={"metaxy": InMemoryMetadataStore()})
        >>> result.asset_materializations_for_node("video")[0].metadata["written"].value
        2
    """
    if (where is None) != (partitions_def is None):
        raise ValueError("where and partitions_def belong together: where(key) tells which samples a partition has.")
    declared = require_declaration(feature)

    def run(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg,unused-ignore]
        store = _store(getattr(context.resources, resource_key))
        keys = context.partition_keys if context.has_partition_key or context.has_partition_key_range else ()
        chosen = reduce(or_, map(where, keys)) if where is not None else None
        plan = store.plan(feature).to_text()
        done = store.materialize(
            feature,
            compute,
            samples=None if samples is None else samples(store),
            where=chosen,
            batch_rows=batch_rows,
            on_error=on_error,
            retire_orphaned=retire_orphaned,
            tags={"dagster_run": context.run.run_id, **({"dagster_partition": ", ".join(keys)} if keys else {})},
            progress=False,
        )
        version = _data_version(store, feature, chosen)
        return dg.MaterializeResult(metadata=_metadata(plan, done, declared.key), data_version=version)

    key, node = asset_key(feature), _node_key(declared.key)
    made: dg.AssetsDefinition = dg.asset(
        key=node,
        deps=[asset_key(dep.key) for dep in declared.spec.deps or ()],
        partitions_def=partitions_def,
        code_version=declared.definition.partition,
        required_resource_keys={resource_key},
        **asset,
    )(run)
    return made if node == key else made.with_attributes(asset_key_replacements={node: key})


def _node_key(key: FeatureKey) -> dg.AssetKey:
    """Return the key that the node of an asset is called after: with a digest where Dagster gives others its name.

    Dagster writes `__` between the parts, and `_` for what no identifier of Python has.
    """
    is_alone = all(_ALONE.fullmatch(part) for part in key.parts)
    return dg.AssetKey([*key.parts, *([] if is_alone else [sha256(key.dotted.encode()).hexdigest()[:8]])])


def _store(resource: object) -> MetadataStore:
    return resource.open() if isinstance(resource, StoreResource) else resource  # type: ignore[return-value]


def _data_version(store: MetadataStore, feature: FeatureLike, where: pl.Expr | None) -> dg.DataVersion | None:
    """Return a digest of the ids and versions that there are, of some samples if a predicate tells them by the rows."""
    try:
        rows = store.scan_metadata(feature, latest_only=True)
    except FeatureNotFoundError:  # every sample waits
        return None
    if where is not None and set(where.meta.root_names()) <= set(rows.collect_schema().names()):
        rows = rows.filter(where)
    declared = require_declaration(feature)
    ids, partition = declared.spec.id_columns, declared.definition.partition
    versions = rows.select(*ids, DATA_VERSION)
    return dg.DataVersion(fingerprint_of(versions, id_columns=ids, definition=partition).digest)


def _metadata(plan: str, done: Materialization, key: FeatureKey) -> Mapping[str, Any]:
    return {
        "plan": dg.MetadataValue.md(f"```\n{plan}\n```"),
        **done.counts._asdict(),
        "seconds": done.seconds,
        "explain": dg.MetadataValue.md(f"`metaxy-fs explain {key} ID`"),
    }
