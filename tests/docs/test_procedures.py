"""The procedures of the docs keep every row, also when people follow them wrongly."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    CorruptObjectError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    MetaxyError,
    StorageError,
    WriteConflictError,
    compact,
    copy_metadata,
    open_store,
    repair,
    vacuum,
    verify,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "back-up.md"
NO_PATIENCE = {"grace": timedelta(0), "retention": timedelta(0), "unsafe": True}

with FeatureGraph().use():

    class Recording(Feature, spec=FeatureSpec(key=FeatureKey(["recording"]))):
        """What all of these roots hold."""

    class Noise(Feature, spec=FeatureSpec(key=FeatureKey(["noise"]))):
        """Something else."""


def documented() -> Callable[[Path, Path], None]:
    """Return the function that the page gives its readers."""
    block = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Callable[[Path, Path], None]] = {}
    exec(block, names)  # noqa: S102  # the page's own code
    return names["copy_root"]


copy_root = documented()


class Live:
    """A root in use: each step is a write, a compaction now and then, and a vacuum that has no patience."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_store(path)
        self.steps = 0
        for _ in range(12):
            self.step()

    @property
    def ids(self) -> set[int]:
        return set(range(self.steps))

    def step(self) -> None:
        row = {"sample_id": [self.steps], "data_version": [{"default": f"v{self.steps}"}]}
        self.store.write_metadata(
            Recording, pl.DataFrame(row), write_id=f"job {self.steps}" if self.steps % 3 else None
        )
        self.steps += 1
        if self.steps % 5 == 0:
            compact(self.store, fan=2)

    def during(self, monkeypatch: pytest.MonkeyPatch, copy: Callable[[], None], *, every: int = 3) -> None:
        """Copy while the root is used: after each few files something happens there."""
        copied = 0
        real = shutil.copy2

        def copy2(source: Path, target: Path) -> None:
            nonlocal copied
            copied += 1
            if copied % every == 0 and copied < 90:
                self.step()
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copy2", copy2)
            copy()


def ids(path: Path) -> set[int]:
    return set(open_store(path).read_metadata(Recording)["sample_id"])


def errors(path: Path) -> list[str]:
    return [finding.problem for finding in verify(open_store(path)).findings if finding.severity == "error"]


def in_order_of_names(source: Path) -> Iterator[Path]:
    """Give files as a listing of a bucket does, whose pages show what there is when they are asked for."""
    last = ""
    while names := sorted(name for path in source.rglob("*") if path.is_file() and (name := path.as_posix()) > last):
        last = names[0]
        yield Path(last)


def by_directory(source: Path) -> Iterator[Path]:
    """Give files as `rsync` and `cp -r` meet them: those of a directory, then those of the directories below."""
    for directory, names, files in os.walk(source):
        names.sort()
        yield from (Path(directory) / name for name in sorted(files))


def in_one_pass(source: Path, target: Path, order: Callable[[Path], Iterator[Path]]) -> None:
    """Copy in the wrong way."""
    for path in order(source):
        goal = target / path.relative_to(source)
        goal.parent.mkdir(parents=True, exist_ok=True)
        if not goal.exists():
            shutil.copy2(path, goal)


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path / "live")


@pytest.mark.parametrize("every", [1, 2, 7])
def test_a_backup_beside_jobs_is_a_moment_of_the_root(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    before = live.ids
    live.store.create_snapshot("before")
    live.during(monkeypatch, lambda: copy_root(live.path, tmp_path / "backup"), every=every)
    assert live.ids > before
    found = ids(tmp_path / "backup")
    assert before <= found <= live.ids
    assert errors(tmp_path / "backup") == []
    backup = open_store(tmp_path / "backup")
    assert set(backup.at("before").read_metadata(Recording)["sample_id"]) == before
    for _ in range(3):
        assert vacuum(backup, dry_run=False, **NO_PATIENCE).skipped == ()
    assert ids(tmp_path / "backup") == found
    copy_root(live.path, tmp_path / "backup")  # the next day
    assert (ids(tmp_path / "backup"), errors(tmp_path / "backup")) == (live.ids, [])


@pytest.mark.parametrize("order", [in_order_of_names, by_directory])
def test_one_in_another_order_says_what_it_lacks_and_is_completed(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Callable[[Path], Iterator[Path]]
) -> None:
    backup = tmp_path / "backup"
    live.during(monkeypatch, lambda: in_one_pass(live.path, backup, order))
    assert any("is missing, though it is committed" in problem for problem in errors(backup))
    with pytest.raises(CorruptObjectError, match="is gone, though it is committed"):
        ids(backup)
    for _ in range(3):
        vacuum(open_store(backup), dry_run=False, **NO_PATIENCE)  # takes nothing that would be missed afterwards
    copy_root(live.path, backup)
    assert (ids(backup), errors(backup)) == (live.ids, [])


def test_one_that_stops_half_way_shows_no_part_for_the_whole(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(1 for path in live.path.rglob("*") if path.is_file())
    for stop in range(0, total, 3):
        backup, left = tmp_path / f"backup {stop}", stop
        real = shutil.copy2

        def copy2(source: Path, target: Path, real: Callable[..., object] = real) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copy2", copy2)
            with pytest.raises(KeyboardInterrupt):
                copy_root(live.path, backup)
        with suppress(CorruptObjectError, FeatureNotFoundError):
            assert ids(backup) == live.ids
        copy_root(live.path, backup)
        assert (ids(backup), errors(backup)) == (live.ids, [])


def test_what_is_restored_goes_on(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, history, snapshots, names of writes and increments are those of the moment of the backup."""
    live.store.create_snapshot("before")
    live.during(monkeypatch, lambda: copy_root(live.path, tmp_path / "backup"))
    expected = ids(tmp_path / "backup")
    shutil.rmtree(live.path)
    copy_root(tmp_path / "backup", live.path)
    restored = open_store(live.path)
    assert (ids(live.path), errors(live.path)) == (expected, [])
    assert restored.history(Recording).equals(open_store(tmp_path / "backup").history(Recording))
    for step in expected - {step for step in expected if step % 3 == 0}:  # jobs that are tried again
        row = {"sample_id": [step], "data_version": [{"default": f"v{step}"}]}
        restored.write_metadata(Recording, pl.DataFrame(row), write_id=f"job {step}")
    with pytest.raises(WriteConflictError):
        restored.write_metadata(Recording, pl.DataFrame(row).with_columns(sample_id=-1), write_id=f"job {step}")
    assert restored.read_metadata(Recording).height == len(expected)
    live.store = restored
    live.steps = max(expected) + 1
    live.step()
    assert live.ids - {live.steps - 1} <= ids(live.path)


def test_an_older_backup_says_which_snapshots_it_is_too_old_for(live: Live, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    copy_root(live.path, backup)
    live.step()
    live.store.create_snapshot("after")
    (backup / "_snapshots").mkdir(exist_ok=True)
    shutil.copy(live.path / "_snapshots" / "after.json", backup / "_snapshots")
    assert any("names 1 commit of" in problem for problem in errors(backup))
    with pytest.raises(CorruptObjectError):
        open_store(backup).at("after").read_metadata(Recording)
    [skipped] = vacuum(open_store(backup), dry_run=False, **NO_PATIENCE).skipped
    assert "after.json" in skipped.problem
    copy_root(live.path, backup)
    assert (ids(backup), errors(backup)) == (live.ids, [])


def test_a_snapshot_that_was_made_again_replaces_that_of_an_earlier_backup(live: Live, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    live.store.create_snapshot("latest")
    copy_root(live.path, backup)
    live.step()
    live.store.drop_snapshot("latest")
    live.store.create_snapshot("latest")
    copy_root(live.path, backup)
    assert set(open_store(backup).at("latest").read_metadata(Recording)["sample_id"]) == live.ids
    assert errors(backup) == []


def test_a_place_where_nothing_is_passes_for_no_backup(live: Live, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with pytest.raises(ValueError, match="no root"):
        copy_root(tmp_path / "misspelt", backup)
    assert not backup.exists()
    copy_root(live.path, backup)
    assert verify(open_store(backup)).is_sound


def test_a_wrong_place_is_refused(live: Live, tmp_path: Path) -> None:
    other = Live(tmp_path / "other")
    before = {path: path.read_bytes() for path in other.path.rglob("*") if path.is_file()}
    other.store.write_metadata(Noise, pl.DataFrame({"sample_id": ["x"], "data_version": [{"default": "v"}]}))
    for place in (live.path / "backup", live.path, live.path.parent):
        with pytest.raises(ValueError, match="must not lie in one another"):
            copy_root(live.path, place)
    with pytest.raises(ValueError, match="these are two roots"):
        copy_root(live.path, other.path)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_backup_inside_a_root_is_no_part_of_it(live: Live) -> None:
    """Somebody copies with another tool into a directory of the root itself."""
    shutil.copytree(live.path, live.path.parent / "copy")
    shutil.move(live.path.parent / "copy", live.path / "backup")
    before = {path.relative_to(live.path) for path in (live.path / "backup").rglob("*")}
    for _ in range(3):
        vacuum(live.store, dry_run=False, **NO_PATIENCE)
    assert {path.relative_to(live.path) for path in (live.path / "backup").rglob("*")} == before
    assert (ids(live.path), errors(live.path)) == (live.ids, [])
    assert ids(live.path / "backup") == live.ids
    assert live.store.list_features() == [Recording.spec.key]


def test_a_place_beside_the_root_is_refused_by_what_changes_roots(live: Live) -> None:
    """The parent of the root, one of its features, or one of its partitions is given in its place."""
    partition = next(live.path.glob("recording/*"))
    (live.path.parent / ".tmp-notes.txt").write_text("precious")
    before = {path for path in live.path.parent.rglob("*") if path.is_file()}
    for place in (live.path.parent, live.path / "recording", partition):
        with pytest.raises(StorageError, match="is no root"):
            vacuum(FilesystemMetadataStore(place), dry_run=False, **NO_PATIENCE)
        assert repair(FilesystemMetadataStore(place), dry_run=False) == []
    assert {path for path in live.path.parent.rglob("*") if path.is_file()} == before


def broken(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("vacuumed", [True, False])
def test_the_way_out_of_a_lost_compaction_keeps_what_is_whole(live: Live, tmp_path: Path, *, vacuumed: bool) -> None:
    """As `maintenance.md` says, in order, with a vacuum wherever somebody may run one."""
    for step in range(100, 112):
        row = {"sample_id": [step], "data_version": [{"default": "v"}], "label": ["x"]}
        live.store.write_metadata(Recording, pl.DataFrame(row))
    expected = live.ids | set(range(100, 112))
    [done] = compact(live.store, full=True)
    if vacuumed:
        clean(live.store, 2)
    live.store.write_metadata(Recording, pl.DataFrame({"sample_id": [1000], "data_version": [{"default": "v"}]}))
    partition = next(live.path.glob("recording/*"))
    backup = tmp_path / "backup"
    copy_root(live.path, backup)
    files = sorted(partition.glob(f"{done.commit}-[0-9].parquet"))
    assert len(files) == 2
    broken(files[0])
    manifest = partition / "_manifests" / "compactions" / f"{done.commit}.json"
    manifest.write_bytes(manifest.read_bytes()[:200])
    with pytest.raises(CorruptObjectError):
        ids(live.path)
    clean(live.store, 2)
    repair(live.store, dry_run=False)
    clean(live.store, 2)
    shutil.move(manifest, tmp_path / "moved.json")
    clean(live.store, 2)  # before the second repair, out of order
    repair(live.store, dry_run=False)
    clean(live.store, 2)
    found = ids(live.path)
    assert found >= set(range(100, 112)) | {1000}
    assert bool(errors(live.path)) == (not found >= expected)
    shutil.copy(backup / files[0].relative_to(live.path), files[0])  # it is found in a backup after all
    repair(live.store, dry_run=False)
    clean(live.store, 2)
    assert (ids(live.path), errors(live.path)) == (expected | {1000}, [])


def clean(store: FilesystemMetadataStore, times: int) -> None:
    for _ in range(times):
        vacuum(store, dry_run=False, **NO_PATIENCE)


def test_a_single_file_comes_back_from_a_backup_of_any_age(live: Live, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    copy_root(live.path, backup)
    for _ in range(7):
        live.step()
    for path in sorted(live.path.rglob("*.parquet")):
        old = backup / path.relative_to(live.path)
        if old.exists():
            path.unlink()
            assert_refused_or_unneeded(live)
            shutil.copy(old, path)
    assert (ids(live.path), errors(live.path)) == (live.ids, [])


def assert_refused_or_unneeded(live: Live) -> None:
    """A read without a file is whole or an error."""
    try:
        assert ids(live.path) == live.ids
    except MetaxyError:
        assert errors(live.path)


def test_a_promotion_that_is_stopped_half_way_is_run_again(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `promotion.md` says; a vacuum of the target in between takes nothing for which it has to wait."""
    target = open_store(tmp_path / "target")
    target.write_metadata(Recording, pl.DataFrame({"sample_id": [-1], "data_version": [{"default": "v"}]}))
    real = type(target.storage).put
    for allowed in range(1, 60):
        puts = iter(range(allowed))

        def put(storage: object, path: str, data: bytes, puts: Iterator[int] = puts) -> None:
            if next(puts, None) is None:
                raise StorageError("the network is gone")
            real(storage, path, data)

        with monkeypatch.context() as patch:
            patch.setattr(type(target.storage), "put", put)
            patch.setattr("metaxy_fs.log.verified_io.pause", lambda _seconds: None)
            try:
                copy_metadata(Recording, source=live.store, target=target)
            except StorageError:
                assert ids(tmp_path / "target") >= {-1}
                assert {-1} | live.ids >= ids(tmp_path / "target")
                continue
        break
    assert (ids(tmp_path / "target"), errors(tmp_path / "target")) == (live.ids | {-1}, [])


def test_a_vacuum_of_the_wrong_root_of_a_chain_does_not_exist(live: Live, tmp_path: Path) -> None:
    """As `branch-deployment.md` has it: maintenance touches the first root alone."""
    before = {path: path.read_bytes() for path in live.path.rglob("*") if path.is_file()}
    branch = open_store(tmp_path / "branch", live.path)
    branch.write_metadata(Noise, pl.DataFrame({"sample_id": ["x"], "data_version": [{"default": "v"}]}))
    for act in (
        partial(vacuum, dry_run=False, **NO_PATIENCE),
        partial(repair, dry_run=False),
        partial(compact, full=True),
    ):
        act(branch)
    assert {path: path.read_bytes() for path in live.path.rglob("*") if path.is_file()} == before
    assert set(branch.read_metadata(Recording)["sample_id"]) == live.ids


def commands(tool: str) -> list[list[str]]:
    """Return the commands of the page that begin with a name."""
    return [shlex.split(line) for line in PAGE.read_text().splitlines() if line.startswith(f"{tool} ")]


def synchronised(source: Path, target: Path, filters: Sequence[str]) -> None:
    """Do what `aws s3 sync` does: of all filters that match a key, the last one counts."""
    pairs = list(zip(filters[::2], filters[1::2], strict=True))
    for path in in_order_of_names(source):
        name = path.relative_to(source).as_posix()
        matching = [kind for kind, pattern in pairs if fnmatch(name, pattern)]
        if (matching or ["--include"])[-1] == "--include" and not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name)


def test_the_passes_of_the_page_with_a_tool_for_buckets(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, passes = live.ids, commands("aws")
    assert [words[:5] for words in passes] == [["aws", "s3", "sync", "s3://live", "s3://backup"]] * 5
    check_passes(live, tmp_path / "backup", monkeypatch, [partial(synchronised, filters=words[5:]) for words in passes])
    assert ids(tmp_path / "backup") > before


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync")
def test_the_passes_of_the_page_with_rsync(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = commands("rsync")
    assert [words[-2:] for words in passes] == [["live/", "backup/"]] * 5

    def run(source: Path, target: Path, words: list[str]) -> None:
        live.step()
        subprocess.run([*words[:-2], f"{source}/", f"{target}/"], check=True)  # the page's own command

    check_passes(live, tmp_path / "backup", monkeypatch, [partial(run, words=words) for words in passes])


def check_passes(
    live: Live, backup: Path, monkeypatch: pytest.MonkeyPatch, passes: list[Callable[[Path, Path], None]]
) -> None:
    before = live.ids
    for one in passes:
        live.during(monkeypatch, partial(one, live.path, backup), every=2)
    assert before <= ids(backup) <= live.ids
    between = [problem for problem in errors(backup) if "commits that no manifest holds" not in problem]
    assert between == []
    for one in passes:  # once more, now that nobody writes
        one(live.path, backup)
    assert before <= ids(backup)
    assert errors(backup) == []
    assert vacuum(open_store(backup), dry_run=True).skipped == ()
