"""The command `metaxy-fs copy`: bring the commits of a feature, or of all, into another root."""

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

from metaxy_fs.cli.report import count, size
from metaxy_fs.cli.roots import FEATURE_HELP, ROOT_HELP, feature_key, open_target, open_written_root
from metaxy_fs.errors import MetaxyError
from metaxy_fs.metadata_store import copy_metadata
from metaxy_fs.progress import growing

_COPY = """\
Copy the commits of FEATURE, in all of its data versions, from the root SOURCE into the root TARGET, byte for byte; or
those of all features, and the snapshots.
Ids and times stay as they are, so a copy can be repeated: what TARGET has is not copied again, and one that was cut
short goes on. Commits that a compaction keeps in one file come together.
"""


def add_copy(commands: Any) -> None:
    """Add the command to a parser."""
    parser: ArgumentParser = commands.add_parser(
        "copy", help="copy the commits of a feature, or all, into another root", description=_COPY
    )
    parser.add_argument("source", metavar="SOURCE", help=ROOT_HELP)
    parser.add_argument("target", metavar="TARGET", help="a root, likewise; it may be none yet")
    parser.add_argument("feature", metavar="FEATURE", nargs="?", type=feature_key, help=FEATURE_HELP)
    parser.add_argument("--latest", action="store_true", help="only commits that hold the latest row of some sample")
    parser.add_argument("--snapshot", metavar="NAME", help="only what a snapshot of SOURCE sees")
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: ArgumentParser, arguments: Namespace) -> int:
    source = open_written_root(arguments.source, parser, argument="SOURCE")
    target = open_target(arguments.target, parser, argument="TARGET")
    try:
        with growing("copying") as advance:
            found = copy_metadata(
                arguments.feature,
                source=source,
                target=target,
                which="latest" if arguments.latest else "all",
                snapshot=arguments.snapshot,
                progress=advance,
            )
    except ValueError as error:
        if isinstance(error, MetaxyError):
            raise
        parser.error(str(error))
    added = f"{count(found.added, 'commit')} copied in {count(found.files, 'data file')} ({size(found.bytes)})"
    snapshots = f" and {count(found.snapshots, 'snapshot')}" if found.snapshots else ""
    print(f"{added}; {target.location} has {count(found.commits, 'commit')} of {source.location}{snapshots}")
    return 0
