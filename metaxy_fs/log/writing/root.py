"""What does a whole root agree on?

`_store.json` is written by the first writer and read once by every later one, and by those who calculate versions.
Readers need not read it: every manifest states its format, and a later format keeps manifests where this one has them,
so that an older reader meets one that it refuses.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from metaxy_fs.errors import (
    CorruptObjectError,
    ObjectExistsError,
    StorageError,
)
from metaxy_fs.hashing import ALGORITHMS, DEFAULT_ALGORITHM
from metaxy_fs.log.objects.formats import refuse_other_format
from metaxy_fs.log.objects.layout import STORE_FILE
from metaxy_fs.log.objects.manifest import FORMAT_VERSION
from metaxy_fs.log.objects.second_look import find_right
from metaxy_fs.log.writing.agreements import MAX_AGREEMENT_BYTES, Agreement, agree
from metaxy_fs.storage.base import Storage


class RootInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `_store.json`."""

    format_version: int = FORMAT_VERSION
    hash_algorithm: str = DEFAULT_ALGORITHM


class Root(NamedTuple):
    """A root that there is: its `_store.json`, and the algorithm that it records."""

    data: bytes
    hash_algorithm: str


def open_for_writing(storage: Storage, *, hash_algorithm: str = DEFAULT_ALGORITHM) -> Root:
    """Return a root that this library may write to; made with an algorithm, if there is none.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made the root.
        CorruptObjectError: `_store.json` is something else.
    """
    [data] = agree(storage, [agreement_on_root(storage, hash_algorithm=hash_algorithm)])
    return decode_root(data, name=f"{storage.location}/{STORE_FILE}")


def agreement_on_root(
    storage: Storage, *, hash_algorithm: str, check: Callable[[Root], object] = lambda _root: None
) -> Agreement:
    """Return what writers to a root have to agree on.

    Args:
        storage: Where the root is.
        hash_algorithm: What to make it with, if there is none.
        check: Called with the root that there is; raises if it must not be written to.
    """
    name = f"{storage.location}/{STORE_FILE}"
    wanted = msgspec.json.encode(RootInfo(hash_algorithm=hash_algorithm))
    return Agreement(STORE_FILE, wanted, lambda data: check(decode_root(data, name=name)))


def find_root(storage: Storage) -> Root | None:
    """Return a root, None if nobody has written to it; raises what `open_for_writing` does."""
    decode = partial(decode_root, name=f"{storage.location}/{STORE_FILE}")
    data = find_right(storage, STORE_FILE, limit=MAX_AGREEMENT_BYTES, check=decode)
    return None if data is None else decode(data)


def refuse_overwriting_storage(storage: Storage, root: Root, *, hence: str) -> None:
    """Find out whether a storage honours put-if-absent, by putting `_store.json` again with the bytes that it has.

    Where the storage ignores the condition, this replaces an object by its equal, so the question itself does no harm.

    Args:
        storage: Where the root is.
        root: What is there.
        hence: What would come of it, for the message.

    Raises:
        StorageError: It does not, so a guarantee that needs it cannot be given.
    """
    if storage.keeps_existing:
        return
    try:
        storage.put(STORE_FILE, root.data)
    except ObjectExistsError:
        return
    raise StorageError(
        f"{storage.location} overwrites objects although it was asked not to, so {hence}. Use a storage that supports "
        "conditional writes."
    )


def decode_root(data: bytes, *, name: str) -> Root:
    """Return the root that a `_store.json` describes, if it is one that this library knows.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: It is something else.
    """
    refuse_other_format(data, name=name)
    try:
        info = msgspec.json.decode(data, type=RootInfo)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptObjectError(f"{name} cannot be decoded: {error}. Is this the root of a store?") from error
    if info.hash_algorithm not in ALGORITHMS:
        raise CorruptObjectError(
            f"{name} asks for {info!r}, which this metaxy_fs does not know; it knows format version {FORMAT_VERSION} "
            f"and the algorithms {', '.join(ALGORITHMS)}. A newer metaxy_fs may know it."
        )
    return Root(data, info.hash_algorithm)
