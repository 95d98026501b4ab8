"""Answer agents over the Model Context Protocol: the questions of the shell, about configured stores, read-only.

A tool is a function of this module; its annotations are the schema of its arguments, and the schema of its answer is
that of the command of the same name. Answers are bounded, and say how many rows they leave out.
"""

import inspect
import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Annotated, Any, Final

import msgspec
import polars as pl
import typer

from metaxy_fs._version import __version__
from metaxy_fs.cli import answers, changes, questions, stored
from metaxy_fs.cli.output import Answer, document
from metaxy_fs.cli.schema import schema
from metaxy_fs.cli.targets import ConfigPath, Target, open_target, refuse
from metaxy_fs.config import load_config
from metaxy_fs.errors import MetaxyError
from metaxy_fs.metadata_store import Fingerprint

ROWS: Final = 200
BYTES: Final = 200_000
"""What an answer has at most: rows in each of its lists, and characters of JSON."""

_NamedStore = Annotated[str | None, msgspec.Meta(description="A store of the configuration; its default if left out.")]
_NamedFeature = Annotated[str, msgspec.Meta(description="A feature, such as video/frames.")]
_NamedFeatures = Annotated[
    list[str] | None, msgspec.Meta(description="Features, such as video/frames; all if left out.")
]
_Sample = Annotated[str, msgspec.Meta(description="A sample: the values of its id columns, with commas between.")]
_MomentText = Annotated[
    str | None, msgspec.Meta(description="The name of a snapshot, or a time with a zone: 2026-11-28T06:00:00Z.")
]


def serve(*, config: ConfigPath = None) -> None:
    """Answer agents over stdio (MCP), read-only.

    An agent starts this command itself. It asks about the stores that the configuration names, and no others.
    """
    try:
        run = partial(import_module("anyio").run, _serve, config)
        import_module("mcp.server.lowlevel")
    except ModuleNotFoundError as error:
        raise ImportError("`metaxy-fs mcp` needs the SDK of MCP: pip install 'metaxy_fs[mcp]'") from error
    load_config(config)  # what is wrong in it is said at once
    run()


def answer(name: str, arguments: dict[str, Any], config: str | None) -> dict[str, Any]:
    """Return the document that a tool answers.

    Raises:
        BadParameter: There is no such tool, or its arguments have no meaning.
        ValidationError: The arguments do not fit the schema.
        MetaxyError: What the command raises.
    """
    if name not in _TOOLS:
        refuse(f"there is no tool {name!r}; there are {', '.join(_TOOLS)}", "name")
    options = msgspec.structs.asdict(msgspec.convert(arguments, _arguments(name)))
    store = options.pop("store")
    found = _TOOLS[name](open_target([store] if store else None, None, config), **options)
    return _bounded(_command(name), found)


async def _serve(config: str | None) -> None:
    anyio, types = import_module("anyio"), import_module("mcp.types")
    one_by_one = anyio.CapacityLimiter(1)  # a call makes its features the active graph

    async def list_tools(_context: Any, _params: Any) -> Any:
        return types.ListToolsResult(tools=[types.Tool(**_description(name)) for name in _TOOLS])

    async def call_tool(_context: Any, params: Any) -> Any:
        call = partial(answer, params.name, params.arguments or {}, config)
        try:
            found = await anyio.to_thread.run_sync(call, limiter=one_by_one)
        except (MetaxyError, ImportError, OSError, msgspec.ValidationError, typer.BadParameter) as error:
            return types.CallToolResult(content=[types.TextContent(text=str(error))], is_error=True)
        return types.CallToolResult(content=[types.TextContent(text=json.dumps(found))], structured_content=found)

    server = import_module("mcp.server.lowlevel").Server(
        "metaxy-fs",
        version=__version__,
        instructions=f"Versioned feature metadata in these stores: {', '.join(load_config(config).stores)}. "
        "Start with `list` or `graph`; `status` says what is due, `explain` why a sample is stale.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    async with import_module("mcp.server.stdio").stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def _list(target: Target, *, features: _NamedFeatures = None) -> stored.ListAnswer:
    """List features, with commits, rows and the last write."""
    return stored.listing(target, features)


def _status(target: Target, *, features: _NamedFeatures = None) -> answers.StatusAnswer:
    """Say what is stored, and how many samples are new, stale, waiting or orphaned."""
    return questions.status(target, features)


def _show(
    target: Target,
    *,
    feature: _NamedFeature,
    ids: Annotated[list[_Sample] | None, msgspec.Meta(description="Only these samples.")] = None,
    where: Annotated[str | None, msgspec.Meta(description="A condition of SQL, such as: path LIKE 'a%'.")] = None,
    columns: Annotated[list[str] | None, msgspec.Meta(description="Only these columns.")] = None,
    every: Annotated[bool, msgspec.Meta(description="All rows ever written, not the latest of each sample.")] = False,
    limit: Annotated[int, msgspec.Meta(ge=1, le=ROWS, description="At most so many rows.")] = 20,
) -> stored.ShowAnswer:
    """Show rows of a feature: by default the latest row of each sample."""
    return stored.chosen_rows(target, feature, ids, where=where, columns=columns, every=every, limit=limit)


def _history(target: Target, *, feature: _NamedFeature) -> stored.HistoryAnswer:
    """List the commits of a feature, the newest first: when, by whom, how many rows, with which tags."""
    found = stored.history(target, feature)
    return msgspec.structs.replace(found, rows=found.rows.reverse())


def _definitions(target: Target, *, feature: _NamedFeature) -> stored.DefinitionsAnswer:
    """List the definitions and code versions that a feature was written under."""
    return stored.definitions(target, feature)


def _files(target: Target, *, feature: _NamedFeature) -> stored.FilesAnswer:
    """List the data files of a feature, with the ids and commits that each holds, for an engine that reads Parquet."""
    return stored.data_files(target, feature)


def _graph(target: Target, *, features: _NamedFeatures = None) -> answers.GraphAnswer:
    """Say what is made from what: features upstream first, with their containers and code versions."""
    return questions.graph_answer(target, features)


def _plan(
    target: Target,
    *,
    features: _NamedFeatures = None,
    seconds: Annotated[str | None, msgspec.Meta(description="The column that says how long a row took.")] = None,
) -> answers.PlanAnswer:
    """Count what a run would compute, by feature, and why; nothing is run."""
    return answers.PlanAnswer.of(target, questions.planned(target, features, seconds=seconds))


def _explain(target: Target, *, feature: _NamedFeature, sample: _Sample) -> answers.ExplainAnswer:
    """Say why a sample is new, stale, waiting or up to date."""
    return answers.ExplainAnswer.of(target, questions.explained(target, feature, sample))


def _trace(
    target: Target,
    *,
    feature: _NamedFeature,
    ids: list[_Sample],
    up: Annotated[bool, msgspec.Meta(description="What they were made from, not what was made from them.")] = False,
) -> answers.TraceAnswer:
    """Find everything that was made from some samples, or what they were made from."""
    return answers.TraceAnswer.of(target, questions.traced(target, feature, ids, up=up))


def _diff(
    target: Target,
    *,
    features: _NamedFeatures = None,
    before: _MomentText = None,
    after: _MomentText = None,
    before_store: Annotated[
        str | None, msgspec.Meta(description="Another store of the configuration to compare with, not a moment.")
    ] = None,
) -> answers.DiffAnswer:
    """Say which samples differ between two moments of a store, or two stores as they are now, and why."""
    config = None if target.config is None else str(target.config.file)
    if (before is None) == (before_store is None):
        refuse("give either `before`, a moment, or `before_store`, another store", "before")
    others = [open_target([before_store], None, config)] if before_store else []
    return answers.DiffAnswer.of(target, questions.compared([*others, target], features, before=before, after=after))


def _fingerprint(target: Target, *, features: _NamedFeatures = None, at: _MomentText = None) -> Fingerprint:
    """Give digests of the ids and versions of features: equal if these are. The digests of buckets are left out."""
    taken = changes.fingerprint(target, features, at=at)
    short = {name: msgspec.structs.replace(each, buckets={}) for name, each in taken.features.items()}
    return msgspec.structs.replace(taken, features=short)


def _snapshot_list(target: Target) -> changes.SnapshotsAnswer:
    """List the snapshots that a store keeps."""
    return changes.snapshots(target)


_TOOLS: Final[dict[str, Callable[..., Answer | Fingerprint]]] = {
    "list": _list,
    "status": _status,
    "show": _show,
    "history": _history,
    "definitions": _definitions,
    "files": _files,
    "graph": _graph,
    "plan": _plan,
    "explain": _explain,
    "trace": _trace,
    "diff": _diff,
    "fingerprint": _fingerprint,
    "snapshot_list": _snapshot_list,
}


def _command(tool: str) -> str:
    return tool.replace("_", " ")


def _description(name: str) -> dict[str, Any]:
    """Return what an agent is told of a tool."""
    kind = _arguments(name)
    _, definitions = msgspec.json.schema_components([kind])
    return {
        "name": name,
        "description": inspect.getdoc(_TOOLS[name]),
        "input_schema": definitions[kind.__name__],
        "output_schema": schema(_command(name)),
        "annotations": {"readOnlyHint": True, "idempotentHint": True},
    }


def _arguments(name: str) -> type[msgspec.Struct]:
    """Return what a tool may be given: the store, and what its function takes."""
    _, *options = inspect.signature(_TOOLS[name]).parameters.values()
    fields = [
        (option.name, option.annotation)
        if option.default is option.empty
        else (option.name, option.annotation, option.default)
        for option in options
    ]
    return msgspec.defstruct(name, [*fields, ("store", _NamedStore, None)], kw_only=True, forbid_unknown_fields=True)


def _bounded(command: str, found: Answer | Fingerprint) -> dict[str, Any]:
    """Return the document of an answer, with so few rows that it is no larger than an agent can read."""
    rows = ROWS
    while True:
        whole = document(command, [_cut(found, rows)]) if isinstance(found, Answer) else json.loads(found.to_json())
        if (size := len(json.dumps(whole))) <= BYTES:
            return dict(whole)
        if isinstance(found, Fingerprint) or rows == 1:
            refuse(f"the answer has {size:,} characters, but {BYTES:,} are the limit: ask for less at once", "name")
        rows //= 2


def _cut(found: Answer, rows: int) -> Answer:
    """Return an answer with so many rows in each of its lists, and how many are left out."""
    left_out: dict[str, int] = {}

    def head(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: head(f"{name}/{key}", part) for key, part in value.items()}
        if not isinstance(value, pl.DataFrame | list | tuple):
            return value
        if len(value) > rows:
            left_out[name] = len(value) - rows
        return value[:rows]

    cut = {name: head(name, value) for name, value in msgspec.structs.asdict(found).items()}
    return type(found)(**(cut | {"left_out": left_out or msgspec.UNSET}))
