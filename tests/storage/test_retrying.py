"""How often and for how long a request is sent again."""

import socket
import uuid
from collections.abc import Callable, Iterator

import pytest
from botocore.exceptions import ClientError
from gcsfs.retry import HttpError

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import Source, driven_by
from metaxy_fs.storage import open_storage, retry
from metaxy_fs.storage.retry import (
    BUDGET,
    BUDGET_A_SECOND,
    DEADLINE_SECONDS,
    UNREACHABLE_SECONDS,
    Budget,
    GaveUpError,
    Retries,
    is_momentary,
)
from tests.servers import ObjectServer


class Time(Source):
    """A time that passes in pauses alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    time = Time()
    monkeypatch.setattr(retry, "elapsed", lambda: time.now)
    monkeypatch.setattr(retry, "_answered", set())
    with driven_by(time):
        yield time


@pytest.fixture
def tries() -> list[float]:
    """When each try of `failing` began."""
    return []


@pytest.fixture
def failing(time: Time, tries: list[float]) -> Callable[[], None]:
    def fail() -> None:
        tries.append(time.now)
        raise TimeoutError("no answer")

    return fail


def test_request_that_succeeds_is_sent_once(time: Time) -> None:
    answers = iter(["first", "second"])

    assert Retries("here").run(lambda: next(answers)) == "first"
    assert time.pauses == []


def test_request_that_fails_for_a_moment_is_sent_again(time: Time) -> None:
    outcomes = iter([TimeoutError(), ConnectionResetError(), "answer"])

    def ask() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    assert Retries("here").run(ask) == "answer"
    assert len(time.pauses) == 2


def of_s3(status: int) -> Exception:
    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


def of_gcs(status: int) -> Exception:
    return HttpError({"code": status, "message": "no"})


@pytest.mark.parametrize("answer", [of_s3, of_gcs])
def test_the_statuses_that_are_stated_are_of_a_moment(answer: Callable[[int], Exception]) -> None:
    found = [status for status in range(400, 600) if is_momentary(answer(status))]
    assert found == [408, 409, 429, 500, 502, 503, 504]


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError, PermissionError, ValueError, OSError])
def test_answer_is_not_asked_for_again(time: Time, error: type[Exception]) -> None:
    tries = []

    def ask() -> None:
        tries.append(1)
        raise error

    with pytest.raises(error):
        Retries("here").run(ask)
    assert tries == [1]


def test_no_try_begins_after_the_deadline(failing: Callable[[], None], tries: list[float]) -> None:
    with pytest.raises(GaveUpError) as caught:
        Retries("here").run(failing)

    assert DEADLINE_SECONDS - retry.LONGEST_PAUSE_SECONDS < tries[-1] <= DEADLINE_SECONDS
    assert caught.value.tries == len(tries)
    assert isinstance(caught.value.last, TimeoutError)


def test_endpoint_out_of_reach_is_given_up_sooner(time: Time, tries: list[float]) -> None:
    def ask() -> None:
        tries.append(time.now)
        raise ConnectionRefusedError

    with pytest.raises(GaveUpError):
        Retries("here").run(ask)
    assert 1 < tries[-1] <= UNREACHABLE_SECONDS


def test_endpoint_that_has_answered_gets_the_whole_deadline_when_it_is_out_of_reach(
    time: Time, tries: list[float]
) -> None:
    def ask() -> None:
        tries.append(time.now)
        raise ConnectionRefusedError

    Retries("here").run(lambda: None)
    with pytest.raises(GaveUpError):
        Retries("here").run(ask)
    assert tries[-1] > DEADLINE_SECONDS - retry.LONGEST_PAUSE_SECONDS
    tries.clear()
    time.now = 0.0
    with pytest.raises(GaveUpError):
        Retries("elsewhere").run(ask)
    assert tries[-1] <= UNREACHABLE_SECONDS


@pytest.mark.parametrize("answer", [FileNotFoundError(), ConnectionResetError(), of_s3(503), of_s3(404), of_gcs(412)])
def test_an_error_of_the_service_is_an_answer(time: Time, tries: list[float], answer: Exception) -> None:
    outcomes = iter([answer])

    def ask() -> None:
        tries.append(time.now)
        raise next(outcomes, ConnectionRefusedError())

    retries = Retries("here")
    for _ in range(2):
        with pytest.raises((GaveUpError, type(answer))):
            retries.run(ask)
    assert tries[-1] > DEADLINE_SECONDS - retry.LONGEST_PAUSE_SECONDS


def test_an_endpoint_that_stops_is_waited_for_also_at_other_roots_of_it(server: ObjectServer, time: Time) -> None:
    with type(server)() as own:
        own.create_bucket(bucket := f"test-{uuid.uuid4().hex[:12]}")
        storages = [open_storage(own.url(bucket, name), storage_options=own.storage_options) for name in ("a", "b")]
        assert storages[0].list("") == []
        address = own.address
    with socket.socket() as bound:  # and nobody else gets the port meanwhile
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        for storage in storages:
            began = time.now
            with pytest.raises(StorageError, match="gave up after"):
                storage.list("")
            assert time.now - began > DEADLINE_SECONDS - retry.LONGEST_PAUSE_SECONDS


def test_pauses_grow_up_to_a_limit_and_differ(failing: Callable[[], None], time: Time) -> None:
    runs = []
    for _ in range(50):
        time.pauses = []
        with pytest.raises(GaveUpError):
            Retries("here").run(failing)
        runs.append(time.pauses)

    for place in range(10):
        limit = min(0.1 * 2**place, 5.0)
        pauses = [run[place] for run in runs]
        assert max(pauses) <= limit
        assert min(pauses) < limit / 2 < max(pauses)


def test_dead_service_gets_a_hundred_retries_at_once_and_then_ten_a_second(time: Time) -> None:
    budget = Budget()

    assert [budget.spend(1) for _ in range(120)] == [0] * 100 + [pytest.approx(late / 10) for late in range(1, 21)]
    time.now += 2.1
    assert budget.spend(1) == 0


def test_successes_fill_the_budget_and_no_more(time: Time) -> None:
    budget = Budget()
    budget.earn(10_000)

    assert [budget.spend(1) for _ in range(101)] == [0] * 100 + [pytest.approx(0.1)]
    budget.earn(10)
    assert budget.spend(1) == 0


def test_a_retry_that_is_not_made_costs_nothing(failing: Callable[[], None], time: Time) -> None:
    retries = Retries("here")
    with pytest.raises(GaveUpError):
        retries.run(failing, requests=lambda: 1_000)  # more than the budget gives before the deadline

    assert retries._budget.spend(int(BUDGET)) == 0


def test_retries_of_a_batch_cost_what_they_send(failing: Callable[[], None], tries: list[float]) -> None:
    retries = Retries("here")
    with pytest.raises(GaveUpError):
        retries.run(failing, requests=lambda: 200)

    assert 2 <= len(tries) <= 1 + (BUDGET + DEADLINE_SECONDS * BUDGET_A_SECOND) // 200


def test_one_failure_in_ten_never_waits_for_the_budget(time: Time) -> None:
    retries = Retries("here")
    outcomes = iter([*[True] * 9, False] * 2_000)

    def ask() -> None:
        if not next(outcomes):
            raise TimeoutError

    for _ in range(10_000):
        retries.run(ask)
    assert max(time.pauses) <= retry.FIRST_PAUSE_SECONDS


def test_longer_objects_get_more_time() -> None:
    assert retry.longest_try(0) == 60
    assert retry.longest_try(100_000_000) == 60 + 1_000


def test_interruption_is_not_held_up(time: Time) -> None:
    def ask() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Retries("here").run(ask)
    assert time.pauses == []
