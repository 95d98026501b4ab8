"""A plan counts what happens when the whole graph is then run, whatever the graph, the chain and the history."""

from dataclasses import replace

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from metaxy_fs import FeatureGraph, FeatureKey, InMemoryMetadataStore
from metaxy_fs.errors import DependencyError, MetadataSchemaError
from tests.support.examples import examples
from tests.versioning.lineage_strategies import histories

COUNTS = ["new", "stale", "waiting", "orphaned"]


@st.composite
def chains(draw, history):
    """Return a store with a history, a part of which lies in a fallback store."""
    first = draw(st.integers(0, len(history.commits)))
    far = InMemoryMetadataStore()
    near = InMemoryMetadataStore(fallback_stores=[far], fallback_mode=draw(st.sampled_from(["feature", "sample"])))
    with history.model.graph.use():
        for place, (feature, frame) in enumerate(history.commits):
            (far if place < first else near).write_metadata(FeatureKey(feature), frame)
    return near


@st.composite
def changed_graphs(draw, graph):
    """Return the graph after a change of the code of some containers."""
    specs = []
    for spec in graph.specs.values():
        containers = [
            msgspec.structs.replace(c, code_version=f"{c.code_version}'")
            if spec.deps and draw(st.integers(0, 4)) == 0
            else c
            for c in spec.containers
        ]
        specs.append(msgspec.structs.replace(spec, containers=containers))
    return FeatureGraph.from_specs(specs)


def run(store, spec, increment, *, keeps_outputs, retire_orphaned):
    """Commit what a job would: of stale samples with the columns that they have, of new ones without any.

    Versions of content are those that there were, if outputs are kept and the container had one, else others. A first
    job without samples commits that there are none.
    """
    ids = list(spec.id_columns)
    if retire_orphaned:
        store.retire(spec.key, increment.orphaned)
    if not increment and not store.has_feature(spec.key, check_fallback=True):
        names = [*spec.id_columns, *(name for name in ("data_version", "provenance") if name in increment.new.columns)]
        unknown = {name: None for name in ids if name not in increment.new.columns}
        store.write_metadata(spec.key, increment.new.with_columns(**unknown).select(names))
    names = ["data_version", "provenance"] if "provenance" in increment.new.columns else ["data_version"]
    increment = replace(increment, new=filled(increment.new), stale=filled(increment.stale, keeps=keeps_outputs))
    frames = []
    if increment.stale.height:
        units = [name for name in ids if name in increment.stale.columns]
        stored = store.read_metadata(spec.key, latest_only=True, versions="all").drop(names, strict=False)
        versions = increment.stale.select(*units, *names)
        versions = versions.cast({name: stored.schema[name] for name in units})
        frames.append(stored.join(versions, on=units))
    if set(ids) <= set(increment.new.columns):
        frames.append(increment.new)
    if frames and any(frame.height for frame in frames):
        store.write_metadata(spec.key, pl.concat(frames, how="diagonal_relaxed"))


def filled(pending, *, keeps=False):
    """Return pending samples with the versions of their content."""
    if "provenance" not in pending.columns:
        return pending
    stored = pending.schema.get("stored_data_version")
    kept = {field.name for field in stored.fields} if keeps else set()

    def version(name):
        other = pl.col("provenance").struct.field(name)
        known = [pl.col("stored_data_version").struct.field(name)] if name in kept else []
        return pl.coalesce(pl.col("data_version").struct.field(name), *known, other).alias(name)

    names = [field.name for field in pending.schema["data_version"].fields]
    return pending.with_columns(pl.struct(map(version, names)).alias("data_version"))


@given(st.data())
@examples(25, suppress_health_check=list(HealthCheck))
def test_counts_are_those_of_the_run(data):
    history = data.draw(histories(max_depth=4))
    store = data.draw(chains(history))
    graph = data.draw(changed_graphs(history.model.graph))
    keeps_outputs = data.draw(st.booleans())
    # Where the rows are in a fallback store that one commit would hide, nobody can retire any.
    retire_orphaned = data.draw(st.booleans()) and store.fallback_mode == "sample"
    with graph.use():
        try:
            found = store.plan(retire_orphaned=retire_orphaned)
        except MetadataSchemaError:
            return  # rows that are in no group; an increment says so as well
        unknown = set()
        for row in found.features.iter_rows(named=True):
            spec = next(spec for key, spec in graph.specs.items() if str(key) == row["feature"])
            if spec.is_root:
                continue
            if row["unknown"] or row["missing"] or any(dep.key in unknown for dep in spec.deps):
                unknown.add(spec.key)
                if row["missing"] and not any(dep.key in unknown for dep in spec.deps):
                    with pytest.raises(DependencyError):
                        store.resolve_update(spec.key)
                continue
            increment = store.resolve_update(spec.key)
            counts = increment.counts._asdict()
            if keeps_outputs and not found.is_exact:
                assert counts["stale"] <= row["stale"]
                counts["stale"] = row["stale"]
            assert {name: row[name] for name in COUNTS} == {name: counts[name] for name in COUNTS}, spec.key
            pending = found.pending(spec.key)
            assert pending.height == counts["new"] + counts["stale"]
            causes = found.causes.filter(pl.col("feature") == row["feature"])
            assert causes["samples"].sum() == counts["stale"]
            assert causes["cause"].null_count() == 0
            run(store, spec, increment, keeps_outputs=keeps_outputs, retire_orphaned=retire_orphaned)
