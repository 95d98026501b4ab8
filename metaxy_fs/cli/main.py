"""What can be typed after `metaxy-fs`, and what does the shell get back?

Exit codes: 0 done, 1 the root failed or a package is missing, 2 the arguments make no sense, 130 interrupted.
"""

import io
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from metaxy_fs._version import __version__
from metaxy_fs.cli.demo import run_demo
from metaxy_fs.cli.tree import DEFAULT_ROOT, SKIPPED_DIRECTORIES
from metaxy_fs.errors import MetaxyError
from metaxy_fs.metadata_store import MetadataStore, open_store

_DEMO = f"""\
Keep two features of the files below DIR, and compute only what changed since the last run.

  demo/files   one sample a file, named by its relative path, in two containers: `content`, the sha256 of the bytes, and
               `stat`, the size, mode and modification time
  demo/texts   made from `content` alone: lines, words and the most frequent terms of each text (UTF-8, up to 64 MiB)

A file whose size, mode and modification time are those of the last run is not read again; --rehash reads all.
Files that are gone are named in each run, since their rows stay in the log. Nothing is written to DIR but the root.

Left out: directories named {", ".join(SKIPPED_DIRECTORIES)}, the root itself, links to directories, pipes, sockets
and devices. Links to files count as files. What cannot be read is named and left for the next run; it fails no run.
Names that are no UTF-8 appear with \\xNN, and a backslash as two.
"""

_ROOT_HELP = (
    "where to keep the features: a directory, or a URL such as s3://bucket/prefix or gs://bucket/prefix, with "
    "credentials from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, ...); "
    f"default: {DEFAULT_ROOT} in DIR"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments; by default those of the process.

    Raises:
        SystemExit: The arguments make no sense (code 2), or help was asked for (code 0).
    """
    parser, demo = _parsers()
    arguments = parser.parse_args(argv)
    if "directory" not in arguments:
        parser.print_help()
        return 0
    try:
        return _demo(arguments, demo)
    except (MetaxyError, ImportError) as error:
        print(f"metaxy-fs: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not fail when it flushes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parsers() -> tuple[ArgumentParser, ArgumentParser]:
    """Return the parser of the whole line, and that of the demo."""
    parser = ArgumentParser(prog="metaxy-fs", description="Versioned feature metadata as plain files.")
    parser.add_argument("--version", action="version", version=f"metaxy-fs {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="keep features of your own files, and compute only what changed",
        description=_DEMO,
        formatter_class=RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "directory", metavar="DIR", nargs="?", default=".", type=_directory, help="default: the current directory"
    )
    demo.add_argument("--root", help=_ROOT_HELP)
    demo.add_argument("--rehash", action="store_true", help="read every file again, whatever its time says")
    return parser, demo


def _demo(arguments: Namespace, parser: ArgumentParser) -> int:
    directory: Path = arguments.directory
    store = _open(arguments.root or str(directory / DEFAULT_ROOT), parser)
    if os.path.realpath(store.location) == os.path.realpath(directory):
        parser.error(f"argument --root: {store.location} is DIR itself; give it a directory of its own")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold what the terminal has no character for.
        sys.stdout.reconfigure(errors="backslashreplace")
    run_demo(directory, store, rehash=arguments.rehash)
    sys.stdout.flush()
    return 0


def _open(root: str, parser: ArgumentParser) -> MetadataStore:
    try:
        return open_store(root)
    except MetaxyError:
        raise
    except ValueError as error:
        parser.error(f"argument --root: {error}")


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ArgumentTypeError(f"{text!r} is not a directory" if path.exists() else f"there is no directory {text!r}")
    return path
