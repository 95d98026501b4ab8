"""Tests of what any store does for a job that computes what a feature lacks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import (
    PROCESSED,
    VIDEO,
    ArrowOnly,
    MakeStore,
    StoreCase,
    declare,
    derived,
    ids_of,
    pipeline,
    processed_version,
    root,
    videos,
)

_FRAME = FeatureKey(["frame"])
_GROUP = FeatureKey(["group"])


def doubled(samples: pl.DataFrame) -> pl.DataFrame:
    """Return the samples with a column that was computed, and without their versions."""
    return samples.select("sample_id", double=pl.col("sample_id") * 2)


def frames_of(parents: pl.DataFrame) -> pl.DataFrame:
    """Return as many frames of each video as its id says."""
    numbers = [list(range(video)) for video in parents["sample_id"]]
    column = pl.Series("number", numbers, dtype=pl.List(pl.Int64))
    return parents.select("sample_id", column).explode("number").drop_nulls()


class StoreMaterialize(StoreCase):
    """Tests of `MetadataStore.materialize`."""

    def test_what_is_missing_is_computed_once_under_the_expected_versions(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(5)))

        first = store.materialize(processed, doubled, batch_rows=2)
        again = store.materialize(processed, doubled, batch_rows=2)

        assert first.counts._asdict() | {"new": 5, "written": 5} == first.counts._asdict()
        assert (again.counts.new, again.counts.written, sum(again.counts)) == (0, 0, 0)
        rows = store.read_metadata(processed).sort("sample_id")
        assert rows["double"].to_list() == [0, 2, 4, 6, 8]
        assert rows["data_version"].to_list() == [processed_version(sample) for sample in range(5)]

    def test_batches_hold_pending_samples_with_their_versions(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(5)))
        batches: list[pl.DataFrame] = []

        def compute(batch: pl.DataFrame) -> pl.DataFrame:
            batches.append(batch)
            return batch

        store.materialize(processed, compute, batch_rows=2)

        assert [batch.height for batch in batches] == [2, 2, 1]
        together = pl.concat(batches)
        assert together.columns == ["sample_id", "data_version"]
        assert together["data_version"].to_list() == [processed_version(sample) for sample in ids_of(together)]

    def test_stale_samples_are_computed_again_and_waiting_ones_are_left_alone(self, store: MetadataStore) -> None:
        other = FeatureKey(["other"])
        video, sound, processed = declare(root(VIDEO), root(other), derived(PROCESSED, [VIDEO, other]))
        for feature, ids in ((video, [1, 2, 3]), (sound, [1, 2])):
            store.write_metadata(feature, _roots(ids))
        store.materialize(processed, doubled)
        store.write_metadata(video, _roots([2], take="again"))

        done = store.materialize(processed, doubled)

        assert (done.counts.new, done.counts.stale, done.counts.waiting, done.counts.written) == (0, 1, 1, 1)
        assert ids_of(store.read_metadata(processed)) == [1, 2, 2]

    def test_root_feature_is_given_its_samples(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with pytest.raises(DependencyError, match="samples="):
            store.materialize(video, lambda batch: batch)

        store.materialize(video, lambda batch: batch.drop("data_version"), samples=videos([1, 2], size=[5, 6]))

        assert store.read_metadata(video).to_dicts() == videos([1, 2], size=[5, 6]).to_dicts()

    def test_rows_may_come_in_any_order_and_as_any_frame(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(4)))

        def compute(batch: pl.DataFrame) -> Any:
            mixed = doubled(batch).reverse().cast({"sample_id": pl.Int16})
            return {0: mixed, 2: ArrowOnly(mixed), 3: mixed.lazy()}[ids_of(batch)[0]]

        store.materialize(processed, compute, batch_rows=2)

        rows = store.read_metadata(processed).sort("sample_id")
        assert rows["double"].to_list() == [0, 2, 4, 6]
        assert rows["data_version"].to_list() == [processed_version(sample) for sample in range(4)]

    @pytest.mark.parametrize(
        ("compute", "message"),
        [
            (lambda _: None, r"returned NoneType for 3 samples \(1, 2, 3\); let it return a frame with the id columns"),
            (lambda batch: batch.to_dicts(), "returned list"),
            (lambda batch: batch.drop("sample_id"), r"\['data_version'\] .* without 'sample_id'"),
            (lambda batch: batch.head(1), r"returned no row for 2 of them: 2, 3\."),
            (lambda batch: batch.clear(), "returned no row for 3 of them"),
            (lambda batch: pl.concat([batch, batch.head(1)]), "come more than once: 1"),
            (lambda batch: batch.with_columns(pl.col("sample_id") + 1), "rows of 1 others: 4"),
            (lambda batch: batch.with_columns(sample_id=pl.lit(None, pl.Int64)), "1 others: None"),
            (lambda batch: batch.with_columns(pl.col("sample_id").cast(pl.String)), "'sample_id'.* is Int64 here"),
            (lambda batch: batch.with_columns(data_version=pl.struct(default=pl.lit("mine"))), "other versions of"),
            (lambda batch: batch.with_columns(data_version=pl.struct(other=pl.lit("x"))), "exactly the containers"),
            (lambda batch: batch.with_columns(_metaxy_x=1), "_metaxy_"),
        ],
    )
    def test_what_does_not_fit_is_refused_and_says_so(
        self, store: MetadataStore, compute: Callable[[pl.DataFrame], pl.DataFrame], message: str
    ) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))

        with pytest.raises(MetadataSchemaError, match=message) as caught:
            store.materialize(processed, compute)

        assert caught.value.feature == "processed/video"
        assert "3 samples of feature 'processed/video': 1, 2, 3" in caught.value.__notes__[0]
        assert not store.has_feature(processed)

    def test_function_that_raises_leaves_what_was_done(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(6)))

        with pytest.raises(KeyError, match="no 4") as caught:
            store.materialize(processed, _failing({4}), batch_rows=2)

        assert "2 samples of feature 'processed/video': 4, 5" in caught.value.__notes__[0]
        assert ids_of(store.read_metadata(processed)) == [0, 1, 2, 3]
        assert store.materialize(processed, doubled).counts.written == 2

    def test_samples_that_fail_are_left_out_and_returned(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(6)))

        done = store.materialize(processed, _failing({4, 1}), batch_rows=3, on_error="skip")

        assert (done.counts.new, done.counts.failed, done.counts.written) == (6, 2, 4)
        assert done.failed.rows() == [(1, "KeyError: 'no 1'"), (4, "KeyError: 'no 4'")]
        assert sorted(ids_of(store.read_metadata(processed))) == [0, 2, 3, 5]
        assert store.materialize(processed, doubled).counts.new == 2

    def test_sample_whose_row_does_not_fit_the_stored_ones_fails_alone(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(3)))
        store.materialize(processed, doubled)
        store.write_metadata(video, videos(range(3), take="again"))

        def compute(batch: pl.DataFrame) -> pl.DataFrame:
            is_bad = 1 in ids_of(batch)
            return doubled(batch).cast({"double": pl.String}) if is_bad else doubled(batch)

        done = store.materialize(processed, compute, on_error="skip")

        assert (done.failed["sample_id"].to_list(), done.counts.written) == ([1], 2)
        assert "'double'" in done.failed["error"][0]

    def test_threads_compute_what_one_process_does(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(200)))

        with ThreadPoolExecutor(3) as executor:
            done = store.materialize(
                processed, _failing({77}), batch_rows=1, executor=executor, on_error="skip", progress=False
            )

        assert (done.failed["sample_id"].to_list(), done.counts.written) == ([77], 199)
        rows = store.read_metadata(processed)
        assert sorted(ids_of(rows)) == [sample for sample in range(200) if sample != 77]
        assert rows["data_version"].to_list() == [processed_version(sample) for sample in ids_of(rows)]

    def test_orphaned_samples_are_retired_if_that_is_asked_for(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.materialize(processed, doubled)
        store.retire(video, pl.DataFrame({"sample_id": [2]}))

        kept = store.materialize(processed, doubled)
        retired = store.materialize(processed, doubled, retire_orphaned=True)

        assert (kept.counts.orphaned, kept.counts.retired) == (1, 0)
        assert (retired.counts.orphaned, retired.counts.retired) == (1, 1)
        assert ids_of(store.read_metadata(processed, latest_only=True)) == [1]
        assert store.resolve_update(processed).orphaned.is_empty()

    def test_sample_that_a_job_retired_is_computed_again_once_it_is_back(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        store.materialize(processed, doubled)
        store.retire(video, pl.DataFrame({"sample_id": [2, 3]}))
        store.materialize(processed, doubled, retire_orphaned=True)
        store.retire(processed, pl.DataFrame({"sample_id": [3]}), "nobody wants it")
        assert store.resolve_update(processed).counts == (0, 0, 0, 0, 0)

        store.write_metadata(video, videos([2, 3]))

        assert store.resolve_update(processed).counts == (1, 0, 0, 0, 1)
        assert [store.explain(processed, sample).status for sample in (2, 3)] == ["new", "retired"]
        assert store.plan(processed).pending(processed).rows() == [(2, "new", None, False)]
        assert store.materialize(processed, doubled).counts.written == 1
        assert sorted(ids_of(store.read_metadata(processed, latest_only=True))) == [1, 2]

    def test_job_without_samples_does_not_stop_the_next(self, store: MetadataStore) -> None:
        """Whatever it knows of the columns: the next one carries them, tests them, groups by them or makes many."""
        keys = [FeatureKey([name]) for name in ("loud", "word", "line", "shout")]
        loud, word, line, shout = (
            FeatureSpec(key=keys[0], deps=[FeatureDep(key=VIDEO, where="length > 3")]),
            FeatureSpec(
                key=keys[1],
                id_columns=["sample_id", "word"],
                deps=[FeatureDep(key=keys[0], relation="expansion", where="text LIKE 'a%'")],
            ),
            FeatureSpec(key=keys[2], id_columns=["line"], deps=[FeatureDep(key=keys[1], relation="aggregation")]),
            FeatureSpec(key=keys[3], id_columns=["word"], deps=[FeatureDep(key=keys[1], relation="aggregation")]),
        )
        video, *jobs = declare(root(VIDEO), loud, word, line, shout)
        store.write_metadata(video, _roots([1]).with_columns(length=1))
        plan = store.plan(*jobs)
        assert plan.features.select("new", "missing").rows() == [(0, [])] * 5

        done = [store.materialize(job, doubled).counts for job in jobs]

        assert [sum(counts) for counts in done] == [0] * 4
        assert [store.history(job)["rows"].to_list() for job in jobs] == [[0]] * 4
        store.materialize(jobs[0], doubled)
        assert store.history(jobs[0]).height == 1
        store.write_metadata(video, _roots([1]).with_columns(length=4))
        store.materialize(jobs[0], lambda batch: batch.with_columns(text=pl.lit("alas")))
        store.materialize(jobs[1], lambda batch: batch.with_columns(word=pl.col("sample_id"), line=pl.lit("x")))
        assert [store.resolve_update(job).counts.new for job in jobs[2:]] == [1, 1]

    def test_upstream_that_no_job_has_run_for_is_missing(self, store: MetadataStore) -> None:
        _, processed = pipeline()
        with pytest.raises(DependencyError, match="missing"):
            store.materialize(processed, doubled)
        assert not store.has_feature(processed)

    def test_one_row_may_make_many_samples(self, store: MetadataStore) -> None:
        video, frame = _expanded()
        store.write_metadata(video, _roots([1, 2, 3]))

        done = store.materialize(frame, frames_of, batch_rows=2)

        assert (done.counts.new, done.counts.written) == (3, 6)
        assert store.materialize(frame, frames_of).counts.written == 0
        assert store.read_metadata(frame).select("sample_id", "number").sort("sample_id", "number").rows() == [
            (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2),
        ]  # fmt: skip

    def test_samples_that_are_not_made_again_are_retired_with_the_orphaned(self, store: MetadataStore) -> None:
        video, frame = _expanded()
        store.write_metadata(video, _roots([2, 3]))
        store.materialize(frame, frames_of)
        store.write_metadata(video, _roots([3], take="shorter"))

        done = store.materialize(frame, lambda parents: frames_of(parents).filter(number=0), retire_orphaned=True)

        assert (done.counts.stale, done.counts.written, done.counts.retired) == (1, 1, 2)
        latest = store.read_metadata(frame, latest_only=True).select("sample_id", "number").sort("sample_id", "number")
        assert latest.rows() == [(2, 0), (2, 1), (3, 0)]

    def test_other_parents_and_repeated_samples_are_refused(self, store: MetadataStore) -> None:
        video, frame = _expanded()
        store.write_metadata(video, _roots([1, 2]))
        for compute, message in (
            (lambda parents: frames_of(parents).with_columns(pl.col("sample_id") + 1), r"2 parents .*1 others: 3"),
            (lambda parents: frames_of(parents).with_columns(number=0), "come more than once"),
            (lambda parents: parents, "without 'number'"),
            (lambda parents: frames_of(parents).filter(sample_id=1), r"no row for 1 of them: 2\. .* stands for none"),
        ):
            with pytest.raises(MetadataSchemaError, match=message):
                store.materialize(frame, compute)

    def test_group_is_one_sample(self, store: MetadataStore) -> None:
        dep = FeatureDep(key=VIDEO, relation="aggregation")
        video, group = declare(
            root(VIDEO, id_columns=["shelf", "sample_id"]), FeatureSpec(key=_GROUP, id_columns=["shelf"], deps=[dep])
        )
        rows = _roots([1, 2, 3]).with_columns(shelf=pl.Series(["a", "a", "b"]))
        store.write_metadata(video, rows)

        done = store.materialize(group, lambda shelves: shelves.with_columns(pl.col("shelf").alias("label")))

        assert done.counts.written == 2
        assert store.read_metadata(group)["label"].to_list() == ["a", "b"]

    def test_job_may_be_restricted(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        store.materialize(processed, doubled, where=pl.col("sample_id") < 3)
        store.retire(video, pl.DataFrame({"sample_id": [1, 2]}))

        done = store.materialize(processed, doubled, where=pl.col("sample_id") == 2, retire_orphaned=True)

        assert (done.counts.new, done.counts.retired) == (0, 1)
        assert ids_of(store.read_metadata(processed, latest_only=True)) == [1]

    def test_function_gets_what_deps_carry(self, store: MetadataStore) -> None:
        dep = FeatureDep(key=VIDEO, columns=["length"])
        video, processed = declare(root(VIDEO), FeatureSpec(key=PROCESSED, deps=[dep]))
        store.write_metadata(video, _roots([1, 2]).with_columns(length=pl.col("sample_id") * 10))

        store.materialize(processed, lambda batch: batch.select("sample_id", half=pl.col("length") // 2))

        assert store.read_metadata(processed)["half"].to_list() == [5, 10]

    def test_commits_carry_tags(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.materialize(processed, doubled, tags={"run": "7"})

        assert store.history(processed)["tags"].to_list() == ['{"run":"7"}']

    def test_options_without_a_meaning_are_refused_before_anything_is_computed(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        called: list[int] = []

        def compute(batch: pl.DataFrame) -> pl.DataFrame:
            called.append(batch.height)
            return batch

        for options, error in (
            ({"batch_rows": 0}, ValueError),
            ({"on_error": "ignore"}, ValueError),
            ({"executor": 4}, TypeError),
            ({"retire_orphaned": "no"}, TypeError),
            ({"progress": None}, TypeError),
            ({"tags": {"": "x"}}, ValueError),
        ):
            wrong: dict[str, Any] = options
            with pytest.raises(error):
                store.materialize(processed, compute, **wrong)
        with pytest.raises(TypeError, match="compute"):
            store.materialize(processed, doubled(videos([1])))  # type: ignore[arg-type]
        assert not called

    def test_rows_are_written_to_the_first_store_of_a_chain(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        prod = make_store("prod")
        prod.write_metadata(video, videos([1, 2]))
        dev = make_store("dev", [prod])

        assert dev.materialize(processed, doubled).counts.written == 2
        assert (dev.has_feature(processed), prod.has_feature(processed)) == (True, False)

    def test_orphaned_samples_of_a_fallback_store_are_not_retired(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        prod = make_store("prod")
        prod.write_metadata(video, videos([1, 2]))
        prod.materialize(processed, doubled)
        prod.retire(video, pl.DataFrame({"sample_id": [2]}))

        with pytest.raises(FeatureNotFoundError, match="fallback store"):
            make_store("dev", [prod]).materialize(processed, doubled, retire_orphaned=True)

    def test_a_job_hides_no_rows_of_a_fallback_store(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        prod = make_store("prod")
        prod.write_metadata(video, videos([1, 2]))
        prod.materialize(processed, doubled)
        dev = make_store("dev", [prod])
        assert dev.materialize(processed, doubled).counts.written == 0
        prod.write_metadata(video, videos([3]))

        with pytest.raises(FeatureNotFoundError, match="would hide 2 others"):
            dev.materialize(processed, doubled)
        assert not dev.has_feature(processed)
        assert dev.materialize(processed, doubled, stale_if=pl.lit(value=True)).counts.written == 3
        assert ids_of(dev.read_metadata(processed)) == [1, 2, 3]
        prod.write_metadata(video, videos([4]))
        assert dev.materialize(processed, doubled).counts.written == 1

    def test_a_job_hides_no_rows_of_parents_of_a_fallback_store(self, make_store: MakeStore) -> None:
        video, frame = _expanded()

        def cut(batch: pl.DataFrame) -> pl.DataFrame:
            return batch.join(pl.DataFrame({"number": [1, 2]}), how="cross")

        prod = make_store("prod")
        prod.write_metadata(video, _roots([1]))
        prod.materialize(frame, cut)
        dev = make_store("dev", [prod])
        prod.write_metadata(video, _roots([2]))

        with pytest.raises(FeatureNotFoundError, match="would hide 2 others"):
            dev.materialize(frame, cut)
        assert dev.materialize(frame, cut, stale_if=pl.lit(value=True)).counts.written == 4


def _roots(ids: list[int], *, take: str = "") -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": f"v{sample}{take}"} for sample in ids]})


def _expanded() -> list[type]:
    dep = FeatureDep(key=VIDEO, relation="expansion")
    return list(declare(root(VIDEO), FeatureSpec(key=_FRAME, id_columns=["sample_id", "number"], deps=[dep])))


def _failing(bad: set[int]) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return a function that raises for batches with some samples."""

    def compute(batch: pl.DataFrame) -> pl.DataFrame:
        for sample in ids_of(batch):
            if sample in bad:
                raise KeyError(f"no {sample}")
        return doubled(batch)

    return compute
