"""Jobs of many workers are seen whole and once in random histories of the real code, and each rule is needed for that.

`PROOF_HISTORIES=1000` lives through that many.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from metaxy_fs.log import prepared, receipts
from metaxy_fs.log.receipts import Receipt
from metaxy_fs.storage.base import Storage
from tests.proof.groups import gather
from tests.proof.test_mutations import find_violation

HISTORIES = int(os.environ.get("PROOF_HISTORIES", "12"))


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_no_history_breaks_a_promise(*, ordered: bool) -> None:
    for seed in range(HISTORIES // 2):
        gather(seed, ordered=ordered)


def without_marks(patch: pytest.MonkeyPatch) -> None:
    real = prepared.put_idempotent

    def put_idempotent(storage: Storage, path: str, data: bytes) -> None:
        if "/_copies/" not in path:
            real(storage, path, data)

    patch.setattr(prepared, "put_idempotent", put_idempotent)


def without_decisions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prepared.GroupName, "of", lambda *_: None)


def without_completion(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prepared, "_complete", lambda *_: None)


def with_twins(patch: pytest.MonkeyPatch) -> None:
    real = receipts.attempts_of

    def attempts_of(several: Iterable[Receipt], **where: Any) -> receipts.Attempts:
        return real([msgspec.structs.replace(each, task_id=None) for each in several], **where)

    patch.setattr("metaxy_fs.log.log.attempts_of", attempts_of)


def with_the_manifest_first(patch: pytest.MonkeyPatch) -> None:
    real = prepared._put_table

    def put_table(storage: Storage, request: Any, writes: Any, **options: Any) -> Any:
        waiting: list[tuple[Storage, str, bytes]] = []
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(prepared, "put_idempotent", lambda *put: waiting.append(put))
            manifest, data = real(storage, request, writes, **options)
        prepared._put_manifest(storage, request.partition, manifest, data)
        for put in waiting:
            prepared.put_idempotent(*put)
        return manifest, data

    patch.setattr(prepared, "_put_table", put_table)


@pytest.mark.parametrize(
    ("mutation", "first"),
    [
        (without_marks, 10),
        (without_decisions, 9),
        (without_completion, 9),
        (with_twins, 5),
        (with_the_manifest_first, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_rule_can_be_left_out(
    monkeypatch: pytest.MonkeyPatch, mutation: Callable[[pytest.MonkeyPatch], None], first: int
) -> None:
    mutation(monkeypatch)
    find_violation(lambda seed: gather(seed, ordered=seed % 2 == 0), first=first)
