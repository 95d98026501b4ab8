"""Tables of somebody else as root features: what is read of them at each moment, and that nothing is written there."""

import base64
import hashlib
import json
import pickle
import shutil
import string
import struct
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs import (
    FeatureGraph,
    FeatureSpec,
    InMemoryMetadataStore,
    MetadataSchemaError,
    SpecError,
    StorageError,
    copy_metadata,
    load_config,
    open_store,
)
from metaxy_fs.storage import open_storage
from metaxy_fs.testing.store_cases import PROCESSED, SAMPLE_ID, VIDEO, declare, derived, ids_of, pipeline, root
from tests.support.examples import examples

deltalake = pytest.importorskip("deltalake", reason="needs the extra delta")
from deltalake import DeltaTable, write_deltalake  # noqa: E402

from metaxy_fs.ext.delta import DeltaMetadataStore, DeltaSource  # noqa: E402
from metaxy_fs.ext.delta_history import DeltaHistory  # noqa: E402

ETAG = DeltaSource("theirs", versioned_by=["etag"])


@pytest.fixture
def features():
    return declare(root(VIDEO), derived(PROCESSED, [VIDEO]))


@pytest.fixture
def video(features):
    return features[0]


@pytest.fixture
def theirs(tmp_path):
    """The path of a table of somebody else."""
    return str(tmp_path / "theirs")


def table(ids, **columns):
    return pl.DataFrame({SAMPLE_ID: ids, "etag": [f"e{each}" for each in ids], **columns})


def version(**values):
    """The version of a row by some columns, as plain Python says."""
    parts = [f"s{len(name)}:{name}{kind(values[name])}" for name in sorted(values) if values[name] is not None]
    return {"default": hashlib.sha256("".join(parts).encode()).hexdigest()}


def kind(value):
    return f"{'s' if isinstance(value, str) else 'i'}{len(str(value))}:{value}"


IDS = st.integers(0, 6)
WORDS = st.none() | st.sampled_from(["", "x", "y"])
ROWS = st.dictionaries(IDS, st.fixed_dictionaries({"etag": WORDS, "size": st.none() | st.integers(0, 1)}), max_size=4)


class Theirs:
    """A table, and a dict of what should be in it, both changed by somebody who knows nothing of metaxy_fs."""

    def __init__(self, path):
        self.path, self.rows, self.columns = path, {}, {"etag": pl.String, "size": pl.Int64}
        self.write({}, mode="overwrite")

    def write(self, rows, **options):
        data = [{SAMPLE_ID: each, **dict.fromkeys(self.columns), **row} for each, row in rows.items()]
        write_deltalake(self.path, pl.DataFrame(data, schema={SAMPLE_ID: pl.Int64, **self.columns}), **options)

    def append(self, rows):
        fresh = {each: row for each, row in rows.items() if each not in self.rows}
        self.write(fresh, mode="append")
        self.rows |= fresh

    def overwrite(self, rows):
        self.write(rows, mode="overwrite")
        self.rows = dict(rows)

    def merge(self, rows):
        data = pl.DataFrame(
            [{SAMPLE_ID: each, **row} for each, row in rows.items()],
            schema={SAMPLE_ID: pl.Int64, "etag": pl.String, "size": pl.Int64},
        )
        named = {name: f"s.{name}" for name in ("etag", "size")}
        merger = DeltaTable(self.path).merge(data, "t.sample_id = s.sample_id", source_alias="s", target_alias="t")
        merger.when_matched_update(named).when_not_matched_insert({SAMPLE_ID: "s.sample_id", **named}).execute()
        self.rows |= {each: self.rows.get(each, {}) | row for each, row in rows.items()}

    def delete(self, ids):
        DeltaTable(self.path).delete(f"sample_id in ({', '.join(map(str, [-1, *ids]))})")
        self.rows = {each: row for each, row in self.rows.items() if each not in ids}

    def update(self, ids):
        DeltaTable(self.path).update({"etag": "'new'"}, predicate=f"sample_id in ({', '.join(map(str, [-1, *ids]))})")
        self.rows |= {each: self.rows[each] | {"etag": "new"} for each in ids if each in self.rows}

    def evolve(self, rows):
        name = f"c{len(self.columns)}"
        self.columns[name] = pl.String
        fresh = {each: {**row, name: "z"} for each, row in rows.items() if each not in self.rows}
        self.write(fresh, mode="append", schema_mode="merge")
        self.rows |= fresh

    def optimize(self, _):
        DeltaTable(self.path).optimize.compact()

    def versions(self):
        return {each: version(**row) for each, row in self.rows.items()}


STEPS = st.one_of(
    st.tuples(st.sampled_from(["append", "overwrite", "merge", "evolve"]), ROWS),
    st.tuples(st.sampled_from(["delete", "update"]), st.lists(IDS, max_size=3, unique=True)),
    st.tuples(st.sampled_from(["optimize", "compute", "snapshot"]), st.none()),
)


@given(st.lists(STEPS, min_size=3, max_size=9))
@examples(12)
def test_rows_increments_and_snapshots_follow_what_others_do(steps):
    video, processed = declare(root(VIDEO), derived(PROCESSED, [VIDEO]))
    with tempfile.TemporaryDirectory() as directory:
        other = Theirs(f"{directory}/lake/theirs")
        lake = DeltaMetadataStore(f"{directory}/lake", sources={video: DeltaSource("theirs")})
        dev = open_store(f"{directory}/dev", lake)
        done, snapshots = {}, {}
        for number, (step, argument) in enumerate([("append", {}), *steps, ("compute", None)]):
            before = lake.history(video).height, dict(other.rows)
            if step == "snapshot":
                dev.create_snapshot(f"s{number}")
                snapshots[f"s{number}"] = other.versions()
            elif step == "compute":
                dev.write_metadata(processed, dev.resolve_update(processed).pending)
                done |= other.versions()
            else:
                getattr(other, step)(argument)
            commits = lake.history(video).height - before[0]
            assert commits <= (step not in ("optimize", "compute", "snapshot"))
            assert commits or other.rows == before[1]

            rows, versions = lake.read_metadata(video), other.versions()
            assert rows.drop("data_version").to_dicts() == [
                {SAMPLE_ID: each, **dict.fromkeys(other.columns), **other.rows[each]} for each in sorted(versions)
            ]
            assert dict(rows.select(SAMPLE_ID, "data_version").iter_rows()) == versions
            increment = dev.resolve_update(processed)
            assert ids_of(increment.new) == sorted(versions.keys() - done.keys())
            stale = [each for each in versions if done.get(each, versions[each]) != versions[each]]
            assert sorted(ids_of(increment.stale)) == sorted(stale)
            assert sorted(ids_of(increment.orphaned)) == sorted(done.keys() - versions.keys())

        for name, versions in snapshots.items():
            assert versions_in(dev.at(name), video) == versions
        copy = InMemoryMetadataStore()
        copy_metadata(video, source=lake, target=copy)
        assert versions_in(copy, video) == other.versions()
        if other.rows:
            assert copy_metadata(video, source=lake, target=InMemoryMetadataStore(), which="latest").commits == 1


def versions_in(store, video):
    """The version of each sample."""
    rows = store.read_metadata(video, columns=[SAMPLE_ID, "data_version"], latest_only=True)
    return dict(rows.iter_rows())


def lake_of(theirs, video, source=ETAG, **options):
    return DeltaMetadataStore(Path(theirs).parent, sources={video: source}, **options)


def test_nothing_is_written_to_it(theirs, video):
    write_deltalake(theirs, table([1, 2]))
    lake = lake_of(theirs, video)
    before = sorted(Path(theirs).parent.rglob("*"))
    rows = lake.read_metadata(video)
    for write in (
        lambda: lake.write_metadata(video, rows),
        lambda: lake.retire(video, rows.select(SAMPLE_ID)),
        lambda: copy_metadata(video, source=copied(lake, video), target=lake),
    ):
        with pytest.raises(StorageError, match=r"is only read: .* another store that falls back on this one"):
            write()
    assert sorted(Path(theirs).parent.rglob("*")) == before


def copied(store, video):
    target = InMemoryMetadataStore()
    copy_metadata(video, source=store, target=target, which="latest")
    return target


def test_a_store_before_it_takes_what_it_refuses(theirs, video, tmp_path):
    write_deltalake(theirs, table([1, 2]))
    lake = lake_of(theirs, video)
    dev = open_store(tmp_path / "dev", lake, fallback_mode="sample")
    dev.retire(video, pl.DataFrame({SAMPLE_ID: [1]}))
    assert ids_of(dev.read_metadata(video, latest_only=True)) == [2]
    with video.graph.use():
        sent = pickle.loads(pickle.dumps(lake_of(theirs, "video/processing")))  # noqa: S301
        assert_frame_equal(sent.read_metadata(video), lake.read_metadata(video))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (table([1, 2, 2, 3, 3]), r"2 samples .* more than once: 2, 3\. .* name more id_columns"),
        (table([1, None]), "'sample_id' .* is null in 1 of 2 rows"),
        (table([1.5]), "has the type Float64; ids are"),
        (table([1]).rename({SAMPLE_ID: "video_id"}), r"no column 'sample_id'; there are \['video_id', 'etag'\]"),
        (table([1]).drop("etag"), r"names a column 'etag', which the table does not have; it has \['sample_id'\]"),
        (table([1], _metaxy_x=[1]), "'_metaxy_x' .* the library keeps for itself"),
    ],
)
def test_a_table_that_names_no_samples_is_refused(theirs, features, rows, told):
    write_deltalake(theirs, rows)
    lake = lake_of(theirs, features[0])
    for ask in (lake.read_metadata, open_store(Path(theirs).parent / "dev", lake).resolve_update):
        with pytest.raises(MetadataSchemaError, match=told):
            ask(features[ask != lake.read_metadata])


def test_only_the_ids_that_are_looked_for_are_looked_at(theirs, video):
    for ids in ([1, 1], [100, 101]):
        write_deltalake(theirs, table(ids), mode="append")
    lake = lake_of(theirs, video)
    [first] = [file for file in Path(theirs).glob("*.parquet") if 1 in pl.read_parquet(file)[SAMPLE_ID]]
    first.unlink()
    assert lake.read_metadata(video, filters=pl.col(SAMPLE_ID) >= 100)["etag"].to_list() == ["e100", "e101"]
    with pytest.raises(MetadataSchemaError, match="filters cannot be evaluated"):
        lake.read_metadata(video, filters=pl.col(SAMPLE_ID) == "x")
    with pytest.raises(StorageError, match="version 1 could not be read"):
        lake.read_metadata(video)


def test_each_container_has_the_version_of_its_columns(theirs):
    video, processed = pipeline()
    source = DeltaSource("theirs", {"frames": ["etag"], "audio": ["track", "etag"]}, {"video_id": SAMPLE_ID})
    write_deltalake(theirs, table([1], track=["a"]).rename({SAMPLE_ID: "video_id"}))
    lake = lake_of(theirs, video, source)
    before = lake.read_metadata(video)["data_version"].item()
    DeltaTable(theirs).update({"track": "'b'"})
    after = lake.read_metadata(video)["data_version"].item()
    assert after["frames"] == before["frames"] == version(etag="e1")["default"]
    assert [each["audio"] for each in (before, after)] == [version(etag="e1", track=t)["default"] for t in "ab"]
    with pytest.raises(SpecError, match=r"\['frames'\], and feature 'video/processing' has \['audio', 'frames'\]"):
        lake_of(theirs, video, DeltaSource("theirs", {"frames": []}, source.columns)).read_metadata(video)
    with pytest.raises(SpecError, match="'processed/video' has upstream features"):
        lake_of(theirs, processed)
    with pytest.raises(TypeError, match="takes a list of columns"):
        DeltaSource("theirs", versioned_by="etag")


def test_versions_of_the_table_are_taken_as_they_are(theirs):
    video, _ = pipeline()
    versions = [{"audio": "a1", "frames": "f1"}, {"audio": "a2", "frames": "f|2"}]
    write_deltalake(theirs, table([1, 2], data_version=versions))
    lake = lake_of(theirs, video, DeltaSource("theirs"))
    with pytest.raises(MetadataSchemaError, match=r"the first 'f\|2'"):
        lake.read_metadata(video)
    DeltaTable(theirs).delete("sample_id = 2")
    assert list(lake.read_metadata(video)["data_version"].item().items()) == [("frames", "f1"), ("audio", "a1")]


def test_maps_are_lists_of_structs(theirs, video):
    tagged = {"a": {"x": 1}}
    write_deltalake(theirs, table([1], tags=pl.Series([tagged], dtype=pl.Map(pl.String, pl.Map(pl.String, pl.Int32)))))
    lake = lake_of(theirs, video, DeltaSource("theirs"))
    [tags] = lake.read_metadata(video)["tags"].to_list()
    assert tags == [{"key": "a", "value": [{"key": "x", "value": 1}]}]
    assert copied(lake, video).read_metadata(video)["tags"].to_list() == [tags]


def test_a_moment_that_delta_has_forgotten_is_an_error(theirs, video, tmp_path):
    for each in (1, 2):
        write_deltalake(theirs, table([each]), mode="append")
    lake, dev = lake_of(theirs, video), open_store(tmp_path / "dev", lake_of(theirs, video))
    dev.create_snapshot("then")
    then = versions_in(lake, video)
    assert then == {each: version(etag=f"e{each}") for each in (1, 2)}
    history = lake.history(video)
    DeltaTable(theirs).optimize.compact()
    DeltaTable(theirs).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert (
        versions_in(lake_of(theirs, video).at(history["time"][-1]), video) == versions_in(dev.at("then"), video) == then
    )
    assert_frame_equal(lake.history(video), history)

    write_deltalake(theirs, table([2]), mode="overwrite")
    assert versions_in(dev.at("then"), video) == then
    DeltaTable(theirs).vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(StorageError, match=r"version \d could not be read; VACUUM removes the files"):
        lake_of(theirs, video).at(history["time"][-1]).read_metadata(video)
    shutil.rmtree(theirs)
    write_deltalake(theirs, table([3]))
    write_deltalake(theirs, table([4]), mode="append")
    with pytest.raises(StorageError, match="has no more its version 1: Delta has cleaned its log up, or the table was"):
        dev.at("then").read_metadata(video)
    assert ids_of(dev.read_metadata(video)) == [3, 4]
    shutil.rmtree(theirs)
    with pytest.raises(StorageError, match="is no Delta table, and the rows of feature 'video/processing' should come"):
        dev.read_metadata(video)


def test_times_before_a_log_that_was_cleaned_are_an_error(theirs, video):
    for each in (1, 2):
        write_deltalake(theirs, table([each]), mode="append")
    lake = lake_of(theirs, video)
    start = lake.history(video)["time"][0]
    assert [each.number for each in DeltaHistory(open_storage(theirs)).changes(until=0)] == [0]
    DeltaTable(theirs).optimize.compact()
    DeltaTable(theirs).create_checkpoint()
    for number in (0, 1):
        (Path(theirs) / "_delta_log" / f"{number:020}.json").unlink()
    assert ids_of(lake.read_metadata(video, with_commits=True)) == [1, 2]
    assert lake.history(video)["tags"].to_list() == ['{"delta.operation":"OPTIMIZE"}']
    with pytest.raises(StorageError, match="has no more what it was at that time"):
        lake.at(start).read_metadata(video)


def test_a_read_keeps_to_one_version_whatever_others_do(theirs, video):
    write_deltalake(theirs, table([1]))
    lake = lake_of(theirs, video)
    rows = lake.scan_metadata(video)
    write_deltalake(theirs, pl.DataFrame({SAMPLE_ID: ["a"], "etag": [1]}), mode="overwrite", schema_mode="overwrite")
    assert ids_of(rows.collect()) == ids_of(pickle.loads(pickle.dumps(rows)).collect()) == [1]  # noqa: S301
    assert ids_of(lake.read_metadata(video)) == ["a"]


def test_rows_that_deletion_vectors_mark_are_gone(tmp_path, video):
    theirs = tmp_path / "their lake, déjà $1" / "theirs"
    write_deltalake(theirs, table([1, 2, 3, 4]))
    bitmap = struct.pack("<IQIIIHHI2H", 1681511377, 1, 0, 12346, 1, 0, 1, 16, 0, 2)  # of the rows 0 and 2
    vector = base64.b85encode(bitmap).decode().translate(str.maketrans(B85, Z85))
    rewrite_log(
        theirs,
        add={"deletionVector": {"storageType": "i", "pathOrInlineDv": vector, "sizeInBytes": 36, "cardinality": 2}},
        protocol={
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["deletionVectors"],
            "writerFeatures": ["deletionVectors"],
        },
    )
    assert ids_of(lake_of(theirs, video).read_metadata(video)) == [2, 4]


B85 = f"{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}!#$%&()*+-;<=>?@^_`{{|}}~"
Z85 = f"{string.digits}{string.ascii_lowercase}{string.ascii_uppercase}.-:+=^!/*?&<>()[]{{}}@%$#"


def rewrite_log(theirs, **changes):
    """Change the actions of the first version."""
    [log] = (Path(theirs) / "_delta_log").glob("*.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        for name in line.keys() & changes.keys():
            line[name] |= changes[name]
    log.write_text("\n".join(map(json.dumps, lines)))


def test_what_polars_cannot_read_is_an_error(theirs, video):
    write_deltalake(theirs, table([1]))
    rewrite_log(theirs, protocol={"minReaderVersion": 2, "minWriterVersion": 5})
    with pytest.raises(StorageError, match="column mapping"):
        lake_of(theirs, video).read_metadata(video)


def test_it_is_named_in_the_file_of_stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_deltalake("lake/theirs", table([1]))
    file = """
    stores.lake = {kind = "delta", uri = "lake", sources.video = {table = "theirs", versioned_by = ["etag"]}}
    """
    Path("metaxy_fs.toml").write_text(file)
    with FeatureGraph.from_specs([FeatureSpec(key="video")]).use():
        assert versions_in(load_config().store(), "video") == {1: version(etag="e1")}
    Path("metaxy_fs.toml").write_text(file.replace("table =", "tables ="))
    with pytest.raises(ValueError, match="unknown field `tables`"):
        load_config().store()


def test_it_is_found_on_s3_through_the_same_options(s3_server, s3_bucket, features):
    video, processed = features
    options = {
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_endpoint_url": s3_server.endpoint,
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
        "max_retries": "2",
    }
    write_deltalake(f"s3://{s3_bucket}/a läke/theirs", table([1]), storage_options=options)
    for uri, place in (
        (f"s3://{s3_bucket}/a läke", "theirs"),
        (f"s3://{s3_bucket}/own", f"s3://{s3_bucket}/a läke/theirs"),
    ):
        store = DeltaMetadataStore(uri, sources={video: DeltaSource(place)}, storage_options=options)
        store.write_metadata(processed, store.resolve_update(processed).pending)
        assert not store.resolve_update(processed)
        assert store.list_features() == [PROCESSED, VIDEO]
        store.create_snapshot("then")
        assert versions_in(store.at("then"), video) == {1: version(etag="e1")}
