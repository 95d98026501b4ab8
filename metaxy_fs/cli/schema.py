"""Say, as JSON Schema, what each command prints with --json."""

import inspect
import json
from typing import Annotated, Any, Final

import msgspec
import polars as pl
import typer

from metaxy_fs.cli.answers import DiffAnswer, ExplainAnswer, GraphAnswer, PlanAnswer, StatusAnswer, TraceAnswer
from metaxy_fs.cli.changes import CheckAnswer, SnapshotsAnswer
from metaxy_fs.cli.copying import CopyAnswer
from metaxy_fs.cli.output import Answer
from metaxy_fs.cli.publishing import PublishAnswer
from metaxy_fs.cli.stored import DefinitionsAnswer, FilesAnswer, HistoryAnswer, ListAnswer, ShowAnswer
from metaxy_fs.cli.targets import refuse
from metaxy_fs.cli.upkeep import CompactAnswer, RepairAnswer, VacuumAnswer, VerifyAnswer
from metaxy_fs.metadata_store import Fingerprint

ANSWERS: Final[dict[str, type[Answer | Fingerprint]]] = {
    "list": ListAnswer,
    "status": StatusAnswer,
    "show": ShowAnswer,
    "history": HistoryAnswer,
    "definitions": DefinitionsAnswer,
    "files": FilesAnswer,
    "graph": GraphAnswer,
    "plan": PlanAnswer,
    "explain": ExplainAnswer,
    "trace": TraceAnswer,
    "diff": DiffAnswer,
    "fingerprint": Fingerprint,
    "check": CheckAnswer,
    "snapshot list": SnapshotsAnswer,
    "compact": CompactAnswer,
    "vacuum": VacuumAnswer,
    "verify": VerifyAnswer,
    "repair": RepairAnswer,
    "copy": CopyAnswer,
    "publish": PublishAnswer,
}
"""What the commands that have `--json` answer. A fingerprint stands alone: it is the file that `check` takes."""

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def show_schema(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="Such as: snapshot list.")],
) -> None:
    """Print the JSON Schema of what a command answers."""
    if (name := " ".join(command)) not in ANSWERS:
        refuse(f"{name!r} is no command with --json; these are: {', '.join(ANSWERS)}", "COMMAND")
    print(json.dumps(schema(name), indent=2))


def schema(command: str) -> dict[str, Any]:
    """Return the JSON Schema of the document that a command prints with --json.

    Examples:
        >>> schema("list")["properties"]["answers"]["items"]
        {'$ref': '#/$defs/ListAnswer'}
    """
    kind = ANSWERS[command]
    [answer], definitions = msgspec.json.schema_components([kind], schema_hook=_of_foreign)
    whole = {"type": "object", **answer}
    if issubclass(kind, Answer):
        parts = {"command": {"const": command}, "answers": {"type": "array", "items": answer}}
        whole = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    exact = {name: _exact(definition) for name, definition in definitions.items()}
    return {"$schema": _DIALECT, "title": f"metaxy-fs {command} --json", **whole, "$defs": exact}


def _of_foreign(kind: type) -> dict[str, Any]:
    return {"type": "array" if kind is pl.DataFrame else "string"}


def _exact(definition: dict[str, Any]) -> dict[str, Any]:
    """Return what the schema of a Struct says, and that it has all of its fields, but for one, and no others."""
    description, _, _ = inspect.cleandoc(definition["description"]).partition("\n\nExamples:")
    required = [name for name in definition["properties"] if name != "left_out"]
    return {**definition, "description": description, "required": required, "additionalProperties": False}
