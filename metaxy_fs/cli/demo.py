"""The command `metaxy-fs demo`: keep features of the files of a directory, and compute what changed."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from metaxy_fs.cli.features import declare_features
from metaxy_fs.cli.report import print_files, print_places, print_texts, print_totals
from metaxy_fs.cli.roots import ROOT_HELP, open_root
from metaxy_fs.cli.texts import count_texts
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.maintenance import require_root
from metaxy_fs.sources import update_files

DEFAULT_ROOT = ".metaxy"
_TEXTS_PER_BATCH = 100

_DEMO = """\
Keep two features of the files below DIR, and compute only what changed since the last run.

  demo/files   one sample per file, named by its relative path, with the SHA-256 of its bytes as its version
  demo/texts   made from these: lines, words and the most frequent terms of each text (UTF-8, up to 64 MiB)

A file whose size and modification time are those of the last run is not read again; --rehash reads all.
Files that are gone are retired, and so is what was made from them. Nothing is written to DIR but the root.

Left out: names that begin with a dot, links to directories, pipes, sockets and devices. Links to files count as files.
What cannot be read is named and left for the next run; it fails no run.
"""


def add_demo(commands: Any) -> None:
    """Add the command to a parser."""
    parser: ArgumentParser = commands.add_parser(
        "demo",
        help="keep features of your own files, and compute only what changed",
        description=_DEMO,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default=".", type=_directory, help="default: the current directory"
    )
    parser.add_argument("--root", help=f"where to keep the features: {ROOT_HELP}; default: {DEFAULT_ROOT} in DIR")
    parser.add_argument("--rehash", action="store_true", help="read every file again, whatever its time says")
    parser.set_defaults(run=partial(_run, parser))


def run_demo(directory: Path, store: MetadataStore, *, rehash: bool) -> None:
    """Bring both features up to date with the files of a directory, and say what was done and why.

    Args:
        directory: The files' directory.
        store: Where the features are kept.
        rehash: Whether to hash every file again.

    Raises:
        MetaxyError: The store could not be read or written; what was committed stays, and the next run goes on from
            there.
    """
    features = declare_features()
    print_places(directory, store.location)
    files = update_files(
        store,
        features.files,
        f"{escape(str(directory))}/**",
        by="content",
        relative_to=directory,
        retire_missing=True,
        rehash=rehash,
        on_error="skip",
    )
    print_files(files)
    plan = store.plan(features.texts)
    texts = store.materialize(
        features.texts,
        partial(count_texts, directory),
        batch_rows=_TEXTS_PER_BATCH,
        on_error="skip",
        retire_orphaned=True,
    )
    print_texts(plan, texts)
    if store.has_feature(features.texts):
        print_totals(store.read_metadata(features.texts, latest_only=True))


def _run(parser: ArgumentParser, arguments: Namespace) -> int:
    directory: Path = arguments.directory
    store = open_root(arguments.root or str(directory / DEFAULT_ROOT), parser, argument="--root")
    if _is_listed(os.path.realpath(store.location), os.path.realpath(directory)):
        parser.error(
            f"argument --root: {store.location} is in DIR, and would be taken for files of it; give another directory, "
            "or one whose name begins with a dot"
        )
    require_root(store, may_be_new=True)
    run_demo(directory, store, rehash=arguments.rehash)
    return 0


def _is_listed(root: str, directory: str) -> bool:
    """Whether the files of a root are among those of a directory: names that begin with a dot are not."""
    place = Path(root)
    is_below = place.is_relative_to(directory)
    return is_below and not any(part.startswith(".") for part in place.relative_to(directory).parts)


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ArgumentTypeError(f"{text!r} is not a directory" if path.exists() else f"there is no directory {text!r}")
    return path
