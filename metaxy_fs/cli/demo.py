"""The command `metaxy-fs demo`: version the files of a directory, and compute what changed."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from functools import partial
from pathlib import Path
from typing import Any

from metaxy_fs.cli.features import declare_features
from metaxy_fs.cli.report import (
    FILES,
    TEXTS,
    print_files,
    print_table,
    print_texts,
    print_totals,
    print_tree,
    print_uncounted,
)
from metaxy_fs.cli.roots import ROOT_HELP, open_root
from metaxy_fs.cli.tree import DEFAULT_ROOT, SKIPPED_DIRECTORIES, walk
from metaxy_fs.cli.update import latest, resolve_texts, update_files, update_texts
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.maintenance import require_root
from metaxy_fs.spec import Feature

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
    tree = walk(directory, root=store.location)
    print_tree(str(directory.absolute()), store.location, tree)
    files, present = update_files(store, features.files, directory, tree, rehash=rehash)
    print_files(files)
    increment = resolve_texts(store, features, present, out_of_reach=files.left)
    print_texts(increment)
    texts = update_texts(store, features.texts, directory, increment)
    print_uncounted(texts)
    print_table(
        [
            (FILES, _stored(store, features.files), files),
            (TEXTS, _stored(store, features.texts), texts),
        ]
    )
    counted = latest(store, features.texts)
    if counted is not None:
        print_totals(counted.join(present.select("path"), on="path", how="semi"))


def _run(parser: ArgumentParser, arguments: Namespace) -> int:
    directory: Path = arguments.directory
    store = open_root(arguments.root or str(directory / DEFAULT_ROOT), parser, argument="--root")
    if os.path.realpath(store.location) == os.path.realpath(directory):
        parser.error(f"argument --root: {store.location} is DIR itself; give it a directory of its own")
    require_root(store, may_be_new=True)
    run_demo(directory, store, rehash=arguments.rehash)
    return 0


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ArgumentTypeError(f"{text!r} is not a directory" if path.exists() else f"there is no directory {text!r}")
    return path


def _stored(store: MetadataStore, feature: type[Feature]) -> int:
    rows = latest(store, feature, columns=["path"])
    return 0 if rows is None else rows.height
