"""What does a whole root agree on?

`_store.json` is written by the first writer and read once by every later one. Readers need not read it: every
manifest states its format, and a later format keeps manifests where this one has them, so that an older reader meets
one that it refuses.
"""

from typing import Final

import msgspec

from metaxy_fs.errors import (
    CorruptObjectError,
    ObjectExistsError,
    StorageError,
    UnsupportedFormatError,
)
from metaxy_fs.log.commit import get_or_put
from metaxy_fs.log.layout import STORE_FILE
from metaxy_fs.log.manifest import FORMAT_VERSION
from metaxy_fs.storage.base import Storage

HASH_ALGORITHM: Final = "sha256"


class RootInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `_store.json`."""

    format_version: int = FORMAT_VERSION
    hash_algorithm: str = HASH_ALGORITHM


def open_for_writing(storage: Storage) -> bytes:
    """Make sure that a root is one that this library may write to, and return the bytes of its `_store.json`.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made the root.
        CorruptObjectError: `_store.json` is something else.
    """
    data = get_or_put(storage, STORE_FILE, msgspec.json.encode(RootInfo()))
    check_root_info(data, name=f"{storage.location}/{STORE_FILE}")
    return data


def refuse_overwriting_storage(storage: Storage, root_info: bytes) -> None:
    """Find out whether a storage honours put-if-absent, by putting `_store.json` again with the bytes that it has.

    Where the storage ignores the condition, this replaces an object by its equal, so the question itself does no harm.

    Raises:
        StorageError: It does not, so a guarantee that needs it cannot be given.
    """
    if storage.keeps_existing:
        return
    try:
        storage.put(STORE_FILE, root_info)
    except ObjectExistsError:
        return
    raise StorageError(
        f"{storage.location} overwrites objects although it was asked not to, so two attempts of one write_id could "
        "both be committed there. Write without write_id, or use a storage that supports conditional writes."
    )


def check_root_info(data: bytes, *, name: str) -> None:
    """Refuse what is not the `_store.json` of a root that this library knows.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: It is something else.
    """
    try:
        fields = msgspec.json.decode(data, type=dict)
        if isinstance(version := fields.get("format_version"), int) and version > FORMAT_VERSION:
            raise UnsupportedFormatError(
                f"{name} has format version {version}; this metaxy_fs writes {FORMAT_VERSION}. Upgrade metaxy_fs."
            )
        info = msgspec.convert(fields, RootInfo)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptObjectError(f"{name} cannot be decoded: {error}. Is this the root of a store?") from error
    if info.hash_algorithm != HASH_ALGORITHM or info.format_version != FORMAT_VERSION:
        raise CorruptObjectError(f"{name} asks for {info!r}, which this metaxy_fs does not know.")
