"""Keep objects in an object store, or wherever else fsspec reaches.

The storage keeps a connection for each process and turns exceptions into those of `metaxy_fs.errors`; the client of its
filesystem knows the requests.
"""

import builtins
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

from metaxy_fs.errors import (
    MetaxyError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageAccessError,
    StorageError,
    add_facts,
)
from metaxy_fs.storage.addresses import path_on_filesystem, protocols_of, url_of
from metaxy_fs.storage.base import ObjectInfo, ObjectRange, RootReference, Storage, check_directory, check_path
from metaxy_fs.storage.client import Client, endpoints_of
from metaxy_fs.storage.connect import client_of, configured, connect
from metaxy_fs.storage.failures import Failure, described, failure_of, is_about_checksums
from metaxy_fs.storage.redaction import conceal, redact, reveals, secrets_of, without_secrets
from metaxy_fs.storage.retry import GaveUpError

# Enough at a time that connections are seldom idle, few enough to bound what is asked in vain after a refusal.
_BATCH = 512
_LONGEST_REASON = 500
_OF_ONE_OBJECT = {"read", "delete"}
"""Verbs to which a root may answer that there is no such object."""


class _Connection(NamedTuple):
    pid: int
    client: Client


class ObjectStorage(Storage):
    """Objects below a URL of fsspec, or below a path on a filesystem that the user made.

    Connects with the first request, once in each process, and asks as many at once as the client has connections. A
    filesystem that the user made is used as it is by the process that made it; after a fork, the other process makes
    one with the same arguments.

    Args:
        root: A URL; with `filesystem` a path on it, or a URL of its protocol.
        storage_options: Handed on to the filesystem that the URL names.
        filesystem: A filesystem of fsspec, for synchronous use.

    Raises:
        ValueError: The filesystem is for asynchronous use.
    """

    def __init__(
        self,
        root: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: AbstractFileSystem | None = None,
    ) -> None:
        if filesystem is not None and not hasattr(filesystem, "_strip_protocol"):
            raise TypeError(f"expected a filesystem of fsspec, such as s3fs.S3FileSystem(), got {filesystem!r}")
        if getattr(filesystem, "asynchronous", False):
            raise ValueError("expected a filesystem for synchronous use, got one made with asynchronous=True")
        self._root = url_of(root) if filesystem is None else _path_on(filesystem, root)
        self._options = dict(storage_options or {})
        self._filesystem = filesystem
        self._prepare()

    @property
    def location(self) -> str:
        return self._location

    @property
    def identity(self) -> str:
        """The root, and the endpoint if the options name one."""
        endpoints = [endpoint for options in self._reached_with for endpoint in endpoints_of(options)]
        return redact(" ".join([self.location, *endpoints]))

    @property
    def reference(self) -> RootReference:
        """The URL and the options that are no credentials; a filesystem that the user made has none of both."""
        if self._filesystem is not None:
            return super().reference
        return RootReference(self.identity, self.location, redact(self._root), without_secrets(self._options))

    def put(self, path: str, data: bytes) -> None:
        check_path(path, location=self.location)
        with self._explained("write", path):
            self._client().put(path, data)
        self._is_seen = True

    def get(self, path: str) -> bytes:
        check_path(path, location=self.location)
        with self._explained("read", path):
            try:
                data = self._client().get(path)
            except Exception as error:
                if failure_of(error) is not Failure.EMPTY_RANGE:
                    raise
                data = b""
        self._is_seen = True
        return data

    def get_optional(self, paths: Sequence[str], *, max_bytes: int) -> builtins.list[bytes | None]:
        parts = [ObjectRange(path, 0, max_bytes + 1) for path in paths]
        for path in paths:
            check_path(path, location=self.location)
        if not parts:
            return []
        with self._explained("read", paths[0]):
            found = self._client().get_ranges(parts)
        self._is_seen |= any(isinstance(data, bytes) for data in found)
        present = [self._if_there(part, data) for part, data in zip(parts, found, strict=True)]
        return [self._bounded(path, data, max_bytes=max_bytes) for path, data in zip(paths, present, strict=True)]

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        # One byte more than expected tells an object that is too long, and bounds what a hostile one can cost.
        return self._got_sized(
            [ObjectRange(info.path, 0, info.size + 1) for info in objects], [i.size for i in objects]
        )

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> builtins.list[bytes]:
        return self._got_sized(ranges, [part.end - part.start for part in ranges])

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def serves_ranges(self) -> bool:
        """Whether parts of objects are fetched for themselves: behind a cache of whole files they are not."""
        return self._client().serves_ranges

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        check_directory(directory, location=self.location)
        with self._explained("list", directory):
            return self._client().list(directory, limit=limit)

    def pages(self, prefix: str, *, is_recursive: bool) -> Iterator[builtins.list[ObjectInfo]]:
        """Yield the objects whose paths begin with a prefix, in bounded memory: on S3 and GCS a request at a time.

        Args:
            prefix: What the paths begin with; need not end at a slash.
            is_recursive: Whether to list what has another slash behind the prefix.

        Raises:
            StorageError: The bucket does not exist, refuses, or cannot be reached.
        """
        listing = iter(self._client().pages(prefix, is_recursive=is_recursive))
        while True:
            with self._explained("list", prefix):
                page = next(listing, None)
            if page is None:
                return
            yield page

    def list_directories(self, directory: str) -> builtins.list[str]:
        check_directory(directory, location=self.location)
        with self._explained("list", directory):
            return self._client().list_directories(directory)

    def delete(self, path: str) -> None:
        check_path(path, location=self.location)
        try:
            with self._explained("delete", path):
                self._client().delete(path)
        except ObjectNotFoundError:
            return

    def copy_from(self, source: Storage, path: str, *, probe: str) -> bool:
        """Copy within the service, where one client reaches both roots: those of one protocol with the same options."""
        check_path(path, location=self.location)
        if not isinstance(source, ObjectStorage) or self._reach() != source._reach():  # noqa: SLF001  # of its own kind
            return False
        with self._explained("write", path):
            return self._client().copy_from(source._client(), path, probe=probe)  # noqa: SLF001  # likewise

    def __repr__(self) -> str:
        return f"ObjectStorage({self.location!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_options": self._options, "_filesystem": self._filesystem}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def _reach(self) -> tuple[Any, ...]:
        """Return what two roots have in common that one client can reach."""
        if self._filesystem is not None:
            return (id(self._filesystem),)
        return protocols_of(self._root), self._options

    def _prepare(self) -> None:
        if self._filesystem is None:
            url, self._reached_with = self._root, _reached_with(protocols_of(self._root), self._options)
        else:
            url = url_of(self._filesystem.unstrip_protocol(self._root))
            self._reached_with = [self._filesystem.storage_options]
        self._location = redact(url)
        self._secrets = secrets_of(url, {"options": self._reached_with})
        self._made_by = getattr(self._filesystem, "_pid", os.getpid())
        # Whether the bucket is known to exist; with one that is gone since, all of its objects are.
        self._is_seen = False
        self._connections: list[_Connection] = []
        self._lock = (os.getpid(), threading.Lock())

    def _client(self) -> Client:
        connections = self._connections
        if connections and connections[-1].pid == os.getpid():
            return connections[-1].client
        with self._lock_of_this_process():
            if not connections or connections[-1].pid != os.getpid():
                # An inherited client is never let go: closing its sockets here would tell the server to close those of
                # the parent.
                connections.append(_Connection(os.getpid(), self._connect()))
        return connections[-1].client

    def _lock_of_this_process(self) -> threading.Lock:
        # Another thread may have held the lock at the time of the fork, and there is none in the child to release it.
        if self._lock[0] != os.getpid():
            self._lock = (os.getpid(), threading.Lock())
        return self._lock[1]

    def _connect(self) -> Client:
        if (filesystem := self._filesystem) is None:
            return connect(self._root, self._options)
        if self._made_by != os.getpid():
            filesystem = type(filesystem)(*filesystem.storage_args, **filesystem.storage_options)
        return client_of(filesystem, self._root)

    def _got(self, ranges: Iterable[ObjectRange]) -> Iterator[bytes]:
        """Yield the bytes that there are of each range."""
        remaining = iter(ranges)
        while batch := list(islice(remaining, _BATCH)):
            for part in batch:
                check_path(part.path, location=self.location)
            with self._explained("read", batch[0].path):
                found = self._client().get_ranges(batch)
            yield from map(self._checked, batch, found)

    def _checked(self, part: ObjectRange, data: bytes | BaseException) -> bytes:
        if isinstance(data, Exception) and failure_of(data) is Failure.EMPTY_RANGE:
            data = b""
        if isinstance(data, BaseException):
            with self._explained("read", part.path):
                raise data
        return bytes(data)

    def _if_there(self, part: ObjectRange, data: bytes | BaseException) -> bytes | None:
        try:
            return self._checked(part, data)
        except ObjectNotFoundError:
            return None

    def _got_sized(self, parts: Sequence[ObjectRange], sizes: Sequence[int]) -> builtins.list[bytes]:
        """Return the bytes of parts that have these sizes; those that have another one are asked for once more."""
        found = list(self._got(parts))
        wrong = [place for place, size in enumerate(sizes) if len(found[place]) != size]
        for place, data in zip(wrong, self._got(parts[place] for place in wrong), strict=True):
            found[place] = data
            if len(data) != sizes[place]:
                size = f"more than {sizes[place]}" if len(data) > sizes[place] else len(data)
                raise self._corrupt(parts[place].path, f"{size} bytes, expected {sizes[place]}")
        return found

    @contextmanager
    def _explained(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except MetaxyError:
            raise
        except Exception as error:  # noqa: BLE001  # clients raise what they please
            # The original exception helps, but not at the price of a credential in a log.
            shown = error.last if isinstance(error, GaveUpError) else error
            answer = self._error(verb, path, error)
            add_facts(answer, root=self.location, path=path or None)
            raise answer from None if reveals(shown, self._secrets) else shown

    def _error(self, verb: str, path: str, error: Exception) -> StorageError:
        failure, error = self._diagnosed(verb, error)
        what = f"cannot {verb} {path!r} in {self.location}"
        if isinstance(error, GaveUpError):
            return StorageError(f"{what}: gave up after {error.tries} tries ({self._reason(error.last)})")
        if failure is Failure.ALREADY_EXISTS and verb == "write":
            return ObjectExistsError(f"{what}: an object of that name exists")
        if failure is Failure.NO_OBJECT and verb in _OF_ONE_OBJECT:
            return ObjectNotFoundError(f"{what}: no such object")
        if failure in {Failure.NO_ROOT, Failure.NOTHING}:
            return StorageError(
                f"{what}: the bucket does not exist; create it or correct the root ({self._reason(error)})"
            )
        if failure is Failure.PERMISSION_DENIED:
            return StorageAccessError(
                f"{what}: refused, check the credentials and their permissions ({self._reason(error)})"
            )
        advice = f". {_advice(error)}" if failure is Failure.UNSUPPORTED and verb == "write" else ""
        return StorageError(f"{what}: {self._reason(error)}{advice}")

    def _diagnosed(self, verb: str, error: Exception) -> tuple[Failure, Exception]:
        failure = failure_of(error)
        if failure is Failure.NOTHING and verb in _OF_ONE_OBJECT:
            # The object or the bucket is missing. Only the former is an answer, and a listing of the latter tells.
            try:
                if not self._is_seen:
                    self._client().list("", limit=1)
            except Exception as missing:  # noqa: BLE001  # sorted like the first
                return failure_of(missing), missing
            self._is_seen = True
            return Failure.NO_OBJECT, error
        return failure, error

    def _reason(self, error: Exception) -> str:
        reason = " ".join(described(error).split()) or type(error).__name__
        return conceal(redact(reason), self._secrets)[:_LONGEST_REASON]


def _advice(error: Exception) -> str:
    """Return what to do where a service does not know something that a put asks for."""
    checksums = (
        "If the service does not know the checksums of newer AWS clients, give "
        'storage_options={"config_kwargs": {"request_checksum_calculation": "when_required"}}'
    )
    if is_about_checksums(error):
        return checksums
    return (
        "If the service has no conditional puts (If-None-Match), writers could overwrite each other there: write to a "
        "local directory, or to a service that has them, and read this root as one of its fallback_roots. " + checksums
    )


def _reached_with(protocols: Sequence[str], options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the options that each filesystem of a URL is made with."""
    if len(protocols) == 1:
        return [configured(protocols[0], options)]
    return [configured(protocol, options.get(protocol) or {}) for protocol in protocols] + [options]


def _path_on(filesystem: AbstractFileSystem, root: str) -> str:
    """Return the path of a root on a filesystem, which may be given as a URL of its protocol."""
    path = str(filesystem._strip_protocol(root))  # noqa: SLF001  # it has no other name for it
    return path_on_filesystem(path, protocol=filesystem.unstrip_protocol("").partition("://")[0])
