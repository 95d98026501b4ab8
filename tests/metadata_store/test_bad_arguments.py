"""A meaningless argument raises an error that names it and says what to give."""

import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    MetadataSchemaError,
    MetadataStore,
    compact,
    open_store,
    repair,
    vacuum,
)

with FeatureGraph().use():

    class Clip(
        Feature,
        spec=FeatureSpec(key=FeatureKey(["clip"]), containers=[ContainerSpec(key=ContainerKey(["frames"]))]),
    ):
        """A root feature."""

    class Title(Feature, spec=FeatureSpec(key=FeatureKey(["title"]), deps=[FeatureDep(key=FeatureKey(["clip"]))])):
        """What is made from it."""


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> MetadataStore:
    made: MetadataStore = InMemoryMetadataStore() if request.param == "memory" else FilesystemMetadataStore(tmp_path)
    versions = [{"frames": "f1"}, {"frames": "f2"}]
    made.write_metadata(Clip, pl.DataFrame({"sample_id": [1, 2], "data_version": versions}))
    samples = pl.DataFrame({"sample_id": [1, 2], "length": [0, 5], "text": ["a", "b"], "failed": [None, None]})
    made.calculate_and_write_data_versions(Title, samples)
    return made


NO_PREDICATES = {
    "a number": (pl.col("length"), "is Int64: compare it"),
    "a text": (pl.col("text"), "is String: compare it"),
    "a struct": (pl.col("data_version"), "data_version"),
    "a literal": (pl.lit(1), "compare it"),
    "a field that is not there": (pl.col("data_version").struct.field("nope") == "x", "StructFieldNotFoundError: nope"),
    "a list of other types": (pl.col("text").is_in([1, 2]), "cannot be evaluated"),
}


@pytest.mark.parametrize("latest_only", [True, False])
@pytest.mark.parametrize(("predicate", "message"), NO_PREDICATES.values(), ids=list(NO_PREDICATES))
def test_what_is_no_predicate_is_no_filter(
    store: MetadataStore, predicate: pl.Expr, message: str, *, latest_only: bool
) -> None:
    for read in (store.read_metadata, store.scan_metadata):
        with pytest.raises(MetadataSchemaError, match=message) as caught:
            read(Title, filters=predicate, latest_only=latest_only)
        assert "filters" in str(caught.value)
        assert "'title'" in str(caught.value)


@pytest.mark.parametrize(("predicate", "message"), NO_PREDICATES.values(), ids=list(NO_PREDICATES))
def test_what_is_no_predicate_makes_nothing_stale(store: MetadataStore, predicate: pl.Expr, message: str) -> None:
    with pytest.raises(MetadataSchemaError, match=rf"stale_if.*({message}|cannot be evaluated)"):
        store.resolve_update(Title, stale_if=predicate)


def test_several_predicates_in_one_expression_are_no_filter(store: MetadataStore) -> None:
    with pytest.raises(MetadataSchemaError, match=r"are 2 on rows of feature 'title': combine them"):
        store.read_metadata(Title, filters=pl.col("sample_id", "length") > 1)


def test_a_column_that_is_always_null_makes_nothing_stale(store: MetadataStore) -> None:
    assert not store.resolve_update(Title, stale_if=pl.col("failed")).stale.height


def test_columns_may_be_any_iterable(store: MetadataStore) -> None:
    names = (name for name in ("text", "length"))
    assert store.read_metadata(Title, columns=names).columns == ["text", "length"]  # type: ignore[arg-type]


BAD: dict[str, tuple[Callable[[MetadataStore], object], str]] = {
    "columns of a number": (lambda store: store.read_metadata(Title, columns=1), "columns takes a list"),  # type: ignore[arg-type]
    "columns of an expression": (
        lambda store: store.read_metadata(Title, columns=pl.col("text")),  # type: ignore[arg-type]
        "columns takes a list",
    ),
    "a snapshot of a class": (
        lambda store: store.create_snapshot("s", features=Title),  # type: ignore[arg-type]
        "features takes a list of classes",
    ),
    "a snapshot of a text": (
        lambda store: store.create_snapshot("s", features="title"),  # type: ignore[arg-type]
        "features takes a list of classes",
    ),
    "code versions in a list": (
        lambda store: store.what_if(Clip, code_versions=["frames"]),  # type: ignore[arg-type]
        "code_versions maps names of containers",
    ),
    "a frame before its feature": (
        lambda store: store.write_metadata(pl.DataFrame({"sample_id": [1]}), Clip),  # type: ignore[arg-type]
        "got polars.DataFrame.",
    ),
    "code versions in a number": (
        lambda store: store.what_if(Clip, code_versions=2),  # type: ignore[arg-type]
        "code_versions maps names of containers",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=list(BAD))
def test_an_argument_of_another_type_is_named(
    store: MetadataStore, call: Callable[[MetadataStore], object], message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call(store)


@pytest.mark.parametrize("seconds", ["60", [1], pl.lit(1), 0, float("nan")])
def test_seconds_of_a_buffer_are_a_positive_number(store: MetadataStore, seconds: Any) -> None:
    with pytest.raises(ValueError, match="seconds is how long"), store.buffered(Clip, seconds=seconds):
        pass


def test_a_name_that_is_a_pattern_of_polars_may_come_again_in_a_named_job(store: MetadataStore) -> None:
    for extra in (1, 2):
        ids = [7, 8][:extra]
        frame = pl.DataFrame({"sample_id": ids, "*": ids, "data_version": [{"frames": "f"}] * extra})
        with store.buffered(Clip, write_id="job") as buffer:
            buffer.write(frame)
    assert store.read_metadata(Clip, filters=pl.col("sample_id") > 6)["*"].to_list() == [7, 8]


@pytest.mark.parametrize("root", [None, 1, b"root", ["root"]])
def test_a_root_is_a_path_or_url(root: Any) -> None:
    for make in (FilesystemMetadataStore, open_store, lambda found: open_store("dev", found)):
        with pytest.raises(TypeError, match="a root is the path of a directory, or a URL"):
            make(root)


def test_a_path_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="no path has a null character"):
        open_store("a\0b")


def test_fallback_stores_are_a_list(store: MetadataStore) -> None:
    for fallback in (store, "root", ["root"]):
        with pytest.raises(TypeError, match="fallback_stores takes a list of stores"):
            InMemoryMetadataStore(fallback_stores=fallback)  # type: ignore[arg-type]


def test_a_filesystem_is_one_of_fsspec() -> None:
    with pytest.raises(TypeError, match="expected a filesystem of fsspec"):
        FilesystemMetadataStore("root", filesystem="s3")  # type: ignore[arg-type]


SAMPLES = pl.DataFrame({"sample_id": [1, 2]})
FLAGS: dict[str, Callable[[Any, Any], object]] = {
    "latest_only": lambda store, value: store.read_metadata(Clip, latest_only=value),
    "with_commits": lambda store, value: store.scan_metadata(Clip, with_commits=value),
    "allow_fallback": lambda store, value: store.read_metadata(Clip, allow_fallback=value),
    "check_fallback": lambda store, value: store.has_feature(Clip, check_fallback=value),
    "include_fallback": lambda store, value: store.list_features(include_fallback=value),
    "lazy": lambda store, value: store.resolve_update(Title, lazy=value),
    "allow_upstream_fallback": lambda store, value: store.calculate_data_versions(
        Title, SAMPLES, allow_upstream_fallback=value
    ),
    "allow_upstream_fallback of a read": lambda store, value: store.read_upstream_metadata(
        Title, allow_upstream_fallback=value
    ),
    "full": lambda store, value: compact(store, full=value),
    "dry_run": lambda store, value: vacuum(store, dry_run=value),
    "dry_run of a repair": lambda store, value: repair(store, dry_run=value),
    "unsafe": lambda store, value: vacuum(store, dry_run=True, unsafe=value),
}


@pytest.mark.parametrize("value", ["no", None, 0, float("nan")])
@pytest.mark.parametrize(("name", "call"), FLAGS.items(), ids=list(FLAGS))
def test_a_flag_is_true_or_false(tmp_path: Any, name: str, call: Callable[[Any, Any], object], value: object) -> None:
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Clip, SAMPLES.with_columns(data_version=pl.struct(frames=pl.lit("f"))))
    choices = 'True, "tags" or False' if name == "with_commits" else "True or False"
    with pytest.raises(TypeError, match=re.escape(f"{name.split(maxsplit=1)[0]} is {choices}, got {value!r}.")):
        call(store, value)


def named_by(name):
    """A root feature and one that is made from it, both with two id columns, and a store with what is to be done."""
    with FeatureGraph().use():

        class Source(Feature, spec=FeatureSpec(key="source", id_columns=[name, "x"])):
            pass

        class Made(Feature, spec=FeatureSpec(key="made", id_columns=[name, "x"], deps=[FeatureDep(key="source")])):
            pass

    store = InMemoryMetadataStore()
    store.write_metadata(Source, pl.DataFrame({name: [1], "x": [2], "data_version": [{"default": "v1"}]}))
    return store, Source, Made


@pytest.mark.parametrize("name", ["kind", "cause", "after_upstream", "own", "is_now", "by source"])
def test_a_plan_counts_samples_whatever_their_ids_are_called(name):
    store, source, made = named_by(name)
    store.materialize(made, lambda batch: batch)
    store.write_metadata(source, pl.DataFrame({name: [1, 5], "x": [2, 2], "data_version": [{"default": "v2"}] * 2}))
    plan = store.plan(made)
    assert plan.features.row(1, named=True).items() >= {"new": 1, "stale": 1, "after_upstream": 0}.items()
    assert plan.causes.rows() == [("made", "source/default", 1)]
    if name in ("kind", "cause", "after_upstream"):
        with pytest.raises(MetadataSchemaError, match=f"the frame of a plan has a column of its own .* '{name}'"):
            plan.pending(made)
    else:
        assert plan.pending(made).select(name, "kind").sort(name).rows() == [(1, "stale"), (5, "new")]


@pytest.mark.parametrize("name", ["missing", "stored_data_version", "changed_containers"])
def test_ids_called_as_a_column_of_increments_are_refused(name):
    store, _, made = named_by(name)
    for resolve in (store.resolve_update, store.plan, lambda feature: store.resolve_update(feature, lazy=True)):
        with pytest.raises(MetadataSchemaError, match=f"an increment has a column of its own .* '{name}'"):
            resolve(made)


@pytest.mark.parametrize("name", ["store", "retired", "snapshots"])
def test_ids_called_as_a_column_of_traces_are_refused(name):
    store, source, made = named_by(name)
    for feature in (source, made):
        with pytest.raises(MetadataSchemaError, match=f"a trace has a column of its own .* '{name}'"):
            store.trace(feature, pl.DataFrame({name: [1], "x": [2]}))
