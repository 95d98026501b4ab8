"""Gather what the report shows of a store: as values of bounded size, in which all strings can be printed.

Strings are cut here, what cannot be printed is escaped, and lists keep the newest.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import polars as pl

from metaxy_fs.log import Holdings
from metaxy_fs.markup import printable
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.overview import Held, commits_of, definitions_of, held_in
from metaxy_fs.parallel import ordered_map
from metaxy_fs.progress import counting
from metaxy_fs.spec import ALL, SAME_NAME, ContainerDep, ContainerSpec, FeatureGraph, FeatureKey, FeatureSpec

MOST_COMMITS: Final = 5_000
"""How many commits a report lists of all features together; what is older is counted in the timeline alone."""
_MOST_OF_ONE: Final = 100
_LONGEST: Final = 200
_MOST: Final = 50  # definitions, containers, causes and snapshots that are listed of one thing
_BINS: Final = 48
_AT_ONCE: Final = 8


class ContainerFacts(msgspec.Struct, frozen=True):
    """A part of a feature: its name, the version of its code, what it is made from, and how it is versioned."""

    name: str
    code: str
    made_from: str
    versioned_by: str


class DefinitionFacts(msgspec.Struct, frozen=True):
    """One definition of a feature in one store: its version, code, first and last commit, and what was written."""

    version: str
    code: str | None
    first: int
    last: int
    commits: int
    rows: int
    store: str


class CommitFacts(msgspec.Struct, frozen=True, array_like=True):
    """One commit; an array in JSON, since there are thousands."""

    time: int
    commit: str
    rows: int
    retired: int
    bytes: int
    definition: str
    compacted: bool
    tags: str


class PeriodFacts(msgspec.Struct, frozen=True, array_like=True):
    """Some commits of a timeline: when the period begins, how many there are in it, and how many rows they wrote."""

    start: int
    commits: int
    rows: int


class StateFacts(msgspec.Struct, frozen=True):
    """How many samples of a feature are in which state, and why they are stale."""

    new: int
    stale: int
    waiting: int
    orphaned: int
    missing: list[str]
    causes: list[tuple[str, int]]


class UpkeepFacts(msgspec.Struct, frozen=True):
    """The files of a feature in one store, and what compaction and vacuum would change."""

    store: str
    files: int
    bytes: int
    manifests: int
    due: int
    removable: int
    removable_bytes: int


class FeatureFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the report shows of a feature in one chain of stores."""

    key: str
    ids: list[str]
    upstream: list[str]
    containers: list[ContainerFacts]
    rows: int
    commits: int
    bytes: int
    last: int | None
    definitions: list[DefinitionFacts]
    timeline: list[PeriodFacts]
    newest: list[CommitFacts]
    upkeep: list[UpkeepFacts]
    states: StateFacts | None


class SnapshotFacts(msgspec.Struct, frozen=True):
    """A snapshot: its name, when it was made, how many commits it sees, and of which features."""

    name: str
    time: int
    commits: int
    features: list[str]


class StoreFacts(msgspec.Struct, frozen=True):
    """What the report shows of one chain of stores."""

    location: str
    chain: list[str]
    is_declared: bool
    notes: list[str]
    snapshots: list[SnapshotFacts]
    features: list[FeatureFacts]


def store_facts(
    store: MetadataStore, *, graph: FeatureGraph | None, states: bool, most_commits: int = MOST_COMMITS
) -> StoreFacts:
    """Return what the report shows of a chain.

    Args:
        store: The first of it.
        graph: The features as they are declared; by default as they are stored.
        states: Whether to count samples by state, for which ids and versions are read; nothing else reads data files.
        most_commits: How many commits may be listed.
    """
    is_declared = graph is not None
    if graph is None:
        graph = FeatureGraph.from_store(store)
        others = {note.feature for note in graph.notes if note.kind == "left out"}
    else:
        others = set(store.list_features(include_fallback=True)).difference(graph.specs)
    found = _states(store, graph) if states else {}
    keys = [*graph.specs, *sorted(others)]
    of_one = max(5, min(_MOST_OF_ONE, most_commits // max(1, len(keys))))

    def feature(key: FeatureKey) -> FeatureFacts:
        return _feature(store, key, graph.specs.get(key), found.get(str(key)), of_one)

    return StoreFacts(
        location=_text(store.location),
        chain=[_text(each.location) for each in chain(store, fallback=True)],
        is_declared=is_declared,
        notes=_texts(graph.notes),
        snapshots=_snapshots(store),
        features=list(counting(ordered_map(feature, keys, workers=_AT_ONCE), what="features")),
    )


def _states(store: MetadataStore, graph: FeatureGraph) -> dict[str, StateFacts]:
    if not graph.specs:
        return {}
    with graph.use():
        plan = store.plan(*graph.specs)
    causes: dict[str, list[tuple[str, int]]] = {}
    for feature, cause, samples in plan.causes.iter_rows():
        causes.setdefault(feature, []).append((_text(cause), samples))
    return {
        row["feature"]: StateFacts(
            row["new"],
            row["stale"],
            row["waiting"],
            row["orphaned"],
            _texts(row["missing"]),
            causes.get(row["feature"], [])[:_MOST],
        )
        for row in plan.features.iter_rows(named=True)
    }


def _feature(
    store: MetadataStore, key: FeatureKey, spec: FeatureSpec | None, states: StateFacts | None, most_commits: int
) -> FeatureFacts:
    held = held_in(store, key)
    commits = commits_of(held)
    last = commits["time"].max()
    return FeatureFacts(
        key=_text(key),
        ids=_texts(spec.id_columns if spec else ()),
        upstream=_texts(dep.key for dep in spec.deps) if spec else [],
        containers=[_container(each) for each in spec.containers[:_MOST]] if spec else [],
        commits=commits.height,
        rows=int(commits["rows"].sum()),
        bytes=int(commits["bytes"].sum()),
        last=_milliseconds(last) if isinstance(last, datetime) else None,
        definitions=_definitions(held, key),
        timeline=_timeline(commits) if held else [],
        newest=_newest(commits, most_commits),
        upkeep=[UpkeepFacts(_text(each.location), *_sums(each.stored_holdings(key))) for each, _ in held],
        states=states,
    )


def _container(container: ContainerSpec) -> ContainerFacts:
    if container.deps == ALL:
        made_from = "all containers upstream"
    elif container.deps == SAME_NAME:
        made_from = "containers of the same name"
    else:
        made_from = ", ".join(map(_named, container.deps))
    return ContainerFacts(_text(container.key), _text(container.code_version), _text(made_from), container.versioned_by)


def _named(dep: ContainerDep) -> str:
    return ", ".join(f"{dep.feature_key}/{name}" for name in (["*"] if dep.containers == ALL else dep.containers))


def _definitions(held: Held, key: FeatureKey) -> list[DefinitionFacts]:
    """Return the newest definitions, that with the last commit first."""
    newest = definitions_of(held, key).sort("last", descending=True).head(_MOST)
    return [
        DefinitionFacts(
            _text(version), code and _text(code), _milliseconds(first), _milliseconds(last), commits, rows, _text(store)
        )
        for version, code, first, last, commits, rows, store in newest.iter_rows()
    ]


def _timeline(commits: pl.DataFrame) -> list[PeriodFacts]:
    """Return the commits by periods of equal length, those without a commit left out."""
    time = pl.col("time").dt.epoch("ms")
    first, last = commits.select(time.min().alias("first"), time.max().alias("last")).row(0)
    length = max(1, -(-(last - first + 1) // _BINS))
    start = (first + (time - first) // length * length).alias("start")
    counted = commits.group_by(start).agg(pl.len().cast(pl.Int64), pl.col("rows").sum()).sort("start")
    return [PeriodFacts(*row) for row in counted.iter_rows()]


def _newest(commits: pl.DataFrame, most: int) -> list[CommitFacts]:
    newest = commits.select("time", "commit", "rows", "retired", "bytes", "partition", "compacted", "tags")
    return [
        CommitFacts(_milliseconds(time), commit, rows, retired, size, definition, compacted, _tags(tags))
        for time, commit, rows, retired, size, definition, compacted, tags in newest.tail(most).reverse().iter_rows()
    ]


def _tags(encoded: str | None) -> str:
    tags = msgspec.json.decode(encoded, type=dict[str, str]) if encoded else {}
    return _text(", ".join(f"{name} {value}" for name, value in tags.items()))


def _sums(partitions: Sequence[Holdings]) -> Iterator[int]:
    for name in ("files", "bytes", "manifests", "due", "removable", "removable_bytes"):
        yield sum(getattr(each, name) for each in partitions)


def _snapshots(store: MetadataStore) -> list[SnapshotFacts]:
    newest = store.list_snapshots().sort("time", descending=True).head(_MOST)
    return [
        SnapshotFacts(_text(row["name"]), _milliseconds(row["time"]), row["commits"], _texts(row["features"]))
        for row in newest.iter_rows(named=True)
    ]


def _texts(values: Iterable[Any]) -> list[str]:
    return [_text(value) for value in values]


def _text(value: object) -> str:
    """Return what can be printed of a value, and no more of it than anybody reads."""
    text = printable(str(value)[:_LONGEST])
    return text if len(text) <= _LONGEST and len(str(value)) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1_000)
