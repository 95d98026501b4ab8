"""The Delta log of a feature says what the view says, whoever publishes at once."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    MetadataSchemaError,
    StorageError,
    compact,
    publish,
    vacuum,
    verify,
)
from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log import delta
from metaxy_fs.log.delta_types import delta_type
from metaxy_fs.storage.base import Storage
from tests.engines.clips import Clip, clips, in_state, overlap, troubled, vacuumed
from tests.log.faulty import FaultyStorage
from tests.support.storages import Overwriting

Json = dict[str, Any]


def replay(storage: Storage, *, version: int | None = None) -> tuple[int, dict[str, Json], Json]:
    """Return the last version, the entries by path and the metadata that the JSON of a log says."""
    versions = sorted(info.path for info in storage.list("clip/_delta_log") if info.path.endswith(".json"))
    assert versions == [f"clip/_delta_log/{number:020}.json" for number in range(len(versions))]
    files: dict[str, Json] = {}
    found: Json = {}
    for path in versions[: None if version is None else version + 1]:
        for action in map(json.loads, storage.get(path).splitlines()):
            found |= action
            if "add" in action:
                assert action["add"]["path"] not in files
                files[action["add"]["path"]] = action["add"]
            if "remove" in action:
                del files[action["remove"]["path"]]
    return len(versions) - 1, files, found


def listed(store: FilesystemMetadataStore) -> dict[str, int]:
    """What a table has to have: the rows by path of the files that count and have any."""
    files = store.files(Clip).filter(pl.col("rows") > 0)
    return {"/".join(path.split("/")[-2:]): rows for path, rows in files.select("path", "rows").iter_rows()}


def rows_by_path(storage: Storage, *, version: int | None = None) -> dict[str, int]:
    _, files, _ = replay(storage, version=version)
    return {path: json.loads(add["stats"])["numRecords"] for path, add in files.items()}


@pytest.mark.parametrize("state", ["troubled", "vacuumed"])
def test_a_table_has_the_files_that_count(tmp_path: Path, state: str) -> None:
    store = in_state(state, tmp_path)
    published = publish(store, Clip)
    assert rows_by_path(store.storage) == listed(store)
    assert (published.version, published.added, published.removed) == (0, published.files, 0)
    assert published.rows == sum(listed(store).values())
    assert published.location == str(tmp_path / "root" / "clip")
    assert published.widened == ("size",)


STEPS = st.lists(st.sampled_from(["write", "retire", "compact", "vacuum", "publish"]), max_size=12)


@settings(max_examples=15)
@given(steps=STEPS, every=st.integers(1, 3))
def test_each_publication_brings_the_table_to_what_is_committed(steps: list[str], every: int) -> None:
    store = InMemoryMetadataStore()
    store.write_metadata(Clip, clips(0))
    other = FilesystemMetadataStore(store.storage)  # it has seen nothing of what the first one has
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta, "_CHECKPOINT_EVERY", every)
        for number, step in enumerate([*steps, "publish"]):
            if step == "write":
                store.write_metadata(Clip, clips(number, number + 1, note=None if number % 3 else str(number)))
            if step == "retire":
                store.retire(Clip, clips(number - 1))
            if step == "compact":
                compact(store, Clip, full=True)
            if step == "vacuum":
                vacuumed(store)
            if step == "publish":
                before = replay(store.storage)[0]
                published = publish(store if number % 2 else other, Clip)
                assert rows_by_path(store.storage) == listed(store)
                assert (published.version > before) is bool(published.added or published.removed)
                assert publish(other, Clip).version == published.version
    assert verify(store).is_sound


def test_who_was_overtaken_begins_again(tmp_path: Path) -> None:
    """Another publication and another commit come in just before the put, three times."""
    store, overtaken = troubled(tmp_path), list[str]()

    def fault(verb: str, path: str) -> None:
        if verb == "put" and "_delta_log" in path and len(overtaken) < 3:
            overtaken.append(path)
            store.write_metadata(Clip, clips(100 + len(overtaken)))  # else both may put the same bytes
            publish(store, Clip)
            store.write_metadata(Clip, clips(200 + len(overtaken)))

    published = publish(FilesystemMetadataStore(FaultyStorage(store.storage, fault)), Clip)
    assert overtaken == [f"clip/_delta_log/{number:020}.json" for number in range(3)]
    assert (published.version, published.added) == (3, 1)
    assert rows_by_path(store.storage) == listed(store)


@pytest.mark.parametrize("step", ["list", "put"])
def test_a_commit_that_was_published_stays_published(step: str) -> None:
    """Another writer commits and publishes at some step; whoever goes on from there takes nothing of it away."""
    store, seen = InMemoryMetadataStore(), list[dict[str, int]]()
    store.write_metadata(Clip, clips(1))

    def fault(verb: str, path: str) -> None:
        if verb == step and "_delta_log" in path and not seen:
            seen.append({})
            store.write_metadata(Clip, clips(2))
            publish(store, Clip)
            seen[0].update(rows_by_path(store.storage))

    publish(FilesystemMetadataStore(FaultyStorage(store.storage, fault)), Clip)
    assert rows_by_path(store.storage) == seen[0] == listed(store)


def test_a_table_never_goes_back(tmp_path: Path) -> None:
    """Writers publish after each write: what each wrote is in the version that it got, and in all later ones."""
    root, got = tmp_path / "root", list[tuple[int, int]]()

    def work(number: int) -> None:
        store = FilesystemMetadataStore(root)
        for turn in range(4):
            store.write_metadata(Clip, clips(100 * number + turn))
            got.append((publish(store, Clip).version, 100 * number + turn))

    run_at_once([lambda number=number: work(number) for number in range(1, 5)])  # type: ignore[misc]
    store = FilesystemMetadataStore(root)
    paths = {
        ids["sample_id"]: "/".join(path.split("/")[-2:]) for path, ids in store.files(Clip)["path", "min"].iter_rows()
    }
    last, _, _ = replay(store.storage)
    versions = [rows_by_path(store.storage, version=version) for version in range(last + 1)]
    assert versions[-1] == listed(store)
    assert len(got) == 16
    for version, sample in got:
        assert all(paths[sample] in files for files in versions[version:])


def run_at_once(jobs: list[Callable[[], None]]) -> None:
    failed: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001  # the thread of the test shows it
            failed.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_put_whose_answer_is_lost_is_a_success() -> None:
    store, lost = InMemoryMetadataStore(), list[str]()
    store.write_metadata(Clip, clips(1))

    def fault(verb: str, path: str) -> str | None:
        if verb == "put" and "_delta_log" in path and not lost:
            lost.append(path)
            return "after"
        return None

    assert publish(FilesystemMetadataStore(FaultyStorage(store.storage, fault)), Clip).version == 0
    assert lost
    assert rows_by_path(store.storage) == listed(store)


def test_the_log_is_read_from_its_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "_CHECKPOINT_EVERY", 2)
    store = InMemoryMetadataStore()
    for number in range(5):
        store.write_metadata(Clip, clips(number))
        publish(store, Clip, columns=["sample_id", "size"])
    kept = [info.path for info in store.storage.list("clip/_delta_log") if "checkpoint" in info.path]
    assert kept == [f"clip/_delta_log/{number:020}.checkpoint.parquet" for number in (1, 3)]
    for number in range(4):
        store.storage.delete(f"clip/_delta_log/{number:020}.json")
    published = publish(store, Clip)
    assert (published.version, published.files, published.added) == (4, len(listed(store)), 0)
    store.write_metadata(Clip, clips(5))
    assert publish(store, Clip).added == 1


def test_columns_stay_as_they_were_chosen(tmp_path: Path) -> None:
    store = troubled(tmp_path)

    def said() -> tuple[str, list[str]]:
        found = replay(store.storage)[2]["metaData"]
        return found["id"], [field["name"] for field in json.loads(found["schemaString"])["fields"]]

    publish(store, Clip)
    identity, columns = said()
    assert sorted(columns) == sorted([*store.read_metadata(Clip).columns, "_metaxy_retired"])
    publish(store, Clip, columns=["sample_id", "note"])
    assert said() == (identity, ["sample_id", "note"])
    store.write_metadata(Clip, clips(9).with_columns(new=1))
    publish(store, Clip)
    assert said() == (identity, ["sample_id", "note"])
    with pytest.raises(MetadataSchemaError, match=r"has no column 'other'; it has .*'sample_id'"):
        publish(store, Clip, columns=["sample_id", "other"])


LACKING: dict[str, pl.DataType] = {
    "took": pl.Duration("us"),
    "clock": pl.Time(),
    "wide": pl.Int128(),
    "large": pl.UInt64(),
    "fine": pl.Datetime("ns"),
    "nothing": pl.Null(),
    "deep": pl.Struct({"took": pl.Duration("us")}),
    "many": pl.List(pl.Time()),
    "half": pl.Float16(),
    "a b": pl.Int64(),
    "Path": pl.Int64(),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_delta_lacks_is_refused_by_name(name: str) -> None:
    store = InMemoryMetadataStore()
    store.write_metadata(Clip, clips(1).with_columns(pl.lit(None, LACKING[name]).alias(name)))
    with pytest.raises(MetadataSchemaError, match=f"'{name}' of the type") as caught:
        publish(store, Clip)
    assert caught.value.column in (name, "path")
    assert store.storage.list("clip/_delta_log") == []
    advised = str(caught.value).rpartition("columns=")[2].removesuffix(".")
    publish(store, Clip, columns=json.loads(advised.replace("'", '"')))
    assert rows_by_path(store.storage) == listed(store)


def test_types_that_delta_has_under_other_names() -> None:
    assert delta_type(pl.Decimal(10, 2)) == "decimal(10,2)"
    assert delta_type(pl.Datetime("us", "Europe/Berlin")) == "timestamp"
    assert delta_type(pl.Array(pl.UInt8, 2)) == {"type": "array", "elementType": "short", "containsNull": True}


def test_times_without_a_zone_need_a_feature_of_readers() -> None:
    store = InMemoryMetadataStore()
    store.write_metadata(Clip, clips(1))
    publish(store, Clip)
    assert replay(store.storage)[2]["protocol"] == {
        "minReaderVersion": 1,
        "minWriterVersion": 7,
        "writerFeatures": ["metaxyFsPublished"],
    }
    store.write_metadata(Clip, clips(2).with_columns(naive=pl.lit("2026-11-29 06:00:00").str.to_datetime()))
    publish(store, Clip)
    assert replay(store.storage)[2]["protocol"] == {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["timestampNtz"],
        "writerFeatures": ["timestampNtz", "metaxyFsPublished"],
    }


def test_compactions_that_overlap_are_refused_until_one_mends_them(tmp_path: Path) -> None:
    store = troubled(tmp_path / "root")
    overlap(store, tmp_path / "scratch")
    with pytest.raises(StorageError, match="have commits in common") as caught:
        publish(store, Clip)
    assert caught.value.feature == "clip"
    compact(store, Clip, full=True)
    publish(store, Clip)
    assert rows_by_path(store.storage) == listed(store)


def test_the_log_of_somebody_else_is_left_alone() -> None:
    store = InMemoryMetadataStore()
    store.write_metadata(Clip, clips(1))
    foreign = b'{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}'
    store.storage.put("clip/_delta_log/00000000000000000000.json", foreign)
    with pytest.raises(StorageError, match="was not written by metaxy_fs"):
        publish(store, Clip)
    assert store.storage.get("clip/_delta_log/00000000000000000000.json") == foreign


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("00000000000000000002.json", b"{}", "lacks versions"),
        ("00000000000000000001.json", b'{"add":{}}', "cannot be decoded"),
        (
            "00000000000000000001.json",
            b'{"metaData":{"id":"","name":"","schemaString":"","configuration":{"metaxyFs.columns":"x"}}}',
            "cannot be decoded",
        ),
        ("00000000000000000000.checkpoint.parquet", b"PAR1", "has a checkpoint that cannot be read"),
    ],
)
def test_a_damaged_log_is_refused_and_can_be_made_anew(name: str, data: bytes, problem: str) -> None:
    store = InMemoryMetadataStore()
    store.write_metadata(Clip, clips(1))
    publish(store, Clip)
    store.storage.put(f"clip/_delta_log/{name}", data)
    with pytest.raises(CorruptObjectError, match=f"{problem}.*remove the directory, and publish again"):
        publish(store, Clip)
    for info in store.storage.list("clip/_delta_log"):
        store.storage.delete(info.path)
    assert publish(store, Clip).version == 0


def test_the_present_definition_alone_is_published(tmp_path: Path) -> None:
    store = troubled(tmp_path)
    publish(store, Clip)
    with FeatureGraph().use():
        containers = [ContainerSpec(key=ContainerKey(["default"]), code_version=2)]

        class Later(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]), containers=containers)):
            pass

        with pytest.raises(FeatureNotFoundError, match="no rows under data version"):
            publish(store, Later)
        store.write_metadata(Later, clips(1, 2))
        published = publish(store, Later)
        assert (published.files, published.rows) == (1, 2)
        assert publish(store, "clip").added == 0
    with FeatureGraph().use():  # which declares nothing: what was written last
        assert publish(store, "clip").added == 0
    assert publish(store, Clip).removed == 1


def test_compact_and_vacuum_publish_again_what_is_published(tmp_path: Path) -> None:
    store = troubled(tmp_path)
    compact(store, republish=True)
    assert store.storage.list("clip/_delta_log") == []
    publish(store, Clip)
    compact(store, full=True, republish=True)
    assert rows_by_path(store.storage) == listed(store)
    store.write_metadata(Clip, clips(1))
    vacuum(store, dry_run=True, republish=True)
    assert rows_by_path(store.storage) != listed(store)
    vacuum(store, dry_run=False, republish=True)
    assert rows_by_path(store.storage) == listed(store)


def test_a_dry_run_puts_nothing() -> None:
    store = InMemoryMetadataStore()
    store.write_metadata(Clip, clips(1))
    would = publish(store, Clip, dry_run=True)
    assert (would.version, would.added) == (-1, 1)
    assert store.storage.list("clip/_delta_log") == []


def test_what_puts_that_were_cut_short_leave_is_vacuumed_and_nothing_else(tmp_path: Path) -> None:
    store = troubled(tmp_path)
    publish(store, Clip)
    left = tmp_path / "clip" / "_delta_log" / ".tmp-0123456789abcdef"
    left.write_bytes(b"x")
    vacuumed(store)
    assert not left.exists()
    assert verify(store).is_sound
    assert replay(store.storage)[0] == 0


def test_a_storage_that_overwrites_is_refused() -> None:
    store = FilesystemMetadataStore(Overwriting())
    store.write_metadata(Clip, clips(1))
    with pytest.raises(StorageError, match="two publishers could put one version of the table"):
        publish(store, Clip)
