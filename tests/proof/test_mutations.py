"""The proof notices when a rule of the protocol is broken.

Each test breaks one rule and wants a violation within a fixed number of fixed histories.
"""

import collections
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import polars as pl
import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import AHEAD, MAX_TIME, LamportClock
from metaxy_fs.log import commit as commit_module
from metaxy_fs.log import commit_table
from metaxy_fs.log import compactor as compaction_module
from metaxy_fs.log import resolve as resolve_module
from metaxy_fs.log import view as view_module
from metaxy_fs.log.clock_skew import Arrivals
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.resolve import Covers
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.metadata_store import read as queries_module
from metaxy_fs.metadata_store import write as restoring_module
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.storage.base import ObjectInfo, Storage
from metaxy_fs.versioning.columns import RETIRED
from tests.proof.dice import Mix, outlast, overtake, roam
from tests.proof.oracle import BrokenPromiseError
from tests.proof.world import YEARS
from tests.support.simulation import START
from tests.support.stepped_storage import SteppedStorage

real_put_idempotent = commit_module.put_idempotent


WRITERS = Mix(jobs=("write", "write", "retry", "read"))
COMPACTORS = Mix(jobs=("write", "write", "read", "compact", "compact"), spans=(), faults=0)
HOURS = (timedelta(hours=2),)
HISTORIES = 100
RETIRERS = Mix(jobs=("write", "write", "retire", "read", "compact"), spans=(), faults=0)
SWEEPERS = Mix(jobs=("write", "read", "read", "compact", "vacuum", "vacuum"), spans=HOURS, faults=0)


def find_violation(live: Callable[[int], object], *, first: int = 0) -> None:
    """Live through a bounded number of fixed histories, and want one of them to break a promise.

    Args:
        live: Lives through the history of a seed.
        first: The seed to begin with: where violations are rare, one shortly before a history that has one.
    """
    with pytest.raises(BrokenPromiseError):
        collections.deque(map(live, range(first, first + HISTORIES)), maxlen=0)


def test_a_manifest_that_is_put_before_its_data_files(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[tuple[Storage, str, bytes]] = []

    def put_idempotent(storage: Storage, path: str, data: bytes) -> None:
        if path.endswith(".parquet"):
            waiting.append((storage, path, data))
            return
        real_put_idempotent(storage, path, data)
        for held in [held for held in waiting if held[0] is storage]:
            waiting.remove(held)
            real_put_idempotent(*held)

    monkeypatch.setattr(commit_module, "put_idempotent", put_idempotent)
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_failed_put_that_is_taken_for_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def put_idempotent(storage: Storage, path: str, data: bytes) -> None:
        try:
            storage.put(path, data)
        except StorageError:
            return

    monkeypatch.setattr(commit_module, "put_idempotent", put_idempotent)
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_write_id_whose_attempts_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "_named", lambda write_id: f"write-{commit_module.random_token()}")
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_lost_answer_after_which_the_write_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real_commit = commit_module.commit

    def commit(storage: Storage, request: Any, *, clock: LamportClock) -> Any:
        try:
            return real_commit(storage, request, clock=clock)
        except commit_module.CommitStateUnknownError:
            return real_commit(storage, request, clock=clock)

    monkeypatch.setattr("metaxy_fs.log.log.commit", commit)
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_clock_that_does_not_heed_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LamportClock, "observe", lambda _self, _microseconds: None)
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_clock_far_ahead_that_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.proof.world.SKEWS", YEARS)
    monkeypatch.setattr(Arrivals, "times_that_count", lambda _self, _manifests: {})
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_reader_who_holds_its_own_clock_for_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def times_that_count(arrivals: Arrivals, manifests: Mapping[str, Manifest]) -> dict[str, int]:
        ahead = (manifest for manifest in manifests.values() if manifest.time > arrivals.now + AHEAD)
        return {manifest.commit: arrivals.now for manifest in ahead if not manifest.covers}

    monkeypatch.setattr("tests.proof.world.SKEWS", YEARS)
    monkeypatch.setattr(Arrivals, "times_that_count", times_that_count)
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_clock_that_is_set_to_what_a_commit_far_ahead_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    real_fetch = ViewLoader._fetch

    def fetch(loader: ViewLoader, *arguments: Any, **options: Any) -> dict[str, Manifest]:
        found = real_fetch(loader, *arguments, **options)
        for manifest in found.values():
            loader._clock.observe(manifest.time)
        return found

    last_moment = MAX_TIME - START - 1_000_000  # which is over soon
    monkeypatch.setattr("tests.proof.world.SKEWS", (0, last_moment, 0, 0, 0))
    monkeypatch.setattr(ViewLoader, "_fetch", fetch)
    find_violation(partial(roam, ordered=True, mix=WRITERS))


def test_a_compaction_that_writes_down_the_times_that_are_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: dict[str, int] = {}
    real_warn = view_module.warn_once

    def warn_once(partition: Any, manifest: Manifest, **options: Any) -> None:
        claimed[manifest.commit] = manifest.time
        real_warn(partition, manifest, **options)

    def rows_of(appends: Sequence[Manifest], schemas: Sequence[int]) -> Any:
        believed = [msgspec.structs.replace(each, time=claimed.get(each.commit, each.time)) for each in appends]
        return real_rows(believed, schemas)

    real_rows = commit_table.rows_of
    monkeypatch.setattr("tests.proof.world.SKEWS", YEARS)
    monkeypatch.setattr(view_module, "warn_once", warn_once)
    monkeypatch.setattr(commit_table, "rows_of", rows_of)
    find_violation(partial(roam, ordered=True, mix=COMPACTORS))


def test_compactions_that_are_listed_before_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(storage: SteppedStorage, directory: str, *, limit: int | None = None) -> list[ObjectInfo]:
        if not directory.endswith("/_manifests"):
            return real_list(storage, directory, limit=limit)
        compactions = real_list(storage, f"{directory}/compactions", limit=limit)
        return real_list(storage, f"{directory}/appends", limit=limit) + compactions

    real_list = SteppedStorage.list
    monkeypatch.setattr(SteppedStorage, "list", listed)
    find_violation(partial(roam, ordered=True, mix=SWEEPERS), first=30)


def test_a_vacuum_without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.proof.world.VACUUM_OPTIONS", {"grace": timedelta(0), "unsafe": True})
    find_violation(partial(overtake, ordered=False))


def test_a_vacuum_without_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.proof.world.VACUUM_OPTIONS", {"retention": timedelta(0), "unsafe": True})
    find_violation(partial(roam, ordered=True, mix=Mix()))


def test_a_compaction_that_is_put_days_after_it_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.proof.compactor.DAY", sys.maxsize)
    find_violation(partial(outlast, ordered=True))


def test_compactions_that_cover_the_same_and_both_die(monkeypatch: pytest.MonkeyPatch) -> None:
    def living(compactions: Mapping[str, Covers]) -> dict[str, Covers]:
        def is_dead(name: str) -> bool:
            ids = compactions[name].ids
            return any(ids <= rival.ids for other, rival in compactions.items() if other != name)

        return {name: covers for name, covers in compactions.items() if not is_dead(name)}

    monkeypatch.setattr(resolve_module, "_living", living)
    find_violation(partial(roam, ordered=True, mix=COMPACTORS))


def test_compactions_that_cover_the_same_and_are_each_deleted_because_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def successors(commit: str, held: Covers, covers: Mapping[str, Covers]) -> list[str]:
        return [other for other, theirs in covers.items() if other != commit and held.ids <= theirs.ids]

    monkeypatch.setattr("metaxy_fs.log.unreferenced._successors", successors)
    find_violation(
        partial(
            roam,
            ordered=True,
            mix=Mix(jobs=("write", "read", "compact", "compact", "compact", "vacuum"), spans=HOURS, faults=0),
        )
    )


def test_compactions_that_overlap_and_both_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_module, "_shared", lambda living: dict.fromkeys(living, frozenset()))
    find_violation(partial(roam, ordered=True, mix=COMPACTORS))


def test_a_named_write_whose_manifest_is_vacuumed_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaxy_fs.log.vacuum._keep_write", lambda _storage, _partition, _path: None)
    find_violation(
        partial(
            roam,
            ordered=True,
            mix=Mix(
                jobs=("write", "retry", "retry", "read", "compact", "vacuum", "vacuum"),
                spans=HOURS,
                faults=0.1,
                actions=120,
            ),
        ),
        first=70,
    )


# Retired samples, restored rows and tags.


def test_compactions_that_forget_which_rows_retire_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    real_merged = compaction_module.merged

    def merged(*args: Any, **kwargs: Any) -> Iterator[pl.DataFrame]:
        for rows in real_merged(*args, **kwargs):
            yield rows.with_columns(pl.lit(value=False).alias(RETIRED)) if RETIRED in rows.columns else rows

    monkeypatch.setattr(compaction_module, "merged", merged)
    find_violation(partial(roam, ordered=True, mix=RETIRERS))


def test_compactions_that_drop_tags_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    real_rows = commit_table.rows_of

    def rows_of(*args: Any) -> pl.DataFrame:
        return real_rows(*args).with_columns(tags=pl.lit(None, pl.String))

    monkeypatch.setattr(commit_table, "rows_of", rows_of)
    find_violation(partial(roam, ordered=True, mix=RETIRERS))


def test_rows_that_retire_a_sample_are_left_out_before_the_latest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    real_layers = Scan.layers

    def layers(scan: Scan, **kwargs: Any) -> list[Any]:
        held = real_layers(scan, **kwargs)
        if RETIRED not in scan.columns:
            return list(held)
        return [(rows.filter(pl.col(RETIRED).ne_missing(pl.lit(value=True))), distinct) for rows, distinct in held]

    monkeypatch.setattr(Scan, "layers", layers)
    find_violation(partial(roam, ordered=True, mix=RETIRERS))


def test_rows_that_retire_a_sample_and_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries_module, "without_retired", lambda rows, _scan: rows)
    find_violation(partial(roam, ordered=True, mix=RETIRERS))


def test_restoring_that_forgets_what_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    real_together = restoring_module._together

    def together(rows: pl.DataFrame, since: pl.DataFrame, spec: Any) -> pl.DataFrame:
        return real_together(rows, since.clear() if rows.height else since, spec)

    monkeypatch.setattr(restoring_module, "_together", together)
    find_violation(partial(roam, ordered=True, mix=RETIRERS))


def test_restoring_that_takes_a_retired_sample_for_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def latest(scan: Scan, **kwargs: Any) -> pl.LazyFrame:
        return queries_module.latest(scan, with_retired=True, **kwargs)

    monkeypatch.setattr(restoring_module, "latest", latest)
    find_violation(partial(roam, ordered=True, mix=RETIRERS))
