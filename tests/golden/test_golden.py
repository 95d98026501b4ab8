"""This version reads what every earlier one wrote."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import (
    Feature,
    FilesystemMetadataStore,
    MetadataSchemaError,
    UnsupportedFormatError,
    WriteConflictError,
    compact,
    publish,
    repair,
    vacuum,
    verify,
)
from tests.golden import compacted, content, prepared, retired
from tests.golden.contents import FACES, FIRST, SECOND, Faces, Video

ROOTS = sorted(Path(__file__).parent.glob("format-*"))
RETIRED = [root for root in ROOTS if root.name.startswith("format-1-retired")]
CONTENT = [root for root in ROOTS if root.name.startswith("format-1-content")]
PREPARED = [root for root in ROOTS if root.name == "format-1-prepared"]
OTHERS = RETIRED + CONTENT + PREPARED
SIMPLE = [root for root in ROOTS if not root.name.endswith("-compacted") and root not in OTHERS]
COMPACTED = [root for root in ROOTS if root.name.endswith("-compacted") and root not in OTHERS]


@pytest.fixture(params=SIMPLE, ids=lambda root: root.name)
def root(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture(params=COMPACTED, ids=lambda root: root.name)
def long_root(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> FilesystemMetadataStore:
    """A store that may be written to."""
    root = next(request.getfixturevalue(name) for name in ("root", "long_root") if name in request.fixturenames)
    return FilesystemMetadataStore(shutil.copytree(root, tmp_path / "root"))


def test_there_are_golden_roots() -> None:
    assert [path.name for path in ROOTS] == [
        "format-1",
        "format-1-columns-compacted",
        "format-1-compacted",
        "format-1-content",
        "format-1-content-compacted",
        "format-1-footers-compacted",
        "format-1-prepared",
        "format-1-retired",
        "format-1-retired-compacted",
        "format-1-retired-published",
        "format-1-retired-tables-compacted",
        "format-1-sealed-compacted",
        "format-1-sha3_256",
        "format-1-types",
    ]


@pytest.mark.parametrize("path", ROOTS, ids=lambda root: root.name)
def test_they_are_sound(path: Path) -> None:
    assert verify(FilesystemMetadataStore(path)).is_sound


def test_rows_come_back_as_they_were_written(root: Path) -> None:
    expected = pl.concat([FIRST, SECOND], how="diagonal_relaxed")
    assert_frame_equal(FilesystemMetadataStore(root).read_metadata(Video), expected)


def test_versions_are_those_of_the_formula(root: Path) -> None:
    store = FilesystemMetadataStore(root)
    rows = store.read_metadata(Faces)
    assert rows["sample_id"].to_list() == ["a", "ü"]
    assert rows["faces"].to_list() == sorted(FACES["faces"].to_list())
    preimages = [f"default|1|video_raw/frames|{version}" for version in ("f0", "f2")]
    expected = [hashlib.new(store.hash_algorithm, preimage.encode()).hexdigest() for preimage in preimages]
    assert rows["data_version"].struct.field("default").to_list() == expected


def test_an_increment_goes_on_from_them(root: Path) -> None:
    increment = FilesystemMetadataStore(root).resolve_update(Faces)
    assert (increment.new["sample_id"].to_list(), increment.stale.height, increment.orphaned.height) == (["b"], 0, 0)


def test_a_retried_write_finds_itself_and_new_ones_go_beside(root: Path, copy: FilesystemMetadataStore) -> None:
    copy.write_metadata(Faces, copy.calculate_data_versions(Faces, FACES), write_id="job 7")
    assert copy.read_metadata(Faces).height == 2
    copy.write_metadata(Video, FIRST.head(1))
    assert copy.read_metadata(Video, latest_only=True)["sample_id"].to_list() == ["ü", "b", "a"]


# A root whose writers have agreed on types.


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    return Path(shutil.copytree(next(root for root in ROOTS if root.name == "format-1-types"), tmp_path / "typed"))


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"day": ["2024-02-29"] * 3}, "'day'.*String.*Date"),
        ({"note": [1, 2, 3]}, "'note'.*Int64.*String"),
        ({"sample_id": [1, 2, 3]}, "'sample_id'.*Int64.*String"),
    ],
    ids=["of the first write", "of a later one", "an id"],
)
def test_types_that_were_agreed_on_bind_writers(typed: Path, columns: dict[str, list[object]], named: str) -> None:
    before = {path for path in typed.rglob("*") if path.is_file()}
    with pytest.raises(MetadataSchemaError, match=named):
        FilesystemMetadataStore(typed).write_metadata(Video, FIRST.with_columns(**columns))
    assert {path for path in typed.rglob("*") if path.is_file()} == before


def test_types_of_a_newer_format_are_refused_by_who_needs_them(typed: Path) -> None:
    [path] = typed.glob("*/*/_types/1.json")
    path.write_bytes(path.read_bytes().replace(b'"format_version":1', b'"format_version":2,"more":[]'))
    before = path.read_bytes()
    FilesystemMetadataStore(typed).write_metadata(Video, FIRST)
    with pytest.raises(UnsupportedFormatError, match=r"_types/1\.json.*Upgrade metaxy_fs"):
        FilesystemMetadataStore(typed).write_metadata(Video, SECOND)
    [finding] = verify(FilesystemMetadataStore(typed)).findings
    assert (finding.severity, finding.remedy) == ("error", "Upgrade metaxy_fs.")
    assert not vacuum(FilesystemMetadataStore(typed), dry_run=False).removals
    assert path.read_bytes() == before


# Roots with compactions.


def written(feature: type[Feature]) -> pl.DataFrame:
    """What was written to a feature, with the columns in the order of their coming."""
    frames = compacted.AFTER if feature is compacted.Clip else compacted.BEFORE
    return pl.concat(frames, how="diagonal_relaxed")


@pytest.mark.parametrize("feature", [compacted.ClipBefore, compacted.Clip])
def test_rows_that_were_compacted_come_back_as_they_were_written(long_root: Path, feature: type[Feature]) -> None:
    assert_frame_equal(FilesystemMetadataStore(long_root).read_metadata(feature), written(feature))


def test_every_type_comes_back(long_root: Path) -> None:
    rows = FilesystemMetadataStore(long_root).read_metadata(compacted.Kinds)
    first = compacted.KINDS_FIRST.sort("day", "name")
    assert rows.height == 4
    for name in set(first.columns) - {"deep", "many", "kind", "group", "nothing", "data_version"}:
        assert_frame_equal(rows.select(pl.col(name).head(3).cast(first[name].dtype)), first.select(name))
    assert rows["deep"].to_list() == [
        {"box": None, "other": None},
        None,
        {"box": {"x": 1.5, "y": None}, "other": None},
        {"box": {"x": None, "y": "new"}, "other": 1},
    ]
    assert rows["kind"].to_list() == ["y", None, "x", "z"]
    assert rows["many"].to_list() == [None, [], [1], [2**40]]


def test_snapshots_are_as_they_were(long_root: Path) -> None:
    store = FilesystemMetadataStore(long_root)
    names = store.list_snapshots()["name"].to_list()
    assert names == ["all", "early", "middle", "partial"]
    early, middle, partial = (
        store.at(name).read_metadata(feature)
        for name, feature in (
            ("early", compacted.ClipBefore),
            ("middle", compacted.Clip),
            ("partial", compacted.ClipBefore),
        )
    )
    assert_frame_equal(early, pl.concat(compacted.BEFORE[:6], how="diagonal_relaxed"))
    assert_frame_equal(middle, pl.concat(compacted.AFTER[:6], how="diagonal_relaxed"))
    assert_frame_equal(partial, pl.concat(compacted.BEFORE[1:8], how="diagonal_relaxed"))
    assert_frame_equal(store.at("all").read_metadata(compacted.Clip), written(compacted.Clip))


def test_versions_of_all_relations_are_what_they_were(long_root: Path, copy: FilesystemMetadataStore) -> None:
    """These roots are of a time when `where` was part of a definition, so their rows are in other partitions."""
    for feature in (compacted.Shot, compacted.Scene):
        rows = copy.read_metadata(feature, versions="all")
        increment = copy.resolve_update(feature)
        assert (increment.new.height, increment.orphaned.height, increment.waiting.height) == (0, 0, 0)
        assert increment.stale.height
        assert increment.stale["data_version"].to_list() == increment.stale["stored_data_version"].to_list()
        copy.write_metadata(feature, rows)
        assert not copy.resolve_update(feature)


def test_an_expansion_has_the_version_of_the_formula(long_root: Path) -> None:
    shots = FilesystemMetadataStore(long_root).read_metadata(compacted.Shot, versions="all")
    preimages = {101: "default|1|clip_raw/audio|a101-3|clip_raw/frames|f101"}
    expected = {clip: hashlib.sha256(preimage.encode()).hexdigest() for clip, preimage in preimages.items()}
    found = {row["clip"]: row["data_version"]["default"] for row in shots.to_dicts() if row["clip"] in expected}
    assert found == expected


def test_a_job_that_is_tried_again_finds_what_was_compacted(long_root: Path, copy: FilesystemMetadataStore) -> None:
    before = copy.history(compacted.Clip).height
    with copy.buffered(compacted.Clip, rows=6, seconds=None, write_id="long job") as buffer:
        for rows in compacted.AFTER[:6]:
            buffer.write(rows)
    copy.write_metadata(compacted.ClipBefore, compacted.BEFORE[1], write_id="job 1")
    assert copy.history(compacted.Clip).height == before
    assert copy.read_metadata(compacted.ClipBefore).height == written(compacted.ClipBefore).height


def test_they_are_compacted_repaired_and_vacuumed_on(long_root: Path, copy: FilesystemMetadataStore) -> None:
    assert compact(copy, compacted.Clip, full=True)
    assert not repair(copy, dry_run=True)
    assert not vacuum(copy, dry_run=True).skipped
    for feature in (compacted.ClipBefore, compacted.Clip):
        assert_frame_equal(copy.read_metadata(feature), written(feature))
    assert verify(copy).is_sound


# Roots with tags and retired samples.


@pytest.fixture(params=RETIRED, ids=lambda root: root.name)
def retired_root(request: pytest.FixtureRequest) -> FilesystemMetadataStore:
    return FilesystemMetadataStore(Path(request.param))


def test_retired_samples_have_no_latest_row(retired_root: FilesystemMetadataStore) -> None:
    rows = retired_root.read_metadata(retired.Take, latest_only=True)
    found = {(row["scene"], row["number"]): row["data_version"]["default"] for row in rows.to_dicts()}
    assert found == retired.LATEST
    assert rows.columns == ["scene", "number", "data_version", "note"]


def test_rows_of_retired_samples_are_read_among_all(retired_root: FilesystemMetadataStore) -> None:
    rows = retired_root.read_metadata(retired.Take)
    assert rows["number"].to_list() == [*range(7), 0, 3, 8, 0, 2, 6, 6, 1]


def test_history_has_tags_and_counts_of_retired_samples(retired_root: FilesystemMetadataStore) -> None:
    commits = retired_root.history(retired.Take)
    assert commits["rows"].to_list() == [7, 0, 3, 0, 3, 1, 1]
    assert commits["retired"].to_list() == [0, 4, 0, 2, 2, 0, 0]
    assert [json.loads(tags) for tags in commits["tags"]] == [
        {"host": "a", **retired.TAGS},
        {"host": "a", "reason": "out of focus"},
        {"host": "b", "note": 'ü "x"\n'},
        {"host": "a", "by": "me"},
        {"host": "a", "reason": "a bad job"},
        {"host": "a"},
        {"host": "a"},
    ]


def test_snapshots_saw_what_was_not_retired(retired_root: FilesystemMetadataStore) -> None:
    then = retired_root.at("good").read_metadata(retired.Take, latest_only=True)
    assert then["number"].to_list() == [0, 2, 4, 6]
    now = retired_root.read_metadata(retired.Take, latest_only=True)
    assert retired_root.at("end").read_metadata(retired.Take, latest_only=True).equals(now)


def test_they_are_restored_compacted_and_repaired_on(retired_root: FilesystemMetadataStore, tmp_path: Path) -> None:
    copy = FilesystemMetadataStore(shutil.copytree(retired_root.location, tmp_path / "root"))
    copy.restore(retired.Take, at="good")
    compact(copy, retired.Take, full=True)
    assert not repair(copy, dry_run=True)
    rows = copy.read_metadata(retired.Take, latest_only=True)
    assert sorted(rows["data_version"].struct.field("default")) == ["v0", "v2", "v4", "v6"]
    assert verify(copy).is_sound


def test_a_published_feature_is_published_on(tmp_path: Path) -> None:
    [golden] = [root for root in RETIRED if root.name.endswith("published")]
    copy = FilesystemMetadataStore(shutil.copytree(golden, tmp_path / "root"))
    known = publish(copy, retired.Take)
    assert (known.version, known.added, known.removed) == (1, 0, 0)
    assert publish(copy, retired.Cut).version == 0
    compact(copy, retired.Take, full=True, republish=True)
    now = publish(copy, retired.Take)
    assert (now.version, now.added, now.rows) == (2, 0, known.rows)


# Roots with containers versioned by content.


@pytest.fixture(params=CONTENT, ids=lambda root: root.name)
def content_root(request: pytest.FixtureRequest, tmp_path: Path) -> FilesystemMetadataStore:
    return FilesystemMetadataStore(shutil.copytree(request.param, tmp_path / "root"))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_provenance_is_that_of_the_formula(content_root: FilesystemMetadataStore) -> None:
    rows = content_root.read_metadata(content.Mask, latest_only=True).sort("sample_id")
    takes = ["a0", "b1", "b2", "b3", "a4"]
    made = [{name: sha256(f"{name}|1|scan/default|{take}") for name in ("outline", "area")} for take in takes]
    assert rows["provenance"].to_list() == made
    outputs = ["é of s0", "é of s1", "é of s2", "other of s3", "é of s4"]
    expected = [{**each, "outline": output} for each, output in zip(made, outputs, strict=True)]
    assert rows["data_version"].to_list() == expected


def test_containers_of_the_same_name_are_made_from_each_other(content_root: FilesystemMetadataStore) -> None:
    rows = content_root.read_metadata(content.Mesh).sort("sample_id")
    made = [{"outline": sha256(f"outline|1|mask/outline|é of s{number}")} for number in range(6)]
    assert rows["provenance"].to_list() == made


def test_an_increment_stops_at_equal_output(content_root: FilesystemMetadataStore) -> None:
    assert not content_root.resolve_update(content.Mask)
    increment = content_root.resolve_update(content.Mesh)
    assert increment.stale["sample_id"].to_list() == ["s3"]
    assert increment.orphaned["sample_id"].to_list() == ["s5"]
    content_root.write_metadata(content.Mesh, content.filled(increment.pending, "é"))
    assert not content_root.resolve_update(content.Mesh)


def test_rows_of_content_are_compacted_and_seen_as_they_were(content_root: FilesystemMetadataStore) -> None:
    before = content_root.read_metadata(content.Mask)
    for feature in (content.Mask, content.Mesh):
        compact(content_root, feature, full=True)
    assert_frame_equal(content_root.read_metadata(content.Mask), before)
    then = content_root.at("before").resolve_update(content.Mask)
    assert not then
    assert verify(content_root).is_sound


# The root of prepared writes.


@pytest.fixture
def prepared_root(tmp_path: Path) -> FilesystemMetadataStore:
    [root] = PREPARED
    return FilesystemMetadataStore(shutil.copytree(root, tmp_path / "root"))


def test_prepared_rows_are_those_of_their_commits(prepared_root: FilesystemMetadataStore) -> None:
    parts = [*prepared.FIRST, prepared.BETWEEN, *prepared.SECOND, prepared.LAST]
    rows = prepared_root.read_metadata(prepared.Tile)
    assert_frame_equal(rows, pl.concat(parts, how="diagonal_relaxed"), check_column_order=False)
    latest = prepared_root.read_metadata(prepared.Tile, latest_only=True)
    takes = {sample: version["default"][0] for sample, version in latest.select("sample_id", "data_version").rows()}
    expected = {**dict.fromkeys(range(10), "a"), **dict.fromkeys((8, 9, 10), "b"), 1: "d"}
    expected |= {**dict.fromkeys(range(20, 30), "e"), 0: "f", 20: "f", 30: "i"}
    assert takes == expected
    then = prepared_root.at("then").read_metadata(prepared.Tile)
    assert_frame_equal(then, rows.head(-1))


def test_prepared_writes_of_a_group_have_one_time(prepared_root: FilesystemMetadataStore) -> None:
    history = prepared_root.history(prepared.Tile)
    assert history["rows"].to_list() == [10, 3, 0, 2, 11, 2, 1]
    assert [commits["rows"].to_list() for _, commits in history.group_by("time", maintain_order=True)] == [
        [10, 3, 0],
        [2],
        [11, 2],
        [1],
    ]
    assert history["tags"].to_list() == ['{"run":"1"}'] * 3 + [None] + ['{"run":"2"}'] * 2 + [None]


def test_a_driver_that_comes_again_finds_its_commit(prepared_root: FilesystemMetadataStore) -> None:
    before = prepared_root.history(prepared.Tile)
    with compacted.small_files():
        first, second, never = (
            prepared.prepare(prepared_root, parts) for parts in (prepared.FIRST, prepared.SECOND, prepared.NEVER)
        )
    prepared_root.commit_prepared(prepared.Tile, second, write_id="job 7")
    assert prepared_root.history(prepared.Tile).equals(before)
    with pytest.raises(WriteConflictError, match="other prepared rows"):
        prepared_root.commit_prepared(prepared.Tile, first, write_id="job 7")
    _long_ago(prepared_root)
    with pytest.raises(WriteConflictError, match="driver ended before"):
        prepared_root.commit_prepared(prepared.Tile, never, write_id="job 8")


def test_what_was_not_committed_stays_so(prepared_root: FilesystemMetadataStore) -> None:
    before = prepared_root.read_metadata(prepared.Tile)
    [found] = [each for each in repair(prepared_root, dry_run=False) if "compactions" in each.path]
    assert (found.state, found.rows) == ("unproven", 3)
    compact(prepared_root, prepared.Tile, full=True)
    assert_frame_equal(prepared_root.read_metadata(prepared.Tile), before)
    assert verify(prepared_root).is_sound


def _long_ago(store: FilesystemMetadataStore) -> None:
    """Let the files of the golden root be older than their copies."""
    for path in PREPARED[0].rglob("*.parquet"):
        os.utime(Path(store.location) / path.relative_to(PREPARED[0]), (1, 1))
