"""The command `metaxy-fs vacuum`: delete what nothing needs any more."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from metaxy_fs.cli.report import count, size
from metaxy_fs.cli.roots import FEATURE_HELP, ROOT_HELP, feature_key, open_written_root
from metaxy_fs.insight.rendering import printable
from metaxy_fs.metadata_store import Removal, vacuum
from metaxy_fs.progress import tallying

_VACUUM = """\
Say which objects of ROOT nobody needs any more, and with --delete remove those whose time has come. No row is ever
deleted: what goes are manifests that a compaction stands for, and data files that no manifest names. A data file goes
once an earlier vacuum with --delete has noted it, so let this run daily. The exit code is 1 if something could not be
deleted or understood.
"""
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def add_vacuum(commands: Any) -> None:
    """Add the command to a parser."""
    parser: ArgumentParser = commands.add_parser(
        "vacuum", help="remove the files that compactions and writes which died have left", description=_VACUUM
    )
    parser.add_argument("root", metavar="ROOT", help=ROOT_HELP)
    parser.add_argument("feature", metavar="FEATURE", nargs="?", type=feature_key, help=FEATURE_HELP)
    parser.add_argument(
        "--grace", type=_duration, default=timedelta(hours=1), help="keep manifests for so long; default: 1h"
    )
    parser.add_argument(
        "--retention", type=_duration, default=timedelta(days=7), help="keep data files for so long; default: 7d"
    )
    parser.add_argument("--delete", action="store_true", help="remove them; without it nothing is changed")
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: ArgumentParser, arguments: Namespace) -> int:
    store = open_written_root(arguments.root, parser, argument="ROOT")
    try:
        with tallying("vacuuming") as advance:
            found = vacuum(
                store,
                arguments.feature,
                dry_run=not arguments.delete,
                grace=arguments.grace,
                retention=arguments.retention,
                advance=advance,
            )
    except ValueError as error:
        parser.error(str(error))
    for removal in found.removals:
        print(f"{removal.state:<10} {_line(removal)}")
    for finding in found.skipped:
        print(printable(f"{'skipped':<10} {finding.path} {finding.problem} {finding.remedy}"))
    print(_summary(found.removals))
    if not arguments.delete and found.removals:
        print("Nothing was changed; --delete removes what is deletable, and notes what is waiting.")
    return 1 if found.skipped or any(removal.state == "failed" for removal in found.removals) else 0


def _line(removal: Removal) -> str:
    age = removal.age - timedelta(microseconds=removal.age.microseconds)
    return printable(f"{removal.path} ({size(removal.bytes)}): {removal.reason}, for {age}")


def _summary(removals: Sequence[Removal]) -> str:
    counts = []
    for state in sorted({removal.state for removal in removals}):
        sizes = [removal.bytes for removal in removals if removal.state == state]
        counts.append(f"{count(len(sizes), 'object')} {state} ({size(sum(sizes))})")
    return ", ".join(counts) or "nothing to remove"


def _duration(text: str) -> timedelta:
    try:
        return timedelta(**{_UNITS[text[-1:]]: float(text[:-1])})
    except (KeyError, ValueError, OverflowError) as error:
        raise ArgumentTypeError(f"{text!r} is no duration: expected one such as 30m, 12h or 7d") from error
