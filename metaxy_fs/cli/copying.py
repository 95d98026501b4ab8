"""Copy the commits of a store into another root."""

from typing import Annotated

import typer

from metaxy_fs.cli.output import Answer, Json, ask_for_yes, print_json, print_lines, size
from metaxy_fs.cli.targets import (
    ConfigPath,
    Roots,
    Stores,
    Yes,
    feature_keys,
    has_meaning,
    named_targets,
    open_root,
    open_roots,
    refuse,
)
from metaxy_fs.markup import count
from metaxy_fs.metadata_store import Copied, FilesystemMetadataStore, copy_metadata
from metaxy_fs.metadata_store.roots import existing_feature, require_root
from metaxy_fs.progress import growing
from metaxy_fs.spec import FeatureKey


class CopyAnswer(Answer, frozen=True, kw_only=True):
    """What `copy` answers.

    Attributes:
        store: The store that was copied from.
        to: The location of the other root.
        copied: What was copied; null without `--yes`.
        commits_missing: Without `--yes`, how many commits the other root lacks; null with it.
    """

    to: str
    copied: Copied | None = None
    commits_missing: int | None = None


def copy_features(
    feature: Annotated[str | None, typer.Argument(metavar="FEATURE", help="A feature; all by default.")] = None,
    *,
    to_store: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where to: a store of the configuration.")
    ] = None,
    to_root: Annotated[str | None, typer.Option(metavar="ROOT", help="Where to: a root; it may be none yet.")] = None,
    latest: Annotated[
        bool, typer.Option("--latest", help="Only commits that hold the latest row of some sample.")
    ] = False,
    snapshot: Annotated[str | None, typer.Option(metavar="NAME", help="Only what a snapshot sees.")] = None,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Copy the commits of a feature, or all, into another root.

    All data versions are copied, byte for byte; with all features, the snapshots too. Ids and times stay as they are,
    so a copy can be repeated: what is there is not copied again, and one that was cut short goes on. Commits that a
    compaction keeps in one file come together.
    """
    key = next(iter(feature_keys([feature] if feature else [])), None)
    if (to_store is None) == (to_root is None):
        refuse("give one place to copy to", "--to-store / --to-root")
    [*others, source] = open_roots(store, root, config)
    if others:
        refuse("this command copies from one store", "--store / --root")
    target = _copy_target(to_store, to_root, config)
    existing_feature(source.root, key)
    if not yes:
        missing = _missing(key, source.root, target)
        if as_json:
            print_json("copy", [CopyAnswer(store=source.store.location, to=target.location, commits_missing=missing)])
        else:
            print_lines([f"{target.location} lacks {count(missing, 'commit')} of {source.store.location}"])
            ask_for_yes(is_done=False)
        return
    with growing("copying") as advance, has_meaning("--snapshot"):
        found = copy_metadata(
            key,
            source=source.root,
            target=target,
            which="latest" if latest else "all",
            snapshot=snapshot,
            progress=advance,
        )
    if as_json:
        print_json("copy", [CopyAnswer(store=source.store.location, to=target.location, copied=found)])
        return
    added = f"{count(found.added, 'commit')} copied in {count(found.files, 'data file')} ({size(found.bytes)})"
    snapshots = f" and {count(found.snapshots, 'snapshot')}" if found.snapshots else ""
    has = f"{target.location} has {count(found.commits, 'commit')} of {source.store.location}{snapshots}"
    print_lines([f"{added}; {has}"])


def _copy_target(name: str | None, root: str | None, config: str | None) -> FilesystemMetadataStore:
    store = open_root(root, option="--to-root") if root else named_targets([name or ""], None, config)[0].store
    if not isinstance(store, FilesystemMetadataStore):
        refuse(f"{store.location} is no root of files", "--to-store")
    require_root(store, may_be_new=True)
    return store


def _missing(key: FeatureKey | None, source: FilesystemMetadataStore, target: FilesystemMetadataStore) -> int:
    """Return how many commits of a feature, or of all, one root holds and another does not."""
    here = [key] if key is not None else source.list_features()
    there = set(target.list_features())
    held = [commit for each in here if each in there for commit in target.history(each)["commit"]]
    commits = [source.history(each)["commit"] for each in here]
    return sum(len(set(of_feature).difference(held)) for of_feature in commits)
