"""What the object servers of the tests have in common.

Each speaks a real protocol over HTTP on a free port of loopback, from a thread of the process that started it. Clients
of any process reach it with the server's `storage_options`, a plain dict that can be pickled. A request is applied
whole or not at all, one at a time, in some order: what a linearizable store promises, so a race that a test sees is the
race of the code under test.

Requests are recorded by the server, before the client has its answer: when a client's call returns, its requests are in
the log.
"""

import functools
import socketserver
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Literal, NamedTuple, Self
from urllib.parse import parse_qs

Kind = Literal["PUT", "GET", "LIST", "HEAD", "DELETE", "POST"]
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class RecordedRequest:
    """One answered request.

    `kind` says what it asked for in words that all servers share: PUT sends the bytes of an object, GET fetches some,
    HEAD asks for the properties of an object or a bucket, LIST enumerates, DELETE removes (in bulk too), POST is
    anything else. `path` is decoded; of a query argument that comes twice, the last value counts.
    """

    method: str
    path: str
    query: Mapping[str, str]
    status: int
    kind: Kind


class Instead(NamedTuple):
    """An answer that is given in the place of the service's own."""

    status: int
    media_type: str
    body: bytes


Odd = Callable[[Kind, Mapping[str, str]], Instead | None]
"""What a server answers instead to a request of a kind and with headers, by their names in lower case."""


class ObjectServer(ABC):
    """A server of buckets and objects, kept in memory; a context manager that starts and stops it."""

    scheme: ClassVar[str]

    def __init__(self) -> None:
        self._requests: list[RecordedRequest] = []
        self._denied: set[str] = set()
        self.odd: Odd = lambda _kind, _headers: None
        self._applying = threading.Lock()
        self._listener: socketserver.TCPServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Listen on a free port; connections are accepted when this returns."""
        if self._listener is not None:
            raise RuntimeError(f"{type(self).__name__} is running at {self.endpoint}")
        self._listener = self._listen()
        # The default poll, half a second, is how long each stop would last.
        serve = functools.partial(self._listener.serve_forever, poll_interval=0.02)
        self._thread = threading.Thread(target=serve, name=f"{self.scheme}-server", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Refuse new connections and close the open ones; a server that is not running stays as it is."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        self._listener = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        if self._listener is None:
            raise RuntimeError(f"{type(self).__name__} is not running; call start() first")
        return LOOPBACK, self._listener.server_address[1]

    @property
    def endpoint(self) -> str:
        """The URL that clients take as their endpoint."""
        host, port = self.address
        return f"http://{host}:{port}"

    @property
    @abstractmethod
    def storage_options(self) -> dict[str, str]:
        """What to hand to fsspec, or to a store, to reach this server; a new dict each time."""

    @abstractmethod
    def create_bucket(self, name: str) -> None:
        """Create an empty bucket, without a recorded request."""

    @abstractmethod
    def kind_of(self, method: str, path: str, query: Mapping[str, str]) -> Kind:
        """Return what a request asks for; the path is as it is sent, the arguments are decoded."""

    @abstractmethod
    def refusal(self, status: int, reason: str) -> bytes:
        """Return the body with which the service answers an error of this status."""

    def url(self, bucket: str, prefix: str = "") -> str:
        """Return the URL of a bucket, or of a prefix in it, as users write it."""
        return f"{self.scheme}://{bucket}/{prefix}".rstrip("/")

    def requests(self) -> list[RecordedRequest]:
        """Return the requests answered since the last `clear_requests`, in the order of their answers."""
        return list(self._requests)

    def kinds(self) -> list[Kind]:
        """Return the kinds of `requests()`: what most tests assert."""
        return [request.kind for request in self.requests()]

    def clear_requests(self) -> None:
        """Forget the requests recorded so far."""
        self._requests.clear()

    def deny(self, bucket: str) -> None:
        """Answer every request on a bucket with 403, until `allow`."""
        self._denied.add(bucket)

    def allow(self) -> None:
        """Deny no bucket any more, and answer as the service does."""
        self._denied.clear()
        self.odd = lambda _kind, _headers: None

    @abstractmethod
    def _listen(self) -> socketserver.TCPServer:
        """Bind a free port of loopback and return the server, not yet serving."""

    def _record(self, method: str, path: str, query: Mapping[str, str], status: int, kind: Kind) -> None:
        self._requests.append(RecordedRequest(method=method, path=path, query=query, status=status, kind=kind))


def parse_query(query: str) -> dict[str, str]:
    """Return the arguments of a query string; one without a value, such as `?delete`, has the empty string."""
    return {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
