"""Ask a store and its fallback stores, in order.

Whoever reads files tells damaged ones from a wrong question (see `metaxy_fs.log.frames`).

Their rows come one store after the other, the farthest first. So the last row of a sample, which is the one that
counts, is that of the nearest store which has any.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Concatenate, ParamSpec, TypeVar

import polars as pl

from metaxy_fs.errors import FeatureNotFoundError, HashAlgorithmError, MetaxyError, StorageAccessError, StorageError
from metaxy_fs.log import EVERYTHING, IdRange, Span, conform, unify
from metaxy_fs.markup import fragment, note, table
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.scan import Change, Scan, ScanLayer
from metaxy_fs.spec import FeatureKey
from metaxy_fs.spec.keys import did_you_mean
from metaxy_fs.system_errors import NO_DESCRIPTOR, PERMISSION_DENIED, explained, number_of


def chain(store: Backend, *, fallback: bool) -> Iterator[Backend]:
    """Yield the store, then each of its fallback stores followed by theirs; a store that is reached twice comes once.

    Args:
        store: The first to be asked.
        fallback: Whether to go on to the fallback stores.
    """
    seen: set[int] = set()
    waiting = [store]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if fallback:
            waiting = [*current.fallback_stores, *waiting]


def chain_html(store: Backend) -> str:
    """Return a table of the stores of a chain, in the order in which they are asked; none is asked now."""
    stores = list(chain(store, fallback=True))
    rows = [(number, type(each).__name__, each.location) for number, each in enumerate(stores, start=1)]
    places = table(pl.DataFrame(rows, schema=["asked", "store", "location"], orient="row"), rows=len(rows))
    mode = note(f"A {store.fallback_mode} is read from the first that has it.") if len(stores) > 1 else ""
    tags = note(f"tags: {', '.join(f'{name}={value}' for name, value in store.tags.items())}") if store.tags else ""
    return fragment(type(store).__name__, places, mode, tags)


def not_found(key: FeatureKey, *, partition: str | None, store: Backend, fallback: bool) -> FeatureNotFoundError:
    """Return the error that says where a feature was looked for, and under which other data versions it exists."""
    searched, elsewhere = [], []
    for candidate in chain(store, fallback=fallback):
        searched.append(candidate.location)
        elsewhere += [f"{version} in {candidate.location}" for version in candidate.stored_versions(key)]
    message = f"Feature '{key}'" + (f" has no rows under data version {partition}" if partition else " has no rows")
    message += f"; searched {', '.join(searched)}."
    if elsewhere:
        message += (
            f" It exists under other data versions ({'; '.join(elsewhere)}): its declaration, or that of an upstream "
            "feature, has changed since. Compute it again, keep its rows with store.rebase if only code has changed, "
            'or read them with versions="all".'
        )
    else:
        known = {other for candidate in chain(store, fallback=fallback) for other in candidate.stored_features()}
        message += did_you_mean(key, known)
        message += "" if known else " No feature has rows there: check where the store was opened."
        message += "" if fallback or not store.fallback_stores else " Fallback stores were not searched."
    return FeatureNotFoundError(message, feature=key.dotted, root=searched[0], roots=searched)


def chain_algorithm(store: Backend, *, fallback: bool) -> str:
    """Return the algorithm that all stores of a chain hash with.

    Versions of two algorithms are never equal: read side by side, they would make every sample stale.

    Raises:
        HashAlgorithmError: Two of them differ, or one is not the algorithm that its store was opened for.
    """
    first, *others = chain(store, fallback=fallback)
    algorithm = first.hash_algorithm
    for other in others:
        if other.hash_algorithm != algorithm:
            raise HashAlgorithmError(
                f"The versions of rows are hashed with {algorithm} in {first.location}, and with "
                f"{other.hash_algorithm} in its fallback store {other.location}, so those of one never equal those of "
                f"the other. Chain roots of one algorithm; a new root is made with another by "
                f"hash_algorithm={other.hash_algorithm!r}.",
                root=other.location,
            )
    return algorithm


# What Polars leaves of a long path in its messages: the partition, and the name in it.
_DATA_FILE = re.compile(r"[0-9a-f]{16}[/\\][A-Za-z0-9][A-Za-z0-9._-]*\.parquet")

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Backend)


def report_corruption(function: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Have a function of a store raise `StorageError` where the system did not let Polars open a data file.

    It is a `StorageAccessError` where this user may not read it. Files of users are theirs: their errors stay.
    """

    @wraps(function)
    def checked(store: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with reporting_corruption():
            return function(store, *args, **kwargs)

    return checked


@contextmanager
def reporting_corruption() -> Iterator[None]:
    """Do for a block what `report_corruption` does for a function."""
    try:
        yield
    except MetaxyError:
        raise
    except OSError as error:
        number, file = number_of(error), _DATA_FILE.search(str(error))
        if file is None and number not in NO_DESCRIPTOR:
            raise
        kind = StorageAccessError if number in PERMISSION_DENIED else StorageError
        what = f"the data file {file[0]}" if file else "a file"
        raise kind(f"cannot open {what}: {explained(error)}.") from error


def layered(scans: Sequence[tuple[str, Scan]]) -> Scan:
    """Return what several stores hold of one query as one scan.

    Args:
        scans: The location of each store, and what it holds; the nearest first.

    Raises:
        MetadataSchemaError: The types of a column in two stores have no type in common.
    """
    if len(scans) == 1:
        return scans[0][1]
    fitted = fitting(scans)[::-1]
    parts = LayeredParts(fitted)
    definitions = {each.partition: each for scan in fitted for each in scan.definitions}
    return Scan(
        rows=parts.rows,
        columns=list(dict.fromkeys(name for scan in fitted[::-1] for name in scan.columns)),
        id_columns=fitted[-1].id_columns,
        definitions=list(definitions.values()),
        parts=parts,
        is_exact=lambda path: all(scan.is_exact(path) for scan in fitted),
    )


def fitting(scans: Sequence[tuple[str, Scan]]) -> list[Scan]:
    """Return the scans with columns of the same names and types."""
    if len(scans) < 2:
        return [scan for _, scan in scans]
    schemas = [scan.rows.collect_schema() for _, scan in scans]
    described = [(name, schema, scan.is_exact) for (name, scan), schema in zip(scans, schemas, strict=True)]
    target = unify(described)
    return [
        scan.mapped(partial(conform, source=schema, target=target), columns=scan.columns)
        for (_, scan), schema in zip(scans, schemas, strict=True)
    ]


@dataclass(frozen=True)
class LayeredParts:
    """The parts of several scans.

    Attributes:
        scans: What each store holds, the farthest first.
        column: The column by which rows are taken.
        id_range: Those that are.
    """

    scans: Sequence[Scan]
    column: str = ""
    id_range: IdRange = EVERYTHING

    def spans(self, column: str) -> list[Span]:
        return [span for scan in self.scans for span in scan.spans(column)]

    @property
    def rows(self) -> pl.LazyFrame:
        return pl.concat([scan.rows for scan in self.scans])

    def within(self, column: str, id_range: IdRange) -> "LayeredParts":
        return replace(self, column=column, id_range=id_range)

    def layers(self) -> list[ScanLayer]:
        return [layer for scan in self.scans for layer in scan.layers(column=self.column, within=self.id_range)]

    def mapped(self, change: Change) -> "LayeredParts":
        return replace(self, scans=[scan.mapped(change, columns=scan.columns) for scan in self.scans])
