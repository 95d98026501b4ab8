"""A fast endpoint of S3 and GCS for benchmarks, at any distance.

    python -m tests.servers.quick [DELAY]

serves buckets from memory on a free port of loopback, in a process of its own, and prints the port. Moto answers some
250 requests a second, so beside it a client's own cost does not show. Each answer is sent so many seconds after its
request came in, and requests on other connections do not wait for it. Buckets need not be created; nothing is
authenticated.

`GET /-/counts` tells how many requests there were, and how many at once; it starts the count anew.
"""

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers import LOOPBACK, quick_gcs
from tests.servers.quick_messages import Answer, Request

_LARGEST_HEAD = 2**16
_PAGE = 1_000
_PIECE = 2**18


class QuickServer:
    """The server, in a process that ends with the context."""

    def __init__(self, *, delay: float) -> None:
        command = [sys.executable, "-m", "tests.servers.quick", str(delay)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        if self._process.stdout is None:
            raise RuntimeError("the server has no output to tell its port")
        self.port = int(self._process.stdout.readline())
        self.endpoint = f"http://{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def put(self, path: str, data: bytes) -> None:
        """Put an object of a bucket."""
        self._ask("PUT", f"/{path}", data)

    def counts(self) -> dict[str, int]:
        """Return how many requests of each kind there were since the last call, and the most `at_once`."""
        found: dict[str, int] = json.loads(self._ask("GET", "/-/counts"))
        return found

    def _ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(LOOPBACK, self.port)
        with contextlib.closing(connection):
            connection.request(method, target, body)
            return connection.getresponse().read()


class Page(NamedTuple):
    """Some names of a listing, in order: keys, and the common beginnings of keys; and whether there are more."""

    names: list[str]
    is_truncated: bool


class Buckets:
    """Objects by `/bucket/key`, and what was asked of them."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, str]] = {}
        self._counts: dict[str, int] = {}
        self._busy = self._most_busy = 0

    def begin(self, request: Request) -> None:
        """Count a request that has come in."""
        is_listing = "list-type" in request.query or quick_gcs.is_listing(request.path)
        kind = "LIST" if request.method == "GET" and is_listing else request.method
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._busy += 1
        self._most_busy = max(self._most_busy, self._busy)

    def end(self) -> None:
        """Count a request that is answered."""
        self._busy -= 1

    def counts(self) -> Answer:
        """Return the counts, and begin with none."""
        body = json.dumps({**self._counts, "at_once": self._most_busy}).encode()
        self._counts, self._most_busy = {}, self._busy
        return Answer(200, body=body)

    def answer(self, request: Request) -> Answer:
        """Apply a request."""
        if quick_gcs.is_meant(request.path):
            return quick_gcs.answer(self, request)
        match request.method:
            case "GET" if "list-type" in request.query:
                return self._list(request)
            case "GET" | "HEAD":
                return self._get(request)
            case "PUT":
                return self._put(request)
            case "DELETE":
                self._objects.pop(request.path, None)
                return Answer(204)
            case _:
                return Answer(501)

    def page(self, bucket: str, *, prefix: str, delimiter: str | None, after: str, limit: int) -> Page:
        """Return what a listing of a bucket, `/name/`, shows after some name."""
        keys = sorted(path.removeprefix(bucket) for path in self._objects if path.startswith(bucket + prefix))
        found = list(dict.fromkeys(_listed(keys, prefix, delimiter)))
        names = [key for key in found if key > after][:limit]
        return Page(names, bool(names) and names[-1] != found[-1])

    def about(self, path: str) -> tuple[int, str]:
        """Return the size of an object, and when it was written."""
        data, written = self._objects[path]
        return len(data), written

    def _put(self, request: Request) -> Answer:
        if request.headers.get("if-none-match") == "*" and request.path in self._objects:
            return _error(412, "PreconditionFailed")
        written = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self._objects[request.path] = (_payload(request), written)
        return Answer(200, ('ETag: "0"',))

    def _get(self, request: Request) -> Answer:
        if request.path not in self._objects:
            # To a HEAD a body would be the beginning of the next answer.
            return Answer(404) if request.method == "HEAD" else _error(404, "NoSuchKey")
        data = self._objects[request.path][0]
        about = ("Content-Type: binary/octet-stream", 'ETag: "0"', "Last-Modified: Wed, 21 Oct 2026 07:28:00 GMT")
        if request.method == "HEAD":
            return Answer(200, (*about, "Accept-Ranges: bytes"), length=len(data))
        if "range" not in request.headers:
            return Answer(200, about, data)
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1 if first and last else len(data), len(data))
        if start >= end:
            return _error(416, "InvalidRange")
        return Answer(206, (*about, f"Content-Range: bytes {start}-{end - 1}/{len(data)}"), memoryview(data)[start:end])

    def _list(self, request: Request) -> Answer:
        bucket = f"/{request.path.strip('/')}/"
        delimiter = request.query.get("delimiter")
        page, is_truncated = self.page(
            bucket,
            prefix=request.query.get("prefix", ""),
            delimiter=delimiter,
            after=request.query.get("continuation-token", ""),
            limit=int(request.query.get("max-keys", _PAGE)),
        )
        body = "".join(self._entry(bucket, key, delimiter) for key in page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_truncated else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket.strip("/")}</Name>'
            f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(is_truncated).lower()}</IsTruncated>{token}"
            f"{body}</ListBucketResult>"
        )
        return Answer(200, ("Content-Type: application/xml",), text.encode())

    def _entry(self, bucket: str, key: str, delimiter: str | None) -> str:
        if delimiter and key.endswith(delimiter):
            return f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
        size, written = self.about(bucket + key)
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>{written}</LastModified><ETag>&quot;0&quot;</ETag>"
            f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )


class Connection(asyncio.Protocol):
    """One connection; requests on it are answered one after the other."""

    def __init__(self, buckets: Buckets, delay: float) -> None:
        self._buckets = buckets
        self._delay = delay
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._is_paused = False
        self._head: tuple[str, str, dict[str, str]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._write()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._head is None and not self._take_head():
            return
        method, target, headers = self._head or ("", "", {})
        length = int(headers.get("content-length", 0))
        if len(self._received) < length:
            return
        body = bytes(self._received[:length])
        del self._received[:length]
        self._head = None
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self._serve(Request(method, unquote(url.path), query, headers, body))

    def _take_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > _LARGEST_HEAD:
                self._transport.close()
            return False
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._head = method, target, headers
        return True

    def _serve(self, request: Request) -> None:
        if request.path == "/-/counts":
            self._send(self._buckets.counts())
            return
        self._buckets.begin(request)
        asyncio.get_running_loop().call_later(self._delay, self._finish, request)

    def _finish(self, request: Request) -> None:
        self._buckets.end()
        self._send(self._buckets.answer(request))

    def _send(self, answer: Answer) -> None:
        if self._transport.is_closing():
            return
        length = len(answer.body) if answer.length is None else answer.length
        lines = (f"HTTP/1.1 {answer.status} OK", *answer.headers, f"Content-Length: {length}", "", "")
        self._transport.write("\r\n".join(lines).encode())
        self._unsent = memoryview(answer.body)
        self._write()

    def _write(self) -> None:
        # In pieces: what the transport cannot send at once it copies, and again with every piece that it can.
        while self._unsent and not self._is_paused and not self._transport.is_closing():
            piece, self._unsent = self._unsent[:_PIECE], self._unsent[_PIECE:]
            self._transport.write(piece)


def _listed(keys: list[str], prefix: str, delimiter: str | None) -> Iterator[str]:
    for key in keys:
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            yield prefix + rest[: rest.index(delimiter) + 1]
        else:
            yield key


def _payload(request: Request) -> bytes:
    """Return the object in a body, which may come in chunks that are signed one by one."""
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return request.body
    found, rest = bytearray(), request.body
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if not size:
            return bytes(found)
        found += rest[:size]
        rest = rest[size + 2 :]


def _error(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Answer(status, ("Content-Type: application/xml",), body.encode())


async def serve(delay: float) -> None:
    """Serve until the process ends."""
    buckets = Buckets()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(buckets, delay), LOOPBACK, 0, backlog=512
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) if sys.argv[1:] else 0.0))
