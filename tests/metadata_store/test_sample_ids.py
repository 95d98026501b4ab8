"""Each call that is about some samples takes their names in the same forms."""

import polars as pl
import pytest

from metaxy_fs import (
    FeatureGraph,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    MetadataSchemaError,
    copy_metadata,
)

FRAME = FeatureSpec(key="frame", id_columns=["clip", "number"])
CLIP = FeatureSpec(key="clip", id_columns=["clip"])
ROWS = pl.DataFrame({"clip": ["a", "a", "b"], "number": [1, 2, 1], "data_version": [{"default": "v"}] * 3})
TWO = {"clip": ["a", "b"], "number": [2, 1]}
FORMS = {
    "frame": [
        pl.DataFrame(TWO),
        pl.LazyFrame(TWO),
        pl.DataFrame(TWO).with_columns(more=1),
        [("a", 2), ("b", 1)],
        (("b", 1), ("a", 2), ("b", 1)),
        [{"number": 2, "clip": "a"}, ("b", 1)],
    ],
    "clip": [pl.DataFrame({"clip": ["b"]}), ["b"], ["b", "b"], [("b",)], [{"clip": "b"}]],
}
NONE = {"frame": [["a"], [("a",)], [("a", 2), ("a", 1, 2)], ("a", 2), "a", [("a", None)], [("a", "x"), ("a", 1)]]}
NONE["clip"] = ["b", [None], [{"name": "b"}], ["b", 1], [("a", 2)]]
CASES = [(feature, form) for feature, several in FORMS.items() for form in several]
WRONG = [(feature, form) for feature, several in NONE.items() for form in several]


@pytest.fixture(scope="module")
def graph():
    return FeatureGraph.from_specs([FRAME, CLIP])


@pytest.fixture
def store(graph):
    made = InMemoryMetadataStore()
    with graph.use():
        made.write_metadata("frame", ROWS)
        made.write_metadata("clip", ROWS.select("clip", "data_version").unique("clip"))
        yield made


def ids(rows, feature):
    return sorted(rows.select(FRAME.id_columns if feature == "frame" else CLIP.id_columns).rows())


def left(store, feature):
    return ids(store.read_metadata(feature, latest_only=True), feature)


@pytest.mark.parametrize(("feature", "form"), CASES)
def test_all_calls_take_the_form(store, feature, form):
    named, others = ([("a", 2), ("b", 1)], [("a", 1)]) if feature == "frame" else ([("b",)], [("a",)])
    assert ids(store.trace(feature, form).rows[feature], feature) == named
    copy = InMemoryMetadataStore()
    copy_metadata(feature, source=store, target=copy, exclude={feature: form})
    assert left(copy, feature) == others
    store.retire(feature, form)
    assert left(store, feature) == others


@pytest.mark.parametrize(("feature", "form"), WRONG)
def test_no_call_takes_what_names_no_samples(store, tmp_path, feature, form):
    target = FilesystemMetadataStore(tmp_path)
    for call in (
        lambda: store.trace(feature, form),
        lambda: store.retire(feature, form),
        lambda: copy_metadata(feature, source=store, target=target, exclude={feature: form}),
    ):
        with pytest.raises(MetadataSchemaError):
            call()


@pytest.mark.parametrize("name", [("a", 2), {"number": 2, "clip": "a"}])
def test_a_sample_is_explained_by_what_a_list_names_it_by(store, name):
    assert store.explain("frame", name).sample == {"clip": "a", "number": 2}
    assert ids(store.trace("frame", [name]).rows["frame"], "frame") == [("a", 2)]
