"""In which order are a store and its fallback stores asked?"""

from collections.abc import Iterator

from metaxy_fs.errors import FeatureNotFoundError
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.spec import FeatureKey


def chain(store: Backend, *, fallback: bool) -> Iterator[Backend]:
    """Yield the store, then each of its fallback stores followed by theirs; a store that is reached twice comes once.

    Args:
        store: The first to be asked.
        fallback: Whether to go on to the fallback stores.
    """
    seen: set[int] = set()
    waiting = [store]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if fallback:
            waiting = [*current.fallback_stores, *waiting]


def not_found(key: FeatureKey, *, partition: str | None, store: Backend, fallback: bool) -> FeatureNotFoundError:
    """Return the error that says where a feature was looked for, and under which other data versions it exists."""
    searched, elsewhere = [], []
    for candidate in chain(store, fallback=fallback):
        searched.append(candidate.location)
        elsewhere += [f"{version} in {candidate.location}" for version in candidate.stored_versions(key)]
    message = f"Feature '{key}'" + (f" has no rows under data version {partition}" if partition else " has no rows")
    message += f"; searched {', '.join(searched)}."
    if elsewhere:
        message += (
            f" It exists under other data versions ({'; '.join(elsewhere)}): its declaration, or that of an upstream "
            "feature, has "
            'changed since. Compute it again, or read those rows with versions="all".'
        )
    elif not fallback and store.fallback_stores:
        message += " Fallback stores were not searched."
    return FeatureNotFoundError(message)
