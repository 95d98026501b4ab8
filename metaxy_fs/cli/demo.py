"""The command `metaxy-fs demo`: keep features of the files of a directory, and compute what changed."""

import os
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Annotated

import typer

from metaxy_fs.cli.demo_outcome import print_files, print_places, print_texts, print_totals
from metaxy_fs.cli.demo_texts import count_texts
from metaxy_fs.cli.targets import open_root, refuse
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.roots import require_root
from metaxy_fs.sources import update_files
from metaxy_fs.spec import ContainerKey, ContainerSpec, Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec

DEFAULT_ROOT = ".metaxy"
_TEXTS_PER_BATCH = 100


def run(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Whose files.")] = ".",
    *,
    root: Annotated[
        str | None, typer.Option(metavar="ROOT", help=f"Where the features are kept; {DEFAULT_ROOT} in DIR by default.")
    ] = None,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever its time says.")] = False,
) -> None:
    """Keep features of your own files, to see it work.

    There are two, of the files below DIR, and a run computes only what changed since the last one.

    demo/files has one sample per file, named by its relative path, with the SHA-256 of its bytes as its version.
    demo/texts is made from these: lines, words and the most frequent terms of each text (UTF-8, up to 64 MiB).

    A file whose size and modification time are those of the last run is not read again; --rehash reads all. Files that
    are gone are retired, and so is what was made from them. Nothing is written to DIR but the root.

    Left out: names that begin with a dot, links to directories, pipes, sockets and devices. Links to files count as
    files. What cannot be read is named and left for the next run; it fails no run.
    """
    place = _directory(directory)
    store = open_root(root or str(place / DEFAULT_ROOT))
    if _is_listed(os.path.realpath(store.location), os.path.realpath(place)):
        refuse(
            f"{store.location} is in DIR, and would be taken for files of it; give another directory, or one whose "
            "name begins with a dot",
            "--root",
        )
    require_root(store, may_be_new=True)
    run_demo(place, store, rehash=rehash)


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
    print_totals(store.read_metadata(features.texts, latest_only=True))


@dataclass(frozen=True)
class DemoFeatures:
    """The root feature, one sample per file, and the one that is made from it."""

    files: type[Feature]
    texts: type[Feature]


def declare_features() -> DemoFeatures:
    """Return the features, declared in a graph of their own."""
    files = FeatureSpec(
        key=FeatureKey(["demo", "files"]),
        containers=[ContainerSpec(key=ContainerKey(["content"]))],
        id_columns=["path"],
    )
    texts = FeatureSpec(
        key=FeatureKey(["demo", "texts"]),
        deps=[FeatureDep(key=files.key, columns=["bytes", "modified"])],
        id_columns=["path"],
    )
    with FeatureGraph().use():

        class Files(Feature, spec=files):
            """The files of a directory."""

        class Texts(Feature, spec=texts):
            """What was counted in those that are texts."""

    return DemoFeatures(Files, Texts)


def _is_listed(root: str, directory: str) -> bool:
    """Whether the files of a root are among those of a directory: names that begin with a dot are not."""
    place = Path(root)
    is_below = place.is_relative_to(directory)
    return is_below and not any(part.startswith(".") for part in place.relative_to(directory).parts)


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        refuse(f"{text!r} is not a directory" if path.exists() else f"there is no directory {text!r}", "DIR")
    return path
