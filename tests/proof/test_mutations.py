"""Does the machine notice when a rule of the protocol is broken?

Each test breaks one rule and wants a violation within a fixed number of fixed examples.
"""

from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import commit as commit_module
from metaxy_fs.storage.base import Storage
from tests.proof.machine import LogMachine
from tests.proof.oracle import BrokenPromiseError

real_put_settled = commit_module.put_settled


def find_violation(machine: type[LogMachine] = LogMachine, *, examples: int = 100) -> None:
    """Run a fixed number of fixed examples, and want one of them to end in a violation."""
    bounded = settings(
        max_examples=examples,
        stateful_step_count=30,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(BrokenPromiseError):
        run_state_machine_as_test(machine, settings=bounded)


def test_a_manifest_that_is_put_before_its_data_files(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[tuple[Storage, str, bytes]] = []

    def put_settled(storage: Storage, path: str, data: bytes) -> None:
        if path.endswith(".parquet"):
            waiting.append((storage, path, data))
            return
        real_put_settled(storage, path, data)
        for held in [held for held in waiting if held[0] is storage]:
            waiting.remove(held)
            real_put_settled(*held)

    monkeypatch.setattr(commit_module, "put_settled", put_settled)
    find_violation()


def test_a_failed_put_that_is_taken_for_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def put_settled(storage: Storage, path: str, data: bytes) -> None:
        try:
            storage.put(path, data)
        except StorageError:
            return

    monkeypatch.setattr(commit_module, "put_settled", put_settled)
    find_violation()


def test_a_write_id_whose_attempts_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "_named", lambda write_id: f"write-{commit_module.random_token()}")
    find_violation()


def test_a_lost_answer_after_which_the_write_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real_commit = commit_module.commit

    def commit(storage: Storage, request: Any, *, clock: LamportClock) -> Any:
        try:
            return real_commit(storage, request, clock=clock)
        except commit_module.CommitStateUnknownError:
            return real_commit(storage, request, clock=clock)

    monkeypatch.setattr("metaxy_fs.log.log.commit", commit)
    find_violation()


def test_a_clock_that_does_not_heed_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LamportClock, "observe", lambda _self, _microseconds: None)
    find_violation()
