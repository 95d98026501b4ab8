"""A real S3 endpoint for the tests.

Moto answers; its own server is not used, because it cannot be hooked. The WSGI application around moto's reads the
whole request, refuses denied buckets, applies one request at a time and records it. One at a time matters: moto checks
`If-None-Match` and then puts, and iterates over a bucket's keys while another thread may add some.

Moto keeps its buckets in globals: two servers in one process share them, so bucket names have to be unique.
"""

import io
import socketserver
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from obstore.fsspec import FsspecStore
from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import make_server
from werkzeug.test import Client
from werkzeug.wrappers import Response
from werkzeug.wsgi import get_input_stream

from tests.servers import LOOPBACK, Kind, ObjectServer, parse_query

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_TAKEN = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>PreconditionFailed</Code><Message>taken</Message><Condition>If-None-Match</Condition></Error>"""
_REFUSAL = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{reason}</Code><Message>{reason}</Message><RequestId>refused</RequestId></Error>"""
_ACCESS_DENIED = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Access Denied</Message><RequestId>denied</RequestId></Error>"""


class S3Server(ObjectServer):
    """An S3 endpoint that honours `If-None-Match: *`; for copies on demand alone, since many servers do not.

    Args:
        copies_if_absent: Whether it honours the condition for copies too.
    """

    scheme = "s3"

    def __init__(self, *, copies_if_absent: bool = False) -> None:
        super().__init__()
        self._copies_if_absent = copies_if_absent
        self._moto: WSGIApplication = DomainDispatcherApplication(create_backend_app)

    @property
    def storage_options(self) -> dict[str, str]:
        """Key, secret and endpoint; no region, with which `mkdir` fails on moto: AWS_DEFAULT_REGION names it."""
        return {"key": "test", "secret": "test", "endpoint_url": self.endpoint}

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket, without a recorded request."""
        with self._applying:
            response = Client(self._moto).put(f"/{name}", base_url=self.endpoint)
        if response.status_code != 200:
            raise ValueError(f"moto refused to create bucket {name!r}: {response.get_data(as_text=True)}")

    def kind_of(self, method: str, path: str, query: Mapping[str, str]) -> Kind:
        """Return what a request asks for."""
        return _kind(method, path.removeprefix("/").partition("/")[2], query)

    def refusal(self, status: int, reason: str) -> bytes:
        """Return an error in S3's XML."""
        return _REFUSAL.format(reason=reason).encode()

    def _listen(self) -> socketserver.TCPServer:
        return make_server(LOOPBACK, 0, self._answer, threaded=True, request_handler=_QuietHandler)

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], _decoded_path(environ)
        query = parse_query(environ["QUERY_STRING"])
        bucket, _, key = path.removeprefix("/").partition("/")

        def record_and_start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            self._record(method, path, query, int(status[:3]), _kind(method, key, query))
            # Werkzeug sends a Server header of its own; aiohttp under `-X dev` refuses a second one.
            return start_response(status, [header for header in headers if header[0].lower() != "server"], exc_info)

        try:
            # Read before the lock is taken: a client that stalls or dies halfway holds up nobody and stores nothing.
            environ["wsgi.input"] = io.BytesIO(get_input_stream(environ).read())
        except ClientDisconnected as error:
            return error(environ, record_and_start)
        if bucket in self._denied:
            return Response(_ACCESS_DENIED, status=403, mimetype="application/xml")(environ, record_and_start)
        headers = {name[5:].replace("_", "-").lower(): environ[name] for name in environ if name.startswith("HTTP_")}
        if instead := self.odd(_kind(method, key, query), headers):
            answer = Response(instead.body, status=instead.status, mimetype=instead.media_type)
            return answer(environ, record_and_start)
        with self._applying:
            if self._copies_if_absent and self._would_overwrite(environ, path):
                return Response(_TAKEN, status=412, mimetype="application/xml")(environ, record_and_start)
            return self._moto(environ, record_and_start)

    def _would_overwrite(self, environ: "WSGIEnvironment", path: str) -> bool:
        """Whether a request is a copy on the condition that there is no object, and there is one."""
        if "HTTP_X_AMZ_COPY_SOURCE" not in environ or environ.get("HTTP_IF_NONE_MATCH") != "*":
            return False
        # Without credentials moto tells a stranger no more than whether there is an object.
        return Client(self._moto).head(path, base_url=self.endpoint).status_code != 404


def obstore_of(server: ObjectServer) -> FsspecStore:
    """Return obstore's filesystem for the buckets of a server."""
    return FsspecStore(
        "s3",
        endpoint=server.endpoint,
        access_key_id="test",
        secret_access_key="test",
        region="us-east-1",
        client_options={"allow_http": True},
    )


class _QuietHandler(MotoRequestHandler):
    """Moto's handler without a line on stderr for each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def _decoded_path(environ: "WSGIEnvironment") -> str:
    # WSGI passes the bytes of the path as Latin-1, whatever they encode.
    path: str = environ["PATH_INFO"]
    return path.encode("latin-1").decode("utf-8", errors="replace")


def _kind(method: str, key: str, query: Mapping[str, str]) -> Kind:
    match method:
        case "GET":
            return "GET" if key else "LIST"
        case "PUT":
            return "PUT" if key else "POST"
        case "HEAD" | "DELETE":
            return method
        case _:
            return "DELETE" if "delete" in query else "POST"
