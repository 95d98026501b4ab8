"""A storage whose requests fail as a test decides.

`FaultyStorage` wraps any storage and lets its requests meet faults, as they would on a network. Each object that is
asked for, put or deleted is one request, and so is each listing.
"""

import builtins
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from metaxy_fs.errors import CorruptObjectError, StorageError
from metaxy_fs.storage.base import ObjectInfo, Storage
from metaxy_fs.testing.faults import NOT_APPLIED, Fault, Faults, no_faults

T = TypeVar("T")
_HANGING = {Fault.HANG_BEFORE, Fault.HANG_AFTER}
_DAMAGING = {Fault.SHORT, Fault.WRONG}
_REASONS = {
    Fault.REFUSED: "connection refused",
    Fault.RESET_BEFORE: "connection reset by peer",
    Fault.RESET_AFTER: "connection reset by peer",
    Fault.ERROR_BEFORE: "500 internal error",
    Fault.ERROR_AFTER: "500 internal error",
    Fault.SLOW_DOWN: "503 slow down",
    Fault.THROTTLED: "429 too many requests",
    Fault.CONFLICT: "409 conflict",
    Fault.TRUNCATED: "the answer was truncated",
    Fault.SHORT: "the answer cannot be parsed",
    Fault.WRONG: "the answer cannot be parsed",
    Fault.HANG_BEFORE: "no answer",
    Fault.HANG_AFTER: "no answer",
}


class MetRequest(NamedTuple):
    """A request that met a fault; its verb is put, get, list or delete."""

    verb: str
    path: str
    fault: Fault


class FaultyStorage(Storage):
    """A storage whose requests fail as a test says. Safe to share between threads.

    It repeats nothing by itself: a fault is one that was left over after all retries, and raises what
    `metaxy_fs.storage.Storage` says of an outcome that is unknown. It cannot be pickled into other processes unless
    its faults can.

    Args:
        inner: Where the objects are.
        faults: Which fault each request meets, such as `random_faults(rate=0.1, seed=1)`; may be set at any time.
        delay: How many seconds each request takes longer.
        patience: After how many seconds a request that hangs fails.

    Attributes:
        met: The requests that met a fault, in order.
    """

    def __init__(
        self, inner: Storage, faults: Faults = no_faults, *, delay: float = 0.0, patience: float = 0.0
    ) -> None:
        self.faults = faults
        self.met: list[MetRequest] = []
        self._inner = inner
        self._delay = delay
        self._patience = patience

    @property
    def location(self) -> str:
        return self._inner.location

    @property
    def put_is_conditional(self) -> bool:
        return self._inner.put_is_conditional

    def put(self, path: str, data: bytes) -> None:
        self._request("put", path, partial(self._inner.put, path, data))

    def get(self, path: str) -> bytes:
        return self._request("get", path, partial(self._inner.get, path), damage=_damaged)

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return [self._get_sized(info) for info in objects]

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        return self._request("list", directory, partial(self._inner.list, directory, limit=limit))

    def list_directories(self, directory: str) -> builtins.list[str]:
        return self._request("list", directory, partial(self._inner.list_directories, directory))

    def delete(self, path: str) -> None:
        self._request("delete", path, partial(self._inner.delete, path))

    def list_temporaries(self, directory: str) -> builtins.list[ObjectInfo]:
        return self._inner.list_temporaries(directory)

    def __repr__(self) -> str:
        return f"FaultyStorage({self.location!r})"

    def _get_sized(self, info: ObjectInfo) -> bytes:
        [data] = self._request("get", info.path, partial(self._inner.get_many, [info]), damage=_damaged_one)
        if len(data) != info.size:
            raise CorruptObjectError(f"{info.path!r} in {self.location} holds {len(data)} bytes, expected {info.size}")
        return data

    def _request(
        self, verb: str, path: str, apply: Callable[[], T], *, damage: Callable[[T, Fault], T] | None = None
    ) -> T:
        time.sleep(self._delay)
        fault = self.faults(verb, path)
        if fault is None:
            return apply()
        self.met.append(MetRequest(verb, path, fault))
        if fault in NOT_APPLIED:
            raise self._failure(verb, path, fault)
        result = apply()
        if fault is Fault.REPEATED:
            return apply()
        # A put or a deletion has no content that could be damaged.
        if fault in _DAMAGING and (damage is not None or result is None):
            return result if damage is None else damage(result, fault)
        raise self._failure(verb, path, fault)

    def _failure(self, verb: str, path: str, fault: Fault) -> StorageError:
        if fault in _HANGING:
            time.sleep(self._patience)
        return StorageError(f"cannot {verb} {path!r} in {self.location}: {_REASONS[fault]}")


def _damaged(data: bytes, fault: Fault) -> bytes:
    middle = len(data) // 2
    if fault is Fault.SHORT:
        return data[:middle]
    return data[:middle] + bytes(byte ^ 0x20 for byte in data[middle : middle + 1]) + data[middle + 1 :]


def _damaged_one(found: builtins.list[bytes], fault: Fault) -> builtins.list[bytes]:
    return [_damaged(data, fault) for data in found]
