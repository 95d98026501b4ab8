"""A real GCS endpoint for the tests.

gcp-storage-emulator routes and stores; its own server is not used, because it serves one request at a time, closes each
connection, and ignores `ifGenerationMatch`, so that a second exclusive create overwrites the first. The server here
keeps connections alive on a thread each, reads the whole request, refuses denied buckets, applies one request at a
time, and answers 412 where `ifGenerationMatch=0` meets an object.

One trap stays: gcsfs ends its parts with LF and the emulator parses them as mail, so the last byte of an object below
50 MB is lost if it is a carriage return.
"""

import contextlib
import functools
import io
import json
import logging
import re
import socket
import socketserver
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from gcp_storage_emulator.handlers.buckets import create_bucket  # type: ignore[import-untyped]
from gcp_storage_emulator.server import Router  # type: ignore[import-untyped]
from gcp_storage_emulator.storage import Storage  # type: ignore[import-untyped]

from tests.servers import LOOPBACK, Kind, ObjectServer, parse_query

# /storage/v1/b lists buckets, /b/<bucket> is one of them, /b/<bucket>/o lists its objects, /b/<bucket>/o/<name> is one.
_API_PATH = re.compile(
    r"(?:/(?P<service>upload|download))?/storage/v1/b(?:/(?P<bucket>[^/]+)(?P<objects>/o(?:/(?P<name>.+))?)?)?"
)


class GCSServer(ObjectServer):
    """A GCS endpoint that honours `ifGenerationMatch=0`."""

    scheme = "gs"

    def __init__(self) -> None:
        super().__init__()
        self._storage = _ExclusiveStorage(use_memory_fs=True)
        # The emulator logs a refused precondition as an error; what really breaks in it still reaches stderr.
        logging.getLogger("gcp_storage_emulator.server").disabled = True

    @property
    def storage_options(self) -> dict[str, str]:
        """An anonymous token, a project, and the endpoint."""
        return {"token": "anon", "project": "test", "endpoint_url": self.endpoint}

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket, without a recorded request."""
        with self._applying:
            if not create_bucket(name, self._storage):
                raise ValueError(f"bucket {name!r} exists")

    def kind_of(self, method: str, path: str, query: Mapping[str, str]) -> Kind:
        """Return what a request asks for."""
        return _bucket_and_kind(method, path, query)[1]

    def refusal(self, status: int, reason: str) -> bytes:
        """Return an error in the form of the JSON API."""
        error = {"code": status, "message": reason, "errors": [{"domain": "global", "reason": reason}]}
        return json.dumps({"error": error}).encode()

    def answer(self, exchange: "_Handler", method: str) -> None:
        """Answer the request that a handler has read, and record it."""
        url = urlsplit(exchange.path)
        query = parse_query(url.query)
        bucket, kind = _bucket_and_kind(method, url.path, query)
        if bucket in self._denied:
            exchange.refuse(403, "forbidden")
        elif instead := self.odd(kind, {name.lower(): value for name, value in exchange.headers.items()}):
            exchange.send(*instead)
        else:
            self._apply(exchange, method, create=query.get("ifGenerationMatch") == "0")
        self._record(method, unquote(url.path), query, exchange.status, kind)

    def _apply(self, exchange: "_Handler", method: str, *, create: bool) -> None:
        with self._applying:
            self._storage.keeps_existing = create
            try:
                Router(exchange).handle(method)
            except _PreconditionFailedError:
                exchange.refuse(412, "conditionNotMet")

    def _listen(self) -> socketserver.TCPServer:
        return _Listener((LOOPBACK, 0), functools.partial(_Handler, self, self._storage))


class _PreconditionFailedError(Exception):
    """An exclusive create met an object of that name."""


class _ExclusiveStorage(Storage):  # type: ignore[misc]  # the emulator has no types
    """The emulator's storage in memory; it is used by one request at a time, whose precondition is `keeps_existing`."""

    keeps_existing = False

    def create_file(self, bucket_name: str, file_name: str, *args: Any) -> None:
        """Store an object, unless it exists and the request is an exclusive create."""
        if self.keeps_existing and file_name in self.objects.get(bucket_name, {}):
            raise _PreconditionFailedError
        super().create_file(bucket_name, file_name, *args)

    def _write_config_to_file(self) -> None:
        # The emulator would encode the properties of all objects after each write, for a next start that never comes.
        pass


class _Listener(socketserver.ThreadingTCPServer):
    """A thread for each connection; closing the listener closes the connections that clients keep alive."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self._connections: set[Any] = set()
        self._changed = threading.Condition()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def server_close(self) -> None:
        super().server_close()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout=1)


class _Handler(BaseHTTPRequestHandler):
    """One connection; while the emulator reads from `rfile` and writes to `wfile`, both are buffers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    status = 0

    def __init__(self, owner: GCSServer, storage: Storage, *args: Any) -> None:
        self._owner = owner
        self.storage = storage  # the emulator's router looks here
        super().__init__(*args)

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def refuse(self, status: int, reason: str) -> None:
        """Answer with an error in the form of the JSON API."""
        self.send(status, "application/json", self._owner.refusal(status, reason))

    def send(self, status: int, media_type: str, body: bytes) -> None:
        """Answer with a body."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep the status for the record; called for every answer."""
        self.status = int(code)

    def _serve(self, method: str) -> None:
        # The whole body is read before the request is applied, and the answer is sent after: a client that stalls holds
        # up nobody, one that dies halfway stores nothing, and an unread body is never taken for the next request.
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return
        reader, writer, answer = self.rfile, self.wfile, io.BytesIO()
        self.rfile, self.wfile = io.BytesIO(body), answer
        try:
            self._owner.answer(self, method)
        finally:
            self.rfile, self.wfile = reader, writer
        writer.write(answer.getvalue())


def _bucket_and_kind(method: str, path: str, query: Mapping[str, str]) -> tuple[str, Kind]:
    match = _API_PATH.fullmatch(path)
    if match is None:  # the XML API: /<bucket>/<name>
        return path.split("/")[1], _plain_kind(method)
    bucket = match["bucket"] or ""
    if match["service"] == "upload":
        opens_session = query.get("uploadType") == "resumable" and "upload_id" not in query
        return bucket, "POST" if opens_session else "PUT"
    if method == "GET" and match["service"] is None and query.get("alt") != "media":
        names_one = bool(match["name"]) or (bool(bucket) and not match["objects"])
        return bucket, "HEAD" if names_one else "LIST"
    return bucket, _plain_kind(method)


def _plain_kind(method: str) -> Kind:
    match method:
        case "PUT" | "GET" | "DELETE":
            return method
        case _:
            return "POST"
