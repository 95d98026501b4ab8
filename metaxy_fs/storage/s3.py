"""Read, write and list a bucket of S3 through s3fs."""

import builtins
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fsspec import AbstractFileSystem

from metaxy_fs.ids import elapsed
from metaxy_fs.storage.base import ObjectInfo, ObjectRange
from metaxy_fs.storage.client import UNKNOWN_SIZE, BucketClient, Client, ListedPage, NoListingError, below, next_page
from metaxy_fs.storage.failures import Failure, failure_of, is_outdated

PROTOCOLS = frozenset({"s3", "s3a"})
_BETWEEN_RENEWALS = 10.0
"""The fewest seconds from one look for renewed credentials to the next."""
PAGE = 1000
"""The most objects that one request lists, for the server too."""
# botocore's pool of 10 is what bounds many small reads. Its attempts, s3fs's and the client's would multiply; those of
# the client are the ones that have a deadline and a budget.
_CONFIG = {
    "max_pool_connections": 100,
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"mode": "standard", "total_max_attempts": 1},
}


class S3Client(BucketClient):
    """A root on s3fs: one request for each put and get, one for each 1,000 listed objects."""

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        super().__init__(filesystem, root)
        self._keeps_copied_over: bool | None = None
        self._renewed = -_BETWEEN_RENEWALS
        self._renewing = threading.Lock()

    def copy_from(self, source: Client, path: str, *, probe: str) -> bool:
        """Put an object of another root if the name is free: the server copies, and decides.

        Many servers do not know the condition in this request and would overwrite, so that is asked first, once.
        """
        if not isinstance(source, S3Client):
            return False
        if self._keeps_copied_over is None:
            self._keeps_copied_over = self._refuses_to_copy_over(probe)
        if self._keeps_copied_over:
            self._copy(source.address(path), path)
        return self._keeps_copied_over

    def address(self, path: str) -> dict[str, str]:
        """Return where an object is."""
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{path}"}

    def _refuses_to_copy_over(self, probe: str) -> bool:
        try:
            # The server takes a copy of an object over itself for a mistake, unless told to write its metadata anew.
            self._copy(self.address(probe), probe, MetadataDirective="REPLACE")
        except Exception as error:  # noqa: BLE001  # a client that does not know the condition raises what it pleases
            return failure_of(error) is Failure.ALREADY_EXISTS
        return False

    def _copy(self, source: Mapping[str, str], path: str, **arguments: Any) -> None:
        arguments |= {**self.address(path), "CopySource": dict(source), "IfNoneMatch": "*"}
        self._ask("call_s3", "copy_object", **arguments)

    def get(self, path: str) -> bytes:
        # A range, because without one s3fs asks for the size first.
        return bytes(self._ask("cat_file", self.full(path), start=0, moved=UNKNOWN_SIZE))

    def _try(self, method: str, *arguments: Any, moved: int = 0, **options: Any) -> Any:
        filesystem = self.filesystem
        try:
            return super()._try(method, *arguments, moved=moved, **options)
        except Exception as error:
            if not is_outdated(error) or not self._renew(filesystem):
                raise
        return super()._try(method, *arguments, moved=moved, **options)

    def _try_ranges(self, wanted: Sequence[ObjectRange]) -> builtins.list[bytes | BaseException]:
        filesystem = self.filesystem
        parts = super()._try_ranges(wanted)
        if any(map(is_outdated, parts)) and self._renew(filesystem):
            return super()._try_ranges(wanted)
        return parts

    def _renew(self, outdated: AbstractFileSystem) -> bool:
        """Look for credentials again where clients of AWS look for them; whether there may be others now.

        botocore reads the shared files once in a session, so a long job would not see that they were renewed.
        """
        if _has_credentials_of_its_own(outdated):
            return False
        with self._renewing:
            if self.filesystem is not outdated:
                return True
            if elapsed() < self._renewed + _BETWEEN_RENEWALS:
                return False
            self._renewed = elapsed()
            options = {**outdated.storage_options, "skip_instance_cache": True}
            filesystem = type(outdated)(*outdated.storage_args, **options)
            filesystem.retries = getattr(outdated, "retries", 1)
            # Other threads may still use the outdated one; the last of them lets it go, and it closes its connections.
            self.filesystem = filesystem
        return True

    def _listed(self, prefix: str, *, is_recursive: bool, most: int | None = None) -> Iterator[ListedPage]:
        arguments: dict[str, Any] = {"MaxKeys": PAGE if most is None else min(most, PAGE)}
        arguments |= {"Bucket": self._bucket, "Prefix": prefix} | ({} if is_recursive else {"Delimiter": "/"})
        before = set[str]()
        while True:
            page = self._ask("call_s3", "list_objects_v2", **arguments)
            # What botocore does not know it leaves out: of a page of HTML, or of nothing at all, nothing is left.
            if not {"IsTruncated", "Name"} & page.keys():
                raise NoListingError(_described(page))
            prefixes = [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            yield ListedPage(map(self._info, page.get("Contents", ())), prefixes)
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = next_page(page.get("NextContinuationToken"), before)

    def _info(self, item: Mapping[str, Any]) -> ObjectInfo:
        return ObjectInfo(below(self._prefix, item["Key"]), item["Size"], item["LastModified"], item.get("ETag"))


def _has_credentials_of_its_own(filesystem: AbstractFileSystem) -> bool:
    """Whether a filesystem was given credentials, rather than where to look for them."""
    options = filesystem.storage_options
    named = options.get("client_kwargs") or {}
    credentials = getattr(filesystem, "key", None) or getattr(filesystem, "anon", False)
    return bool(credentials or options.get("session") or named.get("aws_access_key_id"))


def speaks_s3(filesystem: AbstractFileSystem) -> bool:
    """Whether a filesystem is s3fs, or like it enough."""
    # Of its class, since wrappers hand on what is asked of them that they do not know.
    return hasattr(type(filesystem), "call_s3") and hasattr(type(filesystem), "split_path")


def connection_options(storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the pool, time limits and attempts that the user has not chosen."""
    chosen = storage_options.get("config_kwargs") or {}
    return {**storage_options, "config_kwargs": {**_CONFIG, "http_session_cls": _sending_once(), **chosen}}


def bound_attempts(filesystem: AbstractFileSystem) -> None:
    """Make a private s3fs filesystem send each request once: its user repeats what fails."""
    filesystem.retries = 1


def _sending_once() -> type:
    """Return aiobotocore's sessions, made to send each request once.

    They are of aiohttp, which repeats a PUT whose connection is cut off, at once and without a word: a refusal of the
    repetition would look like one of the only request. It has no option for that, but for an attribute that is not
    public. Where a later version is made in another way it goes on repeating, as others below a storage may do.
    """
    from aiobotocore.httpsession import AIOHTTPSession  # noqa: PLC0415  # comes with the optional extra

    class SendingOnce(AIOHTTPSession):  # type: ignore[misc]  # it has no types
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False  # noqa: SLF001  # see above
            return session

    return SendingOnce


def _described(page: Mapping[str, Any]) -> str:
    """Return what can be said of an answer of which botocore understood nothing."""
    headers = page.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return f"{headers.get('content-length', 'some')} bytes of {headers.get('content-type') or 'an unknown type'}"
