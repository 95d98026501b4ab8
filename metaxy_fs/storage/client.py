"""The client of a filesystem of fsspec, and the base of the special clients.

A client speaks to one root by full paths, lets the filesystem's exceptions pass, and spends one request an object. It
never asks `exists`, `info`, `glob`, `find` or `cat`, which spend more and answer from caches. What fails for a moment
it asks again (see `metaxy_fs.storage.retry`), and no try lasts forever where the filesystem can be interrupted.
"""

import builtins
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from io import UnsupportedOperation
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync

from metaxy_fs.storage.base import ObjectInfo, ObjectRange, by_path, join
from metaxy_fs.storage.failures import Failure, failure_of, is_conflict
from metaxy_fs.storage.retry import GaveUpError, Retries, is_momentary, longest_try
from metaxy_fs.storage.walk import Entry, walk

_ENDPOINTS = ("endpoint_url", "endpoint")
"""The names of options that say where a service is."""
UNKNOWN_SIZE = 64 * 1024 * 1024
"""How large an object of unknown size is taken to be, in the time that a try may last."""
# The names under which filesystems tell when an object was written, the best first.
_TIMES = ("LastModified", "last_modified", "modified", "mtime", "updated", "created")


_MEMORY = threading.Lock()
"""Held while an object in memory is looked for and written, which all storages of a process share."""


class Client:
    """A root on any fsspec filesystem.

    Args:
        filesystem: A filesystem of this process.
        root: The path of the root on it, without its protocol and without a trailing slash.
    """

    serves_ranges = True
    """Whether a part of an object is fetched for itself."""

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root
        self._retries = Retries(_endpoint(filesystem))

    def put(self, path: str, data: bytes) -> None:  # noqa: ARG002  # for those that can
        """Write an object if the name is free; on a filesystem that nobody knows there is no saying whether it is.

        Many that are asked to create overwrite, or look first and write then.

        Raises:
            UnsupportedOperation: Always; the clients of filesystems that are known override this.
        """
        raise UnsupportedOperation(
            f"{type(self.filesystem).__name__} is not known to refuse a name that is taken, so that two writers could "
            "overwrite each other; read this root, and write through a local directory, s3fs, gcsfs or obstore"
        )

    def get(self, path: str) -> bytes:
        """Return a whole object of unknown size."""
        return bytes(self._ask("cat_file", self.full(path), moved=UNKNOWN_SIZE))

    def get_ranges(self, wanted: Sequence[ObjectRange]) -> builtins.list[bytes | BaseException]:
        """Return the bytes that there are of each range, or what went wrong with it, in order."""
        batch = _RangeBatch(wanted, self._try_ranges)
        try:
            self._retries.run(batch.ask, requests=batch.requests)
        except GaveUpError as error:
            batch.found[batch.missing[0]] = error
        return batch.results()

    def list(self, directory: str, *, limit: int | None) -> builtins.list[ObjectInfo]:
        """Return the objects at any depth below a directory, sorted by path."""
        self.filesystem.invalidate_cache()
        return walk(self._scan, directory, limit=limit)

    def pages(self, prefix: str, *, is_recursive: bool) -> Iterator[builtins.list[ObjectInfo]]:
        """Yield the objects whose paths begin with a prefix, a directory at a time.

        Args:
            prefix: What the paths begin with; need not end at a slash.
            is_recursive: Whether to list what has another slash behind the prefix.
        """
        self.filesystem.invalidate_cache()
        waiting = [prefix.rpartition("/")[0]]
        while waiting:
            directory = waiting.pop()
            entries = [(join(directory, entry.name), entry) for entry in self._scan(directory)]
            entries = [(path, entry) for path, entry in entries if path.startswith(prefix)]
            described = [entry.describe(path) for path, entry in entries if not entry.is_directory]
            yield [info for info in described if info is not None]
            waiting += [path for path, entry in entries if entry.is_directory and is_recursive]

    def list_directories(self, directory: str) -> builtins.list[str]:
        """Return the names of the directories directly below a directory, sorted."""
        self.filesystem.invalidate_cache()
        return sorted(entry.name for entry in self._scan(directory) if entry.is_directory)

    def delete(self, path: str) -> None:
        """Remove one object; deletions in bulk would pass over those that fail."""
        self._ask("rm_file", self.full(path))

    def copy_from(self, source: "Client", path: str, *, probe: str) -> bool:  # noqa: ARG002  # for those that can
        """Put an object of another root if the name is free, within the service; return whether that is possible."""
        return False

    def full(self, path: str) -> str:
        """Return a path as the filesystem knows it."""
        return join(self.root, path) if path else self.root

    def _ask(self, method: str, *arguments: Any, moved: int = 0, **options: Any) -> Any:
        """Call a method of the filesystem, in as many tries as it takes.

        Args:
            method: Its name.
            arguments: Handed on to it.
            moved: How many bytes go there or back, which takes its time.
            options: Handed on to it.
        """
        return self._retries.run(partial(self._try, method, *arguments, moved=moved, **options))

    def _try(self, method: str, *arguments: Any, moved: int = 0, **options: Any) -> Any:
        filesystem = self.filesystem
        if not isinstance(filesystem, AsyncFileSystem):
            return getattr(filesystem, method)(*arguments, **options)
        # What the method is made of, which can be cut short.
        coroutine = getattr(filesystem, f"_{method}")
        return sync(filesystem.loop, coroutine, *arguments, timeout=longest_try(moved), **options)

    def _try_ranges(self, wanted: Sequence[ObjectRange]) -> builtins.list[bytes | BaseException]:
        paths, starts, ends = zip(*((self.full(part.path), part.start, part.end) for part in wanted), strict=True)
        moved = sum(ends) - sum(starts)
        try:
            parts = self._try("cat_ranges", list(paths), list(starts), list(ends), on_error="return", moved=moved)
        except Exception as error:  # noqa: BLE001  # of all of them, as those of each are
            return [error] * len(wanted)
        # The batch counts as failed if some of it is, and yet somebody has answered.
        for part in parts:
            self._retries.note(part)
        return list(parts)

    def _scan(self, directory: str) -> builtins.list[Entry]:
        try:
            found = self._ask("ls", self.full(directory), detail=True)
        except FileNotFoundError:
            return []
        return [entry for info in found if (entry := _entry(info, parent=self.full(directory))) is not None]


class _RangeBatch:
    """Ranges that are asked for at once, and those that are missing again."""

    def __init__(
        self,
        wanted: Sequence[ObjectRange],
        ask: Callable[[Sequence[ObjectRange]], builtins.list[bytes | BaseException]],
    ) -> None:
        self.found: list[bytes | BaseException] = [b""] * len(wanted)
        self.missing = list(range(len(wanted)))
        self._wanted = wanted
        self._ask = ask
        self._is_answered = True

    def results(self) -> builtins.list[bytes | BaseException]:
        """Return what was found, and keep none of it.

        Whoever repeats the batch knows it in a circle of references, in which it lives on until Python looks for such.
        """
        found, self.found = self.found, []
        return found

    def requests(self) -> int:
        """Return how many ranges the next try asks for: one alone if none of the last ones was answered."""
        return len(self.missing) if self._is_answered else 1

    def ask(self) -> None:
        """Ask for what is missing, and raise if some of it is missing for a moment."""
        while self.missing:
            asked = self.missing[: self.requests()]
            for place, part in zip(asked, self._ask([self._wanted[place] for place in asked]), strict=True):
                self.found[place] = part
            errors = [error for place in asked if is_momentary(error := self.found[place])]
            self.missing = [place for place in self.missing if place not in asked or is_momentary(self.found[place])]
            self._is_answered = len(errors) < len(asked)
            if errors:
                raise errors[0]


class BucketClient(Client):
    """A root in a bucket of a service that decides whether a name is free."""

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        super().__init__(filesystem, root)
        self._bucket, key, _ = filesystem.split_path(f"{root}/")
        self._prefix = f"{key.strip('/')}/" if key.strip("/") else ""

    def put(self, path: str, data: bytes) -> None:
        """Write an object where the server decides whether the name is free, and keeps all of it or nothing.

        In one request, whatever its size: filesystems would send a large object in parts, and those of an upload that
        is cut off stay in the bucket, cost money, and are in no listing.
        """
        failed = 0

        def create() -> None:
            nonlocal failed
            try:
                whole = len(data) + 1
                self._try("pipe_file", self.full(path), data, mode="create", chunksize=whole, moved=len(data))
            except Exception as error:
                failed += 1
                if is_conflict(error) and self._holds(path):
                    raise FileExistsError(path) from error
                # A refusal says that nothing was written, but by this try alone.
                if failed > 1 and failure_of(error) is Failure.PERMISSION_DENIED:
                    raise GaveUpError(error, tries=failed) from error
                raise

        self._retries.run(create)

    def _holds(self, path: str) -> bool:
        """Whether there surely is an object of that name."""
        try:
            self._try("cat_file", self.full(path), start=0, end=1)
        except Exception as error:  # noqa: BLE001  # then nothing is sure
            return failure_of(error) is Failure.EMPTY_RANGE
        return True

    def list(self, directory: str, *, limit: int | None) -> builtins.list[ObjectInfo]:
        pages = self._listed(self._key(directory), is_recursive=True, most=limit)
        return first_objects((page.objects for page in pages), directory, limit)

    def pages(self, prefix: str, *, is_recursive: bool) -> Iterator[builtins.list[ObjectInfo]]:
        """Yield the objects whose paths begin with a prefix, sorted by path, those of one request at a time."""
        for page in self._listed(f"{self._prefix}{prefix}", is_recursive=is_recursive):
            yield first_objects([page.objects], prefix.rstrip("/"), None)

    def list_directories(self, directory: str) -> builtins.list[str]:
        key = self._key(directory)
        prefixes = (prefix for page in self._listed(key, is_recursive=False) for prefix in page.prefixes)
        return sorted(name for prefix in prefixes if (name := below(key, prefix)[:-1]))

    def _listed(self, prefix: str, *, is_recursive: bool, most: int | None = None) -> Iterator["ListedPage"]:
        """Yield the pages of a listing of names that begin with a prefix, with so many objects each at most."""
        raise NotImplementedError

    def _key(self, directory: str) -> str:
        return f"{self._prefix}{directory}/" if directory else self._prefix


class ListedPage(NamedTuple):
    """What one request for a listing has given: objects, and what the names in each directory begin with."""

    objects: Iterable[ObjectInfo]
    prefixes: Iterable[str]


class MemoryClient(Client):
    """A root on fsspec's filesystem in the memory of this process."""

    def put(self, path: str, data: bytes) -> None:
        """Write an object if the name is free, in one try: the filesystem looks, and then writes."""
        with _MEMORY:
            self._try("pipe_file", self.full(path), data, mode="create")


class CachedClient(Client):
    """A root behind one of fsspec's caches of whole files: objects never change, so theirs may be read from it.

    Writes, deletions and listings go past the cache. Its `pipe_file` overwrites, and its listings are those of an
    earlier time. What it holds of an object that is deleted later may still be read from it.
    """

    serves_ranges = False

    def __init__(self, filesystem: AbstractFileSystem, root: str, *, target: Client) -> None:
        super().__init__(filesystem, root)
        self._target = target

    def put(self, path: str, data: bytes) -> None:
        self._target.put(path, data)

    def get_ranges(self, wanted: Sequence[ObjectRange]) -> builtins.list[bytes | BaseException]:
        return [self._get_range(part) for part in wanted]

    def list(self, directory: str, *, limit: int | None) -> builtins.list[ObjectInfo]:
        return self._target.list(directory, limit=limit)

    def pages(self, prefix: str, *, is_recursive: bool) -> Iterator[builtins.list[ObjectInfo]]:
        """Yield the objects whose paths begin with a prefix, past the cache."""
        return self._target.pages(prefix, is_recursive=is_recursive)

    def list_directories(self, directory: str) -> builtins.list[str]:
        return self._target.list_directories(directory)

    def delete(self, path: str) -> None:
        self._target.delete(path)

    def _get_range(self, part: ObjectRange) -> bytes | BaseException:
        try:
            return self.get(part.path)[part.start : part.end]
        except Exception as error:  # noqa: BLE001  # handed on as a value, as `cat_ranges` does
            return error


def _endpoint(filesystem: AbstractFileSystem) -> str:
    """Return whom a filesystem speaks to, as far as its options tell."""
    return " ".join([type(filesystem).__name__, *endpoints_of(filesystem.storage_options)])


def endpoints_of(options: Mapping[str, Any]) -> builtins.list[str]:
    """Return where the options of a filesystem say that its service is; nothing where they leave that to it."""
    named = [options, options.get("client_kwargs") or {}]
    return [str(each[name]) for each in named for name in _ENDPOINTS if isinstance(each, Mapping) and each.get(name)]


class NoListingError(OSError):
    """The answer to a request for a listing is something else, so it says nothing about what there is."""

    def __init__(self, came: str) -> None:
        super().__init__(
            f"the answer is no listing but {came}, as a proxy or a login page gives it; check the endpoint and what is "
            "between here and there"
        )


def next_page(token: str | None, before: set[str]) -> str:
    """Return what asks for the next page of a listing, unless it was asked for before, and there would be no end of it.

    Args:
        token: What the service has answered.
        before: What was returned for the pages before.
    """
    if not token:
        raise NoListingError("the part of one that does not say where it goes on")
    if token in before:
        raise OSError("the service answers with the same pages again and again")
    before.add(token)
    return token


def below(prefix: str, name: str) -> str:
    """Return what stands behind a prefix in a name that was listed.

    Raises:
        NoListingError: The name does not begin with it, so the service did not look at what it was asked.
    """
    if not name.startswith(prefix):
        raise NoListingError("one of other names than it was asked for")
    return name[len(prefix) :]


def first_objects(
    pages: Iterable[Iterable[ObjectInfo]], directory: str, limit: int | None
) -> builtins.list[ObjectInfo]:
    """Return the objects of the pages of a listing, sorted by path; of no more pages than a limit needs."""
    found: builtins.list[ObjectInfo] = []
    for page in pages:
        # Consoles mark a directory with an empty `directory/`.
        found += [
            info
            for info in page
            if info.path and (info.size or not info.path.endswith("/")) and info.path != f"{directory}/"
        ]
        if limit is not None and len(found) >= limit:
            break
    return sorted(found, key=by_path)[:limit]


def _entry(info: Mapping[str, Any], *, parent: str) -> Entry | None:
    prefix = f"{parent.strip('/')}/" if parent.strip("/") else ""
    full = str(info["name"]).strip("/")
    name = full.removeprefix(prefix)
    # `ls` of a file answers with the file itself.
    if not full.startswith(prefix) or not name:
        return None
    return Entry(name, info["type"] == "directory", _describer(info))


def _describer(info: Mapping[str, Any]) -> Callable[[str], ObjectInfo]:
    return lambda path: ObjectInfo(path, int(info.get("size") or 0), _modified(info))


def _modified(info: Mapping[str, Any]) -> datetime | None:
    given = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    if isinstance(given, datetime):
        return given if given.tzinfo else given.replace(tzinfo=UTC)
    return datetime.fromtimestamp(given, UTC) if isinstance(given, int | float) else None
