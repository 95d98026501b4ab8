"""Is everything that a store keeps as it should be?"""

from metaxy_fs.log.checking.verify import Progress, Verification
from metaxy_fs.log.checking.verify import verify as verify_root
from metaxy_fs.metadata_store.arguments.features import FeatureLike
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.metadata_store.upkeep.targets import existing_feature


def verify(
    store: FilesystemMetadataStore, feature: FeatureLike | None = None, *, progress: Progress | None = None
) -> Verification:
    """Check every object of a store's root, or of one feature in all its data versions, against all that is said of it.

    Reads every manifest and every data file, a bounded number at a time, and writes nothing. It may run beside writers:
    what they do meanwhile is not taken for damage. Fallback stores are not looked at.

    Args:
        store: Where to look.
        feature: A Feature class, or a key; all that the root holds by default.
        progress: Called as the work goes on with the bytes of data files that were checked, and with those that are
            known to be there.

    Returns:
        The findings: what is wrong with which object, how bad it is, and what to do; and how much was looked at.

    Raises:
        FeatureNotFoundError: The root holds nothing of the feature.
        StorageError: The root could not be listed.
    """
    name = existing_feature(store, feature)
    return verify_root(storage_of(store), feature=name, progress=progress)
