"""What does a store make of a network that fails?"""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from metaxy_fs.errors import ObjectExistsError, ObjectNotFoundError
from metaxy_fs.log.commit import put_settled
from metaxy_fs.storage import ObjectInfo, Storage, open_storage
from metaxy_fs.testing.faults import NOTICED, Fault, no_faults
from tests.servers import ObjectServer
from tests.servers.proxy import Proxy

Meet = Callable[..., Storage]
HASTE = 0.3
DATA = bytes(range(256)) * 40
HANGS = {Fault.HANG_BEFORE, Fault.HANG_AFTER}
SOME = [Fault.RESET_AFTER, Fault.SLOW_DOWN, Fault.TRUNCATED]
PASSING = [fault for fault in Fault if fault in NOTICED]
APPLIED = {Fault.RESET_AFTER, Fault.ERROR_AFTER, Fault.REPEATED, Fault.TRUNCATED, *HANGS}
"""Faults after which the object may be there, whatever the client was told."""


@pytest.fixture(scope="module", params=["s3", "gcs"])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    found: ObjectServer = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture(scope="module")
def proxy(server: ObjectServer) -> Iterator[Proxy]:
    with Proxy(server) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(server: ObjectServer) -> str:
    name = f"network-{uuid.uuid4().hex[:12]}"
    server.create_bucket(name)
    return name


@pytest.fixture(scope="module")
def storage(server: ObjectServer, bucket: str) -> Storage:
    """A storage that knows of no proxy."""
    return open_storage(server.url(bucket, "root"), storage_options=server.storage_options)


@pytest.fixture(scope="module")
def patient(proxy: Proxy, bucket: str) -> Storage:
    """The same storage behind the proxy."""
    return open_storage(proxy.url(bucket, "root"), storage_options=proxy.storage_options)


@pytest.fixture(scope="module")
def hasty(proxy: Proxy, bucket: str) -> Storage:
    """The same, which waits for an answer no longer than a test can."""
    limit: dict[str, Any] = {"config_kwargs": {"read_timeout": HASTE}}
    if proxy.server.scheme == "gs":
        limit = {"requests_timeout": aiohttp.ClientTimeout(sock_read=HASTE)}
    return open_storage(proxy.url(bucket, "root"), storage_options={**proxy.storage_options, **limit})


@pytest.fixture
def meeting(proxy: Proxy, patient: Storage, hasty: Storage) -> Iterator[Callable[..., Storage]]:
    """Returns the storage, whose next requests meet a fault."""

    def meet(fault: Fault, *, times: int = 1) -> Storage:
        remaining = iter([fault] * times)
        proxy.clear_requests()
        proxy.faults = lambda kind, path: next(remaining, None)
        return hasty if fault in HANGS else patient

    yield meet
    proxy.faults = no_faults


@pytest.fixture
def path() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize("fault", PASSING)
def test_get_outlives_a_fault(storage: Storage, meeting: Meet, proxy: Proxy, path: str, fault: Fault) -> None:
    storage.put(path, DATA)

    assert meeting(fault).get(path) == DATA
    assert proxy.injected() == [fault]


@pytest.mark.parametrize("fault", PASSING)
def test_get_many_outlives_faults_of_some(
    storage: Storage, meeting: Meet, proxy: Proxy, path: str, fault: Fault
) -> None:
    wanted = [ObjectInfo(f"{path}/{number}", len(DATA) - number) for number in range(10)]
    for number, info in enumerate(wanted):
        storage.put(info.path, DATA[number:])

    assert meeting(fault, times=4).get_many(wanted) == [DATA[number:] for number in range(10)]
    assert proxy.injected() == [fault] * 4


@pytest.mark.parametrize("fault", SOME)
def test_listings_outlive_a_fault(storage: Storage, meeting: Meet, path: str, fault: Fault) -> None:
    storage.put(f"{path}/a/b", DATA)

    assert [info.path for info in meeting(fault).list(path)] == [f"{path}/a/b"]
    assert meeting(fault).list_directories(path) == ["a"]


@pytest.mark.parametrize("fault", SOME)
def test_delete_outlives_a_fault(storage: Storage, meeting: Meet, path: str, fault: Fault) -> None:
    storage.put(path, DATA)

    meeting(fault).delete(path)
    with pytest.raises(ObjectNotFoundError):
        storage.get(path)


@pytest.mark.parametrize("fault", PASSING)
def test_put_outlives_a_fault_or_meets_itself(storage: Storage, meeting: Meet, path: str, fault: Fault) -> None:
    # Where the answer to a put has no body, there is nothing to truncate.
    with contextlib.suppress(ObjectExistsError) if fault in APPLIED else contextlib.nullcontext():
        meeting(fault).put(path, DATA)

    assert storage.get(path) == DATA


@pytest.mark.parametrize("fault", PASSING)
def test_settled_put_outlives_a_fault(storage: Storage, meeting: Meet, path: str, fault: Fault) -> None:
    put_settled(meeting(fault), path, DATA)

    assert storage.get(path) == DATA


@pytest.mark.parametrize("fault", SOME)
def test_settled_put_tells_another_s_object_in_spite_of_a_fault(
    storage: Storage, meeting: Meet, path: str, fault: Fault
) -> None:
    storage.put(path, b"theirs")

    with pytest.raises(ObjectExistsError):
        put_settled(meeting(fault), path, DATA)
    assert storage.get(path) == b"theirs"
