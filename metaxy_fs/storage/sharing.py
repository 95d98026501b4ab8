"""Which roots are reached through one filesystem?

Each filesystem of a service builds a client and looks for credentials, which takes s3fs 0.06 seconds and, where a role
or a machine gives the credentials, a request or two to a service that many jobs ask at once. The roots of a chain are
first used one right after the other, and mostly with the same options. So a root shares the filesystem of another if
that was made moments ago, with the same options and in the same environment. A later root gets one of its own, since
credentials may have changed in a place that nobody sees.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import ref

import msgspec
from fsspec import AbstractFileSystem

from metaxy_fs.ids import elapsed

SECONDS = 10.0
"""For how long others may come to share a filesystem that was made."""


class _Made(NamedTuple):
    filesystem: ref[AbstractFileSystem]
    since: float

    def shared(self) -> AbstractFileSystem | None:
        """Return the filesystem if it may be shared, and somebody still uses it."""
        return self.filesystem() if elapsed() - self.since < SECONDS else None


_made: dict[bytes, _Made] = {}


def shared(
    protocol: str, storage_options: Mapping[str, Any], make: Callable[[Mapping[str, Any]], AbstractFileSystem]
) -> AbstractFileSystem:
    """Return a filesystem that was made moments ago for the same, or a new one.

    Args:
        protocol: Of which service.
        storage_options: What the user has chosen. Objects among them, such as credentials, are not compared: what has
            any is not shared.
        make: Makes one with the options.
    """
    key = _key(protocol, storage_options)
    found = None if key is None else _made.get(key)
    if found is not None and (held := found.shared()) is not None:
        return held
    # Threads that come here together make one each, which does no harm; a lock could be held at the time of a fork.
    filesystem = make(storage_options)
    for other, made in list(_made.items()):
        if made.shared() is None:
            _made.pop(other, None)
    if key is not None:
        _made[key] = _Made(ref(filesystem), elapsed())
    return filesystem


def _key(protocol: str, storage_options: Mapping[str, Any]) -> bytes | None:
    """Return what is the same for those that may share; None if there are objects among the options.

    The process is part of it, because connections do not outlive a fork.
    """
    environment = repr(sorted(os.environ.items()))
    try:
        about = msgspec.msgpack.encode((os.getpid(), protocol, dict(storage_options), environment), order="sorted")
    except (TypeError, ValueError, OverflowError):
        return None
    return hashlib.sha256(about).digest()
