"""Merge the rows of many data files into few, sorted by id.

Theory of operation. Files are read in batches of bounded size, and each batch is sorted. Where the statistics prove
that no id of a batch lies among those of another, as with jobs that add samples in the order of their ids, there is
nothing to merge. Else each sorted run is put into a temporary file on the local disk, and the runs are merged by ranges
of ids that hold about as many rows as a data file: so no more than a batch, or a range, is held at a time, and every
object is got once. Rows of one sample are never divided between two files.

Commits follow each other in each sorted run where their ids are equal; a sort that keeps the order of what it cannot
tell apart is enough for files of single commits, which are read in commit order.

Large files are not worth rewriting. One that holds a single commit is always listed again. One that a compaction has
written is if no other file that is merged may hold a sample of it, since no two such files may share one.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.log.chunks import MAX_FILE_BYTES, MAX_FILE_ROWS, rows_a_file
from metaxy_fs.log.fetch import fetch_whole
from metaxy_fs.log.frames import FileFrames
from metaxy_fs.log.manifest import CommitKey, DataFile, Manifest
from metaxy_fs.log.ranges import Span, plan_ranges, span_of
from metaxy_fs.log.schema import column
from metaxy_fs.log.view import LiveFile
from metaxy_fs.parallel import batched, one, ordered_map
from metaxy_fs.reserved import COMMIT, ORDINAL, TIME
from metaxy_fs.scratch import ScratchDirectory, writing_to
from metaxy_fs.storage.base import Storage

BATCH_BYTES = 64 * 1024 * 1024
BATCH_ROWS = 2**20
BATCH_FILES = 4096
"""What is read and sorted at once: enough to need few runs, little enough to hold twice."""

_ROW_GROUP_ROWS = 2**14
_PARTS = 32
_LEAST_PART = 256
"""Split points of a run are so close that the parts of it which a range may hold too much are small to a file."""

ReadProgress = Callable[[int], object]
"""Called with how many rows were read."""
Change = Callable[[pl.LazyFrame], pl.LazyFrame]
"""Leaves out some rows, which have the columns of commits; may put the others in another order."""


def merged(
    storage: Storage,
    files: Sequence[LiveFile],
    *,
    id_columns: Sequence[str],
    read: ReadProgress,
    change: Change | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield the rows of files, each frame to be a data file, sorted by id and then in commit order.

    Args:
        storage: Where the files are.
        files: Of equal schemas, ordered by their first commits.
        id_columns: What names a sample.
        read: Called as the files are read.
        change: What is done to the rows of each batch before they are kept anywhere.

    Yields:
        Frames with the columns of the schema and those of commits. A sample is in one of them.

    Raises:
        ObjectNotFoundError: A file is gone.
        CorruptObjectError: A file is not what its manifest says.
    """
    is_ordered = change is None and not any(live.is_rewritten for live in files)
    order = [*id_columns, *(() if is_ordered else (TIME, COMMIT, ORDINAL))]
    batches = list(merge_batches(files))
    apart = _in_id_order(batches, id_columns[0])

    def run(batch: Sequence[LiveFile]) -> pl.DataFrame:
        rows = stored_rows(storage, batch)
        return (rows if change is None else change(rows)).collect().sort(map(column, order), maintain_order=True)

    runs = ordered_map(run, apart or batches)
    if apart:
        for rows in runs:
            read(rows.height)
            yield from _file_sized(rows, id_columns)
        return
    spilled = _Spilled(id_columns[0], runs=len(batches))
    for rows in runs:
        spilled.add(rows)
        read(rows.height)
    for part in spilled.ranges():
        rows = part.sort(map(column, order), maintain_order=True).collect()
        yield from _file_sized(rows, id_columns)


class _Spilled:
    """Sorted runs on the local disk, which go with this object."""

    def __init__(self, id_column: str, *, runs: int) -> None:
        self._scratch = ScratchDirectory()
        self._id_column = id_column
        self._every = max(_LEAST_PART, BATCH_ROWS // (_PARTS * runs))
        self._paths: list[Path] = []
        self._spans: list[Span] = []
        self._dtype: pl.DataType = pl.Null()
        self._file_rows = BATCH_ROWS

    def add(self, rows: pl.DataFrame) -> None:
        """Keep a run."""
        path = Path(self._scratch.path(f"{len(self._paths)}.parquet"))
        with writing_to(path):
            rows.write_parquet(path, compression="lz4", row_group_size=_ROW_GROUP_ROWS)
        ids = rows.get_column(self._id_column)
        self._dtype = ids.dtype
        self._paths.append(path)
        self._spans.append(_span(ids, every=self._every))
        self._file_rows = min(self._file_rows, rows_a_file(rows))

    def ranges(self) -> Iterator[pl.LazyFrame]:
        """Yield the rows of all runs, range by range of ids, each about as many as a data file is to have."""
        everything = pl.scan_parquet(self._paths, glob=False)
        # Short of a whole file, because what a range holds is known but about.
        for part in plan_ranges(self._spans, rows=self._file_rows * 7 // 8):
            within = part.predicate(self._id_column, self._dtype)
            yield everything if within is None else everything.filter(within)


def _span(ids: pl.Series, *, every: int) -> Span:
    if not len(ids):
        return Span(0)
    values = ids.to_physical() if ids.dtype.is_temporal() else ids
    return Span(len(ids), values[0], values[-1], tuple(values.gather_every(every, offset=every).to_list()))


def _in_id_order(batches: list[list[LiveFile]], id_column: str) -> list[list[LiveFile]]:
    """Return batches in the order of their ids, none if those of two may lie among each other."""
    if len(batches) == 1:
        return batches
    try:
        ends = [_ends(batch, id_column) for batch in batches]
        places = sorted(range(len(batches)), key=lambda place: ends[place])
        are_apart = all(ends[before][1] < ends[after][0] for before, after in pairwise(places))
    except TypeError:  # some bounds are unknown, or a stranger's manifest claims a string as the bound of a number
        return []
    return [batches[place] for place in places] if are_apart else []


def _ends(batch: Sequence[LiveFile], id_column: str) -> tuple[Any, Any]:
    """Return the least and the greatest id of some files, None where it is not known."""
    spans = [span for live in batch if (span := span_of(live.file, id_column)).rows]
    if not spans or any(span.low is None for span in spans):
        return None, None
    return min(span.low for span in spans), max(span.high for span in spans)


def _file_sized(rows: pl.DataFrame, id_columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Divide sorted rows evenly into frames that each fill a data file at most, unless one sample alone is more."""
    parts = -(-rows.height // rows_a_file(rows))
    if parts < 2:
        yield rows
        return
    ids = rows.select(map(column, id_columns))
    is_start = ids.select(pl.any_horizontal(pl.all().ne_missing(pl.all().shift(1)))).to_series()
    starts = is_start.arg_true()
    wanted = [starts.search_sorted(rows.height * part // parts) for part in range(1, parts)]
    cuts = [0, *sorted({starts[at] for at in wanted if 0 < at < len(starts)}), rows.height]
    for begin, end in pairwise(cuts):
        yield rows.slice(begin, end - begin)


def stored_rows(storage: Storage, batch: Sequence[LiveFile]) -> pl.LazyFrame:
    """Return the rows of files of equal schemas, which are fetched whole, with the columns of commits."""
    frames = FileFrames(batch[0].schema, partition_column=None, with_commits=False)
    sources = fetch_whole(storage, batch)
    return frames.unsorted(batch, sources, is_mixed=True, columns=lambda live: live.stored_schema.names())


def merge_batches(files: Iterable[LiveFile]) -> Iterator[list[LiveFile]]:
    """Yield files in groups that are read and sorted at once."""
    rows = attrgetter("file.rows"), BATCH_ROWS
    return batched(files, (one, BATCH_FILES), rows, (attrgetter("file.bytes"), BATCH_BYTES))


LARGE_ROWS = MAX_FILE_ROWS // 2
LARGE_BYTES = MAX_FILE_BYTES // 8
"""From what on a file is large: half of what one may hold. In memory rows take several times the bytes of a file."""


class Division(NamedTuple):
    """Which of some files of one schema are listed again, and which are merged, each group by itself.

    Attributes:
        kept: In the order given.
        merged: Groups whose ids come one after the other, with those of kept files between; each in the order given.
    """

    kept: list[LiveFile]
    merged: list[list[LiveFile]]


def divide(files: Sequence[LiveFile], *, clusters: bool = False) -> Division:
    """Divide some files of one schema.

    Args:
        files: The files.
        clusters: Whether large files of single commits are merged, too, where their ids overlap with those of others.
    """
    apart = _apart([live for live in files if clusters or live.is_rewritten or not _is_large(live)])
    kept = [live for live in files if _is_large(live) and (_is_single(live, clusters=clusters) or id(live) in apart)]
    chosen = set(map(id, kept))
    merged = [live for live in files if id(live) not in chosen]
    groups = _between(merged, [live for live in kept if not _is_single(live, clusters=clusters)])
    # One file that has nothing to be merged with is as good as what it would become.
    alone = {id(group[0]) for group in groups if len(group) == 1 and not group[0].excluded}
    chosen |= alone
    kept = [live for live in files if id(live) in chosen]
    return Division(kept, [group for group in groups if id(group[0]) not in alone])


def listed_again(live: LiveFile, *, schema: int) -> DataFile:
    """Return the entry of a file that a compaction leaves as it is.

    Args:
        live: The file.
        schema: Which of the compaction's schemas it has.
    """
    if live.is_rewritten:
        return msgspec.structs.replace(live.file, schema=schema)
    time, commit = live.first
    return msgspec.structs.replace(live.file, schema=schema, commit=commit, time=time, offset=live.offset)


def overlap(files: Sequence[LiveFile]) -> bool:
    """Whether the ids of some files of one schema are known to lie among each other, more than at their ends."""
    spans = [_span_of_file(live) for live in files]
    known = [(span.low, span.high) for span in spans if span.rows and span.low is not None and span.high is not None]
    try:
        known.sort()
        highest = accumulate((high for _, high in known), max)
        return any(low < before for (low, _), before in zip(known[1:], highest, strict=False))
    except TypeError:  # a stranger's manifest may claim a string as the bound of a number
        return False


def _is_single(live: LiveFile, *, clusters: bool) -> bool:
    """Whether a file stays as it is because it is that of a commit."""
    return not clusters and not live.is_rewritten


def is_loose(manifest: Manifest, *, files: int) -> bool:
    """Whether a manifest stands for so many small files of one schema as they were written, and for no others.

    So does that of prepared writes (see `metaxy_fs.log.prepared`), and no compaction that follows it: of the small
    files of one schema it writes others, unless there is one.
    """
    if not manifest.covers or any(file.first is not None for file in manifest.files):
        return False
    small = Counter(file.schema for file in manifest.files if file.rows < LARGE_ROWS and file.bytes < LARGE_BYTES)
    return max(small.values(), default=0) >= files


def _is_large(live: LiveFile) -> bool:
    is_large = live.file.rows >= LARGE_ROWS or live.file.bytes >= LARGE_BYTES
    return is_large and not live.excluded


def _between(files: Sequence[LiveFile], kept: Sequence[LiveFile]) -> list[list[LiveFile]]:
    """Group files by between which of the kept ones their ids lie."""
    ends = sorted(_span_of_file(live).high for live in kept)
    groups: dict[int, list[LiveFile]] = {}
    for live in files:
        low = _span_of_file(live).low
        groups.setdefault(0 if low is None else bisect_left(ends, low), []).append(live)
    return [groups[place] for place in sorted(groups)]


def _span_of_file(live: LiveFile) -> Span:
    return span_of(live.file, live.manifest.id_columns[0])


def _apart(files: Sequence[LiveFile]) -> set[int]:
    """Return which files share no value of the first id column with any other, by identity."""
    spans: list[tuple[Any, Any, int]] = []
    for live in files:
        span = _span_of_file(live)
        if span.rows and (span.low is None or span.high is None):
            return set()
        if span.rows:
            spans.append((span.low, span.high, id(live)))
    try:
        return _isolated(sorted(spans))
    except TypeError:  # a stranger's manifest may claim a string as the bound of a number
        return set()


def _isolated(spans: Sequence[tuple[Any, Any, int]]) -> set[int]:
    found = set()
    highest = None
    for index, (low, high, name) in enumerate(spans):
        is_after = highest is None or low > highest
        is_before = index + 1 == len(spans) or high < spans[index + 1][0]
        if is_after and is_before:
            found.add(name)
        highest = high if highest is None or high > highest else highest
    return found


def by_id(entries: list[DataFile], id_column: str) -> list[DataFile]:
    """Order files that share no sample; where it is not known what they hold, there is one run, which is in order."""
    spans = [span_of(entry, id_column) for entry in entries]
    if any(span.low is None and span.rows for span in spans):
        return entries
    try:
        places = sorted(range(len(entries)), key=lambda at: (True, spans[at].low) if spans[at].rows else (False,))
    except TypeError:  # a stranger's manifest may claim a string as the bound of a number
        return entries
    return [entries[place] for place in places]


def bounds_of(rows: pl.DataFrame) -> tuple[CommitKey, CommitKey]:
    """Return the first and the last commit that rows belong to."""
    times = rows.get_column(TIME)
    ends = [(time, rows.filter(times == time).get_column(COMMIT)) for time in (times.min(), times.max())]
    (first, of_first), (last, of_last) = ends
    return (first, of_first.min()), (last, of_last.max())  # type: ignore[return-value]  # no row is without its commit


def has_repeats(rows: pl.DataFrame, id_columns: Sequence[str]) -> bool:
    """Whether some sample stands twice among rows that are sorted by id."""
    ids = rows.select(map(column, id_columns))
    return bool(ids.select(pl.all_horizontal(pl.all().eq_missing(pl.all().shift(1)))).to_series().slice(1).any())


def is_in_commit_order(rows: pl.DataFrame) -> bool:
    """Whether rows come commit by commit, each in the order of its ids."""
    if not rows.get_column(TIME).is_sorted():
        return False
    keys = rows.select(TIME, COMMIT, ORDINAL)
    return keys.equals(keys.sort(pl.all()))
