"""With which algorithm does a chain of stores hash the versions of rows?"""

from metaxy_fs.errors import HashAlgorithmError
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.chain import chain


def chain_algorithm(store: Backend, *, fallback: bool) -> str:
    """Return the algorithm that all stores of a chain hash with.

    Versions of two algorithms are never equal: read side by side, they would make every sample stale.

    Raises:
        HashAlgorithmError: Two of them differ, or one is not the algorithm that its store was opened for.
    """
    first, *others = chain(store, fallback=fallback)
    algorithm = first.hash_algorithm
    for other in others:
        if other.hash_algorithm != algorithm:
            raise HashAlgorithmError(
                f"The versions of rows are hashed with {algorithm} in {first.location}, and with "
                f"{other.hash_algorithm} in its fallback store {other.location}, so those of one never equal those of "
                f"the other. Chain roots of one algorithm; a new root is made with another by "
                f"hash_algorithm={other.hash_algorithm!r}."
            )
    return algorithm
