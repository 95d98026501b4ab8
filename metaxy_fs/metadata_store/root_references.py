"""Open roots in other processes, by the references to them that travel with tasks."""

import threading
from collections import deque
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import shared_clock
from metaxy_fs.log import Log
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore
from metaxy_fs.storage.addresses import is_url
from metaxy_fs.storage.base import RootReference
from metaxy_fs.storage.logged import logged
from metaxy_fs.storage.open import open_storage

_OPEN_ROOTS: Final = 8
"""So many roots a process keeps open for the next tasks."""


def log_among(store: Backend, root: RootReference) -> Log:
    """Return what reads a root in a chain of stores.

    Raises:
        StorageError: The chain does not have it.
    """
    stores = [each for each in chain(store, fallback=True) if isinstance(each, FilesystemMetadataStore)]
    for what in (attrgetter("identity"), attrgetter("location")):
        for each in stores:
            if what(each) == what(root):
                return each.log
    raise StorageError(
        f"the task reads {root.location}, which is not among the stores that were given: "
        f"{', '.join(each.location for each in stores) or 'none of files'}",
        root=root.location,
    )


def log_at(root: RootReference, storage_options: Mapping[str, Any]) -> Log:
    """Return what reads a root that is opened by its address, the same for all tasks of this process."""
    address, options = address_and_options(root, storage_options)
    with _LOCK:
        for known in _OPEN:
            if known.address == address and known.options == options:
                return known.log
        storage = logged(open_storage(address, storage_options=options))
        log = Log(storage, clock=shared_clock(storage.identity))
        _OPEN.append(_OpenRoot(address, options, log))
        return log


def address_and_options(root: RootReference, storage_options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what opens a root in another process.

    Args:
        root: The root, as it was referred to where it was open.
        storage_options: What a remote one is opened with besides.

    Raises:
        StorageError: Nothing but the storage itself does.
    """
    if root.address is None:
        raise StorageError(
            f"no path or URL opens {root.location} in another process. A task takes the store that reads it: "
            "task.read(store=store) or task.run(store=store).",
            root=root.location,
        )
    return root.address, _merged(root.options, storage_options) if is_url(root.address) else {}


class _OpenRoot(NamedTuple):
    address: str
    options: Mapping[str, Any]
    log: Log


_OPEN: deque[_OpenRoot] = deque(maxlen=_OPEN_ROOTS)
_LOCK = threading.Lock()


def _merged(options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options together, at any depth; those that are given win."""
    both = dict(options)
    for name, value in given.items():
        inner = both.get(name)
        both[name] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both
