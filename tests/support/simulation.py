"""Let several processes take turns, as a test decides.

Theory of operation. A process is a thread that stands still before every request to its storage, until the test lets it
make that one. Whoever runs holds the only baton: the test waits until the process stands before its next request, or
has ended. So code that knows nothing of all this is interleaved at will, nothing ever runs at once, and the same
choices give the same history. Time passes when the test says so, besides a little with every request; each host has a
clock of its own, which may be wrong. Names are drawn from the seed.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from metaxy_fs.ids import Source, driven_by
from tests.support.stepped_storage import Bucket, Ending, Gate, Request, SteppedStorage

START = 1_795_000_000_000_000
"""The time at which every simulation starts, in microseconds since 1970 (UTC)."""

_REQUEST_MICROSECONDS = 20_000
_PATIENCE_SECONDS = 600.0


class KilledError(BaseException):
    """Raised in a process whose end the test has decided; no `Exception`, because no code is to go on after it."""


class Process:
    """A call on its way, which stands before one of its requests until it has ended.

    Attributes:
        pending: The request that it stands before, None once it has ended.
        requests: How many requests it has made.
        result: What the call returned.
        error: What it raised, None if it returned.
    """

    def __init__(self, call: Callable[[], Any], *, name: str) -> None:
        self.pending: Request | None = None
        self.requests = 0
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._ending: Ending | None = None
        self._go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._one_at_a_time = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_done(self) -> bool:
        """Whether the call has returned or raised."""
        return not self._thread.is_alive()

    def begin(self) -> None:
        """Run up to the first request."""
        self._thread.start()
        self._wait()

    def gate(self, request: Request) -> Ending:
        """Stand before a request until `step` lets it be made; called by the process itself."""
        # A process may have threads of its own: their requests queue up here.
        with self._one_at_a_time:
            self.pending = request
            self._stands.release()
            self._go.acquire()
            self.pending = None
            self.requests += 1
            if self._ending is None:
                raise KilledError
            return self._ending

    def step(self, ending: Ending | None = Ending.ANSWERED) -> None:
        """Make the pending request and run up to the next one; with None for an ending, die instead of making it."""
        self._ending = ending
        self._go.release()
        self._wait()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001  # for the test to judge
            self.error = error
        finally:
            self._stands.release()

    def _wait(self) -> None:
        if not self._stands.acquire(timeout=_PATIENCE_SECONDS):
            name = self._thread.name
            raise RuntimeError(f"{name} neither makes a request nor ends: does it wait for another process?")
        if self.pending is None:
            self._thread.join()


class Host:
    """Where one process runs at a time: its access to the bucket, and a clock that may be wrong.

    Objects that a test keeps here from one process to the next, such as a store, learn of the bucket as they do in a
    long job.

    Attributes:
        name: What it is called in messages.
        skew: By how many microseconds its clock is ahead.
        storage: Its access to the bucket; only processes of this host may use it.
        process: The last one that was started, None if there was none.
    """

    def __init__(self, simulation: "Simulation", *, name: str, skew: int) -> None:
        self.name = name
        self.skew = skew
        self.storage = simulation.storage(name, gate=self._gate)
        self.process: Process | None = None
        self._simulation = simulation

    @property
    def is_idle(self) -> bool:
        """Whether a process may be started."""
        return self.process is None or self.process.is_done

    def start(self, call: Callable[[], Any]) -> Process:
        """Start a process, which runs up to its first request."""
        if not self.is_idle:
            raise RuntimeError(f"{self.name} is busy")
        self.process = Process(call, name=self.name)
        with self._simulation.running(self):
            self.process.begin()
        return self.process

    def step(self, ending: Ending | None = Ending.ANSWERED) -> Process:
        """Let the process make its pending request and go on to the next one; None for an ending kills it instead."""
        if self.process is None or self.process.is_done:
            raise RuntimeError(f"{self.name} runs nothing")
        with self._simulation.running(self):
            self.process.step(ending)
        return self.process

    def finish(self, ending: Ending | None = Ending.ANSWERED) -> Process:
        """Run the process to its end; None for an ending kills it where it stands, as a loss of power does."""
        process = self.step(ending)
        while not process.is_done:
            self.step(ending)
        return process

    def _gate(self, request: Request) -> Ending:
        if self.process is None:
            raise RuntimeError(f"{request} of {self.name} is not made by a process that was started there")
        return self.process.gate(request)


class Simulation(Source):
    """A bucket, the hosts that reach it, and their time; a context manager that no process outlives.

    Inside the block all times, random names and pauses of the package come from here.

    Args:
        seed: Decides random names, and the order of unordered listings.
        page: How many names one request of a listing gives.
        ordered: Whether listings come in the order of paths.

    Attributes:
        now: The time of the storage, in microseconds since 1970 (UTC); a test may move it on.
        bucket: The objects.
        hosts: All that were made.
    """

    def __init__(self, *, seed: int = 0, page: int = 1_000, ordered: bool = True) -> None:
        super().__init__()
        self.now = START
        self.bucket = Bucket(now=lambda: self.now)
        self.hosts: list[Host] = []
        self._dice = random.Random(seed)  # noqa: S311  # nothing secret
        self._page = page
        self._ordered = ordered
        self._running: Host | None = None
        self._open = ExitStack()

    def host(self, name: str, *, skew: int = 0) -> Host:
        """Add a host whose clock is so many microseconds ahead; names are used once."""
        self.hosts.append(Host(self, name=name, skew=skew))
        return self.hosts[-1]

    def storage(self, name: str, *, gate: Gate = lambda _request: Ending.ANSWERED) -> SteppedStorage:
        """Return an access to the bucket, whose requests are answered at once unless a gate says otherwise."""
        dice = None if self._ordered else self._dice
        return SteppedStorage(self.bucket, name=name, gate=gate, page=self._page, dice=dice)

    @contextmanager
    def running(self, host: Host) -> Iterator[None]:
        """Let time be that of a host."""
        self.now += _REQUEST_MICROSECONDS
        self._running = host
        try:
            yield
        finally:
            self._running = None

    def microseconds(self) -> int:
        """Return the time on the clock of the host that runs, the storage's own outside of any."""
        return self.now + (0 if self._running is None else self._running.skew)

    def token(self) -> str:
        """Return 16 hex digits."""
        return f"{self._dice.getrandbits(64):016x}"

    def pause(self, seconds: float) -> None:
        """Let time pass without waiting."""
        self.now += round(seconds * 1_000_000)

    def __enter__(self) -> Self:
        self._open.enter_context(driven_by(self))
        return self

    def __exit__(self, *_error: object) -> None:
        for host in self.hosts:
            if not host.is_idle:
                host.finish(None)
        self._open.close()
