"""Publish a feature as a Delta table, over the data files as they are."""

from collections.abc import Iterable, Sequence

from metaxy_fs._version import WRITER
from metaxy_fs.log import Partition, Published, View, find_root, has_delta_log, publish_view, refuse_overwriting_storage
from metaxy_fs.metadata_store.chain import not_found
from metaxy_fs.metadata_store.features import Declared, FeatureLike, about_feature, find_declaration, flag
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.spec import FeatureKey

__all__ = ["Published", "publish"]


def publish(
    store: FilesystemMetadataStore,
    feature: FeatureLike,
    *,
    columns: Sequence[str] | None = None,
    dry_run: bool = False,
) -> Published:
    """Publish what a feature holds now as a Delta table in its directory, for any engine that reads Delta.

    A log is added, below `_delta_log`, that points to the data files as they are; no row is read or copied. It is a
    cache, which shows what was committed when it was published last: publish again after writes, and after a compaction
    before a vacuum removes what that replaced; `compact` and `vacuum` do so with `republish=True`. Any number may
    publish at once, beside writers. The table has every row of the present declaration: replaced rows, too, and rows
    that retire a sample, in which the column `_metaxy_retired` is true; it does not tell which row is the latest.
    Other programs can read it, and refuse to write, optimize or vacuum it.

    Args:
        store: Whose root; fallback stores are not touched.
        feature: A Feature class, or a key. A feature that no code declares is published as it was last written.
        columns: The columns of the table; by default those that were given when it was published before, or all.
        dry_run: Only say what would be done.

    Returns:
        Where the table is, its version and files, and what has changed.

    Raises:
        FeatureNotFoundError: The root holds nothing of the feature (in its current data version).
        MetadataSchemaError: A column does not exist, has types that have none in common, or a type that Delta lacks:
            times, durations, 128 bits, unsigned 64 bits, nanoseconds, nulls.
        CorruptObjectError: Something that is stored cannot be trusted.
        StorageError: Two compactions overlap, which `compact(store, feature, full=True)` mends, somebody else has put a
            Delta log there, or the root failed.

    Examples:
        >>> published = publish(store, Video)
        >>> published.version, published.files, published.rows
        (0, 1, 2)
        >>> publish(store, Video).added
        0
    """
    return _publish(store, find_declaration(feature), columns, dry_run=flag(dry_run, name="dry_run"))


def published_features(store: FilesystemMetadataStore, names: Iterable[str]) -> list[FeatureKey]:
    """Return those of some features, named by the parts of their keys joined by `.`, that are published."""
    storage = storage_of(store)
    return [FeatureKey.parse(name) for name in names if has_delta_log(storage, name)]


@about_feature
def _publish(
    store: FilesystemMetadataStore, feature: Declared | FeatureKey, columns: Sequence[str] | None, *, dry_run: bool
) -> Published:
    storage = storage_of(store)
    if not dry_run and (root := find_root(storage)) is not None:
        refuse_overwriting_storage(storage, root, hence="two publishers could put one version of the table")
    key, partition = (feature, None) if isinstance(feature, FeatureKey) else (feature.key, feature.definition.partition)

    def look() -> View:
        views = store.log.views(key.dotted) if partition is None else [store.log.view(Partition(key.dotted, partition))]
        found = [view for view in views if view is not None]
        if not found:
            raise not_found(key, partition=partition, store=store, fallback=False)
        return max(found, key=lambda view: view.last_commit[0])

    return publish_view(storage, key.dotted, look=look, columns=columns, writer=None if dry_run else WRITER)
