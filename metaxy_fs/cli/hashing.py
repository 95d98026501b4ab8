"""Hash the files of the demo, and tell which hashes still hold.

Bytes are hashed in pieces and in a few threads, so neither large files nor slow disks hold up much. A file that changes
while it is read has no one content; it is left for another run.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

import polars as pl

from metaxy_fs.cli.tree import FileStat, OutOfReach, open_file, reason_of
from metaxy_fs.ids import wall_clock
from metaxy_fs.reserved import DATA_VERSION

PIECE = 1 << 20
CHANGED = "it changed while it was read"

_THREADS = 4
_TIME = pl.Datetime("us", "UTC")
FILE_ROWS = pl.Schema(
    {
        "path": pl.String(),
        "size": pl.Int64(),
        "mode": pl.Int64(),
        "modified": _TIME,
        "hashed": _TIME,
        DATA_VERSION: pl.Struct({"content": pl.String, "stat": pl.String}),
    }
)
"""The columns of the rows of files; `hashed` is when the content was looked at."""

_HashedFile = tuple[str, int, int, int, int, dict[str, str]]


def hash_files(
    directory: Path, samples: Sequence[str], *, advance: Callable[[int], object]
) -> tuple[pl.DataFrame, list[OutOfReach]]:
    """Return the rows of files, and which of them could not be read.

    Args:
        directory: What the ids of the samples are relative to.
        samples: The ids.
        advance: Called with the number of bytes after each piece, from several threads.
    """
    outcomes = list(_in_threads(directory, samples, advance))
    rows = [outcome for outcome in outcomes if not isinstance(outcome, OutOfReach)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, OutOfReach)]
    return pl.DataFrame(rows, schema=FILE_ROWS, orient="row"), failed


def was_quiet_when_hashed() -> pl.Expr:
    """Whether a file was hashed long enough after its modification that no later change can bear the same time.

    File systems note times in ticks: of some milliseconds mostly, of up to two seconds where all times are whole
    seconds. A file that is changed twice within a tick looks as it did in between.
    """
    is_coarse = pl.col("modified").dt.microsecond() == 0
    tick = pl.when(is_coarse).then(timedelta(seconds=2)).otherwise(timedelta(milliseconds=100))
    return pl.col("hashed") - pl.col("modified") > tick


def _in_threads(
    directory: Path, samples: Sequence[str], advance: Callable[[int], object]
) -> Iterator[_HashedFile | OutOfReach]:
    is_stopped = Event()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(partial(_hash_file, directory, advance=advance, is_stopped=is_stopped), samples)
    finally:
        # After Ctrl-C nobody waits for the end of a large file.
        is_stopped.set()
        pool.shutdown(cancel_futures=True)


def _hash_file(
    directory: Path, sample: str, *, advance: Callable[[int], object], is_stopped: Event
) -> _HashedFile | OutOfReach:
    started = wall_clock()
    digest = hashlib.sha256()
    try:
        with open_file(directory, sample) as file:
            before = FileStat.of(os.fstat(file.fileno()))
            while not is_stopped.is_set() and (piece := file.read(PIECE)):
                digest.update(piece)
                advance(len(piece))
            after = FileStat.of(os.fstat(file.fileno()))
    except OSError as error:
        return OutOfReach(sample, reason_of(error))
    if before != after or is_stopped.is_set():
        return OutOfReach(sample, CHANGED)
    version = {"content": digest.hexdigest(), "stat": before.version}
    return sample, before.size, before.mode, before.modified, started, version
