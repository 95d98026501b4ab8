"""A copy that leaves samples out holds the same commits without their rows, whatever the history of the source."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs.errors import MetadataSchemaError, ObjectExistsError, StorageError, WriteConflictError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import copied_manifests
from metaxy_fs.log.commit import commit
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.copy import Copied, copy_partition
from metaxy_fs.log.descriptions import PartitionInfo, open_for_writing
from metaxy_fs.log.log import Log
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.golden import reader
from tests.golden.compacted import small_files
from tests.golden.test_reader_histories import EAGER, History, read
from tests.log.commits import PARTITION, request, rows, write
from tests.log.compactions import put_compaction
from tests.log.faulty import FaultyStorage
from tests.log.roots import contents, describe

pytestmark = pytest.mark.usefixtures("no_pauses")

PLAIN = {"sample_id", "data_version", "_metaxy_retired"}
MARKS = ["_metaxy_time", "_metaxy_commit"]


def described(storage: Storage) -> Storage:
    """Make a root."""
    open_for_writing(storage)
    made = request(rows())
    spec = msgspec.Raw(b'{"containers":[]}')
    info = PartitionInfo(feature=made.feature, definition=made.definition, id_columns=made.id_columns, spec=spec)
    describe(storage, PARTITION, info)
    return storage


def copy(source: Storage, target: Storage, *ids: int, dtype: type[pl.DataType] = pl.Int64) -> Copied:
    """Copy all commits without some samples."""
    view = ViewLoader(source, clock=LamportClock()).load(PARTITION)
    assert view is not None
    open_for_writing(target)
    exclude = pl.DataFrame({"sample_id": ids}, schema={"sample_id": dtype})
    return copy_partition(
        source, target, PARTITION, commits=view.commits, advance=lambda _done, _total: None, exclude=exclude
    )


def stored(storage: Storage, commits: frozenset[str] | None = None) -> pl.DataFrame:
    """What the library reads of some commits: ids and versions, those of rows that retire a sample among them."""
    log = Log(storage, clock=LamportClock())
    view = log.view_at(PARTITION, commits=commits)
    assert view is not None
    found = log.select([view], columns=PLAIN, with_commits=True).rows.collect()
    retired = (
        pl.col("_metaxy_retired").fill_null(value=False) if "_metaxy_retired" in found.columns else pl.lit(value=False)
    )
    return found.with_columns(_metaxy_retired=retired).select(*MARKS, *sorted(PLAIN))


def history(storage: Storage) -> pl.DataFrame:
    told = ["time", "commit", "rows", "retired", "write_id", "writer", "tags"]
    return Log(storage, clock=LamportClock()).commits(PARTITION.feature).select(told)


def independently_read(root: Path, commits: set[str]) -> list[tuple[object, ...]] | None:
    found = read(root, commits)
    if found is None:
        return None
    return [
        (mark, row["sample_id"], row["data_version"]) for mark, row in zip(found.commits, found.values, strict=True)
    ]


def expected_history(source: Storage, ids: list[int]) -> pl.DataFrame:
    kept = stored(source).filter(~pl.col("sample_id").is_in(ids))
    counts = kept.group_by(pl.col("_metaxy_commit").alias("commit")).agg(
        rows=(~pl.col("_metaxy_retired")).sum().cast(pl.Int64), retired=pl.col("_metaxy_retired").sum().cast(pl.Int64)
    )
    told = history(source)
    found = told.drop("rows", "retired").join(counts, on="commit", how="left", maintain_order="left")
    return found.with_columns(pl.col("rows", "retired").fill_null(0)).select(told.columns)


def errors(storage: Storage) -> list[str]:
    found = [f"{finding.path} {finding.problem}" for finding in verify(storage).findings if finding.severity == "error"]
    return [problem for problem in found if "no type holds the values" not in problem]  # the writers of the source did


def decoded_ids(storage: Storage) -> set[int]:
    """The ids in any data file, named or not."""
    files = [storage.get(path) for path in contents(storage) if path.endswith(".parquet")]
    return {value for data in files for value in pl.read_parquet(data)["sample_id"]}


def compact_all(storage: Storage) -> None:
    clock = LamportClock()
    options = Options(writer="a test", full=True)
    list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))


@contextmanager
def histories(seed: int) -> Iterator[tuple[History, Path, random.Random]]:
    """Give a root to which dice did what they liked, and a place for another."""
    dice = random.Random(seed)  # noqa: S311  # dice, not keys
    with TemporaryDirectory() as first, TemporaryDirectory() as second, small_files():
        made = History(Path(first), dice)
        described(made.storage)
        made.write()
        steps = [made.write] * 5 + [made.compact, made.overlap] * 2 + [made.vacuum]
        for _ in range(dice.randint(3, 14)):
            dice.choice(steps)()
        yield made, Path(second), dice


@pytest.mark.parametrize("seed", range(15))
def test_any_history_is_copied_without_some_samples(seed: int) -> None:
    with histories(seed) as (made, directory, dice):
        ids = dice.sample(range(30), dice.choice([0, 1, 3, 10, 30]))
        target = LocalStorage(directory)
        commits = frozenset(append.commit for append in made.appends)
        found = copy(made.storage, target, *ids)
        before = contents(target)
        again = copy(made.storage, target, *ids)
        assert (again.added, again.files, again.left_out) == (0, 0, 0)
        assert contents(target) == before
        assert decoded_ids(target).isdisjoint(ids)
        assert found.left_out == stored(made.storage).filter(pl.col("sample_id").is_in(ids)).height
        some = frozenset(dice.sample(sorted(commits), dice.randint(1, len(commits))))
        for _ in range(2):
            for wanted in (commits, some):
                kept = stored(made.storage, wanted).filter(~pl.col("sample_id").is_in(ids))
                assert_frame_equal(stored(target, wanted), kept)
                theirs = independently_read(made.directory, set(wanted))
                ours = independently_read(directory, set(wanted))
                if theirs is not None and ours is not None:
                    assert ours == [row for row in theirs if row[1] not in ids]
            assert_frame_equal(history(target), expected_history(made.storage, ids))
            told = history(target).select("time", "commit", "rows", "retired", "write_id").rows()
            assert [row[:5] for row in reader.history(directory, PARTITION.feature, [PARTITION.version])] == told
            assert errors(target) == []
            compact_all(target)
            for _ in range(2):
                assert not vacuum(target, policy=EAGER, dry_run=False).skipped


@pytest.mark.parametrize("seed", range(12))
def test_what_is_compacted_while_it_is_copied_is_copied_once(seed: int) -> None:
    with histories(100 + seed) as (made, _, dice):
        ids, target = dice.sample(range(30), 5), MemoryStorage()
        copy(made.storage, target, *ids)
        made.write()
        made.compact()
        made.vacuum()
        copy(made.storage, target, *ids)
        assert_frame_equal(stored(target), stored(made.storage).filter(~pl.col("sample_id").is_in(ids)))
        assert_frame_equal(history(target), expected_history(made.storage, ids))
        assert errors(target) == []
        assert decoded_ids(target).isdisjoint(ids)


def test_manifests_without_such_a_row_are_copied_byte_for_byte() -> None:
    source, target = described(MemoryStorage()), MemoryStorage()
    untouched = write(source, 1, 5, 9)
    write(source, 2, 5)
    found = copy(source, target, 2, 7)
    assert (found.commits, found.added, found.files, found.left_out) == (2, 2, 2, 1)
    data = contents(source)
    for path in [PARTITION.append_manifest(untouched.commit), *(PARTITION.data_file(f.name) for f in untouched.files)]:
        assert target.get(path) == data[path]
    assert sum("/appends/" in path for path in contents(target)) == 1


def test_many_writes_become_one_manifest() -> None:
    source, target = described(MemoryStorage()), MemoryStorage()
    for place in range(30):
        write(source, 1, 100 + place)
    assert copy(source, target, 1).left_out == 30
    assert sum("/_manifests/" in path for path in contents(target)) == 1


def test_a_retry_of_a_named_write_brings_nothing_back() -> None:
    source, target = described(MemoryStorage()), MemoryStorage()
    write(source, 1, 2, 3, write_id="job")
    copy(source, target, 2)
    before = contents(target)
    write(target, 1, 2, 3, write_id="job")
    assert stored(target)["sample_id"].to_list() == [1, 3]
    assert contents(target).keys() - before.keys() <= {path for path in contents(target) if path.endswith(".parquet")}
    with pytest.raises(WriteConflictError):
        write(target, 1, 3, write_id="job")


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_copy_that_is_cut_short_anywhere_goes_on(*, is_compacted: bool) -> None:
    source = described(MemoryStorage())
    writes = [write(source, 1, 2), write(source, 2, 3, write_id="job"), write(source, 4)]
    if is_compacted:
        put_compaction(source, writes)
    for allowed in range(40):
        target, puts = MemoryStorage(), iter(range(allowed))
        open_for_writing(target)

        def fault(verb: str, _path: str, puts: Iterator[int] = puts) -> str | None:
            return "before" if verb == "put" and next(puts, None) is None else None

        try:
            copy(source, FaultyStorage(target, fault), 2)
        except StorageError:
            assert errors(target) == []
            assert decoded_ids(target).isdisjoint({2})
            copy(source, target, 2)
            assert stored(target)["sample_id"].to_list() == [1, 3, 4]
            assert errors(target) == []
        else:
            break
    assert 4 < allowed < 39


@pytest.mark.parametrize("is_compacted", [False, True])
def test_rows_that_are_there_are_refused(*, is_compacted: bool) -> None:
    source, target = described(MemoryStorage()), MemoryStorage()
    writes = [write(source, 1, 2), write(source, 2, 3)]
    if is_compacted:
        put_compaction(source, writes)
    copy(source, target, 1)
    before = contents(target)
    with pytest.raises(ObjectExistsError, match="2 rows of samples that are to be left out"):
        copy(source, target, 1, 2)
    assert contents(target) == before


@pytest.mark.parametrize("ids", [(), (2,)])
def test_a_target_that_lacks_other_samples_is_refused(ids: tuple[int, ...]) -> None:
    """Else the compaction that brings the third commit would bring rows of the others back."""
    source, target = described(MemoryStorage()), MemoryStorage()
    writes = [write(source, 1, 2), write(source, 3, 4)]
    copy(source, target, 2, 3)
    put_compaction(source, [*writes, write(source, 5, 6)])
    before = contents(target)
    with pytest.raises(WriteConflictError, match="copied with another `exclude`"):
        copy(source, target, *ids)
    assert contents(target) == before
    assert copy(source, target, 2, 3, 5).left_out == 3
    assert stored(target)["sample_id"].to_list() == [1, 4, 6]


def test_a_root_that_lacks_samples_takes_none_from_another() -> None:
    source, target, lacking = described(MemoryStorage()), MemoryStorage(), MemoryStorage()
    write(source, 1, 2)
    write(source, 3, 4)
    copy(source, target)
    copy(source, lacking, 2)
    assert copy(lacking, target).added == 0
    write(lacking, 5, 6)
    compact_all(lacking)
    with pytest.raises(WriteConflictError, match="another number of rows"):
        copy(lacking, target)


def test_ids_of_another_kind_are_refused_and_those_of_another_width_found() -> None:
    source, target = described(MemoryStorage()), MemoryStorage()
    write(source, 1, 2)
    exclude = pl.DataFrame({"sample_id": ["1"]})
    commits = frozenset(history(source)["commit"])
    with pytest.raises(MetadataSchemaError, match=r"type Int64, and .* type String"):
        copy_partition(source, target, PARTITION, commits=commits, advance=lambda *_: None, exclude=exclude)
    assert not any("/_manifests/" in path for path in contents(target))
    assert copy(source, target, 2, dtype=pl.UInt8).left_out == 1


def test_writes_are_rewritten_in_groups_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copied_manifests, "BATCH_ROWS", 4)
    source, target = described(MemoryStorage()), MemoryStorage()
    for place in range(6):
        write(source, 1, 100 + place)
    copy(source, target, 1)
    assert sum("/_manifests/compactions/" in path for path in contents(target)) == 3
    assert stored(target)["sample_id"].to_list() == list(range(100, 106))


def test_a_write_of_many_files_keeps_the_order_of_its_rows() -> None:
    source, target = described(MemoryStorage()), MemoryStorage()
    with small_files():
        commit(source, request(rows(*range(100))), clock=LamportClock())
        copy(source, target, 0, 40, 41, 99)
    assert stored(target)["sample_id"].to_list() == [*range(1, 40), *range(42, 99)]
    assert errors(target) == []
