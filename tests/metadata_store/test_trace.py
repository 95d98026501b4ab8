"""A trace finds what was made from samples, and what they were made from, whatever the graph, chain and history."""

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st

from metaxy_fs import (
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    InMemoryMetadataStore,
    MetadataSchemaError,
    open_store,
)
from tests.support.examples import examples
from tests.versioning.lineage_model import DIMENSIONS
from tests.versioning.lineage_strategies import histories

NEWER = pl.struct(default=pl.lit("w")).alias("data_version")


class Named(InMemoryMetadataStore):
    """A store in memory that has a place of its own."""

    def __init__(self, name, **options):
        super().__init__(**options)
        self._name = name

    @property
    def location(self):
        return self._name


class Oracle:
    """What was written, and what a trace of it finds, in lists and loops."""

    def __init__(self, model):
        self.model = model
        self.rows = {feature: [] for feature in model.nodes}

    def write(self, feature, frame, store, commit):
        names = self.model.nodes[feature].names
        for row in frame.to_dicts():
            place = {d: row.get(names[d]) for d in DIMENSIONS}
            self.rows[feature].append((place, store, commit, row.get("data_version")))

    def trace(self, start, chosen, direction):
        """Return the ids of the samples of each feature that is reached."""
        nodes = self.model.nodes
        ids = nodes[start].ids
        found, named = {start: set(chosen)}, {start: [dict(zip(ids, key, strict=True)) for key in chosen]}
        for far in nodes if direction == "down" else reversed(nodes):
            known = []
            for near, keys in found.items():
                below, above = (far, near) if direction == "down" else (near, far)
                if above not in nodes[below].deps:
                    continue
                expands = nodes[below].deps[above].relation == "expansion"
                by = nodes[above].ids if expands else nodes[below].ids
                known.append((by, self._values(near, keys, named[near], by)))
            if known:
                places = [place for place, *_ in self.rows[far]]
                found[far] = {
                    self.model.key(far, place)
                    for by, values in known
                    for place in places
                    if tuple(place[d] for d in by) in values
                }
                whole = [(by, values) for by, values in known if set(by) == set(nodes[far].ids)]
                named[far] = [dict(zip(by, value, strict=True)) for by, values in whole for value in values]
        return found

    def _values(self, feature, keys, named, by):
        rows = [place for place, *_ in self.rows[feature] if self.model.key(feature, place) in keys]
        facts = [tuple(place.get(d) for d in by) for place in [*rows, *named]]
        return {fact for fact in facts if None not in fact}

    def shown(self, feature, keys, snapshots):
        """Return the last version of each sample in each store, and the snapshots that hold a row of it."""
        last, held = {}, {}
        for place, store, commit, version in self.rows[feature]:
            if (key := self.model.key(feature, place)) in keys:
                last[key, store] = version
                if version is not None:
                    held.setdefault((key, store), set()).update(n for n, seen in snapshots.items() if commit in seen)
        return {each: (version, sorted(held.get(each, ()))) for each, version in last.items()}


def keys_of(history, feature, frame):
    names = history.model.nodes[feature].names
    return frame.select(names[d] for d in history.model.nodes[feature].ids).rows()


@given(st.data())
@examples(25, suppress_health_check=list(HealthCheck))
def test_a_trace_is_that_of_the_oracle(data):
    history = data.draw(histories(max_depth=4))
    oracle = Oracle(history.model)
    names = data.draw(st.sampled_from([("near", "far"), ("memory", "memory")]))
    far = Named(names[1])
    near = Named(names[0], fallback_stores=[far])
    first, snapshots, committed = data.draw(st.integers(0, len(history.commits))), {}, []
    with history.model.graph.use():
        for place, (feature, frame) in enumerate(history.commits):
            store, name = (far, 1) if place < first else (near, 0)
            store.write_metadata(FeatureKey(feature), frame)
            oracle.write(feature, frame, name, place)
            committed.append(place)
            if frame.height and data.draw(st.integers(0, 5)) == 0:
                ids = [history.model.nodes[feature].names[d] for d in history.model.nodes[feature].ids]
                retired = frame.select(ids).head(1)
                store.retire(FeatureKey(feature), retired)
                oracle.write(feature, retired, name, (place, "retired"))
            if data.draw(st.integers(0, 3)) == 0:
                near.create_snapshot(f"s{place}")
                snapshots[f"s{place}"] = set(committed)
        commits = [each for each in history.commits if each[1].height]
        assume(commits)
        start, frame = data.draw(st.sampled_from(commits))
        ids = [history.model.nodes[start].names[d] for d in history.model.nodes[start].ids]
        chosen = frame.select(ids).unique(maintain_order=True).head(data.draw(st.integers(1, 3)))
        direction = data.draw(st.sampled_from(["down", "up"]))
        found = near.trace(FeatureKey(start), chosen, direction=direction)
    expected = oracle.trace(start, keys_of(history, start, chosen), direction)
    assert set(found.rows) == {"/".join(feature) for feature in expected}
    for feature, keys in expected.items():
        shown = oracle.shown(feature, keys, snapshots)
        rows = found.rows["/".join(feature)]
        got = []
        for row, key in zip(rows.to_dicts(), keys_of(history, feature, rows), strict=True):
            version = row["data_version"] if not row["retired"] else None
            got.append((key, row["store"], version, row["snapshots"]))
        expected_rows = [(key, names[store], *each) for (key, store), each in shown.items()]
        assert sorted(got, key=repr) == sorted(expected_rows, key=repr)
    shown = [oracle.shown(feature, keys, snapshots) for feature, keys in expected.items()]
    assert found.snapshots == tuple(sorted({name for each in shown for _, names in each.values() for name in names}))


def declare():
    """Videos, their frames, scenes that group frames by a column that is no id, and a thumbnail under other names."""
    video, frames = FeatureKey(["video"]), FeatureKey(["video", "frames"])
    with FeatureGraph().use() as graph:

        class Video(Feature, spec=FeatureSpec(key=video)):
            pass

        expansion = FeatureDep(key=video, relation="expansion")

        class Frames(Feature, spec=FeatureSpec(key=frames, deps=[expansion], id_columns=["sample_id", "frame"])):
            pass

        group = FeatureDep(key=frames, relation="aggregation")

        class Scene(Feature, spec=FeatureSpec(key=FeatureKey(["scene"]), deps=[group], id_columns=["scene"])):
            pass

        renamed = FeatureDep(key=video, rename={"sample_id": "name"}, where="length > 100")

        class Thumb(Feature, spec=FeatureSpec(key=FeatureKey(["thumb"]), deps=[renamed], id_columns=["name"])):
            pass

    return graph, Video, Frames, Scene, Thumb


def versions(**columns):
    frame = pl.DataFrame(columns)
    return frame.with_columns(data_version=pl.struct(default=pl.lit("v")))


@pytest.fixture
def films(tmp_path):
    """A chain with two videos, four frames, two scenes, and a thumbnail."""
    graph, video, frames, scene, thumb = declare()
    store = open_store(tmp_path / "dev", tmp_path / "prod")
    open_store(tmp_path / "prod").write_metadata(video, versions(sample_id=["a", "b"], length=[1.0, 2.0]))
    rows = versions(sample_id=["a", "a", "b", "b"], frame=[1, 2, 1, 2], scene=["x", "y", "y", "z"])
    store.write_metadata(frames, rows)
    store.write_metadata(scene, versions(scene=["x", "y"]))
    store.write_metadata(thumb, versions(name=["a"]))
    return graph, store, video, frames, scene


def samples(trace):
    return {
        feature: frame.select(pl.exclude("store", "data_version", "retired", "snapshots")).rows()
        for feature, frame in trace.rows.items()
        if frame.height
    }


def test_down_leads_through_expansions_groups_and_renames(films):
    _, store, video, _, _ = films
    assert samples(store.trace(video, ["a"])) == {
        "video": [("a",)],
        "video/frames": [("a", 1), ("a", 2)],
        "scene": [("x",), ("y",)],
        "thumb": [("a",)],
    }


def test_up_leads_to_all_rows_of_a_group(films):
    _, store, _, _, scene = films
    assert samples(store.trace(scene, ["y"], direction="up")) == {
        "scene": [("y",)],
        "video/frames": [("a", 2), ("b", 1)],
        "video": [("a",), ("b",)],
    }


def test_rows_name_their_store(films, tmp_path):
    _, store, video, _, _ = films
    found = store.trace(video, ["a"])
    assert found.rows["video"]["store"].to_list() == [str(tmp_path / "prod")]
    assert found.rows["thumb"]["store"].to_list() == [str(tmp_path / "dev")]


def test_snapshots_that_hold_a_row_are_named(films):
    graph, store, video, _, scene = films
    with graph.use():
        store.create_snapshot("all")
        store.create_snapshot("videos", features=[video])
        store.write_metadata(scene, versions(scene=["w"]))
        store.create_snapshot("scenes", features=[scene])
    assert store.trace(scene, ["w"]).snapshots == ("scenes",)
    assert store.trace(video, ["a"]).snapshots == ("all", "scenes", "videos")
    assert store.trace(video, ["a"]).rows["thumb"]["snapshots"].to_list() == [["all"]]


def test_a_feature_between_needs_no_row(films):
    _, store, video, _, _ = films
    assert samples(store.trace(video, ["c"])) == {}
    store.write_metadata(video, versions(sample_id=["d"], length=[None]))
    assert samples(store.trace(video, ["d"])) == {"video": [("d",)]}


def test_it_prints_counts(films, tmp_path):
    _, store, video, _, _ = films
    text = str(store.trace(video, ["a"]))
    assert text.replace(str(tmp_path), "") == (
        "video: 1 sample in /prod; made from them:\n"
        "  video/frames: 2 samples in /dev\n"
        "  scene: 2 samples in /dev\n"
        "  thumb: 1 sample in /dev\n"
        "snapshots: none"
    )
    assert "video/frames" in store.trace(video, ["a"])._repr_html_()
    assert str(store.trace(video, ["c"])).endswith("made from them:\n  nothing\nsnapshots: none")


@pytest.mark.parametrize("ids", [[1], ["a", None], "a", pl.DataFrame({"name": ["a"]})])
def test_what_names_no_samples_is_refused(films, ids):
    _, store, video, _, _ = films
    with pytest.raises(MetadataSchemaError):
        store.trace(video, ids)


@pytest.mark.parametrize("ids", [pl.DataFrame({"sample_id": ["b"], "frame": [1]}), [("b", 1)], [("b", 1)] * 2])
def test_several_id_columns_take_a_frame_or_tuples(films, ids):
    _, store, _, frames, _ = films
    assert samples(store.trace(frames, ids)) == {"video/frames": [("b", 1)], "scene": [("y",)]}


@pytest.mark.parametrize("ids", [["b"], [("b",)], [("b", 1), ("b", 1, 2)], ("b", 1)])
def test_what_is_no_tuple_of_all_ids_is_refused(films, ids):
    _, store, _, frames, _ = films
    with pytest.raises(MetadataSchemaError, match="a tuple in that order, or a mapping"):
        store.trace(frames, ids)


def test_no_tuples_lead_to_nothing(films):
    _, store, _, frames, _ = films
    assert not samples(store.trace(frames, []))


def test_another_direction_is_refused(films):
    _, store, video, _, _ = films
    with pytest.raises(ValueError, match='direction is "down" or "up"'):
        store.trace(video, ["a"], direction="left")


def test_a_few_samples_are_point_reads(s3_server, s3_bucket):
    _, video, frames, _, _ = declare()
    options = {"storage_options": s3_server.storage_options}
    writer = open_store(s3_server.url(s3_bucket, "m"), **options)
    for start in range(20):
        ids = [f"{start:02}-{i}" for i in range(5)]
        writer.write_metadata(video, versions(sample_id=ids, length=[1.0] * 5))
        writer.write_metadata(frames, versions(sample_id=ids, frame=[1] * 5, scene=ids))
    store = open_store(s3_server.url(s3_bucket, "m"), **options)
    s3_server.clear_requests()
    found = store.trace(video, ["07-3", "08-1"])
    assert found.rows["video/frames"].height == 2
    read = {request.path for request in s3_server.requests() if request.path.endswith(".parquet")}
    assert len(read) == 4


def test_all_rows_of_a_sample_count_where_one_of_them_leads(films):
    _, store, _, frames, scene = films
    store.write_metadata(frames, versions(sample_id=["a"], frame=[1], scene=["z"]).with_columns(NEWER))
    assert samples(store.trace(scene, ["x"], direction="up"))["video/frames"] == [("a", 1)]
    found = store.trace(scene, ["x"], direction="up").rows["video/frames"]
    assert found["data_version"].to_list() == [{"default": "w"}]


def test_ids_of_a_finer_unit_are_shown_as_they_are():
    times = pl.Series([1_000_000, 1_000_001], dtype=pl.Int64)
    far = InMemoryMetadataStore()
    store = InMemoryMetadataStore(fallback_stores=[far])
    with FeatureGraph.from_specs([FeatureSpec(key="take", id_columns=["at"])]).use():
        far.write_metadata("take", versions(at=times.cast(pl.Datetime("ns"))))
        store.write_metadata("take", versions(at=(times.head(1) // 1000).cast(pl.Datetime("us"))))
        found = store.trace("take", far.read_metadata("take")).rows["take"]
    assert found["at"].cast(pl.Int64).to_list() == [1_000_000, 1_000_000, 1_000_001]


def test_groups_are_followed_where_stores_keep_their_names_in_other_types():
    far = InMemoryMetadataStore()
    store = InMemoryMetadataStore(fallback_stores=[far])
    shelf = FeatureSpec(key="shelf", id_columns=["genre"], deps=[FeatureDep(key="book", relation="aggregation")])
    with FeatureGraph.from_specs([FeatureSpec(key="book", id_columns=["title"]), shelf]).use():
        far.write_metadata("book", versions(title=["a"], genre=pl.Series(["horror"], dtype=pl.Categorical)))
        store.write_metadata("book", versions(title=["a"], genre=pl.Series(["horror"], dtype=pl.Enum(["horror"]))))
        store.write_metadata("shelf", versions(genre=["horror"]))
        assert store.trace("book", ["a"]).rows["shelf"]["genre"].to_list() == ["horror"]
        assert store.trace("shelf", ["horror"], direction="up").rows["book"]["title"].to_list() == ["a", "a"]


def test_a_retired_sample_is_shown_as_such(films):
    _, store, _, frames, scene = films
    store.create_snapshot("before")
    store.retire(frames, pl.DataFrame({"sample_id": ["a"], "frame": [1]}))
    found = store.trace(scene, ["x"], direction="up").rows["video/frames"]
    assert found.select("data_version", "retired", "snapshots").rows() == [(None, True, ["before"])]


def test_a_name_without_a_declaration_is_followed_in_the_graph_of_what_is_stored(films):
    _, store, video, _, _ = films
    with FeatureGraph().use():
        assert samples(store.trace("video", ["a"])) == samples(store.trace(video, ["a"]))
        assert samples(store.trace("video", ["a"]))["scene"] == [("x",), ("y",)]
        with pytest.raises(FeatureNotFoundError):
            store.trace("audio", ["a"])


def test_what_was_made_by_code_that_is_not_loaded_is_found(films):
    _, store, video, _, _ = films
    with FeatureGraph.from_specs([video.spec]).use():
        assert samples(store.trace("video", ["a"])) == samples(store.trace(video, ["a"]))


def test_stored_features_that_do_not_fit_what_is_declared_are_left_out(films):
    _, store, video, _, _ = films
    spec = FeatureSpec(key=video.spec.key, id_columns=["name"])
    with FeatureGraph.from_specs([spec]).use():
        store.write_metadata("video", versions(name=["a"]))
        assert samples(store.trace("video", ["a"]))["video"] == [("a",)]
