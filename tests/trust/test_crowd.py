"""Many writers and readers, a compactor and a vacuum get on with each other."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from metaxy_fs import FilesystemMetadataStore, verify
from tests.support.patience import PATIENCE
from tests.trust.crowd import Board, Outcome, Shot, Task, check_all_seen

_MANY = {"write": 8, "read": 4}, {"write": 8, "read": 4}, 180
_FEW = {"write": 2, "read": 1}, {"write": 3, "read": 2}, 1
"""How many processes of each role, how many threads each has, and for how many seconds."""


def test_a_crowd_loses_nothing_and_sees_everything(tmp_path, soak):
    processes, threads, seconds = _MANY if soak else _FEW
    # What is deleted is older than any read takes, which on a busy machine is long.
    keep, rest = (30, 0.5) if soak else (300, 0)
    root, board = str(tmp_path / "root"), Board(tmp_path / "board")
    tasks = [
        Task(role, number * threads[role], threads[role], root, str(tmp_path / "board"), keep=keep, rest=rest)
        for role in processes
        for number in range(processes[role])
    ]
    tasks.append(Task("keep", 0, 2, root, str(tmp_path / "board"), keep=keep, rest=0))
    running = [start(task) for task in tasks]
    wait(board, seconds)
    outcomes = [outcome_of(process) for process in running]
    assert [error for outcome in outcomes for error in outcome.errors] == []

    store = FilesystemMetadataStore(root)
    rows, counts = store.read_metadata(Shot), board.counts()
    check_all_seen(rows, counts)
    assert store.history(Shot).height == rows.select("writer", "number").n_unique() == sum(counts)
    assert {finding.severity for finding in verify(store).findings} <= {"note"}
    report(outcomes, seconds)


def start(task: Task) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.trust.crowd", msgspec.json.encode(task).decode()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env=os.environ)


def wait(board: Board, seconds: float) -> None:
    """Wait until somebody has written, and then so long; no longer once somebody has failed."""
    deadline = time.monotonic() + PATIENCE
    while not any(board.counts()) and time.monotonic() < deadline:
        time.sleep(0.05)
    deadline = time.monotonic() + seconds
    while not board.is_stopped and time.monotonic() < deadline:
        time.sleep(0.05)
    board.stop()


def outcome_of(process: "subprocess.Popen[bytes]") -> Outcome:
    output, _ = process.communicate()
    assert process.returncode == 0
    return msgspec.json.decode(output, type=Outcome)


def report(outcomes: list[Outcome], seconds: float) -> None:
    done = sum((Counter(outcome.done) for outcome in outcomes), Counter())
    slowest = {role: max(each.slowest.get(role, 0) for each in outcomes) for role in ("write", "read", "keep")}
    print(f"\nin {seconds} s: {dict(done)}, the slowest in seconds: {slowest}")
