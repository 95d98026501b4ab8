"""Tests of a store: rows that workers prepare are seen together, once, and as of their commit, or not at all."""

import pickle
import random
from collections.abc import Iterable
from datetime import datetime

import polars as pl
import pytest

from metaxy_fs.errors import (
    CorruptObjectError,
    MetadataSchemaError,
    StorageAccessError,
    StorageError,
    WriteConflictError,
)
from metaxy_fs.metadata_store import MetadataStore, Receipt
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    StoreCase,
    ids_of,
    pipeline,
    samples,
    videos,
)
from metaxy_fs.testing.store_content import chain_of_four, filled, scans


class StorePrepared(StoreCase):
    """Tests of `prepare_write` and `commit_prepared`; a store that cannot says so."""

    @pytest.fixture
    def preparing(self, store: MetadataStore) -> MetadataStore:
        """Return an empty store, if it prepares writes."""
        if type(store).prepare_rows is Backend.prepare_rows:
            video, _ = pipeline()
            with pytest.raises(StorageError, match="cannot commit writes together"):
                store.prepare_write(video, videos([1]))
            pytest.skip("needs a store that prepares writes")
        return store

    def test_nobody_sees_prepared_rows_before_all_are_committed(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        receipts = [preparing.prepare_write(video, videos(ids).lazy()) for ids in ([1, 2], [3], [])]
        assert [receipt.rows for receipt in receipts] == [2, 1, 0]
        assert not preparing.has_feature(video)
        preparing.commit_prepared(video, receipts, tags={"run": "7"})
        assert sorted(ids_of(preparing.read_metadata(video))) == [1, 2, 3]
        history = preparing.history(video)
        assert history.select("rows", "tags").rows() == [(2, '{"run":"7"}'), (1, '{"run":"7"}'), (0, '{"run":"7"}')]
        assert history["time"].n_unique() == 1

    @pytest.mark.parametrize("seed", range(4))
    def test_of_a_sample_in_several_parts_the_later_one_counts(self, preparing: MetadataStore, seed: int) -> None:
        video, _ = pipeline()
        dice = random.Random(seed)  # noqa: S311  # nothing secret
        parts = [sorted(dice.sample(range(10), dice.randint(0, 5))) for _ in range(dice.randint(1, 5))]
        receipts = [preparing.prepare_write(video, videos(ids, take=f"-{n}")) for n, ids in enumerate(parts)]
        preparing.write_metadata(video, videos([4, 5], take="-between"))
        dice.shuffle(receipts)
        preparing.commit_prepared(video, receipts)
        preparing.write_metadata(video, videos([7], take="-last"))
        takes = {4: "-between", 5: "-between"}
        takes |= {sample: f"-{n}" for n, ids in enumerate(parts) for sample in ids} | {7: "-last"}
        latest = preparing.read_metadata(video, latest_only=True)
        found = {row[SAMPLE_ID]: row["data_version"]["frames"] for row in latest.iter_rows(named=True)}
        assert found == {sample: f"f{sample}{take}" for sample, take in takes.items()}
        assert preparing.read_metadata(video).height == sum(map(len, parts)) + 3

    def test_receipts_travel_as_bytes_and_as_text(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        receipts = [preparing.prepare_write(video, videos([n]), task_id=f"t{n}") for n in (1, 2)]
        sent = [pickle.loads(pickle.dumps(receipts[0])), Receipt.from_json(receipts[1].to_json())]  # noqa: S301  # our own
        assert sent == receipts
        preparing.commit_prepared(video, sent)
        assert ids_of(preparing.read_metadata(video)) == [1, 2]
        with pytest.raises(CorruptObjectError, match="receipt"):
            Receipt.from_json("{}")

    def test_a_task_that_ran_twice_counts_once(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        first, other = (preparing.prepare_write(video, videos([1], take=take), task_id="a") for take in ("-1", "-2"))
        preparing.commit_prepared(video, [other, first, first, preparing.prepare_write(video, videos([2]))])
        assert preparing.read_metadata(video)["data_version"].struct["frames"].to_list() == ["f1-1", "f2"]

    def test_a_driver_that_comes_again_does_nothing(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        receipts = [preparing.prepare_write(video, videos([n])) for n in (1, 2)]
        preparing.commit_prepared(video, receipts)
        preparing.write_metadata(video, videos([1], take="-later"))
        before = preparing.history(video)
        preparing.commit_prepared(video, receipts)
        preparing.commit_prepared(video, receipts[:1])
        assert preparing.history(video).equals(before)

    def test_receipts_that_come_late_are_another_commit(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        first, late = (preparing.prepare_write(video, videos([n])) for n in (1, 2))
        preparing.commit_prepared(video, [first])
        before = preparing.history(video)
        preparing.commit_prepared(video, [first, late])
        history = preparing.history(video)
        assert history.head(1).drop("compacted").equals(before.drop("compacted"))
        assert ids_of(preparing.read_metadata(video)) == [1, 2]

    def test_a_named_driver_whose_tasks_run_anew_does_nothing(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()

        def prepared(*ids: int) -> list[Receipt]:
            return [preparing.prepare_write(video, videos([n]), task_id=str(n)) for n in ids]

        preparing.commit_prepared(video, prepared(1, 2), write_id="job")
        preparing.commit_prepared(video, prepared(2, 1), write_id="job")
        assert preparing.history(video).height == 2
        for others in (prepared(1), prepared(1, 2, 3), prepared(1, 3)):
            with pytest.raises(WriteConflictError, match="other prepared rows"):
                preparing.commit_prepared(video, others, write_id="job")
        preparing.commit_prepared(video, prepared(1, 2), write_id="another job")
        assert ids_of(preparing.read_metadata(video)) == [1, 2, 1, 2]

    def test_no_moment_shows_a_part(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        preparing.write_metadata(video, videos([0]))
        receipts = [preparing.prepare_write(video, videos([1])), preparing.prepare_write(video, videos([2]))]
        preparing.write_metadata(video, videos([3]))
        between: datetime = preparing.history(video)["time"].to_list()[-1]
        preparing.commit_prepared(video, receipts)
        committed: datetime = preparing.history(video)["time"].to_list()[-1]
        assert ids_of(preparing.at(between).read_metadata(video)) == [0, 3]
        assert ids_of(preparing.at(committed).read_metadata(video)) == [0, 3, 1, 2]
        with pytest.raises(StorageAccessError, match="read-only"):
            preparing.at(between).prepare_write(video, videos([1]))
        with pytest.raises(StorageAccessError, match="read-only"):
            preparing.at(between).commit_prepared(video, receipts)

    def test_receipts_of_another_declaration_are_refused(self, preparing: MetadataStore) -> None:
        video, processed = pipeline()
        bumped, _ = pipeline(frames=2)
        receipt = preparing.prepare_write(video, videos([1]))
        for feature in (processed, bumped):
            with pytest.raises(MetadataSchemaError, match="Nothing was committed"):
                preparing.commit_prepared(feature, [receipt])
        with pytest.raises(TypeError, match="prepare_write returns"):
            preparing.commit_prepared(video, [receipt.to_json()])  # type: ignore[list-item]
        preparing.commit_prepared(video, [])
        assert not preparing.has_feature(video)

    def test_types_are_agreed_on_when_rows_are_prepared(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        receipt = preparing.prepare_write(video, videos([1], length=[1]))
        for refused in (videos([2], length=["long"]), videos(["b"])):
            with pytest.raises(MetadataSchemaError):
                preparing.prepare_write(video, refused)
            with pytest.raises(MetadataSchemaError):
                preparing.write_metadata(video, refused)
        preparing.commit_prepared(video, [receipt, preparing.prepare_write(video, videos([2], length=[0.5]))])
        assert preparing.read_metadata(video)["length"].to_list() == [1.0, 0.5]

    def test_columns_may_differ_from_part_to_part(self, preparing: MetadataStore) -> None:
        video, _ = pipeline()
        parts = [videos([1], note=["a"]), videos([2], length=[2]), videos([3])]
        preparing.commit_prepared(video, [preparing.prepare_write(video, part) for part in parts])
        rows = preparing.read_metadata(video).sort(SAMPLE_ID)
        assert rows.select("note", "length").rows() == [("a", None), (None, 2), (None, None)]

    def test_increments_take_prepared_rows_like_others(self, preparing: MetadataStore) -> None:
        video, processed = pipeline()
        preparing.commit_prepared(video, [preparing.prepare_write(video, videos(ids)) for ids in ([1, 2], [3])])
        preparing.retire(video, samples([3]))
        new = preparing.resolve_update(processed).new
        assert sorted(ids_of(new)) == [1, 2]
        preparing.commit_prepared(processed, [preparing.prepare_write(processed, part) for part in _halves(new)])
        assert preparing.resolve_update(processed).counts.new == 0

    def test_versions_of_content_are_prepared_like_others(self, preparing: MetadataStore) -> None:
        scan, mask, *_ = chain_of_four()
        preparing.write_metadata(scan, scans(a="s1", b="s1"))
        rows = filled(preparing.resolve_update(mask).pending, "mask")
        with pytest.raises(MetadataSchemaError, match="provenance"):
            preparing.prepare_write(mask, rows.drop("provenance"))
        preparing.commit_prepared(mask, [preparing.prepare_write(mask, part) for part in _halves(rows)])
        assert not preparing.resolve_update(mask)


def _halves(rows: pl.DataFrame) -> Iterable[pl.DataFrame]:
    return rows.head(1), rows.slice(1)
