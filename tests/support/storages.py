"""Storages of tests that keep objects in memory: their clock, and one that overwrites."""

from datetime import UTC, datetime, timedelta

from metaxy_fs.storage.memory import MemoryStorage


class StorageClock:
    """The clock of a storage, which stands still; those of the processes that write are others."""

    def __init__(self, now: datetime = datetime(2001, 1, 1, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> int:
        return int(self.now.timestamp() * 1_000_000)

    def pass_by(self, time: timedelta) -> None:
        self.now += time


class Overwriting(MemoryStorage):
    """A root that ignores put-if-absent, as some servers do that speak the protocol of S3."""

    put_is_conditional = False

    def put(self, path: str, data: bytes) -> None:
        self.delete(path)
        super().put(path, data)
