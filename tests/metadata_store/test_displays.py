"""What a notebook shows of an object: small, without scripts, and text of others stays text."""

import polars as pl
import pytest

from metaxy_fs import ContainerSpec, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec, InMemoryMetadataStore
from metaxy_fs.spec import GraphNote
from metaxy_fs.versioning.increment import Increment
from tests.test_markup import Page

HOSTILE = "</script></style><script>alert(1)</script>"
VIDEO = FeatureSpec(key=FeatureKey(["video"]))
FACES = FeatureSpec(
    key=FeatureKey(["faces"]), deps=[FeatureDep(key=VIDEO.key)], containers=[ContainerSpec(code_version=HOSTILE)]
)
GRAPH = FeatureGraph.from_specs([VIDEO, FACES])
ELEMENTS = {"div", "style", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
DRAWN = {"svg", "title", "rect", "path", "text"}


def videos(*names):
    versions = [{"default": HOSTILE}] * len(names)
    return pl.DataFrame({"sample_id": names, "data_version": versions}, schema_overrides={"sample_id": pl.String})


def compute(rows):
    if rows["sample_id"].str.contains("bad").any():
        raise ValueError(HOSTILE)
    return rows


@pytest.fixture(scope="module")
def shown():
    """Everything that shows itself, by name, of a store whose ids, versions, tags and errors are hostile."""
    store = InMemoryMetadataStore(tags={"run": HOSTILE}, fallback_stores=[InMemoryMetadataStore()])
    with GRAPH.use():
        store.write_metadata(VIDEO.key, videos(HOSTILE, "b", "bad"))
        kept = store.fingerprint()
        store.create_snapshot("monday")
        increment = store.resolve_update(FACES.key)
        found = {
            "increment": increment,
            "lazy increment": increment.lazy(),
            "plan": store.plan(FACES.key),
            "explanation": store.explain(FACES.key, HOSTILE),
            "materialization": store.materialize(FACES.key, compute, batch_rows=1, on_error="skip", progress=False),
            "trace": store.trace(VIDEO.key, videos(HOSTILE).select("sample_id")),
        }
        store.write_metadata(VIDEO.key, videos("c"))
        found |= {"diff": store.diff("monday"), "fingerprint": kept, "check": store.check(kept)}
        found |= {"store": store, "store at a snapshot": store.at("monday"), "graph": GRAPH}
    return found


NAMES = (
    *("increment", "lazy increment", "plan", "explanation", "materialization", "trace", "diff", "fingerprint", "check"),
    *("store", "store at a snapshot", "graph"),
)


@pytest.mark.parametrize("name", NAMES)
def test_an_object_shows_itself_and_runs_nothing(shown, name):
    page = Page(shown[name]._repr_html_())
    assert set(page.tags) <= ELEMENTS | (DRAWN if name in {"graph", "explanation"} else set())
    assert not [attribute for attribute, _ in page.attributes if attribute.startswith("on") or attribute == "href"]
    assert len(shown[name]._repr_html_()) < 10_000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("increment", HOSTILE), ("lazy increment", HOSTILE), ("explanation", "code "), ("materialization", HOSTILE),
        ("trace", HOSTILE), ("plan", "Plan of 2 features: 3 samples to compute"), ("diff", "video added"),
        ("fingerprint", "3"), ("check", "1 of 1 feature differs"), ("store", f"tags: run={HOSTILE}"),
        ("store at a snapshot", "StoreAt"), ("graph", f"default {HOSTILE}"),
    ],
)  # fmt: skip
def test_text_of_others_is_shown_as_text(shown, name, expected):
    assert expected in "\n".join(Page(shown[name]._repr_html_()).texts)


def test_every_object_has_a_text_too(shown):
    assert all(len(repr(thing)) < 2_000 for thing in shown.values())


def test_a_large_increment_shows_counts_and_a_head():
    rows = pl.DataFrame({"sample_id": range(1_000_000)})
    html = Increment(new=rows, stale=rows.clear(), orphaned=rows.clear(), waiting=rows.clear())._repr_html_()
    assert "new: 1,000,000" in html
    assert len(html) < 3_000


def test_a_graph_of_many_features_names_them(shown):
    many = FeatureGraph.from_specs([FeatureSpec(key=FeatureKey([f"f{number}"])) for number in range(200)])
    note = GraphNote(kind="left out", feature=VIDEO.key, text=HOSTILE)
    page = Page(many.with_notes([note])._repr_html_())
    assert set(page.tags) <= ELEMENTS
    assert {"200 features", "f199", f"left out: {HOSTILE}"} <= set(page.texts)
