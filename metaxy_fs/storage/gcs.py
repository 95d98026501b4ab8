"""Read, write and list a bucket of GCS through gcsfs."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MethodType
from typing import Any

from fsspec import AbstractFileSystem

from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.storage.client import BucketClient, Client, ListedPage, NoListingError, below, next_page

PROTOCOLS = frozenset({"gs", "gcs"})
PAGE = 1000
"""The most objects that one request lists, for the server too."""
_CONNECT_SECONDS = 5
_READ_SECONDS = 20
_LISTED = "kind,nextPageToken,prefixes,items(name,size,timeCreated,generation)"
_SHOWN = 100
"""How much of an answer that is none is quoted."""


class GCSClient(BucketClient):
    """A root on gcsfs: one request for each put and get, one for each 1,000 listed objects."""

    def copy_from(self, source: Client, path: str, *, probe: str) -> bool:  # noqa: ARG002  # GCS knows the condition
        """Put an object of another root if the name is free: the server copies, and decides."""
        if not isinstance(source, GCSClient):
            return False
        # Between locations the server copies in several steps, each of which hands a token to the next.
        token, is_done = None, False
        while not is_done:
            answer = self._ask(
                "call",
                "POST",
                "b/{}/o/{}/rewriteTo/b/{}/o/{}",
                *source.address(path),
                *self.address(path),
                json_out=True,
                ifGenerationMatch="0",
                rewriteToken=token,
            )
            token, is_done = answer.get("rewriteToken"), answer["done"]
        return True

    def address(self, path: str) -> tuple[str, str]:
        """Return the bucket and the name of an object."""
        return self._bucket, f"{self._prefix}{path}"

    def _listed(self, prefix: str, *, is_recursive: bool, most: int | None = None) -> Iterator[ListedPage]:
        arguments: dict[str, Any] = {"maxResults": PAGE if most is None else min(most, PAGE), "fields": _LISTED}
        arguments |= {"prefix": prefix or None} | ({} if is_recursive else {"delimiter": "/"})
        before = set[str]()
        while True:
            page = self._ask("call", "GET", "b/{}/o", self._bucket, json_out=True, **arguments)
            if not _is_listing(page):
                raise NoListingError(f"the JSON {str(page)[:_SHOWN]!r}")
            yield ListedPage(map(self._info, page.get("items", ())), page.get("prefixes", ()))
            if not page.get("nextPageToken"):
                return
            arguments["pageToken"] = next_page(page["nextPageToken"], before)

    def _info(self, item: Mapping[str, Any]) -> ObjectInfo:
        return ObjectInfo(
            below(self._prefix, item["name"]),
            int(item["size"]),
            datetime.fromisoformat(item["timeCreated"]),
            item.get("generation"),
        )


def speaks_gcs(filesystem: AbstractFileSystem) -> bool:
    """Whether a filesystem is gcsfs, or like it enough."""
    protocol = filesystem.protocol
    protocols = {protocol} if isinstance(protocol, str) else set(protocol)
    # Of its class, since wrappers hand on what is asked of them that they do not know.
    return bool(PROTOCOLS & protocols) and hasattr(type(filesystem), "call")


def filesystem_class() -> type[AbstractFileSystem]:
    """Return the class of the JSON interface.

    The one that fsspec would choose asks another interface for the layout of the bucket before the first request, and
    in buckets of one zone shows an object while it is still being written.
    """
    from gcsfs.core import GCSFileSystem  # noqa: PLC0415  # an optional extra

    return GCSFileSystem  # type: ignore[no-any-return]  # it has no types


def connection_options(storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the time limits that the user has not chosen."""
    import aiohttp  # noqa: PLC0415  # comes with the optional extra

    limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
    return {"requests_timeout": limits, **storage_options}


def bound_attempts(filesystem: AbstractFileSystem) -> None:
    """Make a private gcsfs filesystem send each request once: its user repeats what fails.

    gcsfs wraps the method that sends in one that repeats it, up to six times in half a minute, and has no option for
    it. Where a later version of it is made in another way, it keeps its own attempts, and those here multiply them.
    """
    sending_once = getattr(type(filesystem)._request, "__wrapped__", None)  # noqa: SLF001  # see above
    if sending_once is not None:
        filesystem._request = MethodType(sending_once, filesystem)  # noqa: SLF001


def _is_listing(page: object) -> bool:
    # Of an empty listing nothing but its kind is left.
    return isinstance(page, Mapping) and (
        page.get("kind") == "storage#objects" or bool({"items", "prefixes", "nextPageToken"} & page.keys())
    )
