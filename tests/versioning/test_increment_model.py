"""Do increments follow from any history of writes and changes of the declaration as a model of dicts says?

Three features: `a` is a root, `d` is made from `a`, `e` from both. The model keeps the latest row of each sample, in
each partition and over all of them, and compares by hand.
"""

import uuid
from collections import defaultdict

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from metaxy_fs.errors import DependencyError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
from tests.versioning.reference import definition_versions, feature_graph, row_version

A, D, E = ("a",), ("d",), ("e",)
ids = st.integers(0, 4)
some_ids = st.lists(ids, unique=True, max_size=5)
texts = st.sampled_from(["u", "v"])


class Increments(RuleBasedStateMachine):
    """Writes to a store and to a model, and compares what each says is to be done."""

    def new_store(self):
        return InMemoryMetadataStore()

    @initialize()
    def declare(self):
        self.store = self.new_store()
        self.codes = {A: {"x": 1, "y": 1}, D: {"x": 1}, E: {"x": 1}}
        # The latest row of each sample: by feature and version of the definition, and by feature alone.
        self.current = defaultdict(dict)
        self.latest = {feature: {} for feature in self.codes}
        self.redeclare()

    # What changes.

    @rule(samples=st.dictionaries(ids, st.tuples(texts, texts, texts), max_size=4))
    def write_root(self, samples):
        self.write(A, {i: dict(zip(self.codes[A], row, strict=False)) for i, row in samples.items()})

    @rule(feature=st.sampled_from([A, D, E]), code=st.integers(1, 3), data=st.data())
    def set_code(self, feature, code, data):
        self.codes[feature][data.draw(st.sampled_from(sorted(self.codes[feature])))] = code
        self.redeclare()

    @rule(feature=st.sampled_from([A, D, E]), container=st.sampled_from("xyz"))
    def add_container(self, feature, container):
        self.codes[feature].setdefault(container, 1)
        self.redeclare()

    @rule(feature=st.sampled_from([A, D, E]), data=st.data())
    def remove_container(self, feature, data):
        if len(self.codes[feature]) > 1:
            del self.codes[feature][data.draw(st.sampled_from(sorted(self.codes[feature])))]
            self.redeclare()

    @rule(feature=st.sampled_from([D, E]), samples=some_ids)
    def compute_some(self, feature, samples):
        if self.is_computable(feature, samples):
            frame = pl.DataFrame({"sample_id": samples}, schema={"sample_id": pl.Int64})
            with self.graph.use():
                self.store.calculate_and_write_data_versions(FeatureKey(feature), frame)
            self.remember(feature, self.expected(feature, samples))

    @rule(feature=st.sampled_from([D, E]))
    def compute_all(self, feature):
        samples = self.all_samples(feature)
        if not self.is_computable(feature, samples):
            return
        with self.graph.use():
            self.store.write_metadata(FeatureKey(feature), self.store.resolve_update(FeatureKey(feature)).pending)
            assert not self.store.resolve_update(FeatureKey(feature))
        new, stale, _ = self.difference(feature, self.expected(feature, samples))
        self.remember(feature, {i: self.expected(feature, [i])[i] for i in [*new, *stale]})
        self.check_holds(feature, self.expected(feature, samples))

    @rule(samples=st.dictionaries(ids, st.tuples(texts, texts, texts), max_size=4))
    def update_root(self, samples):
        given = {i: dict(zip(self.codes[A], row, strict=False)) for i, row in samples.items()}
        frame = self.frame(A, given)
        with self.graph.use():
            pending = self.store.resolve_update(FeatureKey(A), samples=frame).pending
            self.store.write_metadata(FeatureKey(A), pending)
            assert not self.store.resolve_update(FeatureKey(A), samples=frame)
        self.remember(A, {i: given[i] for i in pending["sample_id"]})
        self.check_holds(A, given)

    # What is compared.

    @rule(samples=st.dictionaries(ids, st.tuples(texts, texts, texts), max_size=4))
    def resolve_root(self, samples):
        given = {i: dict(zip(self.codes[A], row, strict=False)) for i, row in samples.items()}
        self.compare(A, given, samples=self.frame(A, given))

    @rule(feature=st.sampled_from([D, E]), samples=some_ids)
    def resolve_some(self, feature, samples):
        frame = pl.DataFrame({"sample_id": samples}, schema={"sample_id": pl.Int64})
        if self.is_computable(feature, samples):
            self.compare(feature, self.expected(feature, samples), samples=frame)
        else:
            with self.graph.use(), pytest.raises(DependencyError):
                self.store.resolve_update(FeatureKey(feature), samples=frame)

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def increments_agree(self):
        for feature in (D, E):
            samples = self.all_samples(feature)
            if self.is_computable(feature, samples):
                self.compare(feature, self.expected(feature, samples))
            else:
                with self.graph.use(), pytest.raises(DependencyError):
                    self.store.resolve_update(FeatureKey(feature))

    def compare(self, feature, expected, **options):
        with self.graph.use():
            increment = self.store.resolve_update(FeatureKey(feature), **options)
        new, stale, orphaned = self.difference(feature, expected)
        assert {row["sample_id"]: row["data_version"] for row in increment.new.to_dicts()} == new
        assert {row["sample_id"]: row["data_version"] for row in increment.stale.to_dicts()} == {
            i: expected[i] for i in stale
        }
        assert {
            row["sample_id"]: self.in_order(feature, row["changed_containers"]) for row in increment.stale.to_dicts()
        } == stale
        assert set(increment.orphaned["sample_id"]) == orphaned
        assert increment.new.height + increment.stale.height + increment.orphaned.height == len(new) + len(stale) + len(
            orphaned
        )
        if options:
            rank = list(expected)
            assert increment.new["sample_id"].to_list() == sorted(new, key=rank.index)
            assert increment.stale["sample_id"].to_list() == sorted(stale, key=rank.index)

    def check_holds(self, feature, expected):
        """What was brought up to date is in the current partition, each sample with its version."""
        if self.is_written(feature):
            with self.graph.use():
                rows = self.store.read_metadata(FeatureKey(feature), latest_only=True)
            found = dict(zip(rows["sample_id"], rows["data_version"], strict=True))
            assert {i: found.get(i) for i in expected} == expected
            assert found == self.current[feature, self.definitions[feature]["version"]]

    # The model.

    def redeclare(self):
        below_a = [(A, name) for name in self.codes[A]]
        below_d = [(D, name) for name in self.codes[D]]
        self.containers = {
            A: {name: (code, []) for name, code in self.codes[A].items()},
            D: {name: (code, below_a) for name, code in self.codes[D].items()},
            E: {name: (code, below_a + below_d) for name, code in self.codes[E].items()},
        }
        self.graph = feature_graph(self.containers)
        self.definitions = definition_versions(self.containers)

    def rows(self, feature):
        return self.current[feature, self.definitions[feature]["version"]]

    def is_written(self, feature):
        return (feature, self.definitions[feature]["version"]) in self.current

    def upstream(self, feature):
        return {D: [A], E: [A, D]}[feature]

    def all_samples(self, feature):
        return sorted({i for above in self.upstream(feature) if self.is_written(above) for i in self.rows(above)})

    def is_computable(self, feature, samples):
        return all(self.is_written(above) and set(samples) <= set(self.rows(above)) for above in self.upstream(feature))

    def expected(self, feature, samples):
        above = self.upstream(feature)
        return {i: row_version(self.containers[feature], {up: self.rows(up)[i] for up in above}) for i in samples}

    def difference(self, feature, expected):
        now = self.definitions[feature]["containers"]
        new, stale = {}, {}
        for i, versions in expected.items():
            if i not in self.latest[feature]:
                new[i] = versions
                continue
            stored, then = self.latest[feature][i]
            changed = {name for name in {*now, *then} if now.get(name) != then.get(name)}
            changed |= {name for name in {*versions} & {*stored} if versions[name] != stored[name]}
            if changed:
                stale[i] = [name for name in now if name in changed] + sorted(changed - {*now})
        return new, stale, set(self.latest[feature]) - set(expected)

    def in_order(self, feature, names):
        """Declared containers come in the order of their declaration, removed ones after them in any order."""
        declared = [name for name in names if name in self.codes[feature]]
        assert names[: len(declared)] == declared
        return declared + sorted(names[len(declared) :])

    def write(self, feature, versions):
        with self.graph.use():
            self.store.write_metadata(FeatureKey(feature), self.frame(feature, versions))
        self.remember(feature, versions)

    def remember(self, feature, versions):
        self.rows(feature).update(versions)
        definition = self.definitions[feature]["containers"]
        self.latest[feature].update({i: (found, definition) for i, found in versions.items()})

    def frame(self, feature, versions):
        schema = {"sample_id": pl.Int64, "data_version": pl.Struct(dict.fromkeys(self.codes[feature], pl.String))}
        return pl.DataFrame({"sample_id": list(versions), "data_version": list(versions.values())}, schema=schema)


class IncrementsOnFiles(Increments):
    """The same on files, with files that are pruned and schemas that are joined."""

    def new_store(self):
        return FilesystemMetadataStore(f"memory://{uuid.uuid4().hex}")


def test_increments_agree_with_the_model():
    run_state_machine_as_test(Increments, settings=scaled(0.4))


def test_increments_agree_with_the_model_on_files():
    run_state_machine_as_test(IncrementsOnFiles, settings=scaled(0.1))


def scaled(share):
    """Return the settings in force with a share of their examples; long histories matter more than many."""
    return settings(max_examples=int(settings().max_examples * share), stateful_step_count=20)
