"""The command `metaxy-fs repair`: restore manifests that are damaged or lost."""

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

from metaxy_fs.cli.report import count
from metaxy_fs.cli.roots import FEATURE_HELP, ROOT_HELP, feature_key, open_written_root
from metaxy_fs.insight.rendering import printable
from metaxy_fs.metadata_store import Restoration, repair

_REPAIR = """\
Say which manifests of ROOT are damaged or lost, and with --write make those again that are proven to have existed and
whose data files are all there and right. Nothing is guessed: a manifest that is gone is made again only if you vouch
for it, because a write that died leaves the same data files. The exit code is 1 if a damaged manifest stays as it is.
"""


def add_repair(commands: Any) -> None:
    """Add the command to a parser."""
    parser: ArgumentParser = commands.add_parser(
        "repair", help="make damaged manifests again from the data files of their commits", description=_REPAIR
    )
    parser.add_argument("root", metavar="ROOT", help=ROOT_HELP)
    parser.add_argument("feature", metavar="FEATURE", nargs="?", type=feature_key, help=FEATURE_HELP)
    parser.add_argument(
        "--vouch", metavar="NAME", action="append", default=[], help="a commit that existed, by its name in the output"
    )
    parser.add_argument("--write", action="store_true", help="put the manifests; without it nothing is changed")
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: ArgumentParser, arguments: Namespace) -> int:
    store = open_written_root(arguments.root, parser, argument="ROOT")
    found = repair(store, arguments.feature, vouched=arguments.vouch, dry_run=not arguments.write)
    for restoration in found:
        print(f"{restoration.state:<10} {_line(restoration)}")
    states = [restoration.state for restoration in found]
    print(
        ", ".join(f"{states.count(state):,} {state}" for state in sorted(set(states))) or "nothing is damaged or lost"
    )
    if "restorable" in states:
        print("Nothing was changed; --write makes the manifests again.")
    return 1 if {"restorable", "lost"} & set(states) else 0


def _line(restoration: Restoration) -> str:
    rows = f"{count(restoration.rows, 'row')}, " if restoration.state != "lost" else ""
    return printable(f"{restoration.path} ({rows}{restoration.name}): {restoration.reason}")
