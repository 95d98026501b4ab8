"""What does `metaxy-fs demo` do, from the first look at the files to the last line?"""

from pathlib import Path

from metaxy_fs.cli.features import declare_features
from metaxy_fs.cli.report import (
    FILES,
    TEXTS,
    tell_files,
    tell_table,
    tell_texts,
    tell_totals,
    tell_tree,
    tell_uncounted,
)
from metaxy_fs.cli.tree import walk
from metaxy_fs.cli.update import latest, resolve_texts, update_files, update_texts
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import Feature


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
    tell_tree(str(directory.absolute()), store.location, tree)
    files, present = update_files(store, features.files, directory, tree, rehash=rehash)
    tell_files(files)
    increment = resolve_texts(store, features, present, out_of_reach=files.left)
    tell_texts(increment)
    texts = update_texts(store, features.texts, directory, increment)
    tell_uncounted(texts)
    tell_table(
        [
            (FILES, _stored(store, features.files), files),
            (TEXTS, _stored(store, features.texts), texts),
        ]
    )
    counted = latest(store, features.texts)
    if counted is not None:
        tell_totals(counted.join(present.select("path"), on="path", how="semi"))


def _stored(store: MetadataStore, feature: type[Feature]) -> int:
    rows = latest(store, feature, columns=["path"])
    return 0 if rows is None else rows.height
