"""The command `metaxy-fs compact`: merge small commits into few files."""

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

from metaxy_fs.cli.report import count, size
from metaxy_fs.cli.roots import FEATURE_HELP, ROOT_HELP, feature_key, open_written_root
from metaxy_fs.insight.rendering import printable
from metaxy_fs.metadata_store import Compaction, compact
from metaxy_fs.progress import growing

_COMPACT = """\
Merge the small data files of ROOT into large ones, and many manifests into few. Rows and their order stay as they are;
nothing is deleted, which is for `vacuum` to do. Others may read and write meanwhile. It may be stopped at any time, and
goes on when it is run again.
"""


def add_compact(commands: Any) -> None:
    """Add the command to a parser."""
    parser: ArgumentParser = commands.add_parser(
        "compact", help="merge many small writes into few large files", description=_COMPACT
    )
    parser.add_argument("root", metavar="ROOT", help=ROOT_HELP)
    parser.add_argument("feature", metavar="FEATURE", nargs="?", type=feature_key, help=FEATURE_HELP)
    parser.add_argument("--full", action="store_true", help="compact everything, also what is not due")
    parser.add_argument("--cluster", action="store_true", help="rewrite large files, too, whose ids overlap")
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: ArgumentParser, arguments: Namespace) -> int:
    store = open_written_root(arguments.root, parser, argument="ROOT")
    with growing("compacting", unit=" rows") as advance:
        done = compact(store, arguments.feature, full=arguments.full, cluster=arguments.cluster, progress=advance)
    for each in done:
        print(printable(_line(each)))
    if not done:
        print("nothing to compact")
    return 0


def _line(done: Compaction) -> str:
    return (
        f"{done.partition}: {count(done.commits, 'commit')}, {count(done.rows, 'row')}: {done.files_before} files "
        f"({size(done.bytes_before)}) are now {done.files_after} ({size(done.bytes_after)})"
    )
