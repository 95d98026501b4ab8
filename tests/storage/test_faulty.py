"""A faulty storage does what its faults say, and nothing else."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from metaxy_fs.errors import CorruptObjectError, ObjectExistsError, ObjectNotFoundError, StorageError
from metaxy_fs.storage import MemoryStorage, ObjectInfo
from metaxy_fs.testing import Fault, FaultyStorage, StorageSuite, random_faults
from metaxy_fs.testing.faults import NOT_APPLIED
from tests.storage.bypasses import Dictionary

DATA = b"some bytes"
FAILING = [fault for fault in Fault if fault not in {Fault.REPEATED, Fault.SHORT, Fault.WRONG}]


class TestWithoutFaults(StorageSuite):
    pickles = False

    @pytest.fixture
    def storage(self):
        return FaultyStorage(MemoryStorage())

    @pytest.fixture
    def bypass(self, storage):
        return Dictionary(storage._inner)


@pytest.fixture
def inner():
    return MemoryStorage()


@pytest.fixture
def meeting(inner):
    """Returns a storage on which every request meets a fault."""
    return lambda fault: FaultyStorage(inner, lambda verb, path: fault)


@pytest.mark.parametrize("fault", FAILING)
def test_every_verb_fails(inner, meeting, fault):
    inner.put("a", DATA)
    storage = meeting(fault)

    for request in [
        lambda: storage.put("b", DATA),
        lambda: storage.get("a"),
        lambda: storage.get_many([ObjectInfo("a", len(DATA))]),
        lambda: storage.list(""),
        lambda: storage.list_directories(""),
        lambda: storage.delete("a"),
    ]:
        with pytest.raises(StorageError) as caught:
            request()
        assert not isinstance(caught.value, ObjectExistsError | ObjectNotFoundError)
    assert [met.verb for met in storage.met] == ["put", "get", "get", "list", "list", "delete"]
    assert {met.fault for met in storage.met} == {fault}


@pytest.mark.parametrize("fault", FAILING)
def test_fault_strikes_before_or_after_the_request_is_applied(inner, meeting, fault):
    with pytest.raises(StorageError):
        meeting(fault).put("a", DATA)

    assert [info.path for info in inner.list("")] == ([] if fault in NOT_APPLIED else ["a"])


def test_repeated_put_meets_itself(inner, meeting):
    with pytest.raises(ObjectExistsError):
        meeting(Fault.REPEATED).put("a", DATA)

    assert inner.get("a") == DATA
    assert meeting(Fault.REPEATED).get("a") == DATA
    meeting(Fault.REPEATED).delete("a")
    assert inner.list("") == []


def test_short_answer_holds_half_of_an_object(inner, meeting):
    inner.put("a", DATA)

    assert meeting(Fault.SHORT).get("a") == DATA[:5]
    with pytest.raises(CorruptObjectError, match="'a'"):
        meeting(Fault.SHORT).get_many([ObjectInfo("a", len(DATA))])


def test_wrong_answer_differs_in_one_byte(inner, meeting):
    inner.put("a", DATA)
    inner.put("empty", b"")
    storage = meeting(Fault.WRONG)

    assert storage.get("a") == b"some Bytes"
    assert storage.get_many([ObjectInfo("a", len(DATA)), ObjectInfo("empty", 0)]) == [b"some Bytes", b""]


def test_damaged_listing_fails(inner, meeting):
    inner.put("a", DATA)

    for fault in [Fault.SHORT, Fault.WRONG]:
        with pytest.raises(StorageError, match="cannot be parsed"):
            meeting(fault).list("")


def test_damaged_answer_to_a_put_or_a_deletion_is_an_answer(inner, meeting):
    for fault in [Fault.SHORT, Fault.WRONG]:
        meeting(fault).put("a", DATA)
        assert inner.get("a") == DATA
        meeting(fault).delete("a")


def test_faults_may_look_at_the_request(inner):
    storage = FaultyStorage(inner, lambda verb, path: Fault.RESET_AFTER if (verb, path) == ("get", "b") else None)
    storage.put("a", DATA)
    storage.put("b", DATA)

    assert storage.get("a") == DATA
    with pytest.raises(StorageError, match=r"cannot get 'b' in memory: connection reset"):
        storage.get("b")


def test_requests_take_time_where_asked_for(inner):
    storage = FaultyStorage(inner, lambda verb, path: Fault.HANG_AFTER, delay=0.05, patience=0.1)

    began = time.monotonic()
    with pytest.raises(StorageError):
        storage.put("a", DATA)
    assert time.monotonic() - began >= 0.15


def test_faults_of_a_rate_are_reproducible_and_of_the_kinds_asked_for():
    kinds = [Fault.SLOW_DOWN, Fault.RESET_AFTER]
    one, two = (random_faults(rate=0.1, seed=3, of=chosen) for chosen in (kinds, kinds[::-1]))
    met = [one("get", "a") for _ in range(5_000)]

    assert met == [two("get", "a") for _ in range(5_000)]
    assert 400 < len(met) - met.count(None) < 600
    assert set(met) == {None, *kinds}


def test_threads_share_the_dice(inner):
    storage = FaultyStorage(inner, random_faults(rate=0.5, seed=1, of=[Fault.RESET_BEFORE]))

    def put(number):
        try:
            storage.put(str(number), DATA)
        except StorageError:
            return 1
        return 0

    with ThreadPoolExecutor(8) as pool:
        failed = sum(pool.map(put, range(500)))
    assert failed == len(storage.met) == 500 - len(inner.list(""))
