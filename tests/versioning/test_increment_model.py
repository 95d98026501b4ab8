"""Increments after any history of writes and changes of the declaration, held against a model of dicts.

Three features: `a` is a root, `d` is made from `a`, `e` from both. The model keeps the latest row of each sample, in
each partition and over all of them, and compares by hand: with the row in the current partition, or else with the
latest in the others. Samples that lack an upstream row wait, unless what they lack is retired: then there should be no
such sample. Where the row to compare with retires the sample for good, it is in no frame; where it does so until the
sample is back, the sample is new. Containers of `d` and `e` may be versioned by content: then the outputs are drawn,
and often the same. `d` and `e` carry a path of `a`, and each increment is also asked for some samples alone.
"""

import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import polars as pl
import pytest
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
from metaxy_fs.metadata_store.retired import UNTIL_BACK
from metaxy_fs.spec import FeatureKey
from tests.support.examples import examples
from tests.versioning.pieces import tiny_pieces
from tests.versioning.reference import definition_versions, feature_graph, row_version

A, D, E = ("a",), ("d",), ("e",)
ids = st.integers(0, 4)
some_ids = st.lists(ids, unique=True, max_size=5)
texts = st.sampled_from(["u", "v"])
NOTHING = {}
DEPS = {(D, A): {"columns": ["path"]}, (E, A): {"columns": ["path"], "rename": {"path": "a_path"}}}
CARRIED = {D: "path", E: "a_path"}
"""What is carried of the root."""


class Selected(NamedTuple):
    """A predicate on the id and, where there is one, the column that is carried; and what it says of their values."""

    of: Callable[[str | None], pl.Expr]
    holds: Callable[[int, str | None], bool]


EVERYTHING = Selected(lambda _name: pl.lit(value=True), lambda _i, _path: True)
PREDICATES_ON_IDS = [
    Selected(lambda _name: pl.col("sample_id") < 2, lambda i, _path: i < 2),
    Selected(lambda _name: pl.col("sample_id").is_in([0, 3]), lambda i, _path: i in (0, 3)),
    Selected(lambda _name: pl.col("sample_id") % 2 == 1, lambda i, _path: i % 2 == 1),
    Selected(lambda _name: pl.lit(value=False), lambda _i, _path: False),
]
PREDICATES = [
    *PREDICATES_ON_IDS,
    Selected(lambda name: pl.col(name).is_null(), lambda _i, path: path is None),
    Selected(lambda name: pl.col(name) > "2/3", lambda _i, path: path is not None and path > "2/3"),
    Selected(
        lambda name: (pl.col("sample_id") > 1) & ~pl.col(name).str.ends_with("/3"),
        lambda i, path: i > 1 and path is not None and not path.endswith("/3"),
    ),
    Selected(
        lambda name: (pl.col("sample_id") == 2) | (pl.col(name) < "3"),
        lambda i, path: i == 2 or (path is not None and path < "3"),
    ),
]


BACK, FOR_GOOD = "back", "for good"
"""Until when a sample is retired: until it is expected again, or until a row of it is written."""


class Versions(dict):
    """The versions of a row by container, and those that it should have had when it was made."""

    def __init__(self, versions, provenance=None):
        super().__init__(versions)
        self.provenance = dict(versions) if provenance is None else provenance


class Increments(RuleBasedStateMachine):
    """Writes to a store and to a model, and compares what each says is to be done."""

    def new_store(self):
        return InMemoryMetadataStore()

    @initialize()
    def declare(self):
        self.store = self.new_store()
        self.codes = {A: {"x": 1, "y": 1}, D: {"x": 1}, E: {"x": 1}}
        self.content = set()
        # The latest row of each sample: by feature and version of the definition, and by feature alone.
        self.current = defaultdict(dict)
        self.latest = {feature: {} for feature in self.codes}
        # The samples that are retired in each partition, and until when, which stands for the latest row over all.
        self.gone = defaultdict(dict)
        self.ever = defaultdict(set)
        # The path in the latest row of each sample of the root, in each partition; and how many frames there were.
        self.paths = defaultdict(dict)
        self.written = 0
        self.compared = 0
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

    @rule(feature=st.sampled_from([D, E]), data=st.data())
    def version_by_content(self, feature, data):
        self.content ^= {(feature, data.draw(st.sampled_from(sorted(self.codes[feature]))))}
        self.redeclare()

    @rule(feature=st.sampled_from([D, E]), samples=some_ids, data=st.data())
    def compute_some(self, feature, samples, data):
        if self.is_computable(feature, samples):
            made = self.made(feature, self.expected(feature, samples), data)
            frame = pl.DataFrame({"sample_id": samples}, schema={"sample_id": pl.Int64})
            if content := self.by_content(feature):
                given = [{name: made[i][name] for name in content} for i in samples]
                dtype = pl.Struct(dict.fromkeys(content, pl.String))
                frame = frame.with_columns(pl.Series("data_version", given, dtype=dtype))
            with self.graph.use():
                self.store.calculate_and_write_data_versions(FeatureKey(feature), frame)
            self.remember(feature, made)

    @rule(feature=st.sampled_from([D, E]), data=st.data())
    def compute_all(self, feature, data):
        if not self.has_upstream(feature):
            return
        samples = self.all_samples(feature)
        waiting = self.waiting(feature, samples)
        expected = self.expected(feature, [i for i in samples if i not in waiting])
        new, stale, _ = self.difference(feature, expected, waiting=waiting)
        done = {i: found for i, found in expected.items() if not self.is_retired(feature, i)}
        made = self.made(feature, {i: expected[i] for i in [*new, *stale]}, data)
        with self.graph.use():
            pending = self.store.resolve_update(FeatureKey(feature)).pending
            assert pending["sample_id"].to_list() == [*new, *stale]
            filled = self.frame(feature, made).get_column("data_version")
            self.store.write_metadata(FeatureKey(feature), pending.with_columns(filled))
            assert not self.store.resolve_update(FeatureKey(feature))
        self.remember(feature, made)
        self.check_holds(feature, done)

    @rule(samples=st.dictionaries(ids, st.tuples(texts, texts, texts), max_size=4))
    def update_root(self, samples):
        given = {i: dict(zip(self.codes[A], row, strict=False)) for i, row in samples.items()}
        frame = self.frame(A, given)
        with self.graph.use():
            pending = self.store.resolve_update(FeatureKey(A), samples=frame).pending
            self.store.write_metadata(FeatureKey(A), pending)
            assert not self.store.resolve_update(FeatureKey(A), samples=frame)
        done = {i: found for i, found in given.items() if not self.is_retired(A, i)}
        self.remember(A, {i: Versions(given[i]) for i in pending["sample_id"]}, pending)
        self.check_holds(A, done)

    @rule(
        feature=st.sampled_from([A, D, E]),
        samples=st.lists(ids, unique=True, min_size=1, max_size=3),
        until_back=st.booleans(),
    )
    def retire(self, feature, samples, until_back):
        frame = pl.DataFrame({"sample_id": samples}, schema={"sample_id": pl.Int64})
        with self.graph.use():
            self.store.retire(FeatureKey(feature), frame, tags=UNTIL_BACK if until_back else None)
        for i in samples:
            self.rows(feature).pop(i, None)
        until = BACK if until_back else FOR_GOOD
        self.gone[feature, self.definitions[feature]["version"]].update(dict.fromkeys(samples, until))
        self.latest[feature].update(dict.fromkeys(samples, until))

    # What is compared.

    @rule(samples=st.dictionaries(ids, st.tuples(texts, texts, texts), max_size=4))
    def resolve_root(self, samples):
        given = {i: dict(zip(self.codes[A], row, strict=False)) for i, row in samples.items()}
        self.compare(A, given, samples=self.frame(A, given))

    @rule(feature=st.sampled_from([D, E]), samples=some_ids)
    def resolve_some(self, feature, samples):
        frame = pl.DataFrame({"sample_id": samples}, schema={"sample_id": pl.Int64})
        self.compare_computed(feature, samples, given=frame)

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def increments_agree(self):
        for feature in (D, E):
            self.compare_computed(feature, self.all_samples(feature))

    def compare_computed(self, feature, samples, *, given=None):
        options = {} if given is None else {"samples": given}
        if self.has_upstream(feature):
            waiting = self.waiting(feature, samples)
            expected = self.expected(feature, [i for i in samples if i not in waiting])
            self.compare(feature, expected, waiting=waiting, **options)
        else:
            with self.graph.use(), pytest.raises(DependencyError):
                self.store.resolve_update(FeatureKey(feature), **options)

    def compare(self, feature, expected, *, waiting=NOTHING, **options):
        self.compare_selected(feature, expected, waiting, EVERYTHING, **options)
        choice = PREDICATES if feature in CARRIED and self.has_paths() else PREDICATES_ON_IDS
        self.compared += 1
        self.compare_selected(feature, expected, waiting, choice[self.compared % len(choice)], **options)

    def compare_selected(self, feature, expected, waiting, selection, **options):
        """Compare the increment of the samples for which a predicate holds."""
        if selection is not EVERYTHING:
            options["where"] = selection.of(CARRIED.get(feature))
        with self.graph.use():
            increment = self.store.resolve_update(FeatureKey(feature), **options)
            lazy = self.store.resolve_update(FeatureKey(feature), lazy=True, **options)
        assert lazy.counts == increment.counts
        everything = {*expected, *waiting}
        expected, waiting = (
            {i: found for i, found in each.items() if selection.holds(i, self.path(i))} for each in (expected, waiting)
        )
        new, stale, orphaned = self.difference(feature, expected, waiting=waiting)
        orphaned = {i for i in orphaned - everything if selection.holds(i, None)}
        retired = {i for i in [*expected, *waiting] if self.is_retired(feature, i)}
        self.check_carried(feature, increment, lazy)
        assert increment.counts.retired == len(retired)
        waiting = {i: missing for i, missing in waiting.items() if i not in retired}
        assert dict(increment.waiting.iter_rows()) == waiting
        assert self.expected_in(feature, increment.new) == new
        assert self.expected_in(feature, increment.stale) == {i: expected[i] for i in stale}
        assert {
            row["sample_id"]: self.in_order(feature, row["changed_containers"]) for row in increment.stale.to_dicts()
        } == stale
        assert set(increment.orphaned["sample_id"]) == orphaned
        assert increment.new.height + increment.stale.height + increment.orphaned.height == len(new) + len(stale) + len(
            orphaned
        )
        if "samples" in options:
            rank = list(expected)
            assert increment.new["sample_id"].to_list() == sorted(new, key=rank.index)
            assert increment.stale["sample_id"].to_list() == sorted(stale, key=rank.index)
            assert increment.waiting["sample_id"].to_list() == list(waiting)

    def check_carried(self, feature, increment, lazy):
        """Beside each sample is the path of the very upstream row that its version was made from."""
        if feature in CARRIED:
            for frame in (increment.pending, increment.stale, lazy.pending.collect()):
                found = dict(frame.select("sample_id", CARRIED[feature]).iter_rows())
                assert found == {i: self.path(i) for i in frame["sample_id"]}

    def check_holds(self, feature, expected):
        """What was brought up to date is in the current partition, each sample with its version."""
        if self.is_written(feature):
            with self.graph.use():
                rows = self.store.read_metadata(FeatureKey(feature), latest_only=True)
            found = dict(zip(rows["sample_id"], rows["data_version"], strict=True))
            assert found == self.rows(feature)
            assert {i: self.rows(feature)[i].provenance for i in expected} == expected
            if self.by_content(feature) and not rows.is_empty():  # commits that only retire samples have no provenance
                kept = dict(zip(rows["sample_id"], rows["provenance"], strict=True))
                assert kept == {i: row.provenance for i, row in self.rows(feature).items()}
            elif not self.by_content(feature):
                assert "provenance" not in rows.columns

    def expected_in(self, feature, frame):
        """Return the expected versions in a frame of an increment; what the writer has to give is null."""
        content = self.by_content(feature)
        assert ("provenance" in frame.columns) is bool(content)
        found = {}
        for row in frame.to_dicts():
            found[row["sample_id"]] = versions = row["provenance"] if content else row["data_version"]
            assert row["data_version"] == {name: None if name in content else versions[name] for name in versions}
        return found

    # The model.

    def redeclare(self):
        below_a = [(A, name) for name in self.codes[A]]
        below_d = [(D, name) for name in self.codes[D]]
        self.containers = {
            A: {name: (code, []) for name, code in self.codes[A].items()},
            D: {name: (code, below_a) for name, code in self.codes[D].items()},
            E: {name: (code, below_a + below_d) for name, code in self.codes[E].items()},
        }
        self.graph = feature_graph(self.containers, deps=DEPS, content=self.content)
        self.definitions = definition_versions(self.containers, content=self.content)

    def by_content(self, feature):
        return [name for name in self.codes[feature] if (feature, name) in self.content]

    def made(self, feature, expected, data):
        """Return the rows that somebody makes of samples, whose outputs are drawn."""
        content = self.by_content(feature)
        return {i: Versions(each | {name: data.draw(texts) for name in content}, each) for i, each in expected.items()}

    def rows(self, feature):
        return self.current[feature, self.definitions[feature]["version"]]

    def is_written(self, feature):
        return (feature, self.definitions[feature]["version"]) in self.current

    def upstream(self, feature):
        return {D: [A], E: [A, D]}[feature]

    def all_samples(self, feature):
        above = [up for up in self.upstream(feature) if self.is_written(up)]
        named = {i for up in above for i in self.rows(up)}
        return sorted(
            named - {i for up in above for i in {*self.gone[up, self.definitions[up]["version"]]} - {*self.rows(up)}}
        )

    def is_computable(self, feature, samples):
        return self.has_upstream(feature) and not self.waiting(feature, samples)

    def has_upstream(self, feature):
        return all(self.is_written(above) for above in self.upstream(feature))

    def waiting(self, feature, samples):
        """Return what each sample lacks that lacks an upstream row."""
        lacking = {i: [up[0] for up in self.upstream(feature) if i not in self.rows(up)] for i in samples}
        return {i: missing for i, missing in lacking.items() if missing}

    def expected(self, feature, samples):
        above = self.upstream(feature)
        return {i: row_version(self.containers[feature], {up: self.rows(up)[i] for up in above}) for i in samples}

    def difference(self, feature, expected, *, waiting=NOTHING):
        """Return what is new, what is stale and by which containers, and what is orphaned."""
        place = feature, self.definitions[feature]["version"]
        present, gone = self.current.get(place, {}), self.gone[place]
        looks_elsewhere = not {*present, *gone} >= {*expected, *waiting}
        new, stale = {}, {}
        for i, versions in expected.items():
            if self.is_retired(feature, i):
                continue
            if i not in self.latest[feature] or self.retired_until(feature, i) == BACK:
                new[i] = versions
            elif changed := self.changed(feature, versions, *self.compared_row(feature, i)):
                stale[i] = changed
        elsewhere = {i for i in self.latest[feature] if self.retired_until(feature, i) is None}
        looked_at = {*present, *(elsewhere if looks_elsewhere else ())}
        return new, stale, looked_at - {*expected} - {*waiting}

    def is_retired(self, feature, i):
        """Whether the row to compare with retires the sample for good."""
        return self.retired_until(feature, i) == FOR_GOOD

    def retired_until(self, feature, i):
        """Return until when the row to compare with retires the sample, None if it does not."""
        place = feature, self.definitions[feature]["version"]
        if i in self.current.get(place, {}):
            return None
        until = self.gone[place].get(i, self.latest[feature].get(i))
        return until if until in (BACK, FOR_GOOD) else None

    def compared_row(self, feature, i):
        """Return the row in the current partition, or else the latest in the others, and its definition."""
        present = self.current.get((feature, self.definitions[feature]["version"]), {})
        return (present[i], self.definitions[feature]["containers"]) if i in present else self.latest[feature][i]

    def changed(self, feature, versions, stored, then):
        now = self.definitions[feature]["containers"]
        changed = {name for name in {*now, *then} if now.get(name) != then.get(name)}
        changed |= {name for name in {*versions} & {*stored} if versions[name] != stored.provenance[name]}
        return [name for name in now if name in changed] + sorted(changed - {*now})

    def in_order(self, feature, names):
        """Declared containers come in the order of their declaration, removed ones after them in any order."""
        declared = [name for name in names if name in self.codes[feature]]
        assert names[: len(declared)] == declared
        return declared + sorted(names[len(declared) :])

    def write(self, feature, versions):
        versions = {i: Versions(found) for i, found in versions.items()}
        frame = self.frame(feature, versions)
        with self.graph.use():
            self.store.write_metadata(FeatureKey(feature), frame)
        self.remember(feature, versions, frame)

    def has_paths(self):
        """Whether the root was written with its columns: of samples that were retired before nothing is known."""
        return self.definitions[A]["version"] in self.paths

    def path(self, i):
        """Return the path in the row of the root that counts, if there is one."""
        version = self.definitions[A]["version"]
        return self.paths[version][i] if i in self.current.get((A, version), {}) else None

    def remember(self, feature, versions, frame=None):
        if feature == A:
            self.paths[self.definitions[A]["version"]].update(frame.select("sample_id", "path").iter_rows())
        self.rows(feature).update(versions)
        self.ever[feature].update(versions)
        for i in versions:
            self.gone[feature, self.definitions[feature]["version"]].pop(i, None)
        definition = self.definitions[feature]["containers"]
        self.latest[feature].update({i: (found, definition) for i, found in versions.items()})

    def frame(self, feature, versions):
        schema = {"sample_id": pl.Int64, "data_version": pl.Struct(dict.fromkeys(self.codes[feature], pl.String))}
        frame = pl.DataFrame({"sample_id": list(versions), "data_version": list(versions.values())}, schema=schema)
        if feature != A:
            return frame
        self.written += 1
        return frame.with_columns(path=pl.format("{}/{}", pl.lit(self.written), "sample_id"))


class IncrementsOnFiles(Increments):
    """The same on files, with files that are pruned and schemas that are joined."""

    def new_store(self):
        return FilesystemMetadataStore(f"memory://{uuid.uuid4().hex}")


class IncrementsInPieces(IncrementsOnFiles):
    """The same on files that are cut into ranges of a few ids."""

    def compare(self, feature, expected, **options):
        with tiny_pieces():
            super().compare(feature, expected, **options)


def test_increments_agree_with_the_model():
    run_state_machine_as_test(Increments, settings=examples(10, stateful_step_count=20))


def test_increments_agree_with_the_model_on_files():
    run_state_machine_as_test(IncrementsOnFiles, settings=examples(5, stateful_step_count=20))


def test_increments_agree_with_the_model_in_pieces():
    run_state_machine_as_test(IncrementsInPieces, settings=examples(5, stateful_step_count=20))
