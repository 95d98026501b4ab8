"""Which commits of a store can be put back after their manifests were damaged or lost?"""

from collections.abc import Collection

from metaxy_fs.log.checking.repair import Restoration
from metaxy_fs.log.checking.repair import repair as repair_root
from metaxy_fs.metadata_store.arguments.features import FeatureLike
from metaxy_fs.metadata_store.arguments.flags import flag
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.metadata_store.upkeep.targets import existing_feature


def repair(
    store: FilesystemMetadataStore,
    feature: FeatureLike | None = None,
    *,
    dry_run: bool,
    vouched: Collection[str] = (),
) -> list[Restoration]:
    """Make the manifests again that were damaged or lost, from the footers of their data files, where these are whole.

    Nothing is guessed. A manifest that is there, but damaged, is made again if every data file of its commit is there
    and right. One that is gone leaves nothing that tells it from a write which died before it committed, so it is made
    again only if it is vouched for. What is replaced is kept below `_damaged`. Data files are never changed.

    Do not vacuum at the same time.

    Args:
        store: Where to look; fallback stores are not.
        feature: A Feature class, or a key; all that the root holds by default.
        dry_run: Only say what would be done.
        vouched: Commits that existed although nothing shows it, by their names in an earlier answer.

    Returns:
        Every commit whose manifest is damaged or gone, and what became of it; those that are neither proven nor vouched
        for too, if all of their data files are there.

    Raises:
        FeatureNotFoundError: The root holds nothing of the feature.
        ObjectNotFoundError: There is no lost commit of a name that was vouched for.
        StorageError: The root could not be read or written; what was put back stays.
    """
    name = existing_feature(store, feature)
    return repair_root(storage_of(store), feature=name, vouched=vouched, dry_run=flag(dry_run, name="dry_run"))
