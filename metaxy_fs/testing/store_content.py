"""Tests of a store: the writer gives versions of content, and where these are equal nothing downstream has changed.

The features are a chain: scans, masks that are made from them, meshes made from the masks, and a report at its end.
"""

from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import ContainerKey, ContainerSpec, Feature, FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    MakeStore,
    StoreCase,
    container,
    declare,
    derived,
    ids_of,
    root,
    samples,
    sha256,
)

SCAN, MASK, MESH, REPORT = (FeatureKey([name]) for name in ("scan", "mask", "mesh", "report"))


def by_content(name: str = "default", version: int = 1) -> ContainerSpec:
    """Return a container that is versioned by content."""
    return ContainerSpec(key=ContainerKey([name]), code_version=version, versioned_by="content")


def chain_of_four(*, mask: int = 1) -> list[type[Feature]]:
    """Return the features, of which the masks and the meshes are versioned by content."""
    return declare(
        root(SCAN),
        derived(MASK, [SCAN], by_content(version=mask)),
        derived(MESH, [MASK], by_content()),
        derived(REPORT, [MESH]),
    )


def scans(**versions: str) -> pl.DataFrame:
    """Return rows of scans by name."""
    return pl.DataFrame(
        {SAMPLE_ID: list(versions), "data_version": [{"default": version} for version in versions.values()]}
    )


def filled(pending: pl.DataFrame, output: str | None, name: str = "default") -> pl.DataFrame:
    """Return pending samples with one version of their output for all."""
    version = pl.lit(output, dtype=pl.String).alias(name)
    return pending.with_columns(pl.col("data_version").struct.with_fields(version))


def make(store: MetadataStore, feature: type[Feature], output: str) -> list[Any]:
    """Compute what is pending of a feature that is versioned by content, and return its ids."""
    pending = store.resolve_update(feature).pending
    store.write_metadata(feature, filled(pending, output))
    return ids_of(pending)


def make_all(store: MetadataStore, features: list[type[Feature]]) -> None:
    """Write two scans, and all that is made from them."""
    scan, mask, mesh, report = features
    store.write_metadata(scan, scans(a="a1", b="b1"))
    make(store, mask, "mask")
    make(store, mesh, "mesh")
    store.calculate_and_write_data_versions(report, samples(["a", "b"]))


def masks_and_areas() -> list[type[Feature]]:
    """Return scans, and a feature of which one container alone is versioned by content."""
    return declare(root(SCAN), derived(MASK, [SCAN], by_content("mask"), container("area")))


class StoreContent(StoreCase):
    """Tests of `ContainerSpec(versioned_by="content")`."""

    # What the writer gets and gives.

    def test_pending_samples_have_their_provenance_and_null_for_the_writer(self, store: MetadataStore) -> None:
        scan, mask = masks_and_areas()
        store.write_metadata(scan, scans(a="a1"))
        pending = store.resolve_update(mask).pending
        mask_of, area_of = sha256("mask|1|scan/default|a1"), sha256("area|1|scan/default|a1")
        assert pending.to_dicts() == [
            {
                SAMPLE_ID: "a",
                "data_version": {"mask": None, "area": area_of},
                "provenance": {"mask": mask_of, "area": area_of},
            }
        ]
        strings = pl.Struct({"mask": pl.String, "area": pl.String})
        assert (pending.schema["data_version"], pending.schema["provenance"]) == (strings, strings)

    def test_lazy_increment_is_the_same(self, store: MetadataStore) -> None:
        scan, mask, *_ = chain_of_four()
        store.write_metadata(scan, scans(a="a1", b="b1"))
        lazy = store.resolve_update(mask, lazy=True)
        assert lazy.pending.collect().equals(store.resolve_update(mask).pending)
        store.write_metadata(mask, filled(lazy.pending.collect(), "mask").lazy())
        assert not store.resolve_update(mask, lazy=True)

    def test_a_write_without_the_version_of_the_output_is_refused(self, store: MetadataStore) -> None:
        scan, mask = masks_and_areas()
        store.write_metadata(scan, scans(a="a1", b="b1"))
        pending = store.resolve_update(mask).pending
        refused = {
            r"'mask'.*versioned by content.*2 of 2 rows have none.*with_fields": pending,
            r"'data_version' column.*\['mask'\]": pending.drop("data_version"),
            r"'provenance' column.*resolve_update": filled(pending, "m", "mask").drop("provenance"),
            r"2 of 2.*hold a '\|'": filled(pending, "a|b", "mask"),
            r"'area'.* is not versioned by content, but in 2 of 2 rows": filled(
                filled(pending, "m", "mask"), "m", "area"
            ),
            r"2 of 2 versions in 'provenance' .*null, empty": filled(pending, "m", "mask").with_columns(
                pl.col("provenance").struct.with_fields(pl.lit("").alias("mask"))
            ),
        }
        for message, frame in refused.items():
            with pytest.raises(MetadataSchemaError, match=message):
                store.write_metadata(mask, frame)
            with store.buffered(mask) as buffer, pytest.raises(MetadataSchemaError, match=message):
                buffer.write(frame)
        assert not store.has_feature(mask)

    def test_the_advice_of_the_refusal_works(self, store: MetadataStore) -> None:
        scan, mask, *_ = chain_of_four()
        store.write_metadata(scan, scans(a="a1"))
        df = store.resolve_update(mask).pending.with_columns(checksum=pl.lit("c"))
        with pytest.raises(MetadataSchemaError) as refused:
            store.write_metadata(mask, df)
        advice = str(refused.value).rpartition("`checksum`: ")[2].removesuffix(".")
        store.write_metadata(mask, eval(advice, {"df": df, "pl": pl}))  # noqa: S307  # the library's own words
        assert store.read_metadata(mask)["data_version"].to_list() == [{"default": "c"}]

    def test_containers_may_come_in_any_order(self, store: MetadataStore) -> None:
        scan, mask = masks_and_areas()
        store.write_metadata(scan, scans(a="a1"))
        rows = filled(store.resolve_update(mask).pending, "m", "mask")
        turned = [pl.struct(pl.col(name).struct.field("area", "mask")).alias(name) for name in rows.columns[1:]]
        store.write_metadata(mask, rows.with_columns(turned))
        assert store.read_metadata(mask).equals(rows)

    def test_other_features_have_no_provenance(self, store: MetadataStore) -> None:
        scan, _, _, report = chain = chain_of_four()
        make_all(store, chain)
        assert "provenance" not in store.read_metadata(report).columns
        with pytest.raises(MetadataSchemaError, match=r"'provenance'.*rename it"):
            store.write_metadata(scan, scans(c="c1").with_columns(provenance=pl.lit("a field trip")))

    def test_versions_are_calculated_as_far_as_they_can(self, store: MetadataStore) -> None:
        scan, mask = masks_and_areas()
        store.write_metadata(scan, scans(a="a1", b="b1"))
        wanted = samples(["b", "a"], note=["x", "y"])
        found = store.calculate_data_versions(mask, wanted)
        assert found.columns == [SAMPLE_ID, "note", "data_version", "provenance"]
        assert found["data_version"].struct.field("mask").to_list() == [None, None]
        given = wanted.with_columns(pl.struct(pl.lit("m").alias("mask")).alias("data_version"))
        again = store.calculate_data_versions(mask, given)
        assert again.equals(filled(found, "m", "mask"))
        assert store.calculate_data_versions(mask, given.lazy()).collect().equals(again.sort(SAMPLE_ID))

    def test_calculated_versions_are_written_with_those_that_the_writer_gives(self, store: MetadataStore) -> None:
        scan, mask = masks_and_areas()
        store.write_metadata(scan, scans(a="a1", b="b1"))
        wanted = samples(["a", "b"])
        with pytest.raises(MetadataSchemaError, match=r"\['mask'\].*cannot be calculated.*Give them in 'data_version'"):
            store.calculate_and_write_data_versions(mask, wanted)
        for wrong in (pl.lit("m"), pl.struct(pl.lit("m").alias("area")), pl.struct(pl.lit("").alias("mask"))):
            with pytest.raises(MetadataSchemaError, match="versioned by content"):
                store.calculate_and_write_data_versions(mask, wanted.with_columns(wrong.alias("data_version")))
        given = wanted.with_columns(pl.struct(pl.lit("m").alias("mask")).alias("data_version"))
        written = store.calculate_and_write_data_versions(mask, given.head(1))
        lazily = store.calculate_and_write_data_versions(mask, given.tail(1).lazy()).collect()
        assert store.read_metadata(mask).equals(pl.concat([written, lazily]))
        assert not store.resolve_update(mask)

    def test_a_job_gives_the_versions_of_its_output(self, store: MetadataStore) -> None:
        scan, mask = masks_and_areas()
        store.write_metadata(scan, scans(a="a1", b="b1"))

        def compute(batch: pl.DataFrame) -> pl.DataFrame:
            checksums = pl.struct(pl.format("mask of {}", SAMPLE_ID).alias("mask"))
            return batch.select(SAMPLE_ID, checksums.alias("data_version")).reverse()

        done = store.materialize(mask, compute, progress=False)
        assert (done.counts.written, done.counts.failed) == (2, 0)
        versions = store.read_metadata(mask)["data_version"].struct.field("mask").to_list()
        assert versions == ["mask of a", "mask of b"]
        assert not store.resolve_update(mask)
        store.write_metadata(scan, scans(a="a2"))
        with pytest.raises(MetadataSchemaError, match="1 of 1 rows have none"):
            store.materialize(mask, lambda batch: batch.select(SAMPLE_ID), progress=False)

    @pytest.mark.parametrize("output", [7, 0.5, [b"x"]], ids=str)
    def test_a_job_whose_versions_are_no_strings_is_refused(self, store: MetadataStore, output: object) -> None:
        scan, mask = masks_and_areas()
        store.write_metadata(scan, scans(a="a1"))
        given = pl.struct(pl.lit(output).alias("mask")).alias("data_version")
        with pytest.raises(MetadataSchemaError, match="versions are strings"):
            store.materialize(mask, lambda batch: batch.select(SAMPLE_ID, given), progress=False)

    # What is to be done.

    def test_equal_output_ends_it_at_the_first_level(self, store: MetadataStore) -> None:
        scan, mask, mesh, report = chain = chain_of_four()
        make_all(store, chain)
        store.write_metadata(scan, scans(a="a2", b="b1"))
        stale = store.resolve_update(mask).stale
        assert (ids_of(stale), stale["changed_containers"].to_list()) == (["a"], [["default"]])
        assert stale["stored_data_version"].to_list() == [{"default": "mask"}]
        assert make(store, mask, "mask") == ["a"]
        assert not any(store.resolve_update(feature) for feature in (mask, mesh, report))

    def test_equal_output_ends_it_at_the_second_level(self, store: MetadataStore) -> None:
        scan, mask, mesh, report = chain = chain_of_four()
        make_all(store, chain)
        store.write_metadata(scan, scans(a="a2"))
        make(store, mask, "another mask")
        assert make(store, mesh, "mesh") == ["a"]
        assert not any(store.resolve_update(feature) for feature in (mask, mesh, report))

    def test_other_output_goes_through_all_levels(self, store: MetadataStore) -> None:
        scan, mask, mesh, report = chain = chain_of_four()
        make_all(store, chain)
        store.write_metadata(scan, scans(a="a2"))
        make(store, mask, "another mask")
        make(store, mesh, "another mesh")
        pending = store.resolve_update(report).pending
        assert pending.to_dicts() == [
            {SAMPLE_ID: "a", "data_version": {"default": sha256("default|1|mesh/default|another mesh")}}
        ]

    def test_output_that_comes_back_is_what_it_was(self, store: MetadataStore) -> None:
        scan, mask, mesh, report = chain = chain_of_four()
        make_all(store, chain)
        for version, output in (("a2", "another mask"), ("a1", "mask")):
            store.write_metadata(scan, scans(a=version))
            make(store, mask, output)
        assert not store.resolve_update(mesh)
        assert not store.resolve_update(report)

    def test_a_change_of_code_makes_all_stale_whatever_comes_out(self, store: MetadataStore) -> None:
        make_all(store, chain_of_four())
        _, mask, mesh, _ = chain_of_four(mask=2)
        assert make(store, mask, "mask") == ["a", "b"]
        stale = store.resolve_update(mesh).stale
        assert (ids_of(stale), stale["stored_data_version"].to_list()) == (["a", "b"], [{"default": "mesh"}] * 2)

    def test_a_container_that_becomes_versioned_by_content_has_changed(self, store: MetadataStore) -> None:
        scan, before = declare(root(SCAN), derived(MASK, [SCAN], container("mask"), container("area")))
        store.write_metadata(scan, scans(a="a1"))
        store.calculate_and_write_data_versions(before, samples(["a"]))
        _, mask = masks_and_areas()
        stale = store.resolve_update(mask).stale
        assert stale["changed_containers"].to_list() == [["mask"]]
        store.write_metadata(mask, filled(store.resolve_update(mask).pending, "m", "mask"))
        assert not store.resolve_update(mask)
        assert not store.resolve_update(before)
        _, after = declare(root(SCAN), derived(MASK, [SCAN], by_content("mask"), container("area", 2)))
        assert store.resolve_update(after).stale["changed_containers"].to_list() == [["area"]]

    def test_rows_without_provenance_are_compared_by_their_versions(self, store: MetadataStore) -> None:
        def masks(mask: ContainerSpec, volume: int) -> list[type[Feature]]:
            return declare(root(SCAN), derived(MASK, [SCAN], mask, container("area"), container("volume", volume)))

        scan, calculated = masks(container("mask"), 1)
        store.write_metadata(scan, scans(a="a1", b="b1"))
        store.calculate_and_write_data_versions(calculated, samples(["a"]))
        _, given = masks(by_content("mask"), 1)
        store.write_metadata(given, filled(store.resolve_update(given).new, "m", "mask"))
        _, present = masks(by_content("mask"), 2)
        stale = store.resolve_update(present).stale
        assert dict(zip(ids_of(stale), stale["changed_containers"].to_list(), strict=True)) == {
            "a": ["mask", "volume"],
            "b": ["volume"],
        }

    def test_rows_of_other_containers_are_compared_beside_the_present_ones(self, store: MetadataStore) -> None:
        scan, before = declare(root(SCAN), derived(MASK, [SCAN], by_content("mask"), container("old")))
        store.write_metadata(scan, scans(a="a1", b="b1"))
        store.write_metadata(before, filled(store.resolve_update(before).pending, "m", "mask"))
        _, mask = masks_and_areas()
        store.write_metadata(mask, filled(store.resolve_update(mask).pending.head(1), "m", "mask"))
        stale = store.resolve_update(mask).stale
        assert (ids_of(stale), stale["changed_containers"].to_list()) == (["b"], [["area", "old"]])

    def test_samples_of_one_parent_have_versions_of_their_own(self, store: MetadataStore) -> None:
        spec = FeatureSpec(
            key=MASK,
            deps=[FeatureDep(key=SCAN, relation="expansion")],
            containers=[by_content()],
            id_columns=[SAMPLE_ID, "slice"],
        )
        scan, mask = declare(root(SCAN), spec)
        store.write_metadata(scan, scans(a="a1", b="b1"))
        parents = store.resolve_update(mask).pending
        assert parents.columns == [SAMPLE_ID, "data_version", "provenance"]
        slices = parents.join(pl.DataFrame({"slice": [1, 2]}), how="cross")
        versions = pl.struct(pl.format("{} of {}", "slice", SAMPLE_ID).alias("default"))
        store.write_metadata(mask, slices.with_columns(versions.alias("data_version")))
        assert not store.resolve_update(mask)
        store.write_metadata(scan, scans(b="b2"))
        assert ids_of(store.resolve_update(mask).stale) == ["b"]

    def test_a_plan_takes_each_output_for_another_one(self, store: MetadataStore) -> None:
        scan, mask, mesh, report = chain = chain_of_four()
        make_all(store, chain)
        assert store.plan(report).is_exact
        store.write_metadata(scan, scans(a="a2"))
        plan = store.plan(report)
        assert plan.features["stale"].to_list() == [0, 1, 1, 1]
        assert not plan.is_exact
        assert store.plan(mask).is_exact
        assert plan.pending(mesh).rows() == [("a", "stale", "scan/default", True)]

    # Where rows are kept, and looked at.

    def test_a_sample_is_done_where_a_farther_store_has_made_it(self, make_store: MakeStore) -> None:
        production = make_store("production")
        scan, mask, *_ = chain = chain_of_four()
        make_all(production, chain)
        near = make_store("near", [production])
        assert not near.resolve_update(mask)
        near.write_metadata(scan, scans(a="a1", b="b2"))
        assert make(near, mask, "mask") == ["b"]

    def test_moments_and_restored_rows_have_their_provenance(self, store: MetadataStore) -> None:
        scan, mask, *_ = chain = chain_of_four()
        make_all(store, chain)
        before = store.read_metadata(mask, latest_only=True)
        store.create_snapshot("before")
        store.write_metadata(scan, scans(a="a2"))
        make(store, mask, "another mask")
        store.retire(mask, samples(["b"]))
        assert store.at("before").read_metadata(mask, latest_only=True).equals(before)
        store.restore(mask, at="before")
        assert store.read_metadata(mask, latest_only=True).sort(SAMPLE_ID).equals(before)
        assert ids_of(store.resolve_update(mask).stale) == ["a"]

    def test_an_explanation_tells_output_from_provenance(self, store: MetadataStore) -> None:
        scan, mask, mesh, _ = chain = chain_of_four()
        make_all(store, chain)
        store.write_metadata(scan, scans(a="a2"))
        explanation = store.explain(mesh, "a")
        [node] = [node for ref, node in explanation.nodes.items() if ref.feature == MASK]
        assert (explanation.status, str(node.difference), node.content) == ("stale", "upstream changed", "mask")
        assert (node.expected, node.stored) == tuple(sha256(f"default|1|scan/default|a{n}") for n in (2, 1))
        make(store, mask, "another mask")
        explanation = store.explain(mesh, "a")
        [node] = [node for ref, node in explanation.nodes.items() if ref.feature == MASK]
        assert (explanation.status, node.used, node.content) == ("stale", "mask", "another mask")
        assert [str(cause) for cause in explanation.causes] == ["scan/default"]
        assert "content another mask" in explanation.to_text()

    def test_an_explanation_names_an_output_as_used_only_where_it_was_replaced(self, store: MetadataStore) -> None:
        make_all(store, chain_of_four())
        _, mask, mesh, _ = chain_of_four(mask=2)
        explanation = store.explain(mesh, "a")
        [node] = [node for ref, node in explanation.nodes.items() if ref.feature == mask.spec.key]
        assert [str(cause) for cause in explanation.causes] == ["mask/default"]
        assert (node.content, node.used) == ("mask", None)
