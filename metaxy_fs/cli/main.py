"""Run the command line, and give the shell an exit code.

Exit codes: 0 done, 1 the answer is bad, the root failed or is none, the output could not be written, or a package is
missing, 2 the arguments make no sense, 130 interrupted.

A shell may close any of the standard streams, or the program that reads the output may end early. Descriptors that are
closed are taken up first: the next file to be opened, a data file perhaps, would get their numbers, and what libraries
print.
"""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

from metaxy_fs.cli.wording import in_shell
from metaxy_fs.errors import MetaxyError
from metaxy_fs.ids import pause

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments; by default those of the process.
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
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        app = import_module("metaxy_fs.cli.app").make_app(arguments)
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        raise ImportError("the command line needs typer and rich: pip install 'metaxy_fs[cli]'") from error
    command = import_module("typer.main").get_command(app)
    try:
        command(args=arguments, prog_name="metaxy-fs")
    except SystemExit as ended:  # as every command of Typer ends
        code = ended.code
        if code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return code if isinstance(code, int) else int(code is not None)
    return 0


def _complain(error: Exception) -> None:
    with suppress(OSError):  # nobody may read the complaints either
        print(f"metaxy-fs: {in_shell(str(error))}", file=sys.stderr)


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
