"""Find the files that a pattern names, in a local tree or in a bucket, and read them.

These are files of users: nothing here writes, and names are not checked as those below a root are.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from metaxy_fs.storage.addresses import address_of, is_url, one_name, text_of_root
from metaxy_fs.storage.base import ObjectInfo, ObjectRange
from metaxy_fs.storage.open import open_storage
from metaxy_fs.storage.patterns import Pattern
from metaxy_fs.storage.redaction import redact
from metaxy_fs.storage.tree import Unread, describe_file, read_file, walk_tree

__all__ = ["FileListing", "Unread", "find_files"]


class FileListing(ABC):
    """The files that a pattern names, each by its whole path or URL.

    Args:
        pattern: What their paths match, without what stands before every path.
        before: That, such as `s3://bucket/`.
    """

    def __init__(self, pattern: Pattern, *, before: str = "") -> None:
        self._pattern = pattern
        self._before = before

    @property
    def directory(self) -> str:
        """What all of them are below."""
        return f"{self._before}{self._pattern.directory}"

    def covers(self, path: str) -> bool:
        """Whether a file of that path would be among them if it existed."""
        return path.startswith(self._before) and self._pattern.matches(path[len(self._before) :])

    @abstractmethod
    def found(self) -> Iterator[ObjectInfo | Unread]:
        """Yield them, and what could not be looked at.

        Raises:
            StorageError: There is no such directory or bucket, or it refuses.
        """

    @abstractmethod
    def read(self, info: ObjectInfo, *, piece: int) -> Iterator[bytes]:
        """Yield the bytes of one in pieces.

        Raises:
            FileNotFoundError: It is gone.
            StorageError: It cannot be read, or was changed since it was found.
        """


def find_files(
    pattern: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None, include_hidden: bool = False
) -> FileListing:
    """Return the files that a pattern names. Nothing is listed yet.

    Args:
        pattern: A path of the local file system (`~` is expanded) or a URL; see `metaxy_fs.storage.patterns`.
        storage_options: Handed on to the filesystem of a URL.
        include_hidden: Whether wildcards match names that begin with a dot.

    Raises:
        ValueError: It names no place.
    """
    text = text_of_root(pattern)
    if is_url(text):
        return _files_of_url(text, storage_options, include_hidden=include_hidden)
    if storage_options:
        raise ValueError(f"storage_options are for URLs; {text!r} is a local path and takes none")
    path = os.path.normpath(os.path.expanduser(address_of(text)))
    return _TreeListing(Pattern("**" if path == "." else path, include_hidden))


class _TreeListing(FileListing):
    def found(self) -> Iterator[ObjectInfo | Unread]:
        if self._pattern.is_plain and (info := describe_file(self._pattern.prefix)) is not None:
            yield info
            return
        for found in walk_tree(self._pattern.directory, enters=self._pattern.may_match_below):
            if isinstance(found, Unread):
                if found.is_directory or self._pattern.matches(found.path):
                    yield found
            elif self._pattern.matches(found.path):
                yield found

    def read(self, info: ObjectInfo, *, piece: int) -> Iterator[bytes]:
        return read_file(info.path, piece=piece)


class _BucketListing(FileListing):
    def __init__(self, pattern: Pattern, *, root: str, options: Mapping[str, Any] | None) -> None:
        from metaxy_fs.storage.remote import ObjectStorage  # noqa: PLC0415  # fsspec costs more than a local disk needs

        storage = open_storage(root, storage_options=options)
        if not isinstance(storage, ObjectStorage):
            raise TypeError(f"expected a URL of an object store, got {redact(root)!r}")
        super().__init__(pattern, before=f"{storage.location}/")
        self._storage = storage

    def found(self) -> Iterator[ObjectInfo | Unread]:
        for page in self._pages():
            for info in page:
                if self._pattern.matches(info.path):
                    yield ObjectInfo(f"{self._before}{info.path}", info.size, info.modified, info.tag)

    def read(self, info: ObjectInfo, *, piece: int) -> Iterator[bytes]:
        path = info.path[len(self._before) :]
        for start in range(0, info.size, piece):
            yield from self._storage.get_ranges([ObjectRange(path, start, min(start + piece, info.size))])

    def _pages(self) -> Iterator[list[ObjectInfo]]:
        if not self._pattern.is_plain or not self._pattern.text:
            yield from self._storage.pages(self._pattern.prefix, is_recursive=self._pattern.is_recursive)
            return
        # An object has the first place among those whose names begin with its own.
        alike = next(self._storage.pages(self._pattern.directory, is_recursive=False), [])
        yield [info for info in alike if info.path == self._pattern.prefix]
        yield from self._storage.pages(f"{self._pattern.directory}/", is_recursive=True)


def _files_of_url(url: str, options: Mapping[str, Any] | None, *, include_hidden: bool) -> FileListing:
    protocol, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    if not bucket or not Pattern(bucket).is_plain:
        raise ValueError(f"{redact(url)!r} names no bucket: expected a pattern such as 's3://bucket/videos/**/*.mp4'")
    root = f"{one_name(protocol)}://{bucket}"
    return _BucketListing(Pattern(path or "**", include_hidden), root=root, options=options)
