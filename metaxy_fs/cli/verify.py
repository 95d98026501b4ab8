"""The command `metaxy-fs verify`: read everything and report damage."""

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

from metaxy_fs.cli.report import count, size
from metaxy_fs.cli.roots import FEATURE_HELP, ROOT_HELP, feature_key, open_written_root
from metaxy_fs.insight.rendering import printable
from metaxy_fs.metadata_store import Finding, Verification, verify
from metaxy_fs.progress import growing

_VERIFY = """\
Read every manifest and every data file of ROOT, and print what is not as it should be, and what to do about it.
Nothing is written. The exit code is 1 if there is an error or a warning; notes are no damage.
"""


def add_verify(commands: Any) -> None:
    """Add the command to a parser."""
    parser: ArgumentParser = commands.add_parser(
        "verify", help="check every object of a root against all that is said of it", description=_VERIFY
    )
    parser.add_argument("root", metavar="ROOT", help=ROOT_HELP)
    parser.add_argument("feature", metavar="FEATURE", nargs="?", type=feature_key, help=FEATURE_HELP)
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: ArgumentParser, arguments: Namespace) -> int:
    store = open_written_root(arguments.root, parser, argument="ROOT")
    with growing("verifying") as advance:
        found = verify(store, arguments.feature, progress=advance)
    for finding in found.findings:
        print(f"{finding.severity:<8} {_line(finding)}")
    print(_summary(found))
    return 0 if found.is_sound else 1


def _line(finding: Finding) -> str:
    return printable(f"{finding.path} {finding.problem}. {finding.remedy}")


def _summary(found: Verification) -> str:
    looked_at = (
        f"{count(found.partitions, 'partition')}, {count(found.commits, 'commit')}, {count(found.files, 'data file')}, "
        f"{size(found.bytes)}"
    )
    severities = [finding.severity for finding in found.findings]
    by_severity = [
        count(severities.count(severity), severity)
        for severity in ("error", "warning", "note")
        if severity in severities
    ]
    return f"{looked_at}: {', '.join(by_severity) or 'all is as it should be'}"
