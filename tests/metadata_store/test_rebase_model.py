"""Rows that are rebased, after any history of writes and changes of the declaration, held against a model of dicts.

The model knows what data each row was made of, whatever the code was: the versions that somebody gave to the rows of
the root, and the outputs that are versioned by content. It looks that no row is ever linked with other data, and that
what was up to date before nothing but a change of code is up to date again.
"""

import polars as pl
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from metaxy_fs.errors import SpecError
from metaxy_fs.spec import FeatureKey
from tests.support.examples import examples
from tests.versioning.test_increment_model import (
    NOTHING,
    A,
    D,
    E,
    Increments,
    IncrementsOnFiles,
    Versions,
    ids,
    texts,
)


class Made(Versions):
    """The versions of a row, and the data that it was made of, by feature and container."""

    def __init__(self, versions, provenance=None, data=NOTHING):
        super().__init__(versions, provenance)
        self.data = data


NO_ROW = Made({}, {})
root_rows = st.dictionaries(ids, st.tuples(texts, texts, texts), min_size=1, max_size=4)


class Rebases(Increments):
    """The histories of the increments' model, with rebases; increments are compared there."""

    resolve_root = resolve_some = increments_agree = None

    @initialize()
    def declare(self):
        super().declare()
        # The definitions that each feature was written under, in order, and the containers that they had.
        self.order = {feature: [] for feature in self.codes}
        self.codes_then = {}

    @rule(samples=root_rows, data=st.data())
    def run(self, samples, data):
        """Bring all features up to date, so that there is something to rebase."""
        self.write_root(samples)
        self.compute_all(D, data)
        self.compute_all(E, data)

    @rule(feature=st.sampled_from([A, D, D, E]), data=st.data(), samples=root_rows)
    def change_code(self, feature, data, samples):
        """Change the code of a feature, and bring it and what is made from it up to date in one way or the other."""
        self.set_code(feature, data.draw(st.integers(1, 9)), data)
        for each in [A, D, E]:
            ways = {"rebase": self.rebase, "nothing": lambda _: None}
            ways["compute"] = (lambda _: self.write_root(samples)) if each == A else lambda f: self.compute_all(f, data)
            for way in data.draw(st.lists(st.sampled_from(sorted(ways)), max_size=2)):
                ways[way](each)

    @rule(samples=root_rows, feature=st.sampled_from([D, E]), data=st.data())
    def change_code_alone(self, samples, feature, data):
        """What was up to date is up to date again, without a sample computed."""
        self.run(samples, data)
        written = self.is_written(feature)
        version = self.definitions[feature]["version"]
        self.codes[feature] = {name: f"{code}'" for name, code in self.codes[feature].items()}
        self.redeclare()
        if written and self.last_other(feature) == version:
            self.rebase(feature)
            with self.graph.use():
                assert not self.store.resolve_update(FeatureKey(feature))

    @rule(feature=st.sampled_from([A, D, E]))
    def rebase(self, feature):
        """The rows of the last other definition are written again, where nothing but code has changed."""
        key, before = FeatureKey(feature), self.last_other(feature)
        containers = self.codes_then.get((feature, before), ())
        if before is None or not {*self.codes[feature]} <= {*containers} or not self.has_upstream(feature):
            with self.graph.use(), pytest.raises((SpecError, LookupError)):
                self.store.rebase(key)
            return
        then = self.current.get((feature, before), {})
        expected = self.rebased(feature, then)
        with self.graph.use():
            found = self.store.rebase(key)
        assert found.from_version == before[:16]
        if found.rows:
            with self.graph.use():
                rows = self.store.read_metadata(key, with_commits=True)
            written = rows.filter(pl.col("commit") == rows["commit"][-1])
            assert written.height == found.rows
            for row in written.to_dicts():
                i = row["sample_id"]
                assert row["data_version"] == expected[i]
                self.check_data(feature, i, then[i].data)
            self.remember(feature, {i: expected[i] for i in written["sample_id"]}, written)
        self.check_holds(feature, {})
        rows = self.current.get((feature, self.definitions[feature]["version"]), {})
        left = [i for i, row in expected.items() if rows.get(i, NO_ROW).provenance != row.provenance]
        waiting = [i for i in self.waiting(feature, [*then]) if not self.is_retired(feature, i)]
        assert found.skipped == len(left) + len(waiting)

    # The model.

    def rebased(self, feature, then):
        """Return the rows that there would be of the samples of another definition, if all of its rows stood."""
        if feature == A:
            here = self.current.get((A, self.definitions[A]["version"]), {})
            return {
                i: Made({name: row[name] for name in self.codes[A]})
                for i, row in then.items()
                if i not in here and not self.is_retired(A, i)
            }
        waiting = self.waiting(feature, [*then])
        samples = [i for i in then if i not in waiting and not self.is_retired(feature, i)]
        content, expected = self.by_content(feature), self.expected(feature, samples)
        made = {i: each | {name: then[i][name] for name in content} for i, each in expected.items()}
        return {i: Made(made[i], expected[i], then[i].data) for i in samples}

    def data_upstream(self, feature, i):
        """Return the given versions that a sample would be made of now; behind content there are none."""
        found = {}
        for above in self.upstream(feature):
            row = self.rows(above)[i]
            given = [*self.codes[A]] if above == A else self.by_content(above)
            found |= {(above, name): row[name] for name in given}
            if len(given) < len(self.codes[above]):
                found |= row.data
        return found

    def check_data(self, feature, i, data):
        """A row that was rebased was made of the data that there are now, as far as they have the same names."""
        now = self.data_upstream(feature, i)
        assert {name: data[name] for name in data if name in now} == {name: now[name] for name in data if name in now}

    def last_other(self, feature):
        """Return the definition that a feature was last written under, other than the present one."""
        others = [version for version in self.order[feature] if version != self.definitions[feature]["version"]]
        return others[-1] if others else None

    def upstream(self, feature):
        return [] if feature == A else super().upstream(feature)

    def made(self, feature, expected, data):
        found = super().made(feature, expected, data)
        return {i: Made(row, row.provenance, self.data_upstream(feature, i)) for i, row in found.items()}

    def remember(self, feature, versions, frame=None):
        kept = {i: row if isinstance(row, Made) else Made(row) for i, row in versions.items()}
        super().remember(feature, kept, frame)
        self.note_write(feature)

    @rule(feature=st.sampled_from([A, D, E]), samples=st.lists(ids, unique=True, min_size=1, max_size=3))
    def retire(self, feature, samples):
        super().retire(feature, samples, until_back=False)
        self.note_write(feature)

    def note_write(self, feature):
        version = self.definitions[feature]["version"]
        self.order[feature].append(version)
        self.codes_then[feature, version] = dict(self.codes[feature])


class RebasesOnFiles(Rebases):
    """The same on files."""

    new_store = IncrementsOnFiles.new_store


def test_rebased_rows_are_of_the_data_that_there_are():
    run_state_machine_as_test(Rebases, settings=examples(12, stateful_step_count=20))


def test_rebased_rows_on_files_are_of_the_data_that_there_are():
    run_state_machine_as_test(RebasesOnFiles, settings=examples(5, stateful_step_count=20))
