"""`MetadataStore`: what users ask of a store, wherever it keeps its rows."""

# Longer than other modules, because it holds all that users call, with what they read of it in their editor. A method
# only finds the declaration of its feature and hands over to the function that does the work.

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Literal, overload

import polars as pl

from metaxy_fs.log import Receipt
from metaxy_fs.metadata_store import on_demand
from metaxy_fs.metadata_store.arrow import ArrowStream
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.buffer import WriteBuffer, buffered
from metaxy_fs.metadata_store.chain import chain, chain_html
from metaxy_fs.metadata_store.features import (
    FeatureLike,
    declarations_of,
    find_declaration,
    flag,
    key_of,
    keys_of,
    require_declaration,
)
from metaxy_fs.metadata_store.frames import FrameLike
from metaxy_fs.metadata_store.read import Read, has_commit, history, list_files, read_chain, scan_chain
from metaxy_fs.metadata_store.resolve import calculate, calculate_and_write, impact, increment, lazy_increment
from metaxy_fs.metadata_store.sample_ids import SampleIds
from metaxy_fs.metadata_store.snapshots import BackendAt, at, create_snapshot, drop_snapshot, list_snapshots
from metaxy_fs.metadata_store.upstream import read_upstream
from metaxy_fs.metadata_store.write import restore, retire, write
from metaxy_fs.spec import FeatureGraph, FeatureKey
from metaxy_fs.versioning.increment import Increment, LazyIncrement

if TYPE_CHECKING:
    from metaxy_fs.insight.diff import Diff
    from metaxy_fs.insight.explanation import Explanation
    from metaxy_fs.insight.fingerprint import Fingerprint, FingerprintCheck
    from metaxy_fs.insight.plan import Plan
    from metaxy_fs.insight.trace import Trace
    from metaxy_fs.metadata_store.materialize import Materialization, OnError
    from metaxy_fs.metadata_store.rebase import Rebased
    from metaxy_fs.metadata_store.tasks import ReadTask, UpdateTask


class MetadataStore(Backend):
    """Rows of features, one a sample, that are only ever added to.

    A store answers from itself or, where it lacks a feature, from its fallback stores in order; it writes only to
    itself. Data versions are always computed in Polars, so every kind of store gives the same ones.

    Every method that takes a feature takes a Feature class, a FeatureKey, or the text of a key: `"video/processing"`.
    Every method that takes the name of a sample takes the value of its id column; where there are several, a tuple in
    the order of `id_columns`; or a mapping of column to value. Samples are named by a frame with the id columns, each
    once, or by a list of such names.

    A new kind of store derives from `TableMetadataStore`, where rows and a record of them can be added in one step; any
    other implements `location`, `append_rows`, `scan_rows`, `stored_versions`, `stored_features` and `stored_commits`.
    Each passes `metaxy_fs.testing.StoreSuite`.

    Args:
        fallback_stores: Stores to read from, nearest first, where this one has no row of a feature; each asks its own
            in turn.
        tags: What every commit that is made through this store says of itself; see `write_metadata`.

    Examples:
        >>> import polars as pl
        >>> from metaxy_fs import Feature, FeatureDep, FeatureKey, FeatureSpec, open_store
        >>> class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        ...     pass
        >>> dep = FeatureDep(key=FeatureKey(["video"]))
        >>> class Faces(Feature, spec=FeatureSpec(key=FeatureKey(["faces"]), deps=[dep])):
        ...     pass
        >>> store = open_store("./metadata")
        >>> rows = pl.DataFrame({"sample_id": [1, 2], "data_version": [{"default": "v1"}, {"default": "v2"}]})
        >>> store.write_metadata(Video, rows)
        >>> store.resolve_update(Faces)
        Increment(new=2, stale=0, orphaned=0, waiting=0)
    """

    def __repr__(self) -> str:
        fallback = f", fallback_stores={list(self._fallback_stores)!r}" if self._fallback_stores else ""
        mode = "" if self.fallback_mode == "feature" else f", fallback_mode={self.fallback_mode!r}"
        return f"{type(self).__name__}({self.location!r}{fallback}{mode})"

    def _repr_html_(self) -> str:
        """Show in a notebook where the store and those that it falls back on are.

        Nothing is listed or fetched, as with `repr`: `FeatureGraph.from_store(store)` shows what is stored.
        """
        return chain_html(self)

    def write_metadata(
        self,
        feature: FeatureLike,
        df: FrameLike,
        *,
        write_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        progress: bool = False,
    ) -> None:
        """Append rows to a feature, all of them or none, in one commit. No row that exists is changed.

        Concurrent writes, from any number of processes, never wait for or disturb each other. A frame without rows is
        a valid write.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            df: One row a sample: a Polars DataFrame or LazyFrame, or anything with the Arrow stream interface. Needs
                the id columns (integers, strings, binary, dates or datetimes; unique, not null) and `data_version`, a
                struct with one string for each container; where one is versioned by content also `provenance`, as
                increments give it; may have any other columns. A LazyFrame is taken in parts, and need not fit into
                memory.
            write_id: A name for the write that is the same when a job is retried: with the same rows, in any order of
                these and of their columns, the retry does nothing.
            tags: What the commit says of itself, strings by name, such as `{"run": "2026-11-28", "git": "3f2a9c1"}`;
                they win over those of the store, name by name. At most 32 names of 1 to 100 letters, digits, `.`, `_`
                and `-`, with values of at most 1,000 characters. `history` shows them. They are stored as they are,
                so they are no place for secrets, and they are no part of what `write_id` names.
            progress: Whether to show on stderr, if that is a terminal, how many rows were stored so far.

        Raises:
            ValueError: The tags or the `write_id` cannot be kept.
            MetadataSchemaError: The frame does not fit the feature, or the rows written before it.
            WriteConflictError: The `write_id` was used for other rows.
            StorageError: The rows could not be written, and are not visible.
            CommitStateUnknownError: The rows may or may not have been written.

        Examples:
            >>> store.write_metadata(Video, rows.with_columns(length=pl.Series([3.5, 1.0])), write_id="import-1")
            >>> store.read_metadata(Video, latest_only=True)["length"].to_list()
            [3.5, 1.0]
        """
        write(self, require_declaration(feature), df, write_id=write_id, tags=tags, progress=progress)

    def buffered(
        self,
        feature: FeatureLike,
        *,
        rows: int = 100_000,
        seconds: float | None = 60.0,
        write_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[WriteBuffer]:
        """Open a buffer for a job that computes rows one by one: `with store.buffered(feature) as buffer`.

        What `buffer.write` is given, by any number of threads, is committed once there are enough rows, once the
        oldest has waited long enough, and at the end of the block, also by an exception, Ctrl-C or `SystemExit`. An
        error of a flush in the background is raised by the next `write` or at the end, unless a later flush has
        committed it; after an exception it is a note on that. SIGTERM ends a process without an exception: a job that
        may get one says `signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))` first.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            rows: Commit once so many rows are held.
            seconds: Commit rows that have waited for so long; None waits forever.
            write_id: A name for the job that is the same when it is retried. Each sample is then committed once,
                however the rows are cut and whatever other attempts commit; a different row for the same sample
                raises WriteConflictError.
                Without a name the later of two rows of a sample counts, as in any store.
            tags: What each of its commits says of itself; see `write_metadata`.

        Raises:
            ValueError: A limit, the `write_id` or a tag has no meaning.

        Examples:
            >>> with store.buffered(Video, rows=1000) as buffer:
            ...     for sample in (3, 4):
            ...         buffer.write(pl.DataFrame({"sample_id": [sample], "data_version": [{"default": "v1"}]}))
            >>> store.history(Video)["rows"].to_list()
            [2, 2]
        """
        return buffered(self, require_declaration(feature), rows=rows, seconds=seconds, write_id=write_id, tags=tags)

    def prepare_write(self, feature: FeatureLike, df: FrameLike, *, task_id: str | None = None) -> Receipt:
        """Store rows that nobody sees before a driver commits them with those of other workers: `commit_prepared`.

        For jobs of many workers, in any process or on any machine that reaches the root. Each prepares its part, and
        one commit shows them all. Rows whose receipt is never committed are removed by a vacuum, a day and its
        retention later.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            df: The rows, as `write_metadata` takes them.
            task_id: A name of the task within its job. An engine may run a task twice; of several receipts of one task
                the one that was prepared first is committed, and no other.

        Returns:
            A small value without credentials, which can be pickled, or sent as JSON (`receipt.to_json()`).

        Raises:
            MetadataSchemaError: The frame does not fit the feature, or the rows written before it.
            StorageError: The rows could not be stored, or this store cannot prepare any.

        Examples:
            >>> parts = [rows.head(1), rows.tail(1)]
            >>> receipts = [store.prepare_write(Video, part, task_id=str(n)) for n, part in enumerate(parts)]
            >>> store.history(Video)["rows"].to_list()
            [2]
            >>> store.commit_prepared(Video, receipts)
            >>> store.history(Video)["rows"].to_list()
            [2, 1, 1]
        """
        return on_demand.prepare_write(self, require_declaration(feature), df, task_id=task_id)

    def commit_prepared(
        self,
        feature: FeatureLike,
        receipts: Iterable[Receipt],
        *,
        write_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Commit rows that workers have prepared, all of them or none, as many commits that are seen at one moment.

        Receipts that are committed already are passed over, so a driver may repeat the call with the same ones. Those
        of other receipts are another commit, which comes later. Where two prepared writes hold one sample, the row that
        was prepared later counts. Costs one listing of the partition, however many receipts there are.

        Args:
            feature: A Feature class, or a key that the active graph holds, declared as it was for the workers.
            receipts: What `prepare_write` returned in this root, in any order; none commit nothing.
            write_id: A name for the job that is the same when it is retried. A retry whose tasks prepared the same rows
                anew, in the same parts, does nothing.
            tags: What the commits say of themselves; see `write_metadata`.

        Raises:
            ValueError: The tags or the `write_id` cannot be kept.
            MetadataSchemaError: A receipt is of another feature or definition, or rows that others have written since
                do not go with its types.
            WriteConflictError: The `write_id` was used for other rows, or for a commit that did not end within a day.
            StorageError: Nothing is committed: a receipt is older than 24 hours or of another root, or the root failed.
            CommitStateUnknownError: The rows may or may not have been committed; repeat the call.

        Examples:
            >>> receipt = store.prepare_write(Video, rows, task_id="part-0")
            >>> store.commit_prepared(Video, [receipt], write_id="import-2", tags={"run": "7"})
            >>> store.commit_prepared(Video, [store.prepare_write(Video, rows)], write_id="import-2")
            >>> store.history(Video)["rows"].to_list()
            [2, 2]
        """
        on_demand.commit_prepared(self, require_declaration(feature), receipts, write_id=write_id, tags=tags)

    def retire(
        self,
        feature: FeatureLike,
        ids: SampleIds,
        reason: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Say that samples exist no more, in one commit of this store. Nothing is deleted.

        Latest rows, joins and increments then do without these samples: features that are made from them have them
        orphaned, and the feature itself neither computes nor reports them. A row that is written later brings a sample
        back, and nothing else does: neither its file nor its upstream row. Reads without `latest_only` show every row
        there was, and snapshots what they saw.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            ids: The samples; of a frame other columns are ignored, so `increment.orphaned` will do. They need have no
                rows: an increment then never finds them new. Without a sample nothing is committed.
            reason: Kept as the tag `reason` of the commit.
            tags: What else the commit says of itself; see `write_metadata`.

        Raises:
            ValueError: The reason or the tags cannot be kept.
            MetadataSchemaError: The id columns do not name each sample once.
            FeatureNotFoundError: This store has no commit of the feature, and a fallback store has the rows.
            StorageError: The commit could not be written.

        Examples:
            >>> store.retire(Video, [2], reason="broken file")
            >>> store.read_metadata(Video, latest_only=True)["sample_id"].to_list()
            [1]
        """
        retire(self, require_declaration(feature), ids, reason=reason, tags=tags)

    def restore(
        self,
        feature: FeatureLike,
        *,
        at: str | datetime,
        reason: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Make the latest rows of a feature, under its present declaration, what they were at a moment.

        Samples whose rows were changed or retired since get their rows of that moment, with all columns; those that
        came since are retired. That is one commit of this store, and none if nothing differs. Nothing is deleted, so
        this can be undone by another `restore`. What others commit between the look and the commit may come before it.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            at: The name of a snapshot, or a time with a time zone, as `MetadataStore.at` takes it.
            reason: Kept as the tag `reason` of the commit.
            tags: What else the commit says of itself; see `write_metadata`.

        Raises:
            ValueError: The moment, the reason or the tags have no meaning.
            SnapshotError: There is no such snapshot.
            FeatureNotFoundError: There was no row under the present declaration at that moment, or this store has no
                commit of the feature and a fallback store has the rows.
            StorageError: The rows could not be read, or the commit not written.

        Examples:
            >>> store.create_snapshot("good")
            >>> store.retire(Video, pl.DataFrame({"sample_id": [1, 2]}))
            >>> store.restore(Video, at="good", reason="retired by mistake")
            >>> store.read_metadata(Video, latest_only=True)["sample_id"].to_list()
            [1, 2]
        """
        restore(self, require_declaration(feature), at, reason=reason, tags=tags)

    def rebase(
        self,
        feature: FeatureLike,
        *,
        reason: str | None = None,
        containers: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "Rebased":
        """Write the rows of the last other definition under the present one, in one commit. Nothing is computed.

        This says that the change of code makes no difference to the rows. They get the versions that follow from the
        present definition and the present upstream rows; versions of content, and those of a root feature, stay as
        they are. Rows that were stale under their own definition, because upstream rows have changed since, are left
        out and stay stale. So are rows whose upstream feature has moved, too, if the version that somebody gave to the
        upstream row is another one now, or that row would be left out likewise.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            reason: Kept as the tag `reason` of the commit.
            containers: The present names of containers that were renamed, by their earlier names.
            tags: What else the commit says of itself; see `write_metadata`.

        Returns:
            How many rows were written, how many samples were left, and from which definition the rows are.

        Raises:
            ValueError: The reason or the tags cannot be kept.
            SpecError: A container of the present definition is none of the earlier one.
            FeatureNotFoundError: There is no other definition, or this store has no commit of the feature under the
                present one and a fallback store has the rows.
            DependencyError: Nothing tells what the rows were made from, or an upstream feature has no commit.
            StorageError: The rows could not be read, or the commit not written.

        Examples:
            >>> from metaxy_fs import ContainerSpec, FeatureGraph
            >>> faster = FeatureSpec(key=FeatureKey(["video"]), containers=[ContainerSpec(code_version=2)])
            >>> with FeatureGraph().use():
            ...
            ...     class FasterVideo(Feature, spec=faster):
            ...         pass
            >>> rebased = store.rebase(FasterVideo, reason="only faster")
            >>> rebased.rows, rebased.skipped
            (2, 0)
        """
        return on_demand.rebase(self, require_declaration(feature), reason=reason, containers=containers, tags=tags)

    def read_metadata(
        self,
        feature: FeatureLike,
        *,
        filters: pl.Expr | Iterable[pl.Expr] | None = None,
        columns: Sequence[str] | None = None,
        allow_fallback: bool = True,
        latest_only: bool = False,
        versions: Literal["current", "all"] = "current",
        with_commits: bool | Literal["tags"] = False,
    ) -> pl.DataFrame:
        """Return the rows of a feature, in commit order; those of one write in the order of their ids.

        Args:
            feature: A Feature class, or a key. A key that the active graph does not hold is read in all its data
                versions.
            filters: A Polars predicate, or several that must all hold. May use columns that are not selected. Files
                and row groups that cannot hold such a row are not read.
            columns: The columns to return, in this order; all by default.
            allow_fallback: Whether to go on to the fallback stores if this one has no commit of the feature.
            latest_only: Return only the last row of each sample; filters are applied to those.
            versions: `"current"` reads what was written under the present declaration; `"all"` reads every data
                version.
            with_commits: Add two columns, `commit` (text, the id of the commit that the row belongs to) and
                `committed_at` (Datetime("us", "UTC"), its time), which filters may use; see `history`. `"tags"` adds a
                third one, `commit_tags`, as `tags` is in `history`.

        Returns:
            The rows. Where files differ, columns that a file lacks are null, and narrower types are widened.

        Raises:
            FeatureNotFoundError: No store that was searched has a commit of the feature (in its current data version).
            MetadataSchemaError: A column does not exist, or has types in two files that have no type in common.
            CorruptObjectError: Something that is stored cannot be trusted.
            StorageError: A store could not be searched; it is never taken for an empty one.

        Examples:
            >>> found = store.read_metadata(Video, filters=pl.col("sample_id") > 1, columns=["sample_id"])
            >>> found["sample_id"].to_list()
            [2]
        """
        read = Read.checked(
            filters=filters, columns=columns, latest_only=latest_only, versions=versions, with_commits=with_commits
        )
        return read_chain(self, find_declaration(feature), read, fallback=allow_fallback)

    def scan_metadata(
        self,
        feature: FeatureLike,
        *,
        filters: pl.Expr | Iterable[pl.Expr] | None = None,
        columns: Sequence[str] | None = None,
        allow_fallback: bool = True,
        latest_only: bool = False,
        versions: Literal["current", "all"] = "current",
        with_commits: bool | Literal["tags"] = False,
    ) -> pl.LazyFrame:
        """Return what `read_metadata` does, as a LazyFrame.

        Which commits it holds is decided by this call. Their rows are read when the frame is collected: the columns,
        files and row groups that it takes then, and no others.

        Examples:
            >>> store.scan_metadata(Video).select(pl.col("sample_id").max()).collect().item()
            2
        """
        read = Read.checked(
            filters=filters, columns=columns, latest_only=latest_only, versions=versions, with_commits=with_commits
        )
        return scan_chain(self, find_declaration(feature), read, fallback=allow_fallback)

    def plan_read(
        self,
        feature: FeatureLike,
        *,
        filters: pl.Expr | Iterable[pl.Expr] | None = None,
        columns: Sequence[str] | None = None,
        allow_fallback: bool = True,
        latest_only: bool = False,
        versions: Literal["current", "all"] = "current",
        with_commits: bool | Literal["tags"] = False,
        rows: int = 262_144,
    ) -> "list[ReadTask]":
        """Return tasks that other processes run, and that together return the rows of `read_metadata`.

        Which commits they hold is decided by this call. `task.read()` then returns the rows of a range of ids, in
        commit order; every row is in one task. A task is a picklable value of a few kB, lists nothing and holds no
        credentials. What is compacted or vacuumed meanwhile makes no difference.

        Args:
            feature: As for `read_metadata`, and so are the other arguments but the last.
            filters: See there.
            columns: See there.
            allow_fallback: See there.
            latest_only: See there.
            versions: See there.
            with_commits: See there.
            rows: About how many rows a task has at most. It has fewer where files are small, since a task of many files
                would be large, and more where files overlap a lot. All rows are in one task where they cannot be
                divided: by ids of bytes, and by ids of several types.

        Returns:
            The tasks, in the order of the ids; at least one.

        Raises:
            FeatureNotFoundError: As `read_metadata` raises it, and so are all other errors.
            StorageError: A store of the chain could not be searched, or has the rows in no files.

        Examples:
            >>> import pickle
            >>> tasks = store.plan_read(Video, columns=["sample_id"])
            >>> sent = [pickle.dumps(task) for task in tasks]
            >>> pl.concat(pickle.loads(each).read() for each in sent)["sample_id"].to_list()
            [1, 2]
        """
        read = Read.checked(
            filters=filters, columns=columns, latest_only=latest_only, versions=versions, with_commits=with_commits
        )
        return on_demand.plan_read(self, find_declaration(feature), read, fallback=allow_fallback, rows=rows)

    def history(self, feature: FeatureLike) -> pl.DataFrame:
        """Return the commits of a feature that this store itself holds, in commit order, whatever their data version.

        Returns:
            One row per commit: `time` (Datetime("us", "UTC")), `commit` (string, its id), `rows` (Int64, how many it
            wrote), `retired` (Int64, how many samples it retired), `bytes` (Int64), `partition` (string, the version of
            the definition), `write_id` (string or null), `writer` (string), `compacted` (Boolean, whether its rows are
            now kept with those of other commits), and `tags` (string, a JSON object with the names in order, or null):
            `history.filter(pl.col("tags").str.json_path_match("$.run") == "2026-11-28")`.

        Raises:
            FeatureNotFoundError: This store has no commit of the feature.

        Examples:
            >>> store.history(Video).select("rows", "retired", "compacted").rows()
            [(2, 0, False)]
        """
        return history(self, key_of(feature))

    def files(self, feature: FeatureLike, *, versions: Literal["current", "all"] = "current") -> pl.DataFrame:
        """Return the Parquet files that hold the rows of a feature in this store now, for engines that take a list.

        A glob over the directory of a feature also finds files that were compacted, and those of writes that died.
        Later commits are not in the answer, and a vacuum keeps its files for a week at least.

        Args:
            feature: A Feature class, or a key.
            versions: `"current"` lists what was written under the present declaration; `"all"` lists every data
                version.

        Returns:
            One row a file, ordered by their first commits: `path` (string, a local path or a URL), `rows` (Int64),
            `bytes` (Int64), `min` and `max` (structs of the id columns, null where a bound is unknown; long strings are
            cut short, `max` is then rounded up), `sha256` (string), `partition` (string, the version of the
            definition), `commit` (string, null where the file holds several; its rows have the columns `_metaxy_commit`
            and `_metaxy_time`), `first` and `last` (Datetime("us", "UTC"), the times of the first and the last commit),
            `excluded` (list of strings, commits whose rows in the file do not count because another file has them;
            empty but for compactions that overlap, and for a store at a moment), and `schema` (string, the columns and
            types of the file as docs/format.md writes them, for engines that cannot widen types). Rows in which a
            column `_metaxy_retired` is true say that their sample exists no more; see docs/how-to/sql.md.

        Raises:
            FeatureNotFoundError: This store has no commit of the feature (in its current data version).
            MetadataSchemaError: Two files hold types of an id column that have no type in common.
            StorageError: This store keeps no files, or could not be searched.

        Examples:
            >>> [file] = store.files(Video).to_dicts()
            >>> file["rows"], file["min"], file["max"]
            (2, {'sample_id': 1}, {'sample_id': 2})
            >>> pl.read_parquet(store.files(Video)["path"].to_list())["sample_id"].to_list()
            [1, 2]
        """
        return list_files(self, find_declaration(feature), versions=versions)

    def at(self, moment: str | datetime) -> "StoreAt":
        """Return the chain as it was at a snapshot, or as if nothing had been committed after a time; read-only.

        At a snapshot, reads give the same rows in the same order forever. At a time, a commit may still come in whose
        writer's clock was behind. Writes raise `StorageAccessError`.

        Args:
            moment: The name of a snapshot that this store keeps, or a time with a time zone.

        Raises:
            SnapshotError: There is no such snapshot, or it saw rows in a store that is not in this chain.

        Examples:
            >>> store.create_snapshot("train-2026-11")
            >>> store.write_metadata(Video, rows)
            >>> store.at("train-2026-11").read_metadata(Video).height, store.read_metadata(Video).height
            (2, 4)
        """
        return at(self, moment, kind=StoreAt)

    def create_snapshot(self, name: str, *, features: Iterable[FeatureLike] | None = None) -> None:
        """Keep, under a name, which commits of some features the chain holds now, in all of their data versions.

        Args:
            name: 1 to 100 letters, digits, `.`, `_` and `-`, such as `"train-2026-11"`.
            features: Feature classes or keys; by default all that any store of the chain holds.

        Raises:
            FeatureNotFoundError: No store of the chain has a commit of one of the features.
            ObjectExistsError: There is a snapshot of that name.

        Examples:
            >>> store.create_snapshot("train-2026-11", features=[Video])
            >>> store.list_snapshots().select("name", "features", "commits").rows()
            [('train-2026-11', ['video'], 1)]
        """
        create_snapshot(self, name, None if features is None else keys_of(features))

    def list_snapshots(self) -> pl.DataFrame:
        """Return the snapshots that this store keeps, by name.

        Columns: `name`, `time` (Datetime("us", "UTC")), `features` (the texts of their keys), `commits` (Int64, how
        many it sees), `stores` (strings, where it saw any) and `writer`.

        Examples:
            >>> store.create_snapshot("monday")
            >>> store.list_snapshots()["name"].to_list()
            ['monday']
        """
        return list_snapshots(self)

    def drop_snapshot(self, name: str) -> None:
        """Forget a snapshot, or raise `SnapshotError` if there is none of that name; no row is touched.

        Examples:
            >>> store.create_snapshot("monday")
            >>> store.drop_snapshot("monday")
            >>> store.list_snapshots().height
            0
        """
        drop_snapshot(self, name)

    def has_feature(self, feature: FeatureLike, *, check_fallback: bool = False) -> bool:
        """Whether there is any commit of a feature in its current data version.

        For a key that is not in the active graph, any data version counts.

        Args:
            feature: A Feature class, or a key.
            check_fallback: Whether to ask the fallback stores too.

        Raises:
            StorageError: A store could not be asked.

        Examples:
            >>> store.has_feature(Video), store.has_feature(Faces)
            (True, False)
        """
        return has_commit(self, find_declaration(feature), fallback=check_fallback)

    def list_features(self, *, include_fallback: bool = False) -> list[FeatureKey]:
        """Return the keys of all features that have any commit, in any data version, sorted.

        Args:
            include_fallback: Whether to add those of the fallback stores.

        Examples:
            >>> store.list_features()
            [FeatureKey(['video'])]
        """
        stores = chain(self, fallback=flag(include_fallback, name="include_fallback"))
        return sorted({key for store in stores for key in store.stored_features()})

    def diff(
        self,
        before: "str | datetime | MetadataStore",
        after: "str | datetime | MetadataStore | None" = None,
        *,
        features: Iterable[FeatureLike] | None = None,
    ) -> "Diff":
        """Return the samples that were added, removed or changed between two moments or stores, by root cause.

        The latest row of each sample is compared, whatever its data version; a sample that is retired is not there.
        Causes are found from what is stored, without code: the versions of upstream rows at both moments, and the
        declarations that rows were written under.

        Args:
            before: The name of a snapshot, a time with a time zone, or another store, at a moment or not.
            after: The same; by default what this store holds now.
            features: Feature classes, keys or texts; by default all that are held at either moment.

        Raises:
            FeatureNotFoundError: None of the stores holds one of the features.
            SnapshotError: There is no such snapshot.
            MetadataSchemaError: The ids of a feature have types at the two moments that do not compare.

        Examples:
            >>> store.write_metadata(Faces, store.resolve_update(Faces).pending)
            >>> store.create_snapshot("monday")
            >>> store.write_metadata(Video, pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v3"}]}))
            >>> store.write_metadata(Faces, store.resolve_update(Faces).pending)
            >>> store.diff("monday").causes.rows()
            [('video', 'changed', 'video/default', 1), ('faces', 'changed', 'video/default', 1)]
        """
        then, now = self._at(before), self if after is None else self._at(after)
        return on_demand.diff(then, now, None if features is None else keys_of(features))

    def _at(self, moment: "str | datetime | MetadataStore") -> "MetadataStore":
        return moment if isinstance(moment, MetadataStore) else self.at(moment)

    def fingerprint(
        self, features: Iterable[FeatureLike] | None = None, *, at: str | datetime | None = None
    ) -> "Fingerprint":
        """Return digests of the ids and versions of features: the same wherever, and in whatever order, they are kept.

        The latest row of each sample counts that `read_metadata` reads: of a feature that the active graph holds those
        of its current data version, of others those of all. Compaction, vacuum, copies between roots of any kind, the
        order of writes and other columns make no difference; any change of an id or a version does.

        Args:
            features: Feature classes, keys or texts; by default all that any store of the chain holds.
            at: The name of a snapshot, or a time with a time zone, as `MetadataStore.at` takes it.

        Raises:
            FeatureNotFoundError: No store of the chain has rows of one of the features.
            SnapshotError: There is no such snapshot.

        Examples:
            >>> taken = store.fingerprint([Video])
            >>> taken.save("train-2026-11.json")
            >>> from metaxy_fs import Fingerprint
            >>> store.check(Fingerprint.load("train-2026-11.json"))
            the same in 1 feature
        """
        seen = self if at is None else self.at(at)
        keys = seen.list_features(include_fallback=True) if features is None else features
        return on_demand.fingerprint(seen, declarations_of(keys))

    def check(self, fingerprint: "Fingerprint") -> "FingerprintCheck":
        """Return what differs between a fingerprint, of this chain or of another, and what this chain holds now.

        For a snapshot or a time, ask the store at that moment: `store.at("train-2026-11").check(taken)`.

        Args:
            fingerprint: What `MetadataStore.fingerprint` gave. Rows of the definition that it names are looked at.

        Returns:
            True if nothing differs; else it says which features do, and which stored samples may.

        Examples:
            >>> taken = store.fingerprint([Video])
            >>> store.write_metadata(Video, pl.DataFrame({"sample_id": [3], "data_version": [{"default": "v1"}]}))
            >>> found = store.check(taken)
            >>> bool(found), found.samples(Video)["sample_id"].to_list()
            (False, [3])
        """
        return on_demand.check(self, fingerprint)

    def stored_graph(self) -> FeatureGraph:
        """Return the graph of the features that this chain holds, as `FeatureGraph.from_store` gives it."""
        return on_demand.stored_graph(self)

    def read_upstream_metadata(
        self, feature: FeatureLike, *, allow_upstream_fallback: bool = True
    ) -> dict[str, pl.DataFrame]:
        """Return the latest row of each sample of every upstream feature, by the string of the upstream's key.

        They are filtered and renamed as the deps say. An optional upstream feature without any commit is left out.

        Raises:
            DependencyError: A required upstream feature has no commit; the message says where it was looked for.

        Examples:
            >>> store.read_upstream_metadata(Faces)["video"]["sample_id"].to_list()
            [1, 2]
        """
        return read_upstream(
            self, require_declaration(feature), fallback=flag(allow_upstream_fallback, name="allow_upstream_fallback")
        )

    @overload
    def calculate_data_versions(
        self, feature: FeatureLike, sample_df: pl.DataFrame | ArrowStream, *, allow_upstream_fallback: bool = True
    ) -> pl.DataFrame: ...

    @overload
    def calculate_data_versions(
        self, feature: FeatureLike, sample_df: pl.LazyFrame, *, allow_upstream_fallback: bool = True
    ) -> pl.LazyFrame: ...

    def calculate_data_versions(
        self, feature: FeatureLike, sample_df: FrameLike, *, allow_upstream_fallback: bool = True
    ) -> pl.DataFrame | pl.LazyFrame:
        """Return the samples with the data versions that follow from their upstream rows; nothing is written.

        See `metaxy_fs.versioning.preimages` for the formula. The latest row of each sample counts.

        Args:
            feature: A feature with upstream features.
            sample_df: One row a sample, with the id columns and any others but `data_version`, which may only give
                versions of containers that are versioned by content. A LazyFrame is taken in parts, and need not fit
                into memory.
            allow_upstream_fallback: Whether upstream features may come from the fallback stores.

        Returns:
            The samples with one more column, `data_version` (struct of one string of 64 hex digits per container). If
            one is versioned by content, its place holds what was given, or null, and `provenance` has all strings. Of a
            frame in its order; of a LazyFrame another one, sorted by id, that reads what this call has computed from
            files of a temporary directory.

        Raises:
            DependencyError: An upstream feature, or the upstream row of some sample, is missing; or there is no
                upstream feature.
            MetadataSchemaError: The id columns are not right, or upstream rows cannot be grouped by them.

        Examples:
            >>> samples = store.calculate_data_versions(Faces, pl.DataFrame({"sample_id": [1, 2]}))
            >>> samples.schema["data_version"]
            Struct({'default': String})
        """
        return calculate(self, require_declaration(feature), sample_df, fallback=allow_upstream_fallback)

    @overload
    def calculate_and_write_data_versions(
        self,
        feature: FeatureLike,
        sample_df: pl.DataFrame | ArrowStream,
        *,
        allow_upstream_fallback: bool = True,
        write_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> pl.DataFrame: ...

    @overload
    def calculate_and_write_data_versions(
        self,
        feature: FeatureLike,
        sample_df: pl.LazyFrame,
        *,
        allow_upstream_fallback: bool = True,
        write_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> pl.LazyFrame: ...

    def calculate_and_write_data_versions(
        self,
        feature: FeatureLike,
        sample_df: FrameLike,
        *,
        allow_upstream_fallback: bool = True,
        write_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> pl.DataFrame | pl.LazyFrame:
        """Do what `calculate_data_versions` does, write the result to this store in one commit, and return it.

        `write_id` and `tags` are those of the commit; see `write_metadata`. A retry gives the same rows, if no upstream
        row of its samples has changed meanwhile; where one has, the `write_id` is refused with a WriteConflictError.
        Versions of containers that are versioned by content must be given in `data_version`.

        Examples:
            >>> faces = pl.DataFrame({"sample_id": [1, 2], "count": [3, 0]})
            >>> store.calculate_and_write_data_versions(Faces, faces).columns
            ['sample_id', 'count', 'data_version']
            >>> bool(store.resolve_update(Faces))
            False
        """
        return calculate_and_write(
            self,
            require_declaration(feature),
            sample_df,
            fallback=allow_upstream_fallback,
            write_id=write_id,
            tags=tags,
        )

    @overload
    def resolve_update(
        self,
        feature: FeatureLike,
        *,
        samples: FrameLike | None = None,
        where: pl.Expr | None = None,
        stale_if: pl.Expr | None = None,
        lazy: Literal[False] = False,
        progress: bool = False,
    ) -> Increment: ...

    @overload
    def resolve_update(
        self,
        feature: FeatureLike,
        *,
        samples: FrameLike | None = None,
        where: pl.Expr | None = None,
        stale_if: pl.Expr | None = None,
        lazy: Literal[True],
        progress: bool = False,
    ) -> LazyIncrement: ...

    def resolve_update(
        self,
        feature: FeatureLike,
        *,
        samples: FrameLike | None = None,
        where: pl.Expr | None = None,
        stale_if: pl.Expr | None = None,
        lazy: bool = False,
        progress: bool = False,
    ) -> Increment | LazyIncrement:
        """Return which samples of a feature are new, stale, orphaned or waiting.

        The expected version of each sample is compared with its latest row under the current data version of the
        feature, or else under any other, in the store that `read_metadata` reads; where no store holds the current data
        version, in the first that holds any. In a chain of `fallback_mode="sample"`, it is compared with every store. A
        sample that lacks a required upstream row waits, and the others do not.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            samples: The samples that there are now, with the id columns and any others. A root feature needs them,
                with their `data_version`, which others do not. For these the default is every sample of the required
                upstream features that none of them retires and no `where` excludes; the rows of these features, if all
                deps are expansions.
            where: A predicate on the ids of samples and on the columns that the deps carry, such as
                `pl.col("sample_id") < 100`: samples for which it is false or null are in no frame, whatever is stored
                of them. Of a stored sample that there should not be, all that is carried is null. Upstream rows and
                stored rows whose ids it rules out are not read.
            stale_if: A predicate on the stored row of each sample, such as `pl.col("status") == "failed"`: where it
                holds, the sample is stale whatever its version. Null counts as false.
            lazy: Keep the answer in files of a temporary directory instead of memory, for more samples than that holds.
            progress: Whether to show on stderr, if that is a terminal, how many samples were found so far.

        Raises:
            DependencyError: A required upstream feature has no commit, or nothing tells which samples there should be.
            MetadataSchemaError: The samples do not fit the feature, upstream rows lack a column that a dep carries,
                `where` names other columns or looks at several samples, or `stale_if` names a column that is not
                stored.

        Examples:
            >>> increment = store.resolve_update(Faces)
            >>> increment.pending["sample_id"].to_list()
            [1, 2]
            >>> store.write_metadata(Faces, increment.pending)
            >>> store.resolve_update(Faces)
            Increment(new=0, stale=0, orphaned=0, waiting=0)
        """
        compute = lazy_increment if flag(lazy, name="lazy") else increment
        flag(progress, name="progress")
        return compute(self, require_declaration(feature), samples, stale_if=stale_if, where=where, progress=progress)

    def plan_update(
        self,
        feature: FeatureLike,
        *,
        where: pl.Expr | None = None,
        stale_if: pl.Expr | None = None,
        rows: int = 262_144,
    ) -> "list[UpdateTask]":
        """Return tasks that other processes run, and that together return the increment of `resolve_update`.

        Which commits they compare is decided by this call. `task.run()` then returns the `Increment` of a range of ids;
        every sample is in one task. A task is a picklable value of a few kB, lists nothing and holds no credentials.

        Where the stored rows are under several data versions, this call reads ids to find out whether some sample has
        no row under the current one.

        Args:
            feature: As for `resolve_update`. A root feature has no tasks: only its caller knows its samples.
            where: As for `resolve_update`.
            stale_if: As for `resolve_update`.
            rows: As for `plan_read`, of each feature that is read. There is one task where a range of the first id
                column would tear apart what belongs together: where an upstream feature is grouped or joined by others
                than that column, or where its ids are of another type.

        Returns:
            The tasks, in the order of the ids; at least one.

        Raises:
            DependencyError: As `resolve_update` raises it, and so are all other errors.
            StorageError: A store of the chain could not be asked, or has the rows in no files.

        Examples:
            >>> tasks = store.plan_update(Faces)
            >>> sum(task.run().counts.new for task in tasks)
            2
        """
        return on_demand.plan_update(self, require_declaration(feature), where=where, stale_if=stale_if, rows=rows)

    def materialize(
        self,
        feature: FeatureLike,
        compute: Callable[[pl.DataFrame], FrameLike],
        *,
        batch_rows: int = 1_000,
        samples: FrameLike | None = None,
        where: pl.Expr | None = None,
        stale_if: pl.Expr | None = None,
        executor: Executor | None = None,
        on_error: "OnError" = "raise",
        retire_orphaned: bool = False,
        tags: Mapping[str, str] | None = None,
        progress: bool = True,
    ) -> "Materialization":
        """Compute what a feature lacks, and commit it: resolve, compute batch by batch, write.

        May be killed and called again at any moment: a sample is done or not, what is done is not computed again, and
        what was not committed is. Rows are committed as a buffer does it: 100,000 at a time, after a minute, and at the
        end, also by an exception or Ctrl-C. A row keeps the version that its sample had when the call began, so one
        whose upstream row changes meanwhile is stale afterwards. Two calls at once compute samples twice, and do no
        other harm. All rows go to this store, as with `write_metadata`, wherever in a chain the stored ones are; where
        they would hide rows of other samples in a fallback store, nothing is computed.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            compute: Gets a batch of `pending` of `resolve_update`: ids, `data_version`, and what deps carry. Returns a
                frame as `write_metadata` takes it, with a row for each sample and the columns that it computed, in any
                order; `data_version` stays as it is, or is left out. Where one upstream row makes many samples, it gets
                the parents, and returns all samples of each: at least one, if need be a row that stands for none.
            batch_rows: How many samples a batch has at most.
            samples: As for `resolve_update`; a root feature needs them.
            where: As for `resolve_update`; other samples are neither computed nor retired.
            stale_if: As for `resolve_update`.
            executor: Where to compute: any `concurrent.futures.Executor`, whose workers get the function and at most 64
                batches at once; None for this process. Processes need a function that can be pickled, and have to be
                started by `spawn` or `forkserver`. This process alone writes.
            on_error: `"raise"` commits what is done and raises the error, with a note of the samples. `"skip"` computes
                the samples of a batch that fails one by one, stores nothing of those that fail again, and returns them.
            retire_orphaned: Whether to retire the orphaned samples, with the reason `orphaned`; in a feature of which
                one upstream row makes many samples, also those that were not made again. They are new once their
                upstream rows are back, other than what `retire` retires.
            tags: What each commit says of itself; see `write_metadata`.
            progress: Whether to show the samples, their rate and the time left on stderr, if that is a terminal.

        Returns:
            The counts of what was found and done, the samples that failed, and the seconds.

        Raises:
            ValueError: An option or a tag has no meaning.
            DependencyError: A required upstream feature has no commit, or nothing tells which samples there should be.
            MetadataSchemaError: The function returned something else than it should, or rows that do not fit.
            FeatureNotFoundError: Rows of a fallback store would be hidden, or cannot be retired here.
            StorageError: The increment could not be resolved, or rows not committed.

        Examples:
            >>> def count_faces(videos: pl.DataFrame) -> pl.DataFrame:
            ...     return videos.select("sample_id", faces=pl.col("sample_id") * 2)
            >>> store.materialize(Faces, count_faces)
            Materialization(new=2, stale=0, waiting=0, orphaned=0, retired=0, failed=0, written=2)
            >>> store.materialize(Faces, count_faces).counts.written
            0
        """
        how = on_demand.How(
            batch_rows=batch_rows,
            executor=executor,
            on_error=on_error,
            retire_orphaned=retire_orphaned,
            tags=tags,
            progress=progress,
        )
        return on_demand.materialize(
            self, require_declaration(feature), compute, samples=samples, where=where, stale_if=stale_if, how=how
        )

    def plan(self, *targets: FeatureLike, seconds: str | None = None, retire_orphaned: bool = False) -> "Plan":
        """Return what a run of whole features would compute, with all that they are made from, before anything runs.

        The run computes what `resolve_update` finds pending in each feature, upstream first, and commits it to this
        store. It is played through with versions alone: nothing is computed and nothing is written.

        Args:
            targets: The features, of one graph: Feature classes, or keys that the active graph holds; by default all
                features of the active graph.
            seconds: A column of the stored rows that says how many seconds each took to compute. What is to be
                computed is taken to last as long as the rows that are stored, on average.
            retire_orphaned: Whether the run retires what is orphaned in each feature, as `materialize` does with this
                option, so that it is gone for all that is made from it.

        Returns:
            The plan: counts for each feature, the causes of what is stale, and the samples. It prints as text and shows
            itself in a notebook.

        Raises:
            SpecError: The targets are of several graphs, or one is not declared.
            MetadataSchemaError: Stored rows do not fit the declarations, or `seconds` is no column of numbers, or of
                none of the features that were computed.
            StorageError: A store of the chain could not be asked.

        Examples:
            >>> print(store.plan(Faces))
            Plan of 2 features: 2 samples to compute
            feature  new  stale  waiting  orphaned
            video      0      0        0         0
            faces      2      0        0         0
        """
        return on_demand.plan(self, targets, seconds=seconds, retire_orphaned=retire_orphaned)

    def trace(self, feature: FeatureLike, ids: SampleIds, *, direction: Literal["down", "up"] = "down") -> "Trace":
        """Return everything that was made from some samples, or that they were made from.

        Follows the deps of all features of the graph, and of what is stored beside it, through relations, renames and
        groups, and reads the rows that have the values which a dep compares: files that cannot have any are not read.
        All rows that were ever written count, in every store of the chain and under every declaration with these id
        columns, those of retired samples too. A dep's `where` is not looked at, since what it holds for now may not be
        what it held for then.

        Args:
            feature: A Feature class, or a name. Of a name that the active graph does not hold, the graph is that of
                what is stored (`FeatureGraph.from_store`).
            ids: The samples.
            direction: `"down"` to what was made from the samples, `"up"` to what they were made from.

        Returns:
            The rows by feature, each with its store and the snapshots that hold it. It prints as text and shows itself
            in a notebook.

        Raises:
            MetadataSchemaError: The ids do not name samples of the feature.
            FeatureNotFoundError: The feature is neither declared nor stored.
            StorageError: A store of the chain could not be asked.

        Examples:
            >>> store.write_metadata(Faces, store.resolve_update(Faces).pending)
            >>> print(store.trace(Video, [1]))
            video: 1 sample in ...; made from them:
              faces: 1 sample in ...
            snapshots: none
            >>> store.trace(Video, [1]).rows["faces"]["sample_id"].to_list()
            [1]
        """
        return on_demand.trace(self, find_declaration(feature), ids, direction=direction)

    def explain(self, feature: FeatureLike, sample_id: object) -> "Explanation":
        """Return why a sample of a feature has its data version, and why it is stale.

        Compares what `resolve_update` does, for this sample alone, in the feature and in all that it is made from, and
        follows what differs to the code version, the given version or the missing row that it comes from. Only files
        that may hold the sample are read; all stores of the chain are asked for the rows that it has had. Nothing is
        written.

        Args:
            feature: A Feature class, or a key that the active graph holds.
            sample_id: The name of the sample.

        Returns:
            The tree of containers, stored against expected. It prints as text, shows itself as a picture in a
            notebook, and has `to_text`, `to_mermaid` and `to_svg`.

        Raises:
            FeatureNotFoundError: The feature is a root feature, and no store of the chain has a row of the sample.
            DependencyError: Neither the feature nor any that it is made from has a row of the sample.
            MetadataSchemaError: The id does not fit the id columns.
            StorageError: A store of the chain could not be asked.

        Examples:
            >>> store.write_metadata(Faces, store.resolve_update(Faces).pending)
            >>> store.write_metadata(Video, pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v3"}]}))
            >>> store.explain(Faces, 1).status
            'stale'
        """
        return on_demand.explain(self, require_declaration(feature), sample_id)

    def what_if(self, feature: FeatureLike, *, code_versions: Mapping[str, int | str]) -> pl.DataFrame:
        """Return which stored samples a change of code versions would make stale, down the graph. Nothing is changed.

        Counts what the definitions tell: a sample is counted if it has no row under the definition that there would
        then be, and its latest row under the others was written under another definition of a container that would
        change. Ids are read at most, and no versions.

        Args:
            feature: The feature whose code would change: a Feature class, or a key that the active graph holds.
            code_versions: The new code version of each container that would change, by its name.

        Returns:
            One row for each feature that would be affected, upstream first: `feature` (string, the text of its key),
            `containers` (list of strings, those whose definition would change), `stale` (the stored samples that would
            have to be computed again), `samples` (all that are stored).

        Raises:
            SpecError: The feature has no such container, or the code version is none.
            MetadataSchemaError: The rows of an affected feature have other id columns than its declaration.
            StorageError: A store could not be asked.

        Examples:
            >>> store.write_metadata(Faces, store.resolve_update(Faces).pending)
            >>> store.what_if(Faces, code_versions={"default": 2}).select("feature", "stale").rows()
            [('faces', 2)]
        """
        return impact(self, require_declaration(feature), code_versions)


class StoreAt(BackendAt, MetadataStore):
    """A read-only store: the rows that there were at some moment. Made by `MetadataStore.at`."""
