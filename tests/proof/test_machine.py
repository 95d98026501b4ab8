"""Every reader sees every commit once, whichever process stalls, fails or dies, and wherever.

Hypothesis drives the real code, request by request; `tests.proof.oracle` says what is right.
`HYPOTHESIS_PROFILE=thorough` runs ten times as many histories, which are longer.
"""

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.proof.machine import LogMachine
from tests.support.examples import examples


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_every_reader_sees_every_commit_once(*, ordered: bool) -> None:
    machine = type("Machine", (LogMachine,), {"ordered": ordered})
    run_state_machine_as_test(machine, settings=examples(15))
