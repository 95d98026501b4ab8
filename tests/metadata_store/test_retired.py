"""Tags of commits and retired samples outlive everything that is done to the files of a root."""

import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore, compact, copy_metadata, repair, vacuum, verify
from metaxy_fs.log.manifest import Manifest, sealed, unsealed
from metaxy_fs.testing.store_cases import SAMPLE_ID, pipeline, samples, videos

VIDEO, _ = pipeline()


@pytest.fixture
def store(tmp_path: Path) -> FilesystemMetadataStore:
    """Commits with and without tags, of which two retire samples and one restores some."""
    store = FilesystemMetadataStore(tmp_path / "root", tags={"host": "a"})
    store.write_metadata(VIDEO, videos(range(10), label="x"), tags={"run": "1"})
    store.retire(VIDEO, samples([1, 2, 3]), "bad camera")
    store.create_snapshot("good")
    store.write_metadata(VIDEO, videos([2, 20], label="y"), tags={"host": "b", "run": "2"})
    store.retire(VIDEO, samples([5]))
    store.restore(VIDEO, at="good", reason="a bad job")
    store.write_metadata(VIDEO, videos([3, 30], label="z"), write_id="named", tags={"run": "3"})
    return store


def everything(store: FilesystemMetadataStore) -> list[pl.DataFrame]:
    """What reads and history show, however the rows are kept."""
    return [
        store.read_metadata(VIDEO, with_commits="tags"),
        store.read_metadata(VIDEO, latest_only=True),
        store.read_metadata(VIDEO, latest_only=True, filters=pl.col("label") == "x", with_commits="tags"),
        store.history(VIDEO).drop("bytes", "compacted"),
    ]


def same(store: FilesystemMetadataStore, before: list[pl.DataFrame]) -> bool:
    found = everything(FilesystemMetadataStore(store.location))
    return all(frame.equals(other) for frame, other in zip(found, before, strict=True))


def partition_of(store: FilesystemMetadataStore) -> Path:
    [definition] = Path(store.location).glob("*/*/_definition.json")
    return definition.parent


def test_the_root_is_what_the_others_take_it_for(store: FilesystemMetadataStore) -> None:
    assert sorted(store.read_metadata(VIDEO, latest_only=True)[SAMPLE_ID]) == [0, 3, 4, 5, 6, 7, 8, 9, 30]
    commits = store.history(VIDEO)
    assert commits["rows"].to_list() == [10, 0, 2, 0, 1, 2]
    assert commits["retired"].to_list() == [0, 3, 0, 1, 2, 0]
    assert commits["tags"].str.json_path_match("$.host").to_list() == ["a", "a", "b", "a", "a", "a"]
    assert verify(store).is_sound


def test_a_compaction_keeps_them(store: FilesystemMetadataStore) -> None:
    before = everything(store)
    compact(store, VIDEO, full=True)
    assert store.history(VIDEO)["compacted"].all()
    assert same(store, before)
    assert store.at("good").read_metadata(VIDEO, latest_only=True)[SAMPLE_ID].to_list() == [0, *range(4, 10)]
    assert verify(store).is_sound


def test_a_compaction_of_compactions_after_a_vacuum_keeps_them(store: FilesystemMetadataStore) -> None:
    compact(store, VIDEO, full=True)
    vacuum(store, VIDEO, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
    store.write_metadata(VIDEO, videos([40]))
    store.retire(VIDEO, samples([30]), "gone")
    before = everything(store)
    compact(store, VIDEO, full=True)
    vacuum(store, VIDEO, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
    assert same(store, before)
    assert verify(store).is_sound


@pytest.mark.parametrize("is_compacted", [False, True])
def test_repair_puts_them_back_byte_by_byte(store: FilesystemMetadataStore, *, is_compacted: bool) -> None:
    if is_compacted:
        compact(store, VIDEO, full=True)
    before = everything(store)
    kind = "compactions" if is_compacted else "appends"
    held = {path: path.read_bytes() for path in partition_of(store).glob(f"_manifests/{kind}/*.json")}
    for path in held:
        path.write_bytes(b"{")
    repair(store, dry_run=False)
    assert {path: path.read_bytes() for path in held} == held
    assert same(store, before)


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_copy_has_them(store: FilesystemMetadataStore, tmp_path: Path, *, is_compacted: bool) -> None:
    before = everything(store)
    if is_compacted:
        compact(store, VIDEO, full=True)
    target = FilesystemMetadataStore(tmp_path / "target")
    copy_metadata(VIDEO, source=store, target=target)
    assert same(target, before)


def test_a_copy_of_latest_rows_has_the_commits_that_retire_samples(tmp_path: Path) -> None:
    source, target = (FilesystemMetadataStore(tmp_path / name) for name in ("source", "target"))
    source.write_metadata(VIDEO, videos([1, 2]))
    source.retire(VIDEO, samples([2]))
    copy_metadata(VIDEO, source=source, target=target, which="latest")
    assert target.read_metadata(VIDEO, latest_only=True)[SAMPLE_ID].to_list() == [1]


def test_a_root_without_them_has_the_manifests_and_tables_it_had(tmp_path: Path) -> None:
    store = FilesystemMetadataStore(tmp_path)
    for _ in range(2):
        store.write_metadata(VIDEO, videos([1]))
    compact(store, VIDEO, full=True)
    for path in partition_of(store).glob("_manifests/*/*.json"):
        assert b'"tags"' not in path.read_bytes()
        assert b'"retired"' not in path.read_bytes()
    for path in partition_of(store).glob("*.parquet"):
        footer = pl.read_parquet_metadata(path)["metaxy_fs"]
        assert '"tags"' not in footer
        assert not {"tags", "retired"} & set(pl.read_parquet(path).columns)


def test_a_store_in_another_process_has_the_tags_of_its_first(store: FilesystemMetadataStore) -> None:
    copied: FilesystemMetadataStore = pickle.loads(pickle.dumps(store))  # noqa: S301
    copied.write_metadata(VIDEO, videos([50]))
    assert copied.history(VIDEO)["tags"][-1] == '{"host":"a"}'


# What verify says of a root in which they are wrong.


def forge(store: FilesystemMetadataStore, index: int, change: Callable[[Manifest], Manifest]) -> None:
    """Change the manifest of a commit as somebody would who knows how to seal one."""
    path = sorted(partition_of(store).glob("_manifests/appends/2*.json"))[index]
    manifest = msgspec.json.decode(unsealed(path.read_bytes(), name=""), type=Manifest)
    path.write_bytes(sealed(msgspec.json.encode(change(manifest))))


def changed(**fields: Any) -> Callable[[Manifest], Manifest]:
    return lambda manifest: msgspec.structs.replace(manifest, **fields)


def test_verify_counts_the_rows_that_retire_a_sample(store: FilesystemMetadataStore) -> None:
    forge(store, 1, changed(retired=2))
    findings = verify(FilesystemMetadataStore(store.location)).findings
    assert "says that 2 of its rows retire a sample, in its data files 3 do" in {each.problem for each in findings}


def test_verify_counts_them_in_a_compaction(store: FilesystemMetadataStore) -> None:
    forge(store, 1, changed(retired=2))
    compact(FilesystemMetadataStore(store.location), VIDEO, full=True)
    problems = [each.problem for each in verify(store).findings if each.severity == "error"]
    assert len(problems) == 1
    assert "3 rows of commit" in problems[0]
    assert "that retire a sample, which has 2 by its table" in problems[0]


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, changed(retired=11), "counts 11 rows that retire a sample"),
        (0, changed(tags={}), "cannot be decoded"),
        (0, changed(tags={"a b": "x"}), "cannot be decoded"),
        (0, changed(tags={"a": "x" * 1_001}), "cannot be decoded"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    store: FilesystemMetadataStore, index: int, change: Callable[[Manifest], Manifest], message: str
) -> None:
    forge(store, index, change)
    again = FilesystemMetadataStore(store.location)
    with pytest.raises(Exception, match=message):
        again.read_metadata(VIDEO)
