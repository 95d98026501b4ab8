"""Divide a read or an increment into tasks for other processes.

Theory of operation. A task is what one step of the local call would do, made ready for travel: the objects that compare
or read a range of ids are pickled once a plan, with holes where they hold files, and each task adds the files that its
range touches. Where it runs, the holes are filled with selections of a root that is opened there, and the same code
goes on. So a task lists nothing, and holds neither a credential nor an open root.

What may have been compacted and vacuumed since is looked for as a local read does it, among the commits that the plan
saw. A plan is a pickle: give it to processes of your own, and take it from nobody else.
"""

import builtins
import pickle
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import polars as pl

from metaxy_fs._version import WRITER
from metaxy_fs.errors import StorageError, about
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.ids import shared_clock
from metaxy_fs.log import (
    IdRange,
    LiveFile,
    Log,
    PortableSelection,
    Selection,
    encode_files,
    within_ranges,
    without_empty_chunks,
)
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import LayeredParts, report_corruption, reporting_corruption
from metaxy_fs.metadata_store.comparing import Comparing, StoredRows, compare_with_stored
from metaxy_fs.metadata_store.features import Declared, about_feature, flag
from metaxy_fs.metadata_store.pieces import PieceLimits, divide
from metaxy_fs.metadata_store.read import Read, answer, find_scan
from metaxy_fs.metadata_store.resolve import expected_samples, put_together
from metaxy_fs.metadata_store.root_references import log_among, log_at
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.metadata_store.stored_layers import KnownLayer
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.increment import Increment

_FILES: Final = 8
"""How many files a task has, about: so it stays below 10 kB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One part of a plan, in a few kB: any process with the same metaxy_fs and access to the roots may run it.

    Attributes:
        feature: The text of the feature's key.
        rows: How many rows it reads, about, over all features that it looks at.
        bytes: How large the files are that it reads, about.
    """

    feature: str
    rows: int
    bytes: int
    _plan: builtins.bytes = field(repr=False)
    _files: tuple[builtins.bytes, ...] = field(repr=False)
    _range: IdRange = field(repr=False)
    _logs: tuple[Log, ...] = field(default=(), repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # What is open here has credentials, and is of no use elsewhere.
        return {**self.__dict__, "_logs": ()}

    def _run(self, store: Backend | None, storage_options: Mapping[str, Any] | None) -> Any:
        """Return what the call of the plan gives for the range."""
        refuse_lost_threads()
        plan: _SharedPart = pickle.loads(zlib.decompress(self._plan))  # noqa: S301  # made by `plan_read` or `plan_update`, of this program
        if plan.writer != WRITER:
            raise StorageError(
                f"The task was planned by {plan.writer}, and this is {WRITER}: have the same version everywhere."
            )
        with about(feature=self.feature), reporting_corruption():
            roots = [portable.root for portable in plan.selections]
            logs = self._logs
            if store is not None:
                logs = tuple(log_among(store, root) for root in roots)
            elif storage_options or not logs:
                logs = tuple(log_at(root, storage_options or {}) for root in roots)
            parts = zip(logs, plan.selections, self._files, strict=True)
            selections = [log.opened(portable, files) for log, portable, files in parts]
            call: _Call = _Unpickler(BytesIO(plan.call), selections).load()
            return call(self._range)


class ReadTask(Task):
    """A part of a read; made by `MetadataStore.plan_read`."""

    def read(self, *, store: Backend | None = None, storage_options: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Return its rows, in commit order.

        Each root is opened by its path or URL, with those options of the planning store that are no credentials.
        Credentials come from the environment of this process, as for any store.

        Args:
            store: A store whose chain has the roots: it reads them, with its credentials and its cache.
            storage_options: What remote roots are opened with besides, such as credentials.

        Raises:
            StorageError: A root cannot be opened or read, or rows that were planned cannot be told from later ones.
            CorruptObjectError: An object cannot be trusted.
        """
        rows: pl.DataFrame = self._run(store, storage_options)
        return rows


class UpdateTask(Task):
    """A part of an increment; made by `MetadataStore.plan_update`."""

    def run(self, *, store: Backend | None = None, storage_options: Mapping[str, Any] | None = None) -> Increment:
        """Return its part of the increment; see `ReadTask.read` for the arguments and the errors."""
        increment: Increment = self._run(store, storage_options)
        return increment


@about_feature
@report_corruption
def plan_read(
    store: Backend, feature: Declared | FeatureKey, read: Read, *, fallback: bool, rows: int
) -> list[ReadTask]:
    """Return tasks that together return what `read_chain` does."""
    limits = _limits(rows)
    scan = find_scan(store, feature, read, fallback=flag(fallback, name="allow_fallback"))
    declared = tuple(feature.spec.id_columns) if isinstance(feature, Declared) else None
    by = (declared or scan.id_columns)[0]
    call = _ReadCall(scan, read, declared, by)
    key = feature.key if isinstance(feature, Declared) else feature
    return _tasks(ReadTask, key, call, [(scan, by)], divide([scan], by, limits))


@about_feature
@report_corruption
def plan_update(
    store: Backend, feature: Declared, *, where: pl.Expr | None, stale_if: pl.Expr | None, rows: int
) -> list[UpdateTask]:
    """Return tasks that together return what `increment` does."""
    limits = _limits(rows)
    feature = Declared(feature.spec, feature.graph.only_upstream(feature.spec))
    expected = expected_samples(store, feature, None, where=where, carries=True)
    comparing = replace(compare_with_stored(store, expected, stale_if=stale_if), limits=limits)
    parts, ranges = comparing.division()
    column = expected.id_columns[0]
    upstream = [(rows.scan, rows.stored_name(column) or "") for rows in expected.upstream]
    if parts is None:
        layers = [KnownLayer(layer.location, layer.current, layer.others) for layer in comparing.layers]
        call = _UpdateCall(Comparing(expected, layers, stale_if), None)
        stored = [scan for layer in layers for scan in (layer.current, layer.others) if scan is not None]
    else:
        call = _UpdateCall(replace(comparing, layers=()), parts)
        stored = [part.scan for part in parts]
    scans = [*upstream, *((scan, column) for scan in stored)]
    return _tasks(UpdateTask, feature.key, call, scans, ranges)


class _Call(Protocol):
    """What is done for a range, in whatever process."""

    def __call__(self, id_range: IdRange) -> Any:
        """Return what it gives."""


class _ReadCall(NamedTuple):
    scan: Scan
    read: Read
    declared: tuple[str, ...] | None
    by: str

    def __call__(self, id_range: IdRange) -> pl.DataFrame:
        rows = answer(self.scan, self.read, self.declared, by=self.by, within=id_range)
        return without_empty_chunks(rows.collect())


class _UpdateCall(NamedTuple):
    """The comparison with some stored rows; with those that it turns out to need, if they are None."""

    comparing: Comparing
    parts: Sequence[StoredRows] | None

    def __call__(self, id_range: IdRange) -> Increment:
        if self.parts is None:
            return put_together(self.comparing.expected, self.comparing.increments())
        part = self.comparing.compared_within(self.parts, id_range)
        return put_together(self.comparing.expected, [part])


class _SharedPart(NamedTuple):
    """What all tasks of a plan have in common.

    Attributes:
        writer: The version that made it.
        selections: What is read, without files.
        call: The pickled call, with a hole for each selection.
    """

    writer: str
    selections: tuple[PortableSelection, ...]
    call: bytes


class _Pickler(pickle.Pickler):
    """Pickles what holds selections, and leaves a hole for each."""

    def __init__(self, file: BytesIO, selections: Sequence[Selection]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._places = {id(selection): place for place, selection in enumerate(selections)}

    def persistent_id(self, value: object) -> int | None:
        """Return the place of a selection."""
        return self._places[id(value)] if isinstance(value, Selection) else None


class _Unpickler(pickle.Unpickler):
    """Fills the holes that `_Pickler` has left."""

    def __init__(self, file: BytesIO, selections: Sequence[Selection]) -> None:
        super().__init__(file)
        self._selections = selections

    def persistent_load(self, place: int) -> Selection:
        """Return the selection of a place."""
        return self._selections[place]


def _limits(rows: int) -> PieceLimits:
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise ValueError(f"rows is about how many rows a task has, at least 1; got {rows!r}.")
    return PieceLimits(rows, _FILES)


_SomeTask = TypeVar("_SomeTask", bound=Task)


def _tasks(
    kind: type[_SomeTask], key: FeatureKey, call: _Call, scans: Sequence[tuple[Scan, str]], ranges: Sequence[IdRange]
) -> list[_SomeTask]:
    """Return the tasks of a plan, one for each range that touches a file, and one at least.

    Args:
        kind: Their class.
        key: The feature.
        call: What is done for a range.
        scans: All scans that the call holds, each with its column that the ranges are of.
        ranges: In order; they share no value.
    """
    selections = [(selection, column) for scan, column in scans for selection in _selections(scan)]
    packed = BytesIO()
    _Pickler(packed, [selection for selection, _ in selections]).dump(call)
    portable = tuple(PortableSelection.of(selection) for selection, _ in selections)
    shared = pickle.dumps(_SharedPart(WRITER, portable, packed.getvalue()), protocol=pickle.HIGHEST_PROTOCOL)
    plan = zlib.compress(shared)  # names of columns and features come many times
    storages = {selection.storage.identity: selection.storage for selection, _ in selections}
    logs = {identity: Log(storage, clock=shared_clock(identity)) for identity, storage in storages.items()}
    divided = [_divided(*selection, ranges) for selection in selections]
    shares = [[found[place] for found in divided] for place in range(len(ranges))]
    wanted = [place for place, some in enumerate(shares) if any(share.files for share in some)] or [0]
    return [
        kind(
            feature=str(key),
            rows=round(sum(share.rows for share in shares[place])),
            bytes=round(sum(share.bytes for share in shares[place])),
            _plan=plan,
            _files=tuple(encode_files(share.files, with_split_points=len(ranges) == 1) for share in shares[place]),
            # Other processes read the ranges beside it.
            _range=msgspec.structs.replace(ranges[place], is_part=False),
            _logs=tuple(logs[selection.storage.identity] for selection, _ in selections),
        )
        for place in wanted
    ]


def _selections(scan: Scan) -> Iterator[Selection]:
    """Yield the selections of files that a scan is made of.

    Raises:
        StorageError: It has rows that are in no file.
    """
    if isinstance(scan.parts, LayeredParts):
        for each in scan.parts.scans:
            yield from _selections(each)
    elif isinstance(scan.parts, Selection):
        yield scan.parts
    else:
        raise StorageError(
            "Tasks read the files of a root, and a store of the chain keeps its rows elsewhere. Read it here with "
            "read_metadata, or copy its rows to a FilesystemMetadataStore."
        )


class _Share(NamedTuple):
    """The files of a selection that a range touches, and about how much of them lies in it."""

    files: list[LiveFile]
    rows: float
    bytes: float


def _divided(selection: Selection, column: str, ranges: Sequence[IdRange]) -> list[_Share]:
    """Return what each of some ranges of a column touches of a selection."""
    files = selection.needed()
    if len(ranges) == 1:
        places = [list(range(len(files)))]
    else:
        places = within_ranges(replace(selection, files=files).spans(column), ranges)
    counts = Counter(chain.from_iterable(places))
    return [
        _Share(
            [files[at] for at in some],
            sum(files[at].file.rows / counts[at] for at in some),
            sum(files[at].file.bytes / counts[at] for at in some),
        )
        for some in places
    ]
