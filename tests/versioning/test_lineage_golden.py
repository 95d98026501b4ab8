"""The rows of a fixed graph of all relations get the versions that they always had."""

import json
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
from tests.versioning.lineage_graph import CLIP, DEPS, GRAPH, ID_COLUMNS, LABEL, ROWS
from tests.versioning.reference import feature_graph, sha256

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lineage_rows.json").read_text(encoding="utf-8"))
NOON, BEFORE, ZERO = "t20:1709208000.000001000", "t12:-1.999999000", "t11:0.000000000"


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return InMemoryMetadataStore() if request.param == "memory" else FilesystemMetadataStore(tmp_path / "root")


def computed(store, rows):
    found = {}
    with feature_graph(GRAPH, deps=DEPS, id_columns=ID_COLUMNS).use():
        for feature, frame in rows.items():
            key = FeatureKey(feature)
            if feature in (CLIP, LABEL):
                store.write_metadata(key, frame)
            else:
                result = store.calculate_and_write_data_versions(key, frame)
                found[feature[0]] = result["data_version"].to_list()
    return found


def test_versions_of_fixed_rows_never_change(store):
    assert computed(store, ROWS) == GOLDEN


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_unit_and_width_of_ids_do_not_matter(store, unit):
    casts = {"frame": pl.Datetime(unit, "UTC"), "year": pl.Int16, "season": pl.Int32}
    whole = pl.col("frame").dt.truncate("1s").cast(pl.Datetime("us", "UTC"))
    rows = {
        feature: frame.with_columns(whole) if "frame" in frame.columns else frame for feature, frame in ROWS.items()
    }
    cast = {
        feature: frame.cast({name: dtype for name, dtype in casts.items() if name in frame.columns})
        for feature, frame in rows.items()
    }
    assert computed(store, cast) == computed(InMemoryMetadataStore(), rows)


def test_golden_versions_are_those_of_the_formula():
    frames = [frame_of("p2", "s2")] * 3 + [frame_of("p1", "s1")] * 2
    assert GOLDEN["frame"] == frames
    labelled = [(frames[1]["default"], "é2"), (frames[3]["default"], "l3")]
    assert GOLDEN["sharp"] == [sharp_of(frame, label) for frame, label in labelled]
    in_second = [(BEFORE, frames[1]), (ZERO, frames[2]), (NOON, frames[0])]
    second = {name: group([(ids, versions[name]) for ids, versions in in_second]) for name in frames[0]}
    first = {name: group([(ZERO, frames[3][name]), (NOON, frames[4][name])]) for name in frames[0]}
    summaries = [summary_of("s1", first), summary_of("s2", second)]
    assert GOLDEN["summary"] == summaries
    summary = group([("s1:a", summaries[1]["default"]), ("s3:ü|", summaries[0]["default"])])
    labels = group([(f"{BEFORE}s1:a", "é2"), (f"{NOON}s1:a", "l1")])
    assert GOLDEN["season"] == [{"default": sha256(f"default|2|label/default|{labels}|summary/default|{summary}")}]


def frame_of(pixels, sound):
    return {"default": sha256(f"default|4|clip/pixels|{pixels}"), "volume": sha256(f"volume|1|clip/sound|{sound}")}


def sharp_of(frame, label):
    return {"default": sha256(f"default|1|frame/default|{frame}|label/default|{label}"), "fixed": sha256("fixed|1")}


def summary_of(sound, frames):
    above = f"frame/default|{frames['default']}|frame/volume|{frames['volume']}"
    return {"default": sha256(f"default|1|clip/sound|{sound}|{above}")}


def group(rows):
    texts = [f"{ids}|{len(version.encode())}:{version}" for ids, version in rows]
    return sha256("".join(sorted(texts, key=str.encode)))
