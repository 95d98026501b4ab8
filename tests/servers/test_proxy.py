"""The proxy before the servers adds what it says, and nothing else."""

import asyncio
import contextlib
import http.client
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from metaxy_fs.testing.faults import NOT_APPLIED, Fault
from tests.servers import ObjectServer
from tests.servers import proxy as proxy_module
from tests.servers.filesystems import open_filesystem
from tests.servers.proxy import Proxy
from tests.support.patience import PATIENCE, wait_until

DATA = bytes(range(256)) * 40
BEFORE = [fault for fault in Fault if fault in NOT_APPLIED]
AFTER = [fault for fault in Fault if fault not in NOT_APPLIED]
# Moto looks at who asks, not at the signature.
AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@pytest.fixture
def proxy(server: ObjectServer, bucket: str) -> Any:
    with Proxy(server) as running:
        yield running


@pytest.fixture
def filesystem(proxy: Proxy) -> Any:
    return open_filesystem(proxy.server.scheme, proxy.storage_options)


def ask(proxy: Proxy, bucket: str, name: str, *, timeout: float = PATIENCE) -> tuple[int, bytes]:
    """Get an object without a client that tries again."""
    path = f"/{bucket}/{name}" if proxy.server.scheme == "s3" else f"/download/storage/v1/b/{bucket}/o/{name}?alt=media"
    return send(proxy.endpoint, "GET", path, timeout=timeout)


def put(server: ObjectServer, bucket: str, name: str) -> None:
    s3, gcs = f"/{bucket}/{name}", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"
    send(server.endpoint, "PUT" if server.scheme == "s3" else "POST", s3 if server.scheme == "s3" else gcs, body=DATA)


def send(endpoint: str, method: str, path: str, *, body: bytes = b"", timeout: float = PATIENCE) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=timeout)
    try:
        connection.request(method, path, body=body, headers={"Authorization": AUTHORIZATION})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("size", [0, 1, 500_000])
def test_what_goes_through_comes_back(proxy: Proxy, bucket: str, filesystem: Any, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    filesystem.pipe_file(f"{bucket}/a b/é", data[:size], mode="create")

    assert filesystem.cat_file(f"{bucket}/a b/é") == data[:size]
    assert filesystem.ls(f"{bucket}/a b", detail=False) == [f"{bucket}/a b/é"]
    filesystem.rm_file(f"{bucket}/a b/é")
    assert filesystem.ls(bucket) == []
    assert not proxy.injected()


def test_proxy_records_what_the_server_records(proxy: Proxy, bucket: str, filesystem: Any) -> None:
    filesystem.pipe_file(f"{bucket}/a b/é", DATA, mode="create")
    filesystem.cat_ranges([f"{bucket}/a b/é"], [0], [10])
    filesystem.ls(bucket)

    assert proxy.requests() == proxy.server.requests()
    proxy.clear_requests()
    assert proxy.kinds() == []


def test_requests_wait_side_by_side(proxy: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[float] = []

    async def wait_for_the_others(delay: float) -> None:
        waiting.append(delay)
        while len(waiting) < 10:
            await pause(0.01)

    pause = asyncio.sleep
    put(proxy.server, bucket, "a")
    proxy.delay = 0.5
    monkeypatch.setattr(proxy_module.asyncio, "sleep", wait_for_the_others)

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(lambda _: ask(proxy, bucket, "a"), range(10))) == {(200, DATA)}
    assert waiting == [0.5] * 10


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.REFUSED, ConnectionError),
        (Fault.RESET_BEFORE, ConnectionError),
        (Fault.RESET_AFTER, ConnectionError),
        (Fault.ERROR_BEFORE, 500),
        (Fault.ERROR_AFTER, 500),
        (Fault.SLOW_DOWN, 503),
        (Fault.THROTTLED, 429),
        (Fault.CONFLICT, 409),
        (Fault.REPEATED, DATA),
        (Fault.TRUNCATED, http.client.IncompleteRead),
        (Fault.SHORT, DATA[: len(DATA) // 2]),
        (Fault.WRONG, DATA[: len(DATA) // 2] + b"\x20" + DATA[len(DATA) // 2 + 1 :]),
    ],
)
def test_fault_is_what_the_client_meets(proxy: Proxy, bucket: str, fault: Fault, expected: Any) -> None:
    put(proxy.server, bucket, "a")
    proxy.faults = lambda kind, path: fault

    if isinstance(expected, type):
        with pytest.raises(expected):
            ask(proxy, bucket, "a")
    else:
        assert expected in ask(proxy, bucket, "a")
    assert proxy.injected() == [fault]


@pytest.mark.parametrize("fault", BEFORE)
def test_fault_strikes_before_the_request_is_applied(proxy: Proxy, bucket: str, fault: Fault) -> None:
    strike(proxy, bucket, fault)

    assert proxy.server.requests() == []


@pytest.mark.parametrize("fault", AFTER)
def test_fault_strikes_after_the_request_is_applied(proxy: Proxy, bucket: str, fault: Fault) -> None:
    strike(proxy, bucket, fault)

    assert len(proxy.server.requests()) == (2 if fault is Fault.REPEATED else 1)


def strike(proxy: Proxy, bucket: str, fault: Fault) -> None:
    """Let one request meet a fault; return when the fault has happened."""
    put(proxy.server, bucket, "a")
    proxy.server.clear_requests()
    proxy.faults = lambda kind, path: fault
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(proxy, bucket, "a", timeout=1.0 if "HANG" in fault.name else PATIENCE)
    wait_until(proxy.injected)
    assert proxy.injected() == [fault]


def test_hanging_request_lasts_until_the_client_gives_up(proxy: Proxy, bucket: str) -> None:
    proxy.faults = lambda kind, path: Fault.HANG_BEFORE

    with pytest.raises(TimeoutError):
        ask(proxy, bucket, "a", timeout=0.3)


def test_stopped_proxy_ends_what_hangs(server: ObjectServer, bucket: str) -> None:
    proxy = Proxy(server, faults=lambda kind, path: Fault.HANG_BEFORE).start()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(ask, proxy, bucket, "a", timeout=PATIENCE)
        wait_until(proxy.injected)
        proxy.stop()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            hanging.result(timeout=PATIENCE)
