"""Open the stores, and read the features, ids and moments that a command is given."""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, NoReturn

import polars as pl
import typer

from metaxy_fs.cli.wording import in_shell
from metaxy_fs.config import Config, load_config
from metaxy_fs.errors import ConfigError, FeatureNotFoundError, MetaxyError, SpecError
from metaxy_fs.markup import printable
from metaxy_fs.metadata_store import FilesystemMetadataStore, MetadataStore, on_demand, open_store
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.roots import existing_feature, refuse_nothing_at, require_root
from metaxy_fs.metadata_store.snapshots import check_name
from metaxy_fs.spec import FeatureGraph, FeatureKey
from metaxy_fs.spec.keys import did_you_mean
from metaxy_fs.spec.specs import join_columns, stored_names

ROOT_HELP = "A directory, or a URL such as s3://bucket/prefix or gs://bucket/prefix."

Stores = Annotated[list[str] | None, typer.Option("--store", metavar="NAME", help="A store of the configuration.")]
Roots = Annotated[list[str] | None, typer.Option("--root", metavar="ROOT", help=ROOT_HELP)]
ConfigPath = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="The configuration, instead of the one that is found.")
]
Features = Annotated[list[str] | None, typer.Argument(metavar="FEATURE", help="Features; all by default.")]
OneFeature = Annotated[str, typer.Argument(metavar="FEATURE", help="A feature, such as video/frames.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Samples; several id columns with commas between.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it nothing is changed.")]


@dataclass(frozen=True)
class Target:
    """A store that a command is about.

    Attributes:
        store: The store, with those that it falls back on.
        config: The file that names it, None for a root.
    """

    store: MetadataStore
    config: Config | None = None

    @property
    def root(self) -> FilesystemMetadataStore:
        """The store, for the upkeep of its root.

        Raises:
            BadParameter: It keeps its rows elsewhere.
        """
        if not isinstance(self.store, FilesystemMetadataStore):
            refuse(f"{self.store.location} is no root of files, which this command is about", "--store")
        return self.store


def open_targets(stores: Sequence[str] | None, roots: Sequence[str] | None, config: str | None) -> list[Target]:
    """Return the stores that a command names, or the default store; each has to be there."""
    found = named_targets(stores, roots, config)
    for target in found:
        _require_written(target.store)
    return found


def open_target(stores: Sequence[str] | None, roots: Sequence[str] | None, config: str | None) -> Target:
    """Return the one store that a command is about."""
    if len(stores or ()) + len(roots or ()) > 1:
        refuse("this command is about one store", "--store / --root")
    return open_targets(stores, roots, config)[0]


def named_targets(stores: Sequence[str] | None, roots: Sequence[str] | None, config: str | None) -> list[Target]:
    """Return the stores that a command names, or the default store, whether or not there is anything."""
    targets = []
    if stores or not roots:
        found = _configured(config)
        names: Sequence[str | None] = stores or [None]
        targets = [Target(found.store(name), found) for name in names]
    return targets + [Target(open_root(root)) for root in roots or ()]


def open_roots(stores: Sequence[str] | None, roots: Sequence[str] | None, config: str | None) -> list[Target]:
    """Return the stores whose roots a command is about; each has a root that is there."""
    targets = named_targets(stores, roots, config)
    for target in targets:
        require_root(target.root)
    return targets


def open_root(root: str, *, option: str = "--root") -> FilesystemMetadataStore:
    """Return the store of a root; a text that names none is an argument without meaning."""
    with has_meaning(option):
        return open_store(root)


def feature_keys(features: Sequence[str] | None) -> list[FeatureKey]:
    """Return the keys that arguments name."""
    try:
        return [FeatureKey.parse(feature) for feature in features or ()]
    except SpecError as error:
        refuse(str(error), "FEATURE")


def features_of_root(target: Target, features: Sequence[str] | None) -> list[FeatureKey | None]:
    """Return the features that arguments name, each of which the root holds; None for all at once."""
    keys = feature_keys(features)
    for key in keys:
        existing_feature(target.root, key)
    return [*keys] or [None]


def held_features(store: MetadataStore, features: Sequence[str] | None) -> list[FeatureKey]:
    """Return the features that arguments name, all by default, each of which some store of the chain holds.

    Raises:
        FeatureNotFoundError: None does.
    """
    known = store.list_features(include_fallback=True)
    for key in (named := feature_keys(features)):
        if key not in known:
            raise FeatureNotFoundError(
                f"{store.location} holds nothing of a feature '{key}'; it holds "
                f"{', '.join(map(str, known)) or 'no feature'}.{did_you_mean(key, known)}",
                feature=key.dotted,
                root=store.location,
                roots=[each.location for each in chain(store, fallback=True)],
            )
    return named or known


@contextmanager
def declared(target: Target) -> Iterator[FeatureGraph]:
    """Make the features that the configuration's modules declare the active graph, else those that are stored.

    A stored declaration that is damaged hides no other; the notes of the graph name it.
    """
    if target.config is not None and target.config.entrypoints:
        with redirect_stdout(sys.stderr):  # what modules print is no answer
            graph = target.config.import_features()
    else:
        graph = on_demand.stored_graph(target.store, skip_unreadable=True)
    with graph.use():
        yield graph


def complain(notes: Iterable[str]) -> bool:
    """Say on stderr what of a graph cannot be read, and return whether there is any; the answer is about the rest."""
    damaged = list(filter(is_damage, notes))
    for note in damaged:
        print(f"metaxy-fs: {printable(note)}", file=sys.stderr)
    return bool(damaged)


def is_damage(note: str) -> bool:
    """Whether a note on a graph says that a declaration is damaged."""
    return note.startswith("unreadable: ")


def sample_frame(target: Target, graph: FeatureGraph, feature: FeatureKey, ids: Sequence[str]) -> pl.DataFrame:
    """Return the samples that arguments name, with the types of ids that are stored, here or upstream, else strings."""
    columns = graph[feature].id_columns
    schema = {**dict.fromkeys(columns, pl.String()), **_stored_types(target.store, graph, feature, columns)}
    rows = [_parts(text, columns) for text in ids]
    texts = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    try:
        return texts.select(_parsed(name, schema[name]) for name in columns).unique(maintain_order=True)
    except pl.exceptions.PolarsError as error:
        refuse(f"these name no samples by {', '.join(columns)}: {str(error).splitlines()[0]}", "ID")


@contextmanager
def has_meaning(argument: str) -> Iterator[None]:
    """End the command, as for any argument without meaning, where a call refuses what the argument says."""
    try:
        yield
    except MetaxyError:
        raise
    except ValueError as error:
        refuse(str(error), argument)


def moment(text: str) -> str | datetime:
    """Return the time that a text gives, if it is one, else the name of a snapshot."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        with has_meaning("MOMENT"):
            check_name(text)
        return text
    if time.tzinfo is None:
        refuse(f"{text!r} has no time zone: write {text}Z for UTC", "MOMENT")
    return time


def refuse(problem: str, argument: str) -> NoReturn:
    """End the command as for any argument without meaning."""
    raise typer.BadParameter(printable(in_shell(problem)), param_hint=argument)


def _configured(config: str | None) -> Config:
    try:
        return load_config(config)
    except ConfigError as error:
        if error.file is not None:
            raise
        refuse(f"none is given, and {error}", "--root / --store")


def _require_written(store: MetadataStore) -> None:
    """Refuse a place that is no root, or that holds nothing; the first of a chain may be new."""
    if isinstance(store, FilesystemMetadataStore):
        require_root(store, may_be_new=bool(store.fallback_stores))
    elif not store.fallback_stores and not store.is_written:
        refuse_nothing_at(store.location)


def _stored_types(
    store: MetadataStore, graph: FeatureGraph, feature: FeatureKey, columns: Sequence[str]
) -> dict[str, pl.DataType]:
    """Return the types that columns are stored with; where there are no rows, those of the upstream columns."""
    with suppress(FeatureNotFoundError):
        return dict(store.scan_metadata(feature, columns=columns, versions="all").collect_schema())
    types: dict[str, pl.DataType] = {}
    for upstream in graph.upstream(graph[feature]):
        names = [name for name in join_columns(graph[feature], upstream) if name in columns]
        stored = stored_names(graph[feature].dep(upstream.key), names)
        above = _stored_types(store, graph, upstream.key, stored)
        types |= {name: above[old] for name, old in zip(names, stored, strict=True) if old in above}
    return types


def _parts(text: str, columns: Sequence[str]) -> list[str]:
    """Return the values of the id columns that a text gives, one for each."""
    try:
        parts = [text] if len(columns) == 1 else next(csv.reader([text], strict=True), [])
    except csv.Error:
        parts = []
    if len(parts) != len(columns):
        refuse(
            f"{text!r} names no sample: give values of {', '.join(columns)} with commas between; "
            "one with a comma in it stands in quotes, such as '17,\"a,b\"'",
            "ID",
        )
    return parts


def _parsed(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return a column of texts as ids of a type; Polars casts no text to a time."""
    column = pl.col(name)
    match dtype:
        case pl.Date():
            return column.str.to_date("%F")
        case pl.Datetime():
            return column.str.to_datetime(time_unit=dtype.time_unit, time_zone=dtype.time_zone).cast(dtype)
        case _:
            return column.cast(dtype)
