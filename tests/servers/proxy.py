"""A proxy between a client and an object server that adds distance and faults.

A proxy listens on a free port of loopback and relays each request to a server. It waits before it does (`delay`), and
asks a function of the test (`faults`) whether something goes wrong with the request. Clients get its `storage_options`.
It runs on an event loop of its own, in a thread of the process that started it, and keeps clients' connections alive
as real services do, whether the server does or not.
"""

import asyncio
import contextlib
import functools
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

from metaxy_fs.testing.faults import NOT_APPLIED, Fault, Faults, no_faults
from tests.servers import LOOPBACK, Kind, ObjectServer, RecordedRequest, parse_query
from tests.servers.messages import LONGEST_HEAD, Head, read_body, read_head

_BACKLOG = 512


_STATUS = {
    Fault.ERROR_BEFORE: (500, "InternalError"),
    Fault.ERROR_AFTER: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.THROTTLED: (429, "TooManyRequests"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
}


class Proxy:
    """A proxy before a server that runs; a context manager that starts and stops it.

    Args:
        server: Where requests go; buckets are made and denied there.
        delay: Seconds that each request waits; may be set at any time.
        faults: Called with the kind and the decoded path of each request; says what goes wrong with it. May be set at
            any time.
    """

    def __init__(self, server: ObjectServer, *, delay: float = 0, faults: Faults = no_faults) -> None:
        self.server = server
        self.delay = delay
        self.faults = faults
        self._requests: list[tuple[RecordedRequest, Fault | None]] = []
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = bool
        self._port = 0

    def start(self) -> Self:
        """Listen on a free port; connections are accepted when this returns."""
        listener, started = socket.create_server((LOOPBACK, 0), backlog=_BACKLOG), threading.Event()
        self._port = listener.getsockname()[1]
        serve = functools.partial(asyncio.run, self._serve_until_stopped(listener, started))
        self._thread = threading.Thread(target=serve, name="proxy", daemon=True)
        self._thread.start()
        started.wait()
        return self

    def stop(self) -> None:
        """Refuse new connections and close the open ones; a proxy that is not running stays as it is."""
        if self._thread is not None:
            self._stop()
            self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The URL that clients take as their endpoint."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def storage_options(self) -> dict[str, str]:
        """What to hand to fsspec, or to a store, to reach the server through the proxy; a new dict each time."""
        return {**self.server.storage_options, "endpoint_url": self.endpoint}

    def url(self, bucket: str, prefix: str = "") -> str:
        """Return the URL of a bucket, or of a prefix in it, as users write it."""
        return self.server.url(bucket, prefix)

    def requests(self) -> list[RecordedRequest]:
        """Return the requests that came in, in the order of their answers; the status is 0 where there is none."""
        return [request for request, _ in self._requests]

    def kinds(self) -> list[Kind]:
        """Return the kinds of `requests()`."""
        return [request.kind for request in self.requests()]

    def injected(self) -> list[Fault]:
        """Return the faults that requests have met, in the same order."""
        return [fault for _, fault in self._requests if fault is not None]

    def clear_requests(self) -> None:
        """Forget the requests recorded so far."""
        self._requests.clear()

    async def _serve_until_stopped(self, listener: socket.socket, started: threading.Event) -> None:
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = functools.partial(loop.call_soon_threadsafe, stopped.set)
        server = await asyncio.start_server(self._serve, sock=listener, limit=LONGEST_HEAD, backlog=_BACKLOG)
        started.set()
        await stopped.wait()
        server.close()  # connections are tasks, which the end of the loop cancels

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client, upstream = _Client(reader, writer), _Upstream(self.server.address)
        try:
            # Whatever breaks on either side ends the connection, and the client draws its own conclusions.
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                while await self._exchange(client, upstream):
                    pass
        finally:
            writer.close()
            upstream.close()

    async def _exchange(self, client: "_Client", upstream: "_Upstream") -> bool:
        """Answer one request; return whether the connection goes on."""
        head = await read_head(client.reader)
        url = urlsplit(head.words[1])
        query = parse_query(url.query)
        kind = self.server.kind_of(head.words[0], url.path, query)
        fault = self.faults(kind, unquote(url.path))

        def record(status: int) -> None:
            self._requests.append((RecordedRequest(head.words[0], unquote(url.path), query, status, kind), fault))

        if fault is Fault.REFUSED:
            record(0)
            return client.reset()
        request = await client.read_rest(head)
        if self.delay:
            await asyncio.sleep(self.delay)
        if fault is None:
            return await client.relay(upstream, request, record)
        return await self._spoil(fault, client, upstream, request, record)

    async def _spoil(
        self, fault: Fault, client: "_Client", upstream: "_Upstream", request: "_Request", record: Callable[[int], None]
    ) -> bool:
        answer = _Answer(Head("", {}), b"")
        for _ in range(0 if fault in NOT_APPLIED else 2 if fault is Fault.REPEATED else 1):
            answer = await upstream.ask(request)
        if fault in _STATUS:
            record(_STATUS[fault][0])
            return await client.refuse(self.server.refusal(*_STATUS[fault]), status=_STATUS[fault][0])
        if fault in {Fault.HANG_BEFORE, Fault.HANG_AFTER}:
            record(0)
            await client.reader.read()  # until the client closes the connection, or the proxy is stopped
            return False
        if fault in {Fault.RESET_BEFORE, Fault.RESET_AFTER}:
            record(0)
            return client.reset()
        record(answer.status)
        return await client.send(answer, fault=fault)


class _Request(NamedTuple):
    head: Head
    body: bytes

    @property
    def method(self) -> str:
        return self.head.words[0]

    def encode(self) -> bytes:
        return self.head.encode() + self.body


class _Answer(NamedTuple):
    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.words[1])


class _Client(NamedTuple):
    """The connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_rest(self, head: Head) -> _Request:
        """Return the request whose head was read."""
        if head.headers.pop("expect", None):
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"".join([piece async for piece in read_body(self.reader, head, method=head.words[0])])
        return _Request(head.framed(len(body)) if body else head, body)

    async def relay(self, upstream: "_Upstream", request: _Request, record: Callable[[int], None]) -> bool:
        """Send a request on, and its answer back piece by piece."""
        head = await upstream.send(request)
        record(int(head.words[1]))
        size = head.headers.get("content-length")
        if size is None:  # neither chunks nor the end of the connection are handed on
            return await self.send(await upstream.rest(head, request.method))
        self.writer.write(_kept_alive(head).encode())
        async for piece in read_body(upstream.reader, head, method=request.method):
            self.writer.write(piece)
            await self.writer.drain()
        upstream.done(head)
        return True

    async def send(self, answer: _Answer, *, fault: Fault | None = None) -> bool:
        """Send an answer, damaged if asked for."""
        body, head = answer.body, answer.head
        if fault in {Fault.TRUNCATED, Fault.SHORT}:
            body = body[: len(body) // 2]
        elif fault is Fault.WRONG and body:
            place = len(body) // 2
            body = body[:place] + bytes([body[place] ^ 0x20]) + body[place + 1 :]
        if answer.body and fault is not Fault.TRUNCATED:
            head = head.framed(len(body))
        self.writer.write(_kept_alive(head).encode() + body)
        await self.writer.drain()
        return fault is not Fault.TRUNCATED

    async def refuse(self, body: bytes, *, status: int) -> bool:
        """Answer with an error of the service."""
        head = Head(f"HTTP/1.1 {status} Fault", {"content-type": "application/octet-stream"})
        return await self.send(_Answer(head.framed(len(body)), body))

    def reset(self) -> bool:
        """Close the connection so that the client meets ECONNRESET, not the end of a stream."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        return False


class _Upstream:
    """The connection to the server, made anew whenever the server has closed it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def reader(self) -> asyncio.StreamReader:
        assert self._streams is not None
        return self._streams[0]

    async def ask(self, request: _Request) -> _Answer:
        """Return the whole answer to a request."""
        return await self.rest(await self.send(request), request.method)

    async def send(self, request: _Request) -> Head:
        """Send a request and return the head of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address, limit=LONGEST_HEAD)
        reader, writer = self._streams
        writer.write(request.encode())
        await writer.drain()
        while (head := await read_head(reader)).words[1] == "100":
            pass
        return head

    async def rest(self, head: Head, method: str) -> _Answer:
        """Return the answer whose head was read."""
        body = b"".join([piece async for piece in read_body(self.reader, head, method=method)])
        self.done(head)
        return _Answer(head.framed(len(body)) if body else head, body)

    def done(self, head: Head) -> None:
        """Let the connection go if the server does not keep it."""
        if head.headers.get("connection", "").lower() == "close" or head.words[0] == "HTTP/1.0":
            self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


def _kept_alive(head: Head) -> Head:
    headers = {name: value for name, value in head.headers.items() if name not in {"connection", "keep-alive"}}
    if not {"content-length", "transfer-encoding"} & set(headers) and head.words[1] not in {"204", "304"}:
        headers["content-length"] = "0"
    return Head(head.first.replace("HTTP/1.0", "HTTP/1.1"), headers)
