"""The log of one root: write, scan and list commits.

`Log` is what stores use: it appends, looks what is there, and reads, and it keeps what a process has learnt of a root.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, StorageError, about
from metaxy_fs.ids import AHEAD, LamportClock, wall_clock
from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.commit import CommitRequest, commit, prepare
from metaxy_fs.log.commit_table import CommitTables, commits_of
from metaxy_fs.log.descriptions import PartitionInfo, find_info, find_root
from metaxy_fs.log.fetch import StagedStorage
from metaxy_fs.log.file_list import list_files
from metaxy_fs.log.holdings import Holdings, holdings
from metaxy_fs.log.layout import Partition, is_feature_directory, is_partition_directory
from metaxy_fs.log.local_files import LocalFiles
from metaxy_fs.log.manifest import CommitKey, Manifest
from metaxy_fs.log.portable import PortableSelection, decode_files
from metaxy_fs.log.prepared import commit_group
from metaxy_fs.log.receipts import Receipt, attempts_of, receipt_of
from metaxy_fs.log.scan import Selection, reading_schema
from metaxy_fs.log.schema import decode_schema
from metaxy_fs.log.seen import SeenCommits
from metaxy_fs.log.terms import Terms
from metaxy_fs.log.view import LiveFile, View, ViewLoader, live_files, retry_listing
from metaxy_fs.log.view_subset import outside, restrict
from metaxy_fs.parallel import Item, Result, asked
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.logged import LOGGER


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
        self._local_files = LocalFiles(storage)
        self._terms = Terms(storage, hash_algorithm=hash_algorithm)

    def append(self, request: CommitRequest, *, spec: bytes) -> Manifest:
        """Commit one write; the first one to a root and to a partition also leaves their descriptions.

        Args:
            request: The rows, and where they belong.
            spec: The feature's declaration, as JSON; kept in the description of a partition that has none yet.
        """
        request = self._terms.agree(request, spec)
        manifest = commit(
            self._storage,
            request,
            clock=self._clock,
            proof=self._terms.proof(request, spec),
            admit=partial(self._terms.admit, request),
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

    def prepare(self, request: CommitRequest, *, spec: bytes, task_id: str | None) -> Receipt:
        """Put the data files of a write that is going to be committed with others, and return its receipt.

        Args:
            request: The rows, and where they belong.
            spec: The feature's declaration, as JSON.
            task_id: The task whose write this is, if that has a name.
        """
        request = self._terms.agree(request, spec)
        manifest = prepare(
            self._storage,
            request,
            clock=self._clock,
            proof=self._terms.proof(request, spec),
            admit=partial(self._terms.admit, request),
        )
        return receipt_of(manifest, task_id=task_id)

    def commit_prepared(self, request: CommitRequest, receipts: Iterable[Receipt], *, spec: bytes) -> None:
        """Commit prepared writes together, as `commit_group` does.

        Args:
            request: Where they belong, without rows.
            receipts: The writes.
            spec: The feature's declaration, as JSON.
        """
        attempts = attempts_of(receipts, partition=request.partition)
        rows = decode_schema(bytes(attempts.writes[0].schema)).to_frame()
        request = msgspec.structs.replace(request, rows=Chunks.of(rows))
        self._terms.agree_on_prepared(request, spec, attempts.writes)
        with about(feature=request.partition.feature, root=self._storage.location, write_id=request.write_id):
            commit_group(self._storage, request, attempts, clock=self._clock)

    @property
    def expected_algorithm(self) -> str | None:
        """What the root has to record, None if it may record any."""
        return self._terms.expected_algorithm

    def hash_algorithm(self) -> str:
        """Return what the root records; before it is made, what it will; see `Terms.hash_algorithm`."""
        return self._terms.hash_algorithm()

    def refuse_types(self, partition: Partition, rows: Chunks, *, feature: str) -> None:
        """Refuse rows in memory that do not fit what is known to be agreed on; asks the root once, and puts nothing.

        Raises:
            MetadataSchemaError: A column does not fit.
        """
        self._terms.refuse_types(partition, rows, feature=feature)

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

    def descriptions(self, partitions: Iterable[Partition]) -> list[PartitionInfo]:
        """Return what the first writer of each partition said of it, of those that are described.

        Raises:
            CorruptObjectError: A description is something else.
        """
        infos = self._asked(partial(find_info, self._storage), partitions)
        return [info for info in infos if info is not None]

    def has_root(self) -> bool:
        """Whether anybody has ever written to the root."""
        return find_root(self._storage) is not None

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

    def holdings(self, feature: str) -> list[Holdings]:
        """Return what each partition of a feature takes up; see `metaxy_fs.log.holdings`."""
        return self._asked(partial(holdings, self._storage), self.views(feature))

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
            seen=tuple(views),
            staged=StagedStorage(self._storage),
            local_files=self._local_files,
        )

    def opened(self, portable: PortableSelection, files: bytes) -> Selection:
        """Return a selection that was made elsewhere, of the same root, with some of its files.

        Args:
            portable: What `PortableSelection.of` gave.
            files: What `encode_files` gave.
        """
        return Selection(
            storage=self._storage,
            files=decode_files(files),
            schema=portable.schema,
            predicate=portable.predicate,
            partition_column=portable.partition_column,
            with_commits=portable.with_commits,
            change=portable.change,
            replan=partial(self._same_commits, portable.seen),
            seen=portable.seen,
            staged=StagedStorage(self._storage),
            local_files=self._local_files,
        )

    def list_files(self, views: Sequence[View], *, id_columns: Sequence[str]) -> pl.DataFrame:
        """Return the data files of the views as a frame, see `metaxy_fs.log.file_list`."""
        return list_files(self._storage, views, id_columns=id_columns)

    def _same_commits(
        self,
        seen: Sequence[View | SeenCommits],
        *,
        after: CommitKey | None = None,
        until: CommitKey | None = None,
    ) -> list[LiveFile]:
        """Return the files that hold now the commits that were seen, or those after one and up to another."""
        renewed = self._asked(lambda each: retry_listing(partial(self._view_again, each, after, until)), seen)
        return live_files(view for view in renewed if view is not None)

    def _view_again(self, before: View | SeenCommits, after: CommitKey | None, until: CommitKey | None) -> View | None:
        now = self.view(before.partition)
        if now is None:
            raise CorruptObjectError(
                f"The partition {self._storage.location}/{before.partition} is gone while it was read."
            )
        if isinstance(before, SeenCommits):
            wanted = before.among(commits_of([now], table_of=self._tables.of), location=self._storage.location)
        else:
            wanted = before.commits
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
