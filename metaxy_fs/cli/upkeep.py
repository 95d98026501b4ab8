"""Keep roots small and sound: compact, vacuum, verify and repair."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

import polars as pl
import typer

from metaxy_fs.cli.output import Answer, Json, ask_for_yes, print_json, print_lines, print_title, size
from metaxy_fs.cli.targets import (
    ConfigPath,
    Features,
    Roots,
    Stores,
    Yes,
    features_of_root,
    has_meaning,
    open_roots,
    refuse,
)
from metaxy_fs.markup import count
from metaxy_fs.metadata_store import (
    Compaction,
    FilesystemMetadataStore,
    Finding,
    Removal,
    Restoration,
    Verification,
    compact,
    repair,
    vacuum,
    verify,
)
from metaxy_fs.metadata_store.maintenance import commits_to_compact
from metaxy_fs.progress import growing, tallying
from metaxy_fs.spec import FeatureKey

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


class CompactAnswer(Answer, frozen=True, kw_only=True):
    """What `compact` answers.

    Attributes:
        store: The store whose root it is about.
        compactions: What was done.
        commits_due: Without `--yes`, how many commits it would compact; null with it.
        commits_not_compacted: Without `--yes`, how many commits no compaction stands for; null with it.
    """

    compactions: list[Compaction]
    commits_due: int | None
    commits_not_compacted: int | None


class VacuumAnswer(Answer, frozen=True, kw_only=True):
    """What `vacuum` answers.

    Attributes:
        store: The store whose root it is about.
        removals: Every object that is not needed any more.
        skipped: The partitions of which nothing was deleted, because something in them was not understood.
    """

    removals: list[Removal]
    skipped: list[Finding]


class VerifyAnswer(Answer, frozen=True, kw_only=True):
    """What `verify` answers, for each feature that was named, else for all at once.

    Attributes:
        store: The store whose root it is about.
        feature: The feature; null for all.
        verification: What was looked at, and found.
    """

    feature: str | None
    verification: Verification


class RepairAnswer(Answer, frozen=True, kw_only=True):
    """What `repair` answers.

    Attributes:
        store: The store whose root it is about.
        restorations: Every manifest that is damaged or lost.
    """

    restorations: list[Restoration]


def compact_roots(
    features: Features = None,
    *,
    full: Annotated[bool, typer.Option("--full", help="Compact everything, also what is not due.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="Rewrite large files, too, whose ids overlap.")] = False,
    republish: Annotated[bool, typer.Option("--republish", help="Publish again what is published.")] = False,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Merge small files into large ones.

    Many manifests become few, too. Rows and their order stay as they are, and nothing is deleted, which is for `vacuum`
    to do. Others may read and write meanwhile. It may be stopped at any time, and goes on when it is run again.
    """
    targets = open_roots(store, root, config)
    answers = []
    for target in targets:
        keys = features_of_root(target, features)
        how = {"full": full, "cluster": cluster}
        due = None if yes else sum(commits_to_compact(target.root, key, **how) for key in keys)
        waiting = None if yes else _uncompacted(target.root, keys)
        done = (
            [each for key in keys for each in _compacted(target.root, key, **how, republish=republish)] if yes else []
        )
        location = target.store.location
        answers.append(CompactAnswer(store=location, compactions=done, commits_due=due, commits_not_compacted=waiting))
        if not as_json:
            print_title(location, of=len(targets))
            lines = [*map(_of_compaction, done)] or ["nothing to compact"]
            print_lines(lines if yes else [_waiting(due, waiting)])
    if as_json:
        print_json("compact", answers)
    else:
        ask_for_yes(is_done=yes or not (republish or any(answer.commits_due for answer in answers)))


def vacuum_roots(
    features: Features = None,
    *,
    grace: Annotated[str, typer.Option(metavar="TIME", help="Keep manifests for so long.")] = "1h",
    retention: Annotated[str, typer.Option(metavar="TIME", help="Keep data files for so long.")] = "7d",
    republish: Annotated[bool, typer.Option("--republish", help="First publish again what is published.")] = False,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Remove files that nothing needs any more.

    Compactions leave them, and writes which died.

    No row is ever deleted: what goes are manifests that a compaction stands for, and data files that no manifest names.
    A data file goes once an earlier vacuum with --yes has noted it, so let this run daily. The exit code is 1 if
    something could not be deleted or understood.
    """
    times = {"grace": _duration(grace, "--grace"), "retention": _duration(retention, "--retention")}
    targets = open_roots(store, root, config)
    answers, has_failed = [], False
    for target in targets:
        removals: list[Removal] = []
        skipped: list[Finding] = []
        for key in features_of_root(target, features):
            found = _vacuumed(target.root, key, dry_run=not yes, republish=republish, **times)
            removals, skipped = [*removals, *found.removals], [*skipped, *found.skipped]
        has_failed |= bool(skipped) or any(removal.state == "failed" for removal in removals)
        answers.append(VacuumAnswer(store=target.store.location, removals=removals, skipped=skipped))
        if not as_json:
            print_title(target.store.location, of=len(targets))
            print_lines([*map(_of_removal, removals), *map(_of_skipped, skipped), _removals(removals)])
    if as_json:
        print_json("vacuum", answers)
    else:
        ask_for_yes(is_done=yes or not any(answer.removals for answer in answers))
    raise typer.Exit(int(has_failed))


def verify_roots(
    features: Features = None,
    *,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Read everything, and report damage.

    Every manifest and every data file is compared with what is said of it. What is not as it should be is printed, with
    what to do about it. Nothing is written. The exit code is 1 if there is an error or a warning; notes are no damage.
    """
    targets = open_roots(store, root, config)
    answers, is_sound = [], True
    for target in targets:
        for key in features_of_root(target, features):
            with growing("verifying") as advance:
                found = verify(target.root, key, progress=advance)
            is_sound &= found.is_sound
            name = None if key is None else str(key)
            answers.append(VerifyAnswer(store=target.store.location, feature=name, verification=found))
            if not as_json:
                print_title(target.store.location, of=len(targets))
                print_lines([*map(_of_finding, found.findings), _verification(found)])
    if as_json:
        print_json("verify", answers)
    raise typer.Exit(int(not is_sound))


def repair_roots(
    features: Features = None,
    *,
    vouch: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A commit that existed, by its name.")] = None,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Make damaged manifests again.

    Only what is proven to have existed is made again. Nothing is guessed: a manifest that is gone is made again only if
    you vouch for it, because a write that died leaves the same data files. The exit code is 1 if a damaged manifest
    stays as it is.
    """
    targets = open_roots(store, root, config)
    answers, states = [], set()
    for target in targets:
        found = [
            each
            for key in features_of_root(target, features)
            for each in repair(target.root, key, vouched=vouch or [], dry_run=not yes)
        ]
        states |= {each.state for each in found}
        answers.append(RepairAnswer(store=target.store.location, restorations=found))
        if not as_json:
            print_title(target.store.location, of=len(targets))
            print_lines([*map(_of_restoration, found), _restorations(found)])
    if as_json:
        print_json("repair", answers)
    else:
        ask_for_yes(is_done="restorable" not in states)
    raise typer.Exit(int(bool({"restorable", "lost"} & states)))


def _compacted(store: FilesystemMetadataStore, key: FeatureKey | None, **options: bool) -> list[Compaction]:
    with growing("compacting", unit=" rows") as advance:
        return compact(store, key, **options, progress=advance)


def _vacuumed(store: FilesystemMetadataStore, key: FeatureKey | None, **options: Any) -> Any:
    with tallying("vacuuming") as advance, has_meaning("--grace / --retention"):
        return vacuum(store, key, advance=advance, **options)


def _uncompacted(store: FilesystemMetadataStore, keys: Sequence[FeatureKey | None]) -> int:
    """Return how many commits no compaction stands for."""
    named = [key for key in keys if key is not None] or store.list_features()
    return sum(store.history(key).select((~pl.col("compacted")).sum()).item() for key in named)


def _waiting(due: int | None, commits: int | None) -> str:
    if due:
        return f"{count(due, 'commit')} would be compacted"
    return f"nothing is due ({count(commits or 0, 'commit')} not compacted)" if commits else "nothing to compact"


def _of_compaction(done: Compaction) -> str:
    before, after = f"{count(done.files_before, 'file')} ({size(done.bytes_before)})", size(done.bytes_after)
    verb = "is" if done.files_before == 1 else "are"
    return (
        f"{done.partition}: {count(done.commits, 'commit')}, {count(done.rows, 'row')}: {before} {verb} now "
        f"{done.files_after} ({after})"
    )


def _of_removal(removal: Removal) -> str:
    age = removal.age - timedelta(microseconds=removal.age.microseconds)
    return f"{removal.state:<10} {removal.path} ({size(removal.bytes)}): {removal.reason}, for {age}"


def _of_skipped(finding: Finding) -> str:
    return f"{'skipped':<10} {finding.path} {finding.problem} {finding.remedy}"


def _removals(removals: Sequence[Removal]) -> str:
    counts = []
    for state in sorted({removal.state for removal in removals}):
        sizes = [removal.bytes for removal in removals if removal.state == state]
        counts.append(f"{count(len(sizes), 'object')} {state} ({size(sum(sizes))})")
    return ", ".join(counts) or "nothing to remove"


def _of_finding(finding: Finding) -> str:
    return f"{finding.severity:<8} {finding.path} {finding.problem}. {finding.remedy}"


def _verification(found: Verification) -> str:
    looked_at = (
        f"{count(found.partitions, 'partition')}, {count(found.commits, 'commit')}, {count(found.files, 'data file')}, "
        f"{size(found.bytes)}"
    )
    severities = [finding.severity for finding in found.findings]
    by_severity = [
        count(severities.count(severity), severity)
        for severity in ("error", "warning", "note")
        if severity in severities
    ]
    return f"{looked_at}: {', '.join(by_severity) or 'all is as it should be'}"


def _of_restoration(restoration: Restoration) -> str:
    rows = f"{count(restoration.rows, 'row')}, " if restoration.state != "lost" else ""
    return f"{restoration.state:<10} {restoration.path} ({rows}{restoration.name}): {restoration.reason}"


def _restorations(found: Sequence[Restoration]) -> str:
    states = [restoration.state for restoration in found]
    return (
        ", ".join(f"{states.count(state):,} {state}" for state in sorted(set(states))) or "nothing is damaged or lost"
    )


def _duration(text: str, option: str) -> timedelta:
    try:
        return timedelta(**{_UNITS[text[-1:]]: float(text[:-1])})
    except (KeyError, ValueError, OverflowError):
        refuse(f"{text!r} is no duration: expected one such as 30m, 12h or 7d", option)
