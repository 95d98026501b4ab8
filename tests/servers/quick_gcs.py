"""The JSON interface of GCS in the quick server, as far as gcsfs uses it.

A request is turned into one of S3, which the server answers, and the answer into one of GCS.
"""

import json
from typing import Protocol

from tests.servers.quick_messages import Answer, Request

_INTERFACES = ("/storage/v1/", "/download/storage/v1/", "/upload/storage/v1/")
_BOUNDARY = b"\n--==0=="
"""What gcsfs puts between the parts of an upload."""


class _Buckets(Protocol):
    def answer(self, request: Request) -> Answer: ...

    def about(self, path: str) -> tuple[int, str]: ...

    def page(
        self, bucket: str, *, prefix: str, delimiter: str | None, after: str, limit: int
    ) -> tuple[list[str], bool]: ...


def is_meant(path: str) -> bool:
    """Whether a request is of the JSON interface."""
    return path.startswith(_INTERFACES)


def is_listing(path: str) -> bool:
    """Whether a GET of the JSON interface lists a bucket."""
    return path.startswith("/storage/v1/") and path.endswith("/o")


def answer(buckets: _Buckets, request: Request) -> Answer:
    """Answer a request of the JSON interface."""
    bucket, _, key = request.path.partition("/b/")[2].partition("/o")
    if request.method == "GET" and is_listing(request.path):
        return _list(buckets, f"/{bucket}/", request)
    if request.method == "POST":
        return _upload(buckets, bucket, request)
    return buckets.answer(Request(request.method, f"/{bucket}{key}", {}, request.headers, b""))


def _upload(buckets: _Buckets, bucket: str, request: Request) -> Answer:
    about, _, rest = request.body.partition(b"\n\n")[2].partition(_BOUNDARY)
    data = rest.partition(b"\n\n")[2].removesuffix(_BOUNDARY + b"--")
    name = json.loads(about)["name"]
    headers = {"if-none-match": "*"} if request.query.get("ifGenerationMatch") == "0" else {}
    done = buckets.answer(Request("PUT", f"/{bucket}/{name}", {}, headers, data))
    return done if done.status != 200 else _json({"bucket": bucket, "name": name, "size": str(len(data))})


def _list(buckets: _Buckets, bucket: str, request: Request) -> Answer:
    delimiter = request.query.get("delimiter")
    names, is_truncated = buckets.page(
        bucket,
        prefix=request.query.get("prefix", ""),
        delimiter=delimiter,
        after=request.query.get("pageToken", ""),
        limit=int(request.query.get("maxResults", 1_000)),
    )
    prefixes = [name for name in names if delimiter and name.endswith(delimiter)]
    items = [_item(buckets, bucket, name) for name in names if name not in set(prefixes)]
    token = {"nextPageToken": names[-1]} if is_truncated else {}
    return _json({"items": items, "prefixes": prefixes, **token})


def _item(buckets: _Buckets, bucket: str, name: str) -> dict[str, str]:
    size, written = buckets.about(bucket + name)
    return {"name": name, "size": str(size), "timeCreated": written, "generation": "1"}


def _json(content: object) -> Answer:
    return Answer(200, ("Content-Type: application/json",), json.dumps(content).encode())
