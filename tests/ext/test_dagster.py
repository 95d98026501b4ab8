"""Assets of features run in this process, with an instance that is gone afterwards."""

from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureSpec, InMemoryMetadataStore, open_store
from metaxy_fs.versioning.columns import DATA_VERSION

dg = pytest.importorskip("dagster", reason="needs the extra dagster")
from metaxy_fs.ext.dagster import StoreResource, asset_key, feature_asset  # noqa: E402

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key="video")):
        pass

    class Faces(Feature, spec=FeatureSpec(key="video/faces", deps=[FeatureDep(key="video", columns=["path"])])):
        pass


def videos(*ids, version="v1"):
    rows = {"sample_id": list(ids), "path": [f"{sample}.mp4" for sample in ids]}
    return pl.DataFrame({**rows, DATA_VERSION: [{"default": version}] * len(ids)}, schema_overrides={"sample_id": int})


def faces(batch):
    return batch.select("sample_id", faces=pl.col("path").str.len_chars())


def assets(listed, compute=faces, **options):
    return [
        feature_asset(Video, lambda batch: batch, samples=lambda _: listed()),
        feature_asset(Faces, compute, **options),
    ]


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def materialized(result, node):
    (event,) = result.asset_materializations_for_node(node)
    return {name: value.value for name, value in event.metadata.items()}, event.tags["dagster/data_version"]


def test_a_run_computes_what_is_missing_and_says_so(store, instance):
    made = assets(lambda: videos(1, 2))
    first = dg.materialize(made, instance=instance, resources={"metaxy": store})
    second = dg.materialize(made, instance=instance, resources={"metaxy": store})
    found, version = materialized(first, "video__faces")
    assert (found["new"], found["written"], found["failed"]) == (2, 2, 0)
    assert "video/faces    2" in found["plan"].replace("```", "")
    assert found["explain"] == "`metaxy-fs explain video/faces ID`"
    again, same = materialized(second, "video__faces")
    assert (again["new"], again["stale"], again["written"]) == (0, 0, 0)
    assert same == version
    assert store.read_metadata(Faces)["faces"].to_list() == [5, 5]


def test_commits_name_the_run(store, instance):
    result = dg.materialize(assets(lambda: videos(1)), instance=instance, resources={"metaxy": store})
    assert store.history(Faces)["tags"].to_list() == [f'{{"dagster_run":"{result.run_id}"}}']


def test_the_data_version_changes_with_the_rows_and_with_nothing_else(store, instance):
    def version(listed):
        result = dg.materialize(assets(lambda: listed), instance=instance, resources={"metaxy": store})
        return materialized(result, "video__faces")[1]

    first = version(videos(1, 2))
    assert version(videos(2, 1)) == first
    assert version(videos(1, 2, version="v2")) != first
    assert version(videos(1, 2, version="v1")) == first


def test_deps_and_code_versions_come_from_the_graph():
    _, faces_asset = assets(videos)
    (spec,) = faces_asset.specs
    assert spec.key == asset_key(Faces) == dg.AssetKey(["video", "faces"])
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey(["video"])]
    with FeatureGraph().use():

        class Later(Feature, spec=FeatureSpec(key="video/faces", deps=[])):
            pass

    assert feature_asset(Later, faces).specs_by_key[spec.key].code_version != spec.code_version


def test_a_retry_computes_what_a_failure_left(store, instance):
    calls = []

    def breaks_once(batch):
        calls.append(batch["sample_id"].to_list())
        if len(calls) == 2:
            raise OSError("the disk is gone for a moment")
        return faces(batch)

    made = assets(lambda: videos(1, 2, 3), breaks_once, batch_rows=1, retry_policy=dg.RetryPolicy(max_retries=1))
    result = dg.materialize(made, instance=instance, resources={"metaxy": store})
    assert result.success
    assert calls == [[1], [2], [2], [3]]
    assert store.read_metadata(Faces)["sample_id"].to_list() == [1, 2, 3]


def test_a_backfill_computes_its_partitions_alone(store, instance):
    parts = dg.StaticPartitionsDefinition(["low", "high"])
    below = {"low": pl.col("sample_id") < 10, "high": pl.col("sample_id") >= 10}
    root, made = assets(lambda: videos(1, 2, 30), partitions_def=parts, where=below.__getitem__)
    dg.materialize([root], instance=instance, resources={"metaxy": store})

    def backfill(key):
        only = dg.materialize([made], instance=instance, resources={"metaxy": store}, partition_key=key)
        return materialized(only, "video__faces")

    low, version = backfill("low")
    assert store.read_metadata(Faces)["sample_id"].to_list() == [1, 2]
    high, _ = backfill("high")
    assert (low["written"], high["written"]) == (2, 1)
    assert backfill("low")[1] == version  # the rows of the other partition are none of its business
    assert '"dagster_partition":"low"' in store.history(Faces)["tags"][0]


def test_partitions_without_a_predicate_are_refused():
    with pytest.raises(ValueError, match="where and partitions_def belong together"):
        feature_asset(Faces, faces, partitions_def=dg.StaticPartitionsDefinition(["a"]))


def test_samples_that_fail_are_counted(store, instance):
    def breaks(batch):
        if (batch["sample_id"] == 2).any():
            raise ValueError("no video")
        return faces(batch)

    made = assets(lambda: videos(1, 2), breaks, on_error="skip")
    found, _ = materialized(dg.materialize(made, instance=instance, resources={"metaxy": store}), "video__faces")
    assert (found["written"], found["failed"]) == (1, 1)


def test_a_feature_all_of_whose_samples_wait_has_no_version(store, instance):
    store.write_metadata(Video, videos())
    result = dg.materialize([assets(videos)[1]], instance=instance, resources={"metaxy": store})
    assert result.success
    assert not store.has_feature(Faces) or store.read_metadata(Faces).is_empty()


def test_the_store_comes_from_the_configuration(tmp_path, monkeypatch, instance):
    Path(tmp_path, "metaxy_fs.toml").write_text('[stores.prod]\nroot = "./metadata"\n')
    monkeypatch.chdir(tmp_path)
    for resource in (StoreResource(), StoreResource(store="prod", config_file=str(tmp_path / "metaxy_fs.toml"))):
        assert dg.materialize(assets(lambda: videos(1)), instance=instance, resources={"metaxy": resource}).success
    assert open_store(str(tmp_path / "metadata")).read_metadata(Faces).height == 1


def test_stores_of_any_kind_are_resources(instance):
    store = InMemoryMetadataStore()
    assert dg.materialize(assets(lambda: videos(1)), instance=instance, resources={"metaxy": store}).success
    assert store.read_metadata(Faces).height == 1


@pytest.mark.parametrize("keys", [("a-b", "a_b"), ("a/b", "a__b")])
def test_names_that_dagster_writes_alike_have_assets_of_their_own(store, instance, keys):
    first, second = keys
    specs = [FeatureSpec(key=first), FeatureSpec(key=second, deps=[FeatureDep(key=first)])]
    with FeatureGraph.from_specs(specs).use():
        roots = feature_asset(first, lambda batch: batch, samples=lambda _: videos(1))
        made = [roots, feature_asset(second, lambda batch: batch)]
        result = dg.materialize(made, instance=instance, resources={"metaxy": store})
        assert store.read_metadata(second)["sample_id"].to_list() == [1]
    assert [each.key for each in made] == [asset_key(first), asset_key(second)]
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {each.key for each in made}
    assert made[1].asset_deps[made[1].key] == {made[0].key}
