"""Read a root that a web server publishes, from the pages that list its directories.

There are no directories in HTTP: what is below one is what the page at its address links to. So a page that lists
nothing proves nothing, unless it says that it is the index of a directory.
"""

import builtins
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from io import UnsupportedOperation
from typing import NoReturn
from urllib.parse import quote, unquote, urljoin

from fsspec import AbstractFileSystem

from metaxy_fs.storage.base import ObjectInfo, ObjectRange
from metaxy_fs.storage.client import UNKNOWN_SIZE, Client, NoListingError
from metaxy_fs.storage.walk import Entry, walk

PROTOCOLS = frozenset({"http", "https"})
_TITLE_OF_AN_INDEX = re.compile(r"index of|directory listing|listing (of|for)|files within", re.IGNORECASE)
_OF_A_ROOT = ("/", ".json", ".parquet", ".table")
"""How the names end that stand in the directories of a root."""
_SHOWN = 100


class HTTPClient(Client):
    """A root below an address, to be read only: one request for each directory, and two for each object.

    Web servers tell sizes as they please, and many know no ranges, so objects are fetched whole.
    """

    serves_ranges = False

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        super().__init__(filesystem, root.rstrip("/"))

    def list(self, directory: str, *, limit: int | None) -> builtins.list[ObjectInfo]:
        """Return the objects at any depth below a directory, sorted by path, with the sizes that the server tells."""
        found = walk(self._scan, directory, limit=limit)
        sizes = self._ask("sizes", [self.full(info.path) for info in found]) if found else []
        if None in sizes:
            raise NoListingError("one of objects whose sizes the server does not tell")
        return [ObjectInfo(info.path, int(size)) for info, size in zip(found, sizes, strict=True)]

    def pages(self, prefix: str, *, is_recursive: bool) -> Iterator[builtins.list[ObjectInfo]]:
        """Yield the objects whose paths begin with a prefix, all at once, with the sizes that the server tells."""
        found = self.list(prefix.rpartition("/")[0], limit=None)
        below = [info for info in found if info.path.startswith(prefix)]
        yield below if is_recursive else [info for info in below if "/" not in info.path[len(prefix) :]]

    def delete(self, path: str) -> NoReturn:  # noqa: ARG002  # the same for all
        """Refuse: a web server publishes.

        Raises:
            UnsupportedOperation: Always.
        """
        raise UnsupportedOperation("a root that is reached over HTTP can be read only")

    def put(self, path: str, data: bytes) -> NoReturn:  # noqa: ARG002  # the same for all
        """Refuse: a web server publishes.

        Raises:
            UnsupportedOperation: Always.
        """
        raise UnsupportedOperation("a root that is reached over HTTP can be read only; write to it where it is kept")

    def full(self, path: str) -> str:
        """Return the address of an object."""
        return f"{self.root}/{quote(path)}"

    def _try_ranges(self, wanted: Sequence[ObjectRange]) -> builtins.list[bytes | BaseException]:
        whole: Sequence[None] = [None] * len(wanted)
        moved = len(wanted) * UNKNOWN_SIZE
        try:
            urls = [self.full(part.path) for part in wanted]
            found = self._try("cat_ranges", urls, whole, whole, on_error="return", moved=moved)
        except Exception as error:  # noqa: BLE001  # of all of them, as those of each are
            return [error] * len(wanted)
        return [
            data if isinstance(data, BaseException) else data[part.start : part.end]
            for part, data in zip(wanted, found, strict=True)
        ]

    def _scan(self, directory: str) -> builtins.list[Entry]:
        address = f"{self.full(directory).rstrip('/')}/"
        try:
            text = bytes(self._ask("cat_file", address)).decode(errors="replace")
        except FileNotFoundError:
            if directory:
                return []
            raise NoListingError("the status 404") from None
        page = _Page(address)
        page.feed(text)
        if not _TITLE_OF_AN_INDEX.search(page.title) and not any(name.endswith(_OF_A_ROOT) for name in page.names):
            raise NoListingError(f"the page {text[:_SHOWN]!r}")
        return [Entry(name.rstrip("/"), name.endswith("/"), _unsized) for name in sorted(page.names)]


class _Page(HTMLParser):
    """The names that a page links to directly below its address, those of directories with a slash, and its title."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.title = ""
        self._address = address
        self._is_in_title = False

    def handle_starttag(self, tag: str, attrs: builtins.list[tuple[str, str | None]]) -> None:
        self._is_in_title = tag == "title"
        if tag == "a" and (link := dict(attrs).get("href")):
            self._note(link)

    def handle_data(self, data: str) -> None:
        if self._is_in_title:
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._is_in_title = self._is_in_title and tag != "title"

    def _note(self, link: str) -> None:
        target = urljoin(self._address, link)
        # Links with a query sort the page, or log in.
        if "?" in target or not unquote(target).startswith(unquote(self._address)):
            return
        name = unquote(target.partition("#")[0])[len(unquote(self._address)) :]
        if name and "/" not in name[:-1]:
            self.names.add(name)


def speaks_http(filesystem: AbstractFileSystem) -> bool:
    """Whether a filesystem is that of fsspec for HTTP."""
    return any(base.__module__ == "fsspec.implementations.http" for base in type(filesystem).__mro__)


def _unsized(path: str) -> ObjectInfo:
    return ObjectInfo(path, 0)
