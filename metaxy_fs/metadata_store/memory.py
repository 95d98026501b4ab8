"""A store in memory: the store of files, over objects that live and die with the process."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from metaxy_fs.hashing import DEFAULT_ALGORITHM, HashAlgorithm, check_algorithm
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore
from metaxy_fs.storage.memory import MemoryStorage


class InMemoryMetadataStore(FilesystemMetadataStore):
    """A store that lives and dies with the process: for tests, notebooks and examples.

    Its answers and errors are those of any `FilesystemMetadataStore`.

    Args:
        fallback_stores: Stores to read from where this one lacks a feature.
        fallback_mode: Whether they are read by feature or by sample; see `MetadataStore`.
        hash_algorithm: What the versions of rows are hashed with.
        tags: What every commit says of itself, strings by name; see `MetadataStore.write_metadata`.

    Raises:
        ValueError: There is no such algorithm, or the tags cannot be kept.

    Examples:
        >>> store = InMemoryMetadataStore()
        >>> store.list_features()
        []
    """

    def __init__(
        self,
        *,
        fallback_stores: Sequence[MetadataStore] = (),
        fallback_mode: FallbackMode = "feature",
        hash_algorithm: HashAlgorithm = DEFAULT_ALGORITHM,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        check_algorithm(hash_algorithm)
        super().__init__(
            MemoryStorage(),
            fallback_stores=fallback_stores,
            fallback_mode=fallback_mode,
            hash_algorithm=hash_algorithm,
            tags=tags,
        )

    def __reduce__(self) -> NoReturn:
        # A copy in another process would take writes that nobody else ever sees.
        raise TypeError(
            "an InMemoryMetadataStore lives in one process and cannot be pickled: use a FilesystemMetadataStore on a "
            "local directory to share rows"
        )
