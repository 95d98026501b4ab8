"""What is left of a process that was killed."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count

import polars as pl
import pytest

from metaxy_fs import FeatureNotFoundError, FilesystemMetadataStore, vacuum, verify
from tests.trust.victims import (
    AT_ONCE,
    GROUP_PARTS,
    JOB_ROWS,
    PART_ROWS,
    ROLES,
    Clip,
    Death,
    Group,
    Job,
    Keeper,
    Order,
    Video,
)

EPISODE = 40
"""How many victims a root has."""


class Root:
    """A root that victims work on, and what they have acknowledged."""

    def __init__(self, root: str, *, options: dict | None = None, is_synced: bool = True) -> None:
        self.url, self.copy_url, self.options = f"{root}/source", f"{root}/target", options
        self.is_synced = is_synced
        self.store = FilesystemMetadataStore(self.url, storage_options=options)
        self.copy = FilesystemMetadataStore(self.copy_url, storage_options=options)
        self.written: dict[str, set[str]] = {"video": set(), "clip": set(), "copy": set(), "job": set(), "group": set()}
        self.named: int | None = None

    def order(self, role: str, *, number: int, delay: float, last_step: int) -> Order:
        retry, self.named = (self.named, number) if role == "write" else (None, self.named)
        job = len(self.written["group" if role == "group" else "job"])
        return Order(role, number, delay, last_step, self.url, self.copy_url, self.options, retry, job, self.is_synced)

    def note(self, death: Death) -> None:
        assert not death.error, death.error
        for kind, name in death.done:
            if kind == "copy":
                self.written["copy"] |= self.written["video"]
            elif kind in self.written:
                self.written[kind].add(name)

    def check(self, role: str) -> None:
        """Every acknowledged write is there, and each write that is there is whole and there once.

        Features that no victim of the role writes are left for the end.
        """
        check_writes(rows_of(self.store, Video), self.written["video"])
        if role == "calculate":
            check_writes(rows_of(self.store, Clip), self.written["clip"])
        if role == "copy":
            check_writes(rows_of(self.copy, Video), self.written["copy"])
        if role == "job":
            self._check_jobs()
        if role == "group":
            self._check_groups()

    def _check_jobs(self) -> None:
        jobs = rows_of(self.store, Job).get_column("sample_id")
        assert not jobs.is_duplicated().any()
        assert {f"{job}/{index}" for job in self.written["job"] for index in range(JOB_ROWS)} <= set(jobs)

    def _check_groups(self) -> None:
        samples = rows_of(self.store, Group).get_column("sample_id")
        assert not samples.is_duplicated().any()
        sizes = Counter(samples.str.split("/").list.first())
        assert set(sizes.values()) <= {GROUP_PARTS * PART_ROWS}
        assert self.written["group"] <= sizes.keys()

    def tidy(self) -> None:
        """Nothing has to be repaired, and vacuum leaves nothing that is not needed."""
        for store in (self.store, self.copy):
            if not store.storage.list("", limit=1):
                continue  # nobody has copied anything yet, and no root is what a vacuum refuses
            assert {finding.severity for finding in verify(store).findings} <= {"note"}
            for _ in range(3):
                assert not vacuum(store, dry_run=False, grace=AT_ONCE, retention=AT_ONCE, unsafe=True).skipped
            assert verify(store).findings == ()
            assert store.storage.list_temporaries("") == []
        for role in (*ROLES, "group"):
            self.check(role)


def check_writes(rows: pl.DataFrame, acknowledged: set[str]) -> None:
    found = rows.group_by("write").agg(pl.len(), pl.col("of").first(), pl.col("sample_id").n_unique().alias("samples"))
    assert found.filter((pl.col("len") != pl.col("of")) | (pl.col("samples") != pl.col("of"))).is_empty()
    assert acknowledged <= set(found.get_column("write"))


def rows_of(store: FilesystemMetadataStore, feature: type) -> pl.DataFrame:
    try:
        return store.read_metadata(feature)
    except FeatureNotFoundError:
        names = {"sample_id": pl.String, "write": pl.String, "of": pl.Int64}
        return pl.DataFrame(schema=names)


def lives(seed: int, *, is_stepped: bool) -> Iterator[tuple[float, int]]:
    """Yield how long victims live, in seconds, and their last steps.

    They die as often within 2 ms as between 200 and 400 ms, since operations differ; or at a step, in which case they
    live for as long as it takes, and a minute at most.
    """
    dice = random.Random(seed)  # noqa: S311  # no secret
    while True:
        yield (60, dice.randint(1, 150)) if is_stepped else (10 ** dice.uniform(-3, -0.4), 0)


def kill(keeper: Keeper, root: Root, roles: list[str], *, first: int, is_stepped: bool = False) -> Counter[str]:
    """Kill one victim after the other, look at the root after each, and return at which steps they were hit."""
    steps: Counter[str] = Counter()
    for number, role, life in zip(count(first), roles, lives(first, is_stepped=is_stepped), strict=False):
        delay, last_step = life
        keeper.begin(root.order(role, number=number, delay=delay, last_step=last_step))
        if role != "vacuum":  # one that keeps nothing for readers
            check_writes(rows_of(root.store, Video), root.written["video"])
        death = keeper.end()
        root.note(death)
        root.check(role)
        steps[death.step] += 1
    root.tidy()
    return steps


def episodes(victims: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first victim of each root, and what all of them do."""
    for first in range(0, victims, EPISODE):
        roles = [list(ROLES)[number % len(ROLES)] for number in range(min(EPISODE, victims - first))]
        random.Random(first).shuffle(roles)  # noqa: S311  # no secret
        yield first, roles


@pytest.mark.parametrize("moments", ["random", "random without syncs", "steps"])
def test_killed_processes_leave_whole_commits_on_a_local_root(tmp_path, keeper, soak, moments):
    steps: Counter[str] = Counter()
    for first, roles in episodes((400 if moments == "steps" else 300) if soak else 7):
        root = Root(str(tmp_path / f"root{first}"), is_synced=moments == "random")
        steps += kill(keeper, root, roles, first=first, is_stepped=moments == "steps")
        assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".tmp-")]
    report(steps)


def test_killed_processes_leave_whole_commits_on_s3(tmp_path, soak, s3_server, s3_bucket):
    steps: Counter[str] = Counter()
    with Keeper(tmp_path, is_remote=True) as keeper:
        for first, roles in episodes(300 if soak else 3):
            url = f"{s3_server.url(s3_bucket)}/root{first}"
            steps += kill(keeper, Root(url, options=s3_server.storage_options), roles, first=first)
    report(steps)


def test_killed_workers_and_drivers_leave_whole_groups(tmp_path, keeper, soak):
    steps: Counter[str] = Counter()
    for first in range(0, 1000 if soak else 20, EPISODE):
        root = Root(str(tmp_path / f"root{first}"), is_synced=False)
        roles = ["compact" if number % 5 == 4 else "group" for number in range(EPISODE if soak else 20)]
        steps += kill(keeper, root, roles, first=first, is_stepped=first % (2 * EPISODE) == 0)
        assert root.written["group"]
    report(steps)


@pytest.fixture(scope="module")
def keeper(tmp_path_factory):
    """Who kills processes that work on a disk."""
    with Keeper(tmp_path_factory.mktemp("scratch")) as keeper:
        yield keeper


def report(steps: Counter[str]) -> None:
    print(f"\n{steps.total()} victims")
    for step, hits in sorted(steps.items()):
        print(f"{hits:6} {step}")
