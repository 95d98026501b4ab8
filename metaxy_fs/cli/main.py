"""What can be typed after `metaxy-fs`, and what does the shell get back?

Exit codes: 0 done, 1 the root failed, is damaged, or a package is missing, 2 the arguments make no sense, 130
interrupted.
"""

import io
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from metaxy_fs._version import __version__
from metaxy_fs.cli.compact import add_compact
from metaxy_fs.cli.copy import add_copy
from metaxy_fs.cli.demo import add_demo
from metaxy_fs.cli.repair import add_repair
from metaxy_fs.cli.vacuum import add_vacuum
from metaxy_fs.cli.verify import add_verify
from metaxy_fs.errors import MetaxyError
from metaxy_fs.ids import pause

INTERRUPTED = 130
_COMMANDS = (add_demo, add_verify, add_repair, add_compact, add_vacuum, add_copy)
"""Each adds the parser of a command, whose default `run` takes the parsed arguments and returns the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments; by default those of the process.

    Raises:
        SystemExit: The arguments make no sense (code 2), or help was asked for (code 0).
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if "run" not in arguments:
        parser.print_help()
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold what the terminal has no character for.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Namespace) -> int:
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except (MetaxyError, ImportError) as error:
        print(f"metaxy-fs: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not fail when it flushes the rest.
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        print(f"metaxy-fs: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Where Polars was at work, it raises one for a Ctrl-C, and Python another at the next call.
        pause(0)
        return INTERRUPTED
    return code


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="metaxy-fs", description="Versioned feature metadata as plain files.")
    parser.add_argument("--version", action="version", version=f"metaxy-fs {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser
