"""Bring each feature of the demo up to date, and compute nothing twice.

Rows are committed in batches, so that a run that was cut short is taken up where it ended.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from metaxy_fs.cli.features import DemoFeatures
from metaxy_fs.cli.hashing import FILE_ROWS, hash_files, was_quiet_when_hashed
from metaxy_fs.cli.texts import LARGEST, TEXT_ROWS, TOO_LARGE, Measures, measure, not_measured
from metaxy_fs.cli.tree import OutOfReach, Tree, open_file, reason_of
from metaxy_fs.errors import FeatureNotFoundError
from metaxy_fs.ids import wall_clock
from metaxy_fs.metadata_store import Increment, InMemoryMetadataStore, MetadataStore
from metaxy_fs.progress import progress
from metaxy_fs.reserved import DATA_VERSION
from metaxy_fs.spec import Feature

FILES_PER_COMMIT = 10_000
TEXTS_PER_COMMIT = 1_000
BYTES_PER_COMMIT = 4 * 1024**3

_CHANGED = "it changed since it was hashed"


@dataclass(frozen=True)
class Outcome:
    """What became of one feature in this run.

    Attributes:
        increment: What was new, stale and orphaned before it. `orphaned` leaves out what is merely out of reach.
        computed: How many rows were written.
        left: What is left for another run, and why.
        seconds: How long it took.
    """

    increment: Increment
    computed: int
    left: Sequence[OutOfReach]
    seconds: float


def update_files(
    store: MetadataStore, feature: type[Feature], directory: Path, tree: Tree, *, rehash: bool
) -> tuple[Outcome, pl.DataFrame]:
    """Hash the files that are not as they were, and write the rows that are new or stale.

    Args:
        store: Where the rows are kept.
        feature: The root feature.
        directory: What was walked.
        tree: What was found there.
        rehash: Whether to hash every file again, also those of the same size, mode and time as at the last hash.

    Returns:
        The outcome, and the row of every file that could be read, in this run or before.
    """
    started = wall_clock()
    present = pl.DataFrame(schema=FILE_ROWS) if rehash else _unchanged(store, feature, tree.files)
    to_hash = tree.files.join(present, on="path", how="anti", maintain_order="left")
    left = list(tree.out_of_reach)
    steps: list[Increment] = []
    with progress("hashing", total=int(to_hash["size"].sum())) as advance:
        for batch in _batches(to_hash, rows=FILES_PER_COMMIT):
            rows, failed = hash_files(directory, batch["path"].to_list(), advance=advance)
            present, left = pl.concat([present, rows]), [*left, *failed]
            increment = store.resolve_update(feature, samples=present)
            if increment:
                store.write_metadata(feature, increment.pending)
            steps.append(increment)
    increment = _joined(steps, out_of_reach=left)
    return Outcome(increment, increment.pending.height, left, _seconds_since(started)), present


def resolve_texts(
    store: MetadataStore, features: DemoFeatures, files: pl.DataFrame, *, out_of_reach: Sequence[OutOfReach]
) -> Increment:
    """Return which texts are to be counted, given the rows of the files.

    The versions are those of the files as this run saw them, whatever other runs write to the root at the same time.
    """
    seen = InMemoryMetadataStore(fallback_stores=[store])
    seen.write_metadata(features.files, files)
    samples = files.select("path", "size", pl.col(DATA_VERSION).struct.field("content"))
    return _joined([seen.resolve_update(features.texts, samples=samples)], out_of_reach=out_of_reach)


def update_texts(store: MetadataStore, feature: type[Feature], directory: Path, increment: Increment) -> Outcome:
    """Count what is new or stale and write it."""
    started = wall_clock()
    pending = increment.pending
    left: list[OutOfReach] = []
    with progress("counting", total=int(pending["size"].sum())) as advance:
        for batch in _batches(pending, rows=TEXTS_PER_COMMIT):
            rows, failed = _count_texts(directory, batch, advance=advance)
            left += failed
            if rows.height:
                store.write_metadata(feature, rows)
    return Outcome(increment, pending.height - len(left), left, _seconds_since(started))


def latest(
    store: MetadataStore, feature: type[Feature], *, columns: Sequence[str] | None = None
) -> pl.DataFrame | None:
    """Return the latest row of each sample, None if there is none."""
    try:
        return store.read_metadata(feature, columns=columns, latest_only=True)
    except FeatureNotFoundError:
        return None


def _unchanged(store: MetadataStore, feature: type[Feature], found: pl.DataFrame) -> pl.DataFrame:
    """Return the stored rows of the files whose size, mode and time are those stored."""
    stored = latest(store, feature, columns=list(FILE_ROWS))
    if stored is None:
        return pl.DataFrame(schema=FILE_ROWS)
    stat = pl.col(DATA_VERSION).struct.field("stat")
    return stored.filter(was_quiet_when_hashed()).join(
        found, left_on=["path", stat], right_on=["path", "stat"], how="semi"
    )


def _count_texts(
    directory: Path, batch: pl.DataFrame, *, advance: Callable[[int], object]
) -> tuple[pl.DataFrame, list[OutOfReach]]:
    """Return the rows of samples, and which of them could not be counted."""
    rows, failed = [], []
    for sample, size, content in batch.select("path", "size", "content").iter_rows():
        measures = _measure_file(directory, sample, size=size, content=content)
        if isinstance(measures, OutOfReach):
            failed.append(measures)
        else:
            rows.append((sample, *measures))
        advance(size)
    counted = pl.DataFrame(rows, schema={"path": pl.String(), **TEXT_ROWS}, orient="row")
    return counted.join(batch.select("path", DATA_VERSION), on="path", maintain_order="left"), failed


def _measure_file(directory: Path, sample: str, *, size: int, content: str) -> Measures | OutOfReach:
    """Return the measures of bytes that have the content's hash: only those belong to the version that is written."""
    if size > LARGEST:
        return not_measured(TOO_LARGE)
    try:
        with open_file(directory, sample) as file:
            data = file.read(size + 1)
    except OSError as error:
        return OutOfReach(sample, reason_of(error))
    return measure(data) if hashlib.sha256(data).hexdigest() == content else OutOfReach(sample, _CHANGED)


def _joined(steps: Sequence[Increment], *, out_of_reach: Sequence[OutOfReach]) -> Increment:
    """Return the increments of all batches as one; only the last was told of every sample."""
    orphaned = steps[-1].orphaned
    return Increment(
        new=pl.concat([step.new for step in steps]),
        stale=pl.concat([step.stale for step in steps]),
        orphaned=orphaned.filter(~_is_within(out_of_reach)) if out_of_reach else orphaned,
        waiting=steps[-1].waiting,
        retired=steps[-1].retired,
    )


def _is_within(out_of_reach: Sequence[OutOfReach]) -> pl.Expr:
    """Whether a sample is, or is below, something that could not be read: nobody knows whether it is gone."""
    # No path holds a NUL, so a match that begins with one begins where the path does.
    patterns = ["\0" + _pattern(each) for each in out_of_reach]
    return pl.concat_str(pl.lit("\0"), pl.col("path"), pl.lit("\0")).str.contains_any(patterns)


def _pattern(each: OutOfReach) -> str:
    if not each.is_directory:
        return f"{each.path}\0"
    return f"{each.path}/" if each.path else ""


def _batches(samples: pl.DataFrame, *, rows: int) -> Iterator[pl.DataFrame]:
    """Yield the samples in slices of so many rows and bytes; one slice without rows if there are none."""
    start, total = 0, 0
    for index, size in enumerate(samples["size"]):
        if index > start and (index - start == rows or total + size > BYTES_PER_COMMIT):
            yield samples[start:index]
            start, total = index, 0
        total += size
    yield samples[start:]


def _seconds_since(started: int) -> float:
    return (wall_clock() - started) / 1_000_000
