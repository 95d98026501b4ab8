"""Change what a store says, or prove what it holds: retire, restore, snapshots and fingerprints."""

from collections.abc import Sequence
from typing import Annotated

import polars as pl
import typer

from metaxy_fs.cli.output import (
    Answer,
    Json,
    ask_for_yes,
    frame_of,
    print_json,
    print_lines,
    print_table,
    print_text,
    print_title,
)
from metaxy_fs.cli.targets import (
    ConfigPath,
    Features,
    Ids,
    OneFeature,
    Roots,
    Stores,
    Target,
    Yes,
    declared,
    has_meaning,
    held_features,
    moment,
    open_target,
    open_targets,
    refuse,
    sample_frame,
)
from metaxy_fs.insight.fingerprint import CHECKED
from metaxy_fs.markup import count
from metaxy_fs.metadata_store import Fingerprint, FingerprintCheck
from metaxy_fs.metadata_store.features import require_declaration
from metaxy_fs.metadata_store.snapshots import SNAPSHOTS, check_name
from metaxy_fs.metadata_store.write import restoration

Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Kept with the commit.")]
SnapshotName = Annotated[str, typer.Argument(metavar="NAME", help="Such as train-2026-11.")]


class SnapshotsAnswer(Answer, frozen=True, kw_only=True):
    """What `snapshot list` answers.

    Attributes:
        store: The store that was asked.
        rows: One for each snapshot, by name: `name`, `time`, `features`, `commits` (how many it sees), `stores` (where
            it saw any) and `writer`.
    """

    rows: Annotated[pl.DataFrame, frame_of(SNAPSHOTS)]


class CheckAnswer(Answer, frozen=True, kw_only=True):
    """What `check` answers.

    Attributes:
        store: The store that was asked.
        rows: One for each feature of the fingerprint: `feature`, `status` (`"same"`, `"changed"` or `"missing"`),
            `samples_then`, `samples_now` and `buckets` (how many of the 4,096 differ).
    """

    rows: Annotated[pl.DataFrame, frame_of(CHECKED)]

    @classmethod
    def of(cls, target: Target, check: FingerprintCheck) -> "CheckAnswer":
        """Return the answer that a check of a store is."""
        return cls(store=target.store.location, rows=check.features)


def retire_samples(
    feature: OneFeature,
    ids: Ids,
    *,
    reason: Reason = None,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
) -> None:
    """Say that samples exist no more.

    Nothing is deleted, and `restore` undoes it.
    """
    target = open_target(store, root, config)
    [key] = held_features(target.store, [feature])
    with declared(target) as graph:
        samples = sample_frame(target, graph, key, ids)
        rows = target.store.scan_metadata(key, latest_only=True)
        there = rows.join(samples.lazy(), on=samples.columns, how="semi").select(samples.columns).collect()
        if yes:
            with has_meaning("--reason"):
                target.store.retire(key, samples, reason=reason)
    verb = "retired" if yes else "would be retired"
    print_lines([f"{key}: {count(samples.height, 'sample')} {verb}, of which {there.height:,} had rows"])
    ask_for_yes(is_done=yes)


def restore_feature(
    feature: OneFeature,
    *,
    at: Annotated[str, typer.Option(metavar="MOMENT", help="A snapshot, or a time with a zone.")],
    reason: Reason = None,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
) -> None:
    """Make a feature what it was at a moment.

    Its latest rows are again what they were, in one commit; nothing is deleted.
    """
    target = open_target(store, root, config)
    [key] = held_features(target.store, [feature])
    with declared(target), has_meaning("--at"):
        restoration(target.store, require_declaration(key), moment(at))  # refuses what --yes would
        print_text(target.store.diff(moment(at), features=[key]).to_text())
    if yes:
        with declared(target), has_meaning("--reason"):
            target.store.restore(key, at=moment(at), reason=reason)
        print_lines([f"{key}: restored"])
    ask_for_yes(is_done=yes)


def list_snapshots(
    *, store: Stores = None, root: Roots = None, config: ConfigPath = None, as_json: Json = False
) -> None:
    """List the snapshots that a store keeps."""
    targets = open_targets(store, root, config)
    answers = [snapshots(target) for target in targets]
    if as_json:
        print_json("snapshot list", answers)
        return
    for answer in answers:
        print_title(answer.store, of=len(targets))
        print_table(answer.rows.select("name", "time", "commits", "features"))


def snapshots(target: Target) -> SnapshotsAnswer:
    """Return what `snapshot list` answers about a store."""
    return SnapshotsAnswer(store=target.store.location, rows=target.store.list_snapshots())


def create_snapshot(
    name: SnapshotName,
    features: Features = None,
    *,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
) -> None:
    """Keep, under a name, what features hold now."""
    target = open_target(store, root, config)
    keys = held_features(target.store, features)
    with has_meaning("NAME"):
        check_name(name)
    if name in target.store.list_snapshots()["name"]:
        refuse(f"{target.store.location} has a snapshot {name!r} already, and snapshots are never changed", "NAME")
    if yes:
        target.store.create_snapshot(name, features=keys)
    verb = "sees" if yes else "would see"
    print_lines([f"snapshot {name} of {target.store.location} {verb} {', '.join(map(str, keys)) or 'no feature'}"])
    ask_for_yes(is_done=yes)


def drop_snapshot(
    name: SnapshotName, *, yes: Yes = False, store: Stores = None, root: Roots = None, config: ConfigPath = None
) -> None:
    """Forget a snapshot; no row is touched."""
    target = open_target(store, root, config)
    with has_meaning("NAME"):
        target.store.at(name)
    if yes:
        target.store.drop_snapshot(name)
    print_lines([f"snapshot {name} of {target.store.location} {'is' if yes else 'would be'} forgotten"])
    ask_for_yes(is_done=yes)


def take_fingerprint(
    features: Features = None,
    *,
    at: Annotated[str | None, typer.Option(metavar="MOMENT", help="A snapshot, or a time with a zone.")] = None,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Give a digest of the ids and versions of features.

    With --json this is the file that `check` takes.
    """
    targets = open_targets(store, root, config)
    if as_json and len(targets) > 1:
        refuse("a file of a fingerprint is about one store", "--json")
    for target in targets:
        taken = fingerprint(target, features, at=at)
        print_title(target.store.location, of=len(targets))
        print_text(taken.to_json() if as_json else str(taken))


def fingerprint(target: Target, features: Sequence[str] | None = None, *, at: str | None = None) -> Fingerprint:
    """Return what `fingerprint` answers about a store."""
    keys = held_features(target.store, features)
    with has_meaning("--at"):
        return target.store.fingerprint(keys, at=None if at is None else moment(at))


def check_fingerprint(
    *,
    against: Annotated[str, typer.Option(metavar="FILE", help="What `fingerprint --json` printed.")],
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Compare a store with a fingerprint.

    Exits with 1 if anything differs.
    """
    targets = open_targets(store, root, config)
    kept = Fingerprint.load(against)
    checks = [target.store.check(kept) for target in targets]
    if as_json:
        print_json("check", list(map(CheckAnswer.of, targets, checks)))
    else:
        for target, found in zip(targets, checks, strict=True):
            print_title(target.store.location, of=len(targets))
            print_text(found.to_text())
    raise typer.Exit(0 if all(checks) else 1)
