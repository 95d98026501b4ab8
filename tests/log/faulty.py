"""A storage with faults, which records the requests that it sees."""

from collections.abc import Callable

from metaxy_fs import testing
from metaxy_fs.storage.base import Storage
from metaxy_fs.testing import Fault

When = Callable[[str, str], str | None]
"""Called with the verb and path of each request; returns if it fails "before" or "after" it is applied, or None."""

_FAULTS = {"before": Fault.RESET_BEFORE, "after": Fault.RESET_AFTER, None: None}


class FaultyStorage(testing.FaultyStorage):
    """A storage whose requests fail as a test says; the outcome of a failed put is hidden, as on a network."""

    def __init__(self, inner: Storage, fault: When = lambda _verb, _path: None) -> None:
        super().__init__(inner, self._note)
        self.inner = inner
        self.fault = fault
        self.requests: list[tuple[str, str]] = []

    def _note(self, verb: str, path: str) -> Fault | None:
        self.requests.append((verb, path))
        return _FAULTS[self.fault(verb, path)]
