"""Stores on a network that fails."""

import contextlib
import itertools
import re
import socketserver
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import polars as pl
import pytest

from metaxy_fs import (
    CommitStateUnknownError,
    CorruptObjectError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
)
from metaxy_fs.errors import ObjectExistsError, ObjectNotFoundError, StorageAccessError, StorageError
from metaxy_fs.ids import Source, driven_by, elapsed
from metaxy_fs.log import verified_io
from metaxy_fs.log.verified_io import put_idempotent
from metaxy_fs.storage import ObjectInfo, Storage, open_storage, retry
from metaxy_fs.testing.faults import NOTICED, Fault, no_faults
from tests.servers import ObjectServer
from tests.servers.proxy import Proxy
from tests.support.patience import PATIENCE

Meet = Callable[..., Storage]
Through = Callable[[Fault], Storage]
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


@pytest.fixture(scope="module")
def through(patient: Storage, hasty: Storage) -> Through:
    """Returns the storage behind the proxy that fits a fault."""
    return lambda fault: hasty if fault in HANGS else patient


@pytest.fixture
def meeting(proxy: Proxy, through: Through) -> Meet:
    """Returns the storage, whose next requests meet a fault."""

    def meet(fault: Fault, *, times: int = 1) -> Storage:
        remaining = iter([fault] * times)
        proxy.clear_requests()
        proxy.faults = lambda kind, path: next(remaining, None)
        return through(fault)

    return meet


class ShortPauses(Source):
    """A time in which pauses between tries are as many as ever, and short."""

    def pause(self, seconds: float) -> None:
        time.sleep(seconds / 20)


@pytest.fixture(autouse=True)
def calm(proxy: Proxy) -> Iterator[None]:
    with driven_by(ShortPauses()):
        yield
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
    put_idempotent(meeting(fault), path, DATA)

    assert storage.get(path) == DATA


@pytest.mark.parametrize("fault", SOME)
def test_settled_put_tells_another_s_object_in_spite_of_a_fault(
    storage: Storage, meeting: Meet, path: str, fault: Fault
) -> None:
    storage.put(path, b"theirs")

    with pytest.raises(ObjectExistsError):
        put_idempotent(meeting(fault), path, DATA)
    assert storage.get(path) == b"theirs"


class PausesAlone(Source):
    """A time that passes in pauses alone, and costs none: how busy the machine is changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = elapsed()  # since the budget of retries knows the time of the last one

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.THROTTLED, Fault.ERROR_AFTER, Fault.RESET_BEFORE])
def test_service_that_goes_on_failing_is_given_up(
    meeting: Meet, proxy: Proxy, bucket: str, path: str, *, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = PausesAlone()
    monkeypatch.setattr(retry, "elapsed", lambda: time.now)
    # One of its own, whose budget lives in this time: with that of the others, they would wait until it has come.
    storage = open_storage(proxy.server.url(bucket, "root"), storage_options=proxy.storage_options)
    storage.list("", limit=1)
    meeting(fault, times=1_000)

    with driven_by(time), pytest.raises(StorageError, match=r"gave up after \d+ tries") as caught:
        storage.get(path)
    [tries] = map(int, re.findall(r"after (\d+) tries", str(caught.value)))
    # The clients below send each of them once, but that of GCS is on aiohttp, which repeats at once what was cut off.
    is_repeated = fault is Fault.RESET_BEFORE and proxy.server.scheme == "gs"
    assert len(proxy.requests()) == (2 * tries if is_repeated else tries)
    assert 2 <= tries < 50


def test_threads_of_a_process_share_few_retries_of_a_service_that_is_down(
    server: ObjectServer,
    proxy: Proxy,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    soak: bool,  # noqa: FBT001
) -> None:
    threads = 64 if soak else 8
    if not soak:
        monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.5)
        monkeypatch.setattr(retry, "BUDGET", 4.0)
    storage = open_storage(server.url(bucket, "root"), storage_options=proxy.storage_options)
    storage.list("", limit=1)
    proxy.clear_requests()
    proxy.faults = lambda kind, path: Fault.SLOW_DOWN

    def get(number: int) -> str:
        with pytest.raises(StorageError) as caught:
            storage.get(f"{number}")
        return str(caught.value)

    began = time.monotonic()
    with driven_by(Source()), ThreadPoolExecutor(threads) as pool:
        errors = list(pool.map(get, range(threads)))
    seconds = time.monotonic() - began
    assert all("gave up after" in error for error in errors)
    assert len(proxy.requests()) <= threads + retry.BUDGET + retry.BUDGET_A_SECOND * seconds
    if soak:
        print(
            f"\n{server.scheme}: {threads} threads gave up after {seconds:.0f} s and {len(proxy.requests())} requests"
        )


def test_failing_batch_is_given_up_with_the_name_of_an_object(
    storage: Storage, meeting: Meet, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.5)
    wanted = [ObjectInfo(f"{path}/{number}", 1) for number in range(3)]
    for info in wanted:
        storage.put(info.path, b"1")

    with pytest.raises(StorageError, match=rf"'{path}/\d'.*gave up after \d+ tries"):
        meeting(Fault.ERROR_BEFORE, times=1_000).get_many(wanted)


def test_object_that_is_gone_is_named_while_others_meet_faults(storage: Storage, meeting: Meet, path: str) -> None:
    storage.put(path, b"1")

    with pytest.raises(ObjectNotFoundError, match="'gone'"):
        meeting(Fault.ERROR_BEFORE, times=2).get_many([ObjectInfo(path, 1), ObjectInfo("gone", 1)])


def test_batch_of_which_nothing_is_answered_asks_one_by_one_until_it_is(
    storage: Storage, meeting: Meet, proxy: Proxy, path: str
) -> None:
    wanted = [ObjectInfo(f"{path}/{number}", 1) for number in range(10)]
    for info in wanted:
        storage.put(info.path, b"1")

    assert meeting(Fault.SLOW_DOWN, times=10 + 3).get_many(wanted) == [b"1"] * 10
    assert len(proxy.requests()) == 10 + 3 + 1 + 9
    # Those that failed one by one asked for the first, which was answered then.
    assert len({request.path for request in proxy.requests()[10:14]}) == 1


def test_answer_that_trickles_is_cut_short(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(retry, "BYTES_A_SECOND", 1e12)
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as pool, trickling() as endpoint:
        options = {**server.storage_options, "endpoint_url": endpoint}
        storage = open_storage(server.url("bucket", "root"), storage_options=options)
        with pytest.raises(StorageError, match="gave up after"):
            pool.submit(storage.get, "a").result(timeout=PATIENCE)


@contextlib.contextmanager
def trickling() -> Iterator[str]:
    """An endpoint that never stops to answer, a byte at a time."""
    stopped = threading.Event()

    class Trickle(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(10_000)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            with contextlib.suppress(OSError):
                while not stopped.wait(0.05):
                    self.request.sendall(b"x")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as listener:
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        stopped.set()
        listener.shutdown()


@pytest.mark.parametrize("fault", [Fault.ERROR_AFTER, Fault.RESET_AFTER])
def test_refusal_after_a_lost_answer_leaves_the_outcome_unknown(
    bucket: str, patient: Storage, proxy: Proxy, path: str, fault: Fault
) -> None:
    patient.list("", limit=1)  # so that the put goes by a connection that was used before
    met = []

    def lose_then_deny(kind: str, asked: str) -> Fault | None:
        if met:
            proxy.server.deny(bucket)
        met.append(kind)
        return fault if len(met) == 1 else None

    proxy.faults = lose_then_deny
    try:
        with pytest.raises(StorageError, match="gave up after 2 tries") as caught:
            patient.put(path, DATA)
        with pytest.raises(StorageAccessError):
            patient.put(path, DATA)
    finally:
        proxy.server.allow()
    assert not isinstance(caught.value, StorageAccessError)
    proxy.faults = no_faults
    assert patient.get(path) == DATA


# What a store makes of it.


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": f"v{sample}"} for sample in ids]})


class At:
    """Faults that one request meets, counted from the first."""

    def __init__(self, place: int, fault: Fault) -> None:
        self.remaining = place
        self.fault = fault
        self.kind = ""

    def __call__(self, kind: str, path: str) -> Fault | None:
        self.remaining -= 1
        if self.remaining != -1:
            return None
        self.kind = kind
        return self.fault


@pytest.fixture
def faults(soak: bool) -> list[Fault]:  # noqa: FBT001  # a fixture
    return list(Fault) if soak else [Fault.REPEATED]


@pytest.mark.parametrize("write_id", [None, "once"])
def test_write_that_meets_a_fault_at_any_request_is_read_once(
    storage: Storage, through: Through, proxy: Proxy, write_id: str | None, faults: list[Fault]
) -> None:
    FilesystemMetadataStore(storage).write_metadata(feature_of("any"), rows(0), write_id=write_id)
    for fault, place in itertools.product(faults, range(8)):
        written = feature_of(uuid.uuid4().hex)
        writing = FilesystemMetadataStore(through(fault))
        proxy.faults = At(place, fault)
        writing.write_metadata(written, rows(1, 2), write_id=write_id)
        reading = FilesystemMetadataStore(storage)
        assert reading.read_metadata(written).equals(rows(1, 2))
        assert reading.history(written).height == 1


def test_read_that_meets_a_fault_at_any_request_has_the_right_rows(
    storage: Storage, through: Through, proxy: Proxy, faults: list[Fault]
) -> None:
    written, store = feature_of(uuid.uuid4().hex), FilesystemMetadataStore(storage)
    for number in range(3):
        store.write_metadata(written, rows(number))
    for fault, place in itertools.product({*faults, Fault.WRONG, Fault.SHORT}, range(8)):
        proxy.faults = met = At(place, fault)
        reading = FilesystemMetadataStore(through(fault))
        try:
            read = reading.read_metadata(written)
        except CorruptObjectError:
            # What a listing tells of sizes cannot be compared with anything but the objects.
            assert met.kind == "LIST"
            assert fault in {Fault.SHORT, Fault.WRONG}
        else:
            assert read.equals(rows(0, 1, 2))


def feature_of(name: str) -> type[Feature]:
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video", name]))):
            pass

    return Video


def test_manifest_whose_outcome_cannot_be_learned_is_an_unknown_commit_that_names_it(
    storage: Storage, patient: Storage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    FilesystemMetadataStore(storage).write_metadata(feature_of("any"), rows(0), write_id="any")
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(verified_io, "_DEADLINE_SECONDS", 0.0)
    written, puts = feature_of(uuid.uuid4().hex), []

    def fail_from_the_manifest_on(kind: str, path: str) -> Fault | None:
        is_before = len(puts) < len(["definition", "data file"])
        puts.extend([kind] if kind == "PUT" else [])
        return None if is_before else Fault.ERROR_AFTER

    proxy.faults = fail_from_the_manifest_on
    with pytest.raises(CommitStateUnknownError) as caught:
        FilesystemMetadataStore(patient).write_metadata(written, rows(1))

    [found] = FilesystemMetadataStore(storage).history(written)["commit"]
    assert f"lists commit {found}," in str(caught.value)
