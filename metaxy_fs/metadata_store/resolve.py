"""The data versions of samples, which of these have to be computed, and which would have to be.

The first two are answered piece by piece (see `metaxy_fs.metadata_store.expected`): of a range of ids the upstream
rows, the stored rows and the samples are read, joined, hashed and compared, a few ranges side by side. So memory holds
a few pieces and the answer; where the answer is asked for as lazy frames, it is kept in files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import DependencyError, MetadataSchemaError, SpecError
from metaxy_fs.log import Chunks, IdRange, check_tags
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain_algorithm, report_corruption
from metaxy_fs.metadata_store.comparing import compare_with_stored
from metaxy_fs.metadata_store.expected import (
    Expected,
    ExpectedSamples,
    complete,
)
from metaxy_fs.metadata_store.features import Declared, about_feature, flag
from metaxy_fs.metadata_store.frames import (
    FrameLike,
    check_columns,
    check_write_id,
    samples_to_compare,
    samples_to_version,
)
from metaxy_fs.metadata_store.pieces import clipped, divide, have_common_bounds
from metaxy_fs.metadata_store.read import latest
from metaxy_fs.metadata_store.samples import HeldSamples, Spool, SpooledSamples, given_samples
from metaxy_fs.metadata_store.selection import selected
from metaxy_fs.metadata_store.stored_layers import compared_partitions
from metaxy_fs.metadata_store.upstream import find_upstream
from metaxy_fs.metadata_store.write import GivenTags, append
from metaxy_fs.parallel import ordered_map
from metaxy_fs.progress import tallying
from metaxy_fs.reserved import OF_INCREMENTS
from metaxy_fs.spec import FeatureGraph, FeatureSpec
from metaxy_fs.spec.specs import carried_columns
from metaxy_fs.versioning.columns import DATA_VERSION, GIVEN, MISSING, PARTITION, refuse_id_columns, version_type
from metaxy_fs.versioning.content import content_containers, version_columns, with_content, with_provenance
from metaxy_fs.versioning.definition import definition_version
from metaxy_fs.versioning.increment import Counts, Increment, LazyIncrement


@about_feature
@report_corruption
def calculate(
    store: Backend, feature: Declared, sample_df: FrameLike, *, fallback: bool
) -> pl.DataFrame | pl.LazyFrame:
    """Return samples with the data versions that follow from their upstream rows; lazily, if they came so."""
    samples, versioned = _to_version(store, feature, sample_df, fallback=fallback)
    if isinstance(samples, HeldSamples):
        return _as_given(samples.restored(list(versioned)), feature.spec)
    return _spooled(_as_given(samples.filled(frame), feature.spec) for frame in versioned).scan()


@about_feature
@report_corruption
def calculate_and_write(
    store: Backend,
    feature: Declared,
    sample_df: FrameLike,
    *,
    fallback: bool,
    write_id: str | None = None,
    tags: GivenTags = None,
) -> pl.DataFrame | pl.LazyFrame:
    """Do what `calculate` does and commit the result.

    Of samples in memory the first are encoded before the last are hashed; of others nothing is, until all are known to
    have their upstream rows.
    """
    if write_id is not None:
        check_write_id(write_id)
    check_tags(store.tags, tags)
    samples, versioned = _to_version(store, feature, sample_df, fallback=fallback)
    without_given = pl.Schema({name: dtype for name, dtype in samples.schema.items() if name != GIVEN})
    check_columns(without_given, feature.spec)
    _require_content(samples.schema, feature.spec)

    def filled(frame: pl.DataFrame) -> pl.DataFrame:
        return _as_given(samples.filled(frame), feature.spec)

    versions = dict.fromkeys(version_columns(feature.spec), version_type(feature.spec))
    schema = pl.Schema({**without_given, **versions})
    if isinstance(samples, SpooledSamples):
        spool = _spooled(map(filled, versioned))
        append(store, feature, Chunks(schema, lambda: spool), write_id=write_id, tags=tags)
        return spool.scan()
    made: list[pl.DataFrame] = []

    def chunks() -> Iterator[pl.DataFrame]:
        yield from map(filled, made)
        for frame in versioned:
            made.append(frame)
            yield filled(frame)

    append(store, feature, Chunks(schema, chunks), write_id=write_id, tags=tags)
    return _as_given(samples.restored(made), feature.spec)


@about_feature
@report_corruption
def increment(
    store: Backend,
    feature: Declared,
    samples: FrameLike | None,
    *,
    stale_if: pl.Expr | None,
    where: pl.Expr | None = None,
    carries: bool = True,
    progress: bool = False,
) -> Increment:
    """Return what separates the samples of a feature from what the chain holds of them, with what deps carry or not."""
    expected = expected_samples(store, feature, samples, where=where, carries=carries)
    parts = compare_with_stored(store, expected, stale_if=stale_if).increments()
    return put_together(expected, _shown(parts, feature, is_shown=progress))


def _shown(parts: Iterable[Increment], feature: Declared, *, is_shown: bool) -> Iterator[Increment]:
    """Yield increments of ranges, and show on a terminal how many samples were found due, if that is wanted."""
    if not is_shown:  # jobs that show nothing do not load what draws
        yield from parts
        return
    with tallying(f"resolving {feature.key}", unit=" due") as advance:
        for part in parts:
            yield part
            advance(part.new.height + part.stale.height)


def put_together(expected: Expected, increments: Iterable[Increment]) -> Increment:
    """Return the increment that is made of those of ranges, in order."""
    parts, given = list(increments), expected.samples
    orphaned = pl.concat(part.orphaned for part in parts)
    if _divides_parents(expected):
        orphaned = orphaned.sort(expected.feature.spec.id_columns)
    return Increment(
        new=_restored(given, [part.new for part in parts]),
        stale=_restored(given, [part.stale for part in parts]),
        orphaned=orphaned,
        waiting=_restored(given, [part.waiting for part in parts]).select(*expected.id_columns, MISSING),
        retired=sum(part.retired for part in parts),
    )


def increment_within(store: Backend, feature: Declared, id_range: IdRange) -> Iterator[Increment]:
    """Return the increment of the default samples, or parents, within a range of the first column that names them.

    It is that of all of them where they cannot be divided by it.

    Raises:
        DependencyError: A required upstream feature has no commit, or nothing tells which samples there should be.
    """
    expected = expected_samples(store, feature, None, carries=False)
    return compare_with_stored(store, expected, stale_if=None).within(id_range)


class SpooledIncrement(NamedTuple):
    """An increment whose frames are kept part by part; but for orphaned samples of parents they are sorted by id."""

    new: Spool
    stale: Spool
    orphaned: Spool
    waiting: Spool
    retired: int

    @property
    def counts(self) -> Counts:
        """How many samples there are of each kind."""
        new, stale, orphaned, waiting, retired = self
        return Counts(new.height, stale.height, orphaned.height, waiting.height, retired)

    def pending(self) -> Iterator[pl.DataFrame]:
        """Yield the samples to compute, with the columns of `new`; between two frames no query is open."""
        return (frame.select(self.new.schema.names()) for spool in (self.new, self.stale) for frame in spool)


@about_feature
@report_corruption
def spooled_increment(
    store: Backend,
    feature: Declared,
    samples: FrameLike | None,
    *,
    stale_if: pl.Expr | None,
    where: pl.Expr | None = None,
    carries: bool = True,
    held_bytes: int = 0,
    progress: bool = False,
) -> SpooledIncrement:
    """Return what `increment` does, kept in files; so much of each frame is kept in memory instead."""
    expected = expected_samples(store, feature, samples, where=where, carries=carries)
    found = _shown(compare_with_stored(store, expected, stale_if=stale_if).increments(), feature, is_shown=progress)
    filled = (lambda frame: frame) if expected.samples is None else expected.samples.filled
    spools: list[Spool] = []
    retired = 0
    for part in found:
        retired += part.retired
        waiting = filled(part.waiting).select(*expected.id_columns, MISSING)
        frames = [filled(part.new), filled(part.stale), part.orphaned, waiting]
        spools = spools or [Spool(frame.schema, held_bytes=held_bytes) for frame in frames]
        for spool, frame in zip(spools, frames, strict=True):
            if frame.height:
                spool.add(frame)
    new, stale, orphaned, without_rows = spools
    return SpooledIncrement(new, stale, orphaned, without_rows, retired)


def lazy_increment(
    store: Backend,
    feature: Declared,
    samples: FrameLike | None,
    *,
    stale_if: pl.Expr | None,
    where: pl.Expr | None = None,
    carries: bool = True,
    progress: bool = False,
) -> LazyIncrement:
    """Return what `increment` does, sorted by id and kept in files."""
    found = spooled_increment(
        store, feature, samples, stale_if=stale_if, where=where, carries=carries, progress=progress
    )
    ids = feature.spec.id_columns
    has_parents = not set(ids) <= set(found.new.schema)
    orphaned = found.orphaned.scan().sort(ids) if has_parents else found.orphaned.scan()
    return LazyIncrement(
        new=found.new.scan(),
        stale=found.stale.scan(),
        orphaned=orphaned,
        waiting=found.waiting.scan(),
        counts=found.counts,
    )


@about_feature
@report_corruption
def impact(store: Backend, feature: Declared, code_versions: Mapping[str, int | str]) -> pl.DataFrame:
    """Return, for each feature that a change of code versions affects, how many of its stored samples become stale."""
    after = _changed_graph(feature, code_versions)
    rows = []
    for spec in list(feature.graph.specs.values()):
        changed = _changed_containers(feature.graph, after, spec)
        if changed:
            stale, samples = _count(store, Declared(spec, after), changed)
            rows.append((str(spec.key), changed, stale, samples))
    return pl.DataFrame(rows, schema=_IMPACT, orient="row")


_IMPACT = {"feature": pl.String(), "containers": pl.List(pl.String()), "stale": pl.Int64(), "samples": pl.Int64()}


def _to_version(
    store: Backend, feature: Declared, sample_df: FrameLike, *, fallback: bool
) -> tuple[HeldSamples | SpooledSamples, Iterator[pl.DataFrame]]:
    """Return samples, and an iterator that gives them with their versions, range by range."""
    spec = feature.spec
    flag(fallback, name="allow_upstream_fallback")
    _require_upstream(spec)
    samples = given_samples(sample_df, spec, check=partial(samples_to_version, spec=spec))
    expected = Expected(
        feature, find_upstream(store, feature, fallback=fallback), samples, chain_algorithm(store, fallback=fallback)
    )

    def version(id_range: IdRange) -> ExpectedSamples:
        return expected.piece(expected.collected(expected.scans(id_range)))

    column = expected.id_columns[0]
    ranges = divide(expected.inputs, column)
    if have_common_bounds(expected.inputs, column):
        ranges = clipped(ranges, samples, column)
    return samples, complete(ordered_map(version, ranges), feature, fallback=fallback)


def expected_samples(
    store: Backend,
    feature: Declared,
    given: FrameLike | None,
    *,
    carries: bool,
    where: pl.Expr | None = None,
) -> Expected:
    """Return the samples that there should be: those that were given, or else those that upstream features name."""
    spec = feature.spec
    if spec.is_root and given is None:
        raise DependencyError(
            f"Feature '{spec.key}' has no upstream features, so only the caller knows its samples and their "
            f"versions: samples=... with {list(spec.id_columns)} and '{DATA_VERSION}'. "
            "If they are files, metaxy_fs.sources.update_files lists and writes them."
        )
    refuse_id_columns(sorted(OF_INCREMENTS), ids=spec.id_columns, key=spec.key, what="an increment")
    samples = None if given is None else given_samples(given, spec, check=partial(samples_to_compare, spec=spec))
    selection = selected(where, feature, are_given=given is not None)
    expected = Expected(
        feature,
        find_upstream(store, feature, fallback=True, carries=carries, selection=selection),
        samples,
        chain_algorithm(store, fallback=True),
        carried_columns(spec) if carries else (),
        selection,
    )
    expected.check_selection()
    return expected


def _divides_parents(expected: Expected) -> bool:
    """Whether ranges are those of parents, whose samples need not come in the order of their own ids."""
    return list(expected.id_columns) != list(expected.feature.spec.id_columns)


def _as_given(samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return samples that have their versions with the content versions that the caller gave, if any."""
    if GIVEN not in samples.columns:
        return with_provenance(samples, spec)
    calculated = samples.drop(GIVEN)
    return with_content(with_provenance(calculated, spec), samples.get_column(GIVEN), spec)


def _require_content(schema: pl.Schema, spec: FeatureSpec) -> None:
    by_writer = content_containers(spec)
    if by_writer and GIVEN not in schema:
        raise MetadataSchemaError(
            f"The containers {list(by_writer)} of feature '{spec.key}' are versioned by content, so their versions "
            f"cannot be calculated. Give them in '{DATA_VERSION}', a struct with these containers, such as "
            f"df.with_columns(pl.struct(pl.col('checksum').alias('{by_writer[0]}')).alias('{DATA_VERSION}')).",
            column=DATA_VERSION,
        )


def _restored(samples: HeldSamples | SpooledSamples | None, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames) if samples is None else samples.restored(frames)


def _spooled(frames: Iterable[pl.DataFrame]) -> Spool:
    """Keep frames in files; there is at least one."""
    waiting = iter(frames)
    first = next(waiting)
    spool = Spool(first.schema)
    spool.add(first)
    for frame in waiting:
        spool.add(frame)
    return spool


def _require_upstream(spec: FeatureSpec) -> None:
    if spec.is_root:
        raise DependencyError(
            f"Feature '{spec.key}' has no upstream features to calculate data versions from. Give its rows their "
            "versions, such as a checksum of what each sample is made from, and write them with write_metadata."
        )


def _changed_graph(feature: Declared, code_versions: Mapping[str, int | str]) -> FeatureGraph:
    """Return the graph as it would be."""
    spec = feature.spec
    if not isinstance(code_versions, Mapping):
        raise TypeError(f"code_versions maps names of containers to code versions, got {code_versions!r}.")
    unknown = sorted(set(map(str, code_versions)).difference(spec.container_names))
    if unknown:
        raise SpecError(
            f"Feature '{spec.key}' has no container {', '.join(map(repr, unknown))}; it has "
            f"{list(spec.container_names)}."
        )
    given = {str(name): version for name, version in code_versions.items()}
    containers = [
        msgspec.structs.replace(container, code_version=given.get(str(container.key), container.code_version))
        for container in spec.containers
    ]
    changed = msgspec.structs.replace(spec, containers=containers)
    return FeatureGraph.from_specs({**feature.graph.specs, spec.key: changed}.values())


def _changed_containers(before: FeatureGraph, after: FeatureGraph, spec: FeatureSpec) -> list[str]:
    old, new = (definition_version(graph, spec.key).containers for graph in (before, after))
    return [name for name in spec.container_names if old[name] != new[name]]


def _count(store: Backend, feature: Declared, changed: list[str]) -> tuple[int, int]:
    """Return how many stored samples would be stale, and how many there are, where an increment would compare them."""
    scan = compared_partitions(store, feature)
    if scan is None:
        return 0, 0
    counted = latest(scan, id_columns=feature.spec.id_columns).group_by(PARTITION).len().collect()
    expected = feature.definition.containers
    elsewhere = [d.partition for d in scan.definitions if any(d.containers.get(c) != expected[c] for c in changed)]
    return _total(counted.filter(pl.col(PARTITION).is_in(elsewhere))), _total(counted)


def _total(counted: pl.DataFrame) -> int:
    return int(counted.get_column("len").sum())
