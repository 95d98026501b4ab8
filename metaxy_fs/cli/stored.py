"""Say what is stored: features, rows, commits and definitions."""

import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
import polars as pl
import typer

from metaxy_fs.cli.output import Answer, Json, frame_of, print_json, print_table, print_title
from metaxy_fs.cli.targets import (
    ConfigPath,
    Features,
    OneFeature,
    Roots,
    Stores,
    Target,
    held_features,
    open_targets,
    refuse,
    sample_frame,
)
from metaxy_fs.metadata_store.overview import (
    COMMITS_IN_STORES,
    DEFINED,
    FILES_IN_STORES,
    LISTED,
    commits_in,
    counted,
    definitions_in,
    files_in,
)
from metaxy_fs.spec import FeatureGraph
from metaxy_fs.versioning.relations import parse_sql


class ListAnswer(Answer, frozen=True, kw_only=True):
    """What `list` answers.

    Attributes:
        store: The store that was asked.
        rows: One for each feature and store that it is read from: `feature`, how many `commits`, `rows` and `bytes` the
            `store` holds of it, and the `last` write.
    """

    rows: Annotated[pl.DataFrame, frame_of(LISTED)]


class HistoryAnswer(Answer, frozen=True, kw_only=True):
    """What `history` answers.

    Attributes:
        store: The store that was asked.
        rows: One for each commit, the oldest first: `time`, `commit` (its id), `rows` and `retired` (how many it wrote
            and retired), `bytes`, `partition` (the version of the definition), `write_id`, `writer`, `compacted`
            (whether its rows are kept with those of other commits), `tags` (a JSON object as a string) and `store`.
    """

    rows: Annotated[pl.DataFrame, frame_of(COMMITS_IN_STORES, nullable={"write_id", "tags"})]


class DefinitionsAnswer(Answer, frozen=True, kw_only=True):
    """What `definitions` answers.

    Attributes:
        store: The store that was asked.
        rows: One for each definition, that with the last commit last: `partition` (its version), `code` (its code
            versions by container, such as `"audio 1, frames 2"`; null if the root does not tell), the `first` and
            `last` commit, how many `commits` and `rows`, and the `store` that it is read from.
    """

    rows: Annotated[pl.DataFrame, frame_of(DEFINED, nullable={"code"})]


class FilesAnswer(Answer, frozen=True, kw_only=True):
    """What `files` answers.

    Attributes:
        store: The store that was asked.
        rows: One for each data file: `path`, `rows`, `bytes`, the `min` and `max` of each id (null where unknown),
            `sha256`, `partition` (the version of the definition), `commit` (null where it holds several), the times of
            the `first` and `last` commit, `excluded` (commits whose rows in it do not count), `schema` (its columns and
            types), and the `store` that has it.
    """

    rows: Annotated[pl.DataFrame, frame_of(FILES_IN_STORES, nullable={"commit"})]


class ShowAnswer(Answer, frozen=True, kw_only=True):
    """What `show` answers.

    Attributes:
        store: The store that was asked.
        rows: Rows of the feature, with the columns that were written.
    """

    rows: Annotated[pl.DataFrame, msgspec.Meta(extra_json_schema={"items": {"type": "object"}})]


def list_features(
    features: Features = None,
    *,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """List features, with commits, rows and the last write."""
    _answer("list", [listing(target, features) for target in open_targets(store, root, config)], as_json=as_json)


def show_history(
    feature: OneFeature, *, store: Stores = None, root: Roots = None, config: ConfigPath = None, as_json: Json = False
) -> None:
    """List the commits of a feature, the oldest first."""
    _answer("history", [history(target, feature) for target in open_targets(store, root, config)], as_json=as_json)


def show_definitions(
    feature: OneFeature, *, store: Stores = None, root: Roots = None, config: ConfigPath = None, as_json: Json = False
) -> None:
    """List the definitions and code versions of a feature."""
    found = [definitions(target, feature) for target in open_targets(store, root, config)]
    _answer("definitions", found, as_json=as_json)


def show_files(
    feature: OneFeature, *, store: Stores = None, root: Roots = None, config: ConfigPath = None, as_json: Json = False
) -> None:
    """List the data files of a feature, in all its data versions.

    Of a chain, these are the files that a read of the chain reads. A glob over the directory also finds files that were
    compacted, and those of writes that died.
    """
    _answer("files", [data_files(target, feature) for target in open_targets(store, root, config)], as_json=as_json)


def show_rows(
    feature: OneFeature,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Samples; all by default.")] = None,
    *,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Such as \"path LIKE 'a%' AND size > 3\".")
    ] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="Only these columns.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All rows ever written, not the latest of each sample.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many rows.")] = 20,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Print rows of a feature, of some samples or by SQL.

    By default these are the latest row of each sample.
    """
    wanted = columns.split(",") if columns else None
    found = [
        chosen_rows(target, feature, ids, where=where, columns=wanted, every=every, limit=limit)
        for target in open_targets(store, root, config)
    ]
    _answer("show", found, as_json=as_json)


def listing(target: Target, features: Sequence[str] | None = None) -> ListAnswer:
    """Return what `list` answers about a store."""
    rows = counted(target.store, held_features(target.store, features))
    return ListAnswer(store=target.store.location, rows=rows)


def history(target: Target, feature: str) -> HistoryAnswer:
    """Return what `history` answers about a store."""
    [key] = held_features(target.store, [feature])
    return HistoryAnswer(store=target.store.location, rows=commits_in(target.store, key))


def definitions(target: Target, feature: str) -> DefinitionsAnswer:
    """Return what `definitions` answers about a store."""
    [key] = held_features(target.store, [feature])
    return DefinitionsAnswer(store=target.store.location, rows=definitions_in(target.store, key))


def data_files(target: Target, feature: str) -> FilesAnswer:
    """Return what `files` answers about a store."""
    [key] = held_features(target.store, [feature])
    return FilesAnswer(store=target.store.location, rows=files_in(target.store, key))


def chosen_rows(
    target: Target,
    feature: str,
    ids: Sequence[str] | None = None,
    *,
    where: str | None = None,
    columns: list[str] | None = None,
    every: bool = False,
    limit: int = 20,
) -> ShowAnswer:
    """Return what `show` answers about a store."""
    [key] = held_features(target.store, [feature])
    rows = target.store.scan_metadata(key, latest_only=not every, versions="all")
    if ids:
        samples = sample_frame(target, FeatureGraph.from_store(target.store), key, ids)
        rows = rows.join(samples.lazy(), on=samples.columns, how="semi", maintain_order="left")
    found = _chosen(rows, where=where, columns=columns, limit=limit)
    return ShowAnswer(store=target.store.location, rows=found)


def _chosen(rows: pl.LazyFrame, *, where: str | None, columns: list[str] | None, limit: int) -> pl.DataFrame:
    try:
        found = rows if where is None else rows.filter(parse_sql(where))
        return (found if columns is None else found.select(columns)).head(limit).collect()
    except pl.exceptions.PolarsError as error:
        if where is None and columns is None:
            raise
        refuse(str(error).splitlines()[0], "--where / --columns")


def _answer(
    command: str,
    answers: Sequence[ListAnswer | HistoryAnswer | DefinitionsAnswer | FilesAnswer | ShowAnswer],
    *,
    as_json: bool,
) -> None:
    if as_json:
        print_json(command, answers)
        return
    for answer in answers:
        print_title(answer.store, of=len(answers))
        is_stored = isinstance(answer, ShowAnswer)
        is_named = not is_stored and (answer.rows["store"] == answer.store).all()
        print_table(answer.rows.drop("store") if is_named else answer.rows, is_stored=is_stored)
        if is_stored and answer.rows.is_empty():
            print("metaxy-fs: no such row is stored", file=sys.stderr)
