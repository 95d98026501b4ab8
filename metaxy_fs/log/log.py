"""The log of one root: write, scan and list commits.

`Log` is what stores use: it appends, looks what is there, and reads, and it keeps what a process has learnt of a root.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, HashAlgorithmError, MetaxyError, StorageError
from metaxy_fs.hashing import DEFAULT_ALGORITHM
from metaxy_fs.ids import AHEAD, LamportClock, elapsed, wall_clock
from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.commit import CommitRequest, commit
from metaxy_fs.log.commit_table import CommitTables, commits_of
from metaxy_fs.log.descriptions import (
    PartitionInfo,
    Root,
    check_info,
    decode_info,
    decode_root,
    find_info,
    find_root,
    refuse_overwriting_storage,
    shared_partition_file,
    shared_root_file,
)
from metaxy_fs.log.layout import Partition, is_feature_directory, is_partition_directory
from metaxy_fs.log.local_files import LocalFiles
from metaxy_fs.log.manifest import CommitKey, DataFile, Manifest
from metaxy_fs.log.remote_files import StagedStorage
from metaxy_fs.log.scan import Selection, reading_schema
from metaxy_fs.log.schema import Path as SchemaPath
from metaxy_fs.log.type_checks import settle, settle_rows, types_of
from metaxy_fs.log.types import AgreedTypes, agreed_columns, large_integers, refuse_unfit
from metaxy_fs.log.verified_io import SharedObject, ensure_shared
from metaxy_fs.log.view import LiveFile, View, ViewLoader, live_files, retry_listing
from metaxy_fs.log.view_subset import outside, restrict
from metaxy_fs.parallel import Item, Result, asked
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.logged import LOGGER

_BELIEVED_SECONDS = 60.0
"""How long a process that writes goes by what a root and its partitions were agreed to be: they may be removed."""
_TWICE = "two attempts of one write_id could both be committed there: write without one"


class Log:
    """The partitions of one root. Safe to share between threads; processes need no more than the same root.

    Args:
        storage: Where the root is.
        clock: Orders the commits that are made here.
        hash_algorithm: What the root has to record; None if it may record any, and a new one is to record the default.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        clock: LamportClock,
        hash_algorithm: str | None = None,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._views = ViewLoader(storage, clock=clock)
        self._tables = CommitTables(storage)
        self._local_files = LocalFiles()
        self._lock = threading.Lock()
        self._root: Root | None = None
        self._expected_algorithm = hash_algorithm
        self._put_is_conditional = False
        self._agreed: dict[Partition, _Agreed] = {}
        self._agreeing: dict[Partition, threading.Lock] = {}
        self._glimpsed: dict[Partition, AgreedTypes | None] = {}

    def append(self, request: CommitRequest, *, spec: bytes) -> Manifest:
        """Commit one write; the first one to a root and to a partition also leaves their descriptions.

        Args:
            request: The rows, and where they belong.
            spec: The feature's declaration, as JSON; kept in the description of a partition that has none yet.
        """
        types = self._agree(request, spec).types
        if types is not None:
            agreed, rows = settle_rows(self._storage, request.partition, types, request.rows, feature=_name(request))
            self._remember(request.partition, agreed)
            request = msgspec.structs.replace(request, rows=rows)
        manifest = commit(
            self._storage,
            request,
            clock=self._clock,
            proof=self._proof(request, spec),
            admit=partial(self._admit, request),
        )
        if manifest.time > wall_clock() + AHEAD:  # of an earlier attempt: a listing tells whose clock is wrong
            with suppress(StorageError, CorruptObjectError):  # the commit stands whatever becomes of this
                self._views.load(request.partition)
        LOGGER.info(
            "%s: committed %d rows of feature %s as %s; %d of them retire a sample",
            self._storage.location,
            manifest.rows,
            request.partition.feature,
            manifest.commit,
            manifest.retired,
        )
        return manifest

    @property
    def expected_algorithm(self) -> str | None:
        """What the root has to record, None if it may record any."""
        return self._expected_algorithm

    def hash_algorithm(self) -> str:
        """Return what the root records; before it is made, what it will.

        Looks into the root until there is one. What was answered before has to be what is recorded then, so that
        versions which were calculated meanwhile fit those of others.

        Raises:
            HashAlgorithmError: The root records another algorithm than it has to.
            StorageError: The root could not be asked.
        """
        if self._root is None:
            found = find_root(self._storage)
            with self._lock:
                if found is None and self._root is None:
                    self._expected_algorithm = self._expected_algorithm or DEFAULT_ALGORITHM
                    return self._expected_algorithm
                if found is not None:
                    self._root = self._expected(found)
        return self._root.hash_algorithm

    def features(self) -> list[str]:
        """Return the features that hold any commit, each as the parts of its key joined by `.`, sorted."""
        names = [name for name in self._storage.list_directories("") if is_feature_directory(name)]
        found = [partition for each in self._asked(self._all_partitions, names) for partition in each]
        return list(dict.fromkeys(partition.feature for partition in self._with_commits(found)))

    def partitions(self, feature: str) -> list[Partition]:
        """Return the partitions of a feature that hold any commit, sorted by version."""
        return self._with_commits(self._all_partitions(feature))

    def has_commit(self, partition: Partition) -> bool:
        """Whether a partition holds any commit."""
        return self._views.has_commit(partition)

    def declarations(self, partitions: Iterable[Partition]) -> list[bytes]:
        """Return what the first writer of each partition declared, as JSON, of those that are described.

        Raises:
            CorruptObjectError: A description is something else.
        """
        infos = self._asked(partial(find_info, self._storage), partitions)
        return [bytes(info.spec) for info in infos if info is not None]

    def view(self, partition: Partition) -> View | None:
        """Return what is committed to a partition now, None if nothing is."""
        return self._views.load(partition)

    def views(self, feature: str, *, without: Collection[str] = ()) -> list[View]:
        """Return what is committed to each partition of a feature now; all partitions are asked for side by side.

        Args:
            feature: The parts of its key joined by `.`.
            without: The versions of partitions that are not asked for.
        """
        wanted = [partition for partition in self._all_partitions(feature) if partition.version not in without]
        views = self._asked(self.view, wanted)
        return [view for view in views if view is not None]

    def view_at(
        self, partition: Partition, *, commits: AbstractSet[str] | None = None, until: int | None = None
    ) -> View | None:
        """Return what is committed to a partition of some commits, None if there are none.

        Args:
            partition: Where they are.
            commits: The ids of these commits; all by default.
            until: Only those whose time, in microseconds since 1970 (UTC), is no later.

        Raises:
            CorruptObjectError: Some commit is gone.
        """
        return retry_listing(partial(self._view_at, partition, commits, until))

    def commits(self, feature: str) -> pl.DataFrame:
        """Return what is known of each commit of a feature, in commit order, as a frame of `HISTORY`."""
        return retry_listing(partial(self._commits, feature))

    def select(
        self,
        views: Sequence[View],
        *,
        columns: Collection[str] | None = None,
        predicate: pl.Expr | None = None,
        partition_column: str | None = None,
        with_commits: bool = False,
        schema: pl.Schema | None = None,
    ) -> Selection:
        """Return the data files of the views, to be read as `metaxy_fs.log.scan` says.

        Rows are brought to a schema, if one is given that is known to fit them all.

        Raises:
            MetadataSchemaError: Two files hold types of one column that have no type in common.
        """
        files = live_files(views)
        if schema is None:
            schema = reading_schema(files, location=self._storage.location, columns=columns)
        elif columns is not None:
            schema = pl.Schema({name: dtype for name, dtype in schema.items() if name in columns})
        return Selection(
            storage=self._storage,
            files=files,
            schema=schema,
            predicate=predicate,
            partition_column=partition_column,
            with_commits=with_commits,
            replan=partial(self._same_commits, views),
            staged=StagedStorage(self._storage),
            local_files=self._local_files,
        )

    def _same_commits(
        self, views: Sequence[View], *, after: CommitKey | None = None, until: CommitKey | None = None
    ) -> list[LiveFile]:
        """Return the files that hold now the commits of these views, or those after one and up to another."""
        renewed = self._asked(lambda view: retry_listing(partial(self._view_again, view, after, until)), views)
        return live_files(view for view in renewed if view is not None)

    def _view_again(self, before: View, after: CommitKey | None, until: CommitKey | None) -> View | None:
        now, wanted = self.view(before.partition), before.commits
        if now is None:
            raise CorruptObjectError(
                f"The partition {self._storage.location}/{before.partition} is gone while it was read."
            )
        if after is not None or until is not None:
            wanted -= outside(commits_of([now], table_of=self._tables.of), after=after, until=until)
        return restrict(now, wanted, table_of=partial(self._tables.of, before.partition)) if wanted else None

    def _asked(self, question: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        return asked(question, items, is_remote=self._storage.is_remote)

    def _all_partitions(self, feature: str) -> list[Partition]:
        """Return the partitions of a feature, those without a commit included, sorted by version."""
        names = filter(is_partition_directory, self._storage.list_directories(feature))
        return [Partition(feature, name) for name in names]

    def _with_commits(self, partitions: Sequence[Partition]) -> list[Partition]:
        answers = self._asked(self.has_commit, partitions)
        return [partition for partition, holds in zip(partitions, answers, strict=True) if holds]

    def _commits(self, feature: str) -> pl.DataFrame:
        views = self.views(feature)
        compacted = [(view.partition, manifest) for view in views for manifest in view.manifests if manifest.covers]
        self._asked(lambda each: self._tables.of(*each), compacted)  # they are kept for what follows
        return commits_of(views, table_of=self._tables.of)

    def _view_at(self, partition: Partition, commits: AbstractSet[str] | None, until: int | None) -> View | None:
        view = self.view(partition)
        if view is None or commits == frozenset():
            return None
        wanted = view.commits if commits is None else commits
        if until is not None:
            found = commits_of([view], table_of=self._tables.of).filter(pl.col("time") <= until)
            wanted = wanted & frozenset(found.get_column("commit"))
        return restrict(view, wanted, table_of=partial(self._tables.of, partition)) if wanted else None

    def _agree(self, request: CommitRequest, spec: bytes) -> "_Agreed":
        """Return what all writers to a partition agree on; the first write of a process there makes sure of it.

        Nothing is put into a root, or a partition, that is there and does not fit.
        """
        name = f"{self._storage.location}/{request.partition.definition_file}"
        with self._lock:
            agreeing = self._agreeing.setdefault(request.partition, threading.Lock())
        with agreeing:  # one thread asks about a partition; those that write to others do not wait for it
            is_known = self._root is not None
            if is_known and (agreed := self._agreed.get(request.partition)) is not None:
                check_info(agreed.info, feature=request.feature, id_columns=request.id_columns, name=name)
                return agreed
            wanted = [self._shared_partition_file(request, spec)]
            held = ensure_shared(self._storage, wanted if is_known else [self._shared_root_file(), *wanted])
            found = decode_info(held[-1], name=name)
            agreed = _Agreed(found, types_of(found, name=name), elapsed())
            with self._lock:
                if not is_known:
                    self._root = self._expected(decode_root(held[0], name=self._storage.location))
                self._agreed[request.partition] = agreed
            return agreed

    def _shared_partition_file(self, request: CommitRequest, spec: bytes) -> SharedObject:
        # The types of rows that cannot even be made, since some of them lack what is upstream, bind nobody.
        return shared_partition_file(
            self._storage,
            request.partition,
            _description(request, spec),
            before_put=lambda: next(iter(request.rows), None),
        )

    def refuse_types(self, partition: Partition, rows: Chunks, *, feature: str) -> None:
        """Refuse rows in memory that do not fit what is known to be agreed on; asks the root once, and puts nothing.

        Raises:
            MetadataSchemaError: A column does not fit.
        """
        if (agreed := self._agreed.get(partition)) is not None:
            types = agreed.types
        else:
            if partition not in self._glimpsed:
                self._glimpsed[partition] = self._glimpse(partition)
            types = self._glimpsed[partition]
        if types is not None:
            refuse_unfit(rows, types, feature=feature)

    def _glimpse(self, partition: Partition) -> AgreedTypes | None:
        """Return the types of a partition's description; None if it cannot be had, which the next write will say."""
        with suppress(MetaxyError):
            info = find_info(self._storage, partition)
            if info is not None:
                return types_of(info, name=f"{self._storage.location}/{partition.definition_file}")
        return None

    def _settle(self, request: CommitRequest, types: AgreedTypes, large: AbstractSet[SchemaPath] = frozenset()) -> None:
        """Agree on the types of the rows of a write, and remember them."""
        schema, name = request.rows.schema, _name(request)
        self._remember(request.partition, settle(self._storage, request.partition, types, schema, large, feature=name))

    def _remember(self, partition: Partition, types: AgreedTypes) -> None:
        with self._lock:
            held = self._agreed[partition]
            if held.types is not None and held.types.number < types.number:
                self._agreed[partition] = held._replace(types=types)

    def _admit(self, request: CommitRequest, entry: DataFile) -> None:
        """Refuse a data file whose integers no float holds, where there are floats."""
        types = self._agreed[request.partition].types
        if types is None:
            return
        schema = request.rows.schema
        large = large_integers(schema, entry.statistics, rows=entry.rows, id_columns=request.id_columns)
        if large - types.large:
            self._settle(request, types, large)

    def _proof(self, request: CommitRequest, spec: bytes) -> Callable[[], object] | None:
        """Return what has to be asked while a write is under way; None if nothing has."""
        is_old = elapsed() - self._agreed[request.partition].since > _BELIEVED_SECONDS
        is_unproven = request.write_id is not None and not self._put_is_conditional
        if not is_old and not is_unproven:
            return None

        def prove() -> None:
            if is_old:
                self._agree_again(request, spec)
            if is_unproven:
                self._refuse_overwriting()

        return prove

    def _agree_again(self, request: CommitRequest, spec: bytes) -> None:
        """Make sure that what was agreed on is there: a root that was removed may have been made again, or not."""
        wanted = [self._shared_root_file(), self._shared_partition_file(request, spec)]
        data, described = ensure_shared(self._storage, wanted)
        name = f"{self._storage.location}/{request.partition.definition_file}"
        found = decode_info(described, name=name)
        types = types_of(found, name=name)
        with self._lock:
            self._root = decode_root(data, name=self._storage.location)
            self._agreed[request.partition] = _Agreed(found, types, elapsed())
        if types is not None:
            self._settle(request, types)

    def _shared_root_file(self) -> SharedObject:
        algorithm = self._root.hash_algorithm if self._root else self._expected_algorithm or DEFAULT_ALGORITHM
        return shared_root_file(self._storage, hash_algorithm=algorithm, check=self._expected)

    def _refuse_overwriting(self) -> None:
        if self._root is not None:
            refuse_overwriting_storage(self._storage, self._root, hence=_TWICE)
            self._put_is_conditional = True

    def _expected(self, root: Root) -> Root:
        if self._expected_algorithm not in (None, root.hash_algorithm):
            raise HashAlgorithmError(
                f"{self._storage.location} hashes versions with {root.hash_algorithm}, as was settled when it was "
                f"made, and was opened for {self._expected_algorithm}. Open it without hash_algorithm, or make another "
                "root.",
                root=self._storage.location,
            )
        if self._root is not None and self._root.hash_algorithm != root.hash_algorithm:
            raise HashAlgorithmError(
                f"{self._storage.location} was removed and made again since this store began to use it: it hashes "
                f"versions with {root.hash_algorithm} now, not with {self._root.hash_algorithm}. Open it anew.",
                root=self._storage.location,
            )
        return root


class _Agreed(NamedTuple):
    """What all writers to a partition agree on, and when this was last looked at; `types` is None in older roots."""

    info: PartitionInfo
    types: AgreedTypes | None
    since: float


def _name(request: CommitRequest) -> str:
    return "_".join(request.feature)


def _description(request: CommitRequest, spec: bytes) -> PartitionInfo:
    return PartitionInfo(
        feature=request.feature,
        definition=request.definition,
        id_columns=request.id_columns,
        spec=msgspec.Raw(spec),
        columns=agreed_columns(request.rows.schema),
    )
