"""What is left of a process that was killed?"""

import random
from collections import Counter
from collections.abc import Iterator

import polars as pl
import pytest

from metaxy_fs import FeatureNotFoundError, FilesystemMetadataStore, vacuum, verify
from tests.trust.victims import AT_ONCE, JOB_ROWS, ROLES, Clip, Death, Job, Keeper, Order, Video

EPISODE = 40
"""How many victims a root has."""


class Root:
    """A root that victims work on, and what they have acknowledged."""

    def __init__(self, root: str, *, options: dict | None = None, is_synced: bool = True) -> None:
        self.url, self.copy_url, self.options = f"{root}/source", f"{root}/target", options
        self.is_synced = is_synced
        self.store = FilesystemMetadataStore(self.url, storage_options=options)
        self.copy = FilesystemMetadataStore(self.copy_url, storage_options=options)
        self.written: dict[str, set[str]] = {"video": set(), "clip": set(), "copy": set(), "job": set()}
        self.named: int | None = None

    def order(self, role: str, *, number: int, delay: float) -> Order:
        retry, self.named = (self.named, number) if role == "write" else (None, self.named)
        job = len(self.written["job"])
        return Order(role, number, delay, self.url, self.copy_url, self.options, retry, job, self.is_synced)

    def note(self, death: Death) -> None:
        assert not death.error, death.error
        for kind, name in death.done:
            if kind == "copy":
                self.written["copy"] |= self.written["video"]
            elif kind in self.written:
                self.written[kind].add(name)

    def check(self) -> None:
        """Every acknowledged write is there, and each write that is there is whole and there once."""
        check_writes(rows_of(self.store, Video), self.written["video"])
        check_writes(rows_of(self.store, Clip), self.written["clip"])
        check_writes(rows_of(self.copy, Video), self.written["copy"])
        jobs = rows_of(self.store, Job).get_column("sample_id")
        assert not jobs.is_duplicated().any()
        assert {f"{job}/{index}" for job in self.written["job"] for index in range(JOB_ROWS)} <= set(jobs)

    def tidy(self) -> None:
        """Nothing has to be repaired, and vacuum leaves nothing that is not needed."""
        for store in (self.store, self.copy):
            assert {finding.severity for finding in verify(store).findings} <= {"note"}
            for _ in range(3):
                assert not vacuum(store, dry_run=False, grace=AT_ONCE, retention=AT_ONCE, unsafe=True).skipped
            assert verify(store).findings == ()
            assert store.storage.leftovers("") == []
        self.check()


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


def delays(seed: int) -> Iterator[float]:
    """Yield how long victims live, in seconds: as often up to 2 ms as from 200 to 400 ms, since operations differ."""
    dice = random.Random(seed)  # noqa: S311  # no secret
    while True:
        yield 10 ** dice.uniform(-3, -0.4)


def kill(keeper: Keeper, root: Root, roles: list[str], *, first: int) -> Counter[str]:
    """Kill one victim after the other, look at the root after each, and return at which steps they were hit."""
    steps: Counter[str] = Counter()
    for number, role, delay in zip(range(first, first + len(roles)), roles, delays(first), strict=False):
        keeper.begin(root.order(role, number=number, delay=delay))
        if role != "vacuum":  # one that keeps nothing for readers
            check_writes(rows_of(root.store, Video), root.written["video"])
        death = keeper.end()
        root.note(death)
        root.check()
        steps[death.step] += 1
    root.tidy()
    return steps


def episodes(victims: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first victim of each root, and what all of them do."""
    for first in range(0, victims, EPISODE):
        roles = [list(ROLES)[number % len(ROLES)] for number in range(min(EPISODE, victims - first))]
        random.Random(first).shuffle(roles)  # noqa: S311  # no secret
        yield first, roles


@pytest.mark.parametrize("is_synced", [True, False], ids=["synced", "unsynced"])
def test_killed_processes_leave_whole_commits_on_a_local_root(tmp_path, keeper, soak, is_synced):
    steps: Counter[str] = Counter()
    for first, roles in episodes(500 if soak else 7):
        root = Root(str(tmp_path / f"root{first}"), is_synced=is_synced)
        steps += kill(keeper, root, roles, first=first)
        assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".tmp-")]
    report(steps)


def test_killed_processes_leave_whole_commits_on_s3(tmp_path, soak, s3_server, s3_bucket):
    steps: Counter[str] = Counter()
    with Keeper(tmp_path, is_remote=True) as keeper:
        for first, roles in episodes(300 if soak else 4):
            url = f"{s3_server.url(s3_bucket)}/root{first}"
            steps += kill(keeper, Root(url, options=s3_server.storage_options), roles, first=first)
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
