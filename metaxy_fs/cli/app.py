"""Put the commands together, by groups.

A command is a function, whose module is imported when the command is run or all of them are listed.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from metaxy_fs._version import __version__
from metaxy_fs.cli.output import line_of_progress

_GROUPS: Final[dict[str, dict[str, str]]] = {
    "What is stored": {
        "list": "stored.list_features",
        "status": "questions.show_status",
        "show": "stored.show_rows",
        "history": "stored.show_history",
        "definitions": "stored.show_definitions",
        "files": "stored.show_files",
        "graph": "questions.draw_graph",
        "report": "reporting.make_report",
    },
    "What next, what changed, and why": {
        "plan": "questions.show_plan",
        "explain": "questions.explain_sample",
        "trace": "questions.trace_samples",
        "diff": "questions.show_diff",
        "fingerprint": "changes.take_fingerprint",
        "check": "changes.check_fingerprint",
    },
    "Corrections": {
        "retire": "changes.retire_samples",
        "restore": "changes.restore_feature",
    },
    "Upkeep": {
        "compact": "upkeep.compact_roots",
        "vacuum": "upkeep.vacuum_roots",
        "verify": "upkeep.verify_roots",
        "repair": "upkeep.repair_roots",
        "copy": "copying.copy_features",
        "publish": "publishing.publish_features",
    },
    "For programs, and to try it": {"schema": "schema.show_schema", "mcp": "mcp.serve", "demo": "demo.run"},
}
_SNAPSHOTS: Final[dict[str, str]] = {
    "list": "changes.list_snapshots",
    "create": "changes.create_snapshot",
    "drop": "changes.drop_snapshot",
}
_OF_SNAPSHOTS = "Corrections"
_WITH_BARS: Final = frozenset({"report", "compact", "vacuum", "verify", "copy", "schema", "mcp", "demo"})
"""The commands that say themselves how far they are, or take no time."""

_NAMES = 11
_SETTINGS: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _ByGroups(TyperGroup):
    """Commands, in the help, below the group that they belong to; the help fits one screen of 40 lines."""

    def get_help(self, ctx: Any) -> str:
        for option in self.params:
            if option.name == "show_completion":
                option.help = "Show what that would install."  # type: ignore[attr-defined]  # all options have one
        return "\n".join(line for line in super().get_help(ctx).splitlines() if line)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # Typer's signature
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # likewise
        for group, commands in _GROUPS.items():
            names = [*commands, "snapshot"] if group == _OF_SNAPSHOTS else list(commands)
            limit = formatter.width - _NAMES - 4
            with formatter.section(group):
                rows = [(name.ljust(_NAMES), self.commands[name].get_short_help_str(limit)) for name in names]
                formatter.write_dl(rows)


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the application: the command that the arguments begin with, or all commands of the shell."""
    app = typer.Typer(
        cls=_ByGroups,
        name="metaxy-fs",
        help="Versioned feature metadata as plain files.",
        rich_markup_mode=None,  # its boxes take more than a screen, and break messages in the middle
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )
    app.callback(invoke_without_command=True)(_without_command)
    commands = {name: place for group in _GROUPS.values() for name, place in group.items()}
    chosen = arguments[0] if arguments else None
    for name, place in commands.items():
        if chosen not in commands or chosen == name:
            app.command(name)(_function(place))
    if chosen not in commands:
        app.add_typer(_snapshots(), name="snapshot")
    return app


def _snapshots() -> typer.Typer:
    app = typer.Typer(help="List, create and drop snapshots.", rich_markup_mode=None, context_settings=_SETTINGS)
    for name, place in _SNAPSHOTS.items():
        app.command(name)(_function(place))
    return app


def _function(place: str) -> Callable[..., None]:
    module, _, name = place.partition(".")
    function: Callable[..., None] = getattr(import_module(f"metaxy_fs.cli.{module}"), name)
    return function


def _print_version(is_asked: bool) -> None:  # noqa: FBT001  # Typer's form of a callback
    if is_asked:
        print(f"metaxy-fs {__version__}")
        raise typer.Exit


def _without_command(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  # its callback has printed it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
    elif context.invoked_subcommand not in _WITH_BARS:
        context.with_resource(line_of_progress(context.invoked_subcommand))
