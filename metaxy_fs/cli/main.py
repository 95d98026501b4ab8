"""Run the command line, and give the shell an exit code.

Exit codes: 0 done, 1 the root failed, is none or is damaged, the output could not be written, or a package is missing,
2 the arguments make no sense, 130 interrupted.

A shell may close any of the standard streams, or the program that reads the output may end early. Descriptors that are
closed are taken up first: the next file to be opened, a data file perhaps, would get their numbers, and what libraries
print.
"""

import io
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

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
    _open_streams()
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _flush()


def _run(argv: Sequence[str] | None) -> int:
    try:
        code = _call(argv)
        sys.stdout.flush()
    except (MetaxyError, ImportError) as error:
        _complain(error)
        return 1
    except BrokenPipeError:  # the reader of the output has seen enough
        return 1
    except OSError as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        # Where Polars was at work, it raises one for a Ctrl-C, and Python another at the next call.
        pause(0)
        return INTERRUPTED
    return code


def _call(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if "run" not in arguments:
        parser.print_help()
        return 0
    code: int = arguments.run(arguments)
    return code


def _complain(error: Exception) -> None:
    with suppress(OSError):  # nobody may read the complaints either
        print(f"metaxy-fs: {error}", file=sys.stderr)


def _open_streams() -> None:
    """Make all standard streams usable; what cannot be shown in them is escaped."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    # Python has None for those that were closed when it started.
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout = sys.stdout or _nowhere("w")
    sys.stderr = sys.stderr or _nowhere("w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold what the terminal has no character for.
        sys.stdout.reconfigure(errors="backslashreplace")


def _nowhere(mode: str) -> IO[Any]:
    return os.fdopen(os.open(os.devnull, os.O_RDWR), mode, closefd=False)


def _flush() -> None:
    """Write what is left in the streams; the interpreter must not fail to do so when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="metaxy-fs", description="Versioned feature metadata as plain files.")
    parser.add_argument("--version", action="version", version=f"metaxy-fs {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser
