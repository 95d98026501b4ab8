"""Explanations after any history of writes and changes of the declaration, held against a model of dicts."""

import polars as pl
import pytest
from hypothesis.stateful import invariant, precondition, run_state_machine_as_test

from metaxy_fs.spec import FeatureKey
from tests.support.examples import examples
from tests.versioning.test_increment_model import A, D, E, Increments, IncrementsOnFiles

UPSTREAM = {A: [A], D: [A, D], E: [A, D, E]}
NOT_CHANGED = {"same", "upstream stale", "upstream missing"}


class Explanations(Increments):
    """The histories of the increments' model, with the explanation of every sample in place of the increment."""

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def increments_agree(self):
        with self.graph.use():
            self.plan = self.store.plan()
        for feature in (A, D, E):
            for sample in range(5):
                if any(sample in self.ever[above] for above in UPSTREAM[feature]):
                    self.compare_explanation(feature, sample)
                else:
                    with self.graph.use(), pytest.raises(LookupError, match=str(sample)):
                        self.store.explain(FeatureKey(feature), sample)

    def compare_explanation(self, feature, sample):
        with self.graph.use():
            explanation = self.store.explain(FeatureKey(feature), sample)
        declared = {name: node for name, node in explanation.containers.items() if node.code_version is not None}
        assert {name: node.code_version for name, node in declared.items()} == self.codes[feature]
        if self.is_retired(feature, sample) or self.is_without_upstream(feature, sample):
            assert explanation.status == ("retired" if self.is_retired(feature, sample) else "excluded")
            assert explanation.causes
            return
        self.compare_with_plan(feature, sample, explanation)
        if feature != A and self.has_upstream(feature) and self.waiting(feature, [sample]):
            assert explanation.status in ("waiting", "new", "stale")
            assert {str(node.difference) for node in declared.values()} == {"upstream missing"}
            assert explanation.causes
            return
        expected = self.expected_of(feature, sample)
        if feature != A:
            assert {name: node.expected for name, node in declared.items()} == expected
        if self.has_row(feature, sample):
            row = self.compared_row(feature, sample)[0]
            content = {name: node.content for name, node in declared.items() if node.content is not None}
            assert content == {name: row[name] for name in self.by_content(feature) if name in row}
            kept = {name: node.stored for name, node in declared.items() if node.stored is not None}
            # Of a container that is no longer versioned by its content, the version that the row has counts.
            made = {
                name: (row.provenance if name in self.by_content(feature) else row)[name] for name in row.provenance
            }
            assert kept == {name: version for name, version in made.items() if name in declared}
        changed = [name for name, node in explanation.containers.items() if node.difference not in NOT_CHANGED]
        new, stale, _ = self.difference(feature, {sample: expected})
        assert explanation.status in self.possible_statuses(sample in new, sample in stale)
        if sample not in new:
            assert self.in_order(feature, changed) == stale.get(sample, [])
        assert bool(explanation.causes) is (explanation.status != "up to date")
        assert set(explanation.causes) <= set(explanation.nodes)
        assert explanation.to_text().splitlines()[0].startswith(f"{feature[0]} of sample_id={sample} is ")

    def has_row(self, feature, sample):
        """Whether there is a row to compare with, which does not retire the sample."""
        return sample in self.latest[feature] and self.retired_until(feature, sample) is None

    def is_without_upstream(self, feature, sample):
        """Whether an upstream row is retired, of which there should be a sample otherwise."""
        above = () if feature == A else self.upstream(feature)
        return any(
            sample in self.gone[up, self.definitions[up]["version"]] and sample not in self.rows(up) for up in above
        )

    def expected_of(self, feature, sample):
        """What the upstream rows make it; of a root, and where one is missing, nothing that could differ."""
        if feature == A:
            return self.compared_row(A, sample)[0] if self.has_row(A, sample) else {}
        if self.is_computable(feature, [sample]):
            return self.expected(feature, [sample])[sample]
        return dict.fromkeys(self.codes[feature])

    def difference(self, feature, expected, **options):
        """A version that cannot be told differs from none."""
        known = {i: {k: v for k, v in versions.items() if v is not None} for i, versions in expected.items()}
        return super().difference(feature, known, **options)

    def possible_statuses(self, is_new, is_stale):
        if is_new:
            return {"new", "waiting"}
        return {"stale", "waiting"} if is_stale else {"up to date", "waiting", "stale"}

    def compare_with_plan(self, feature, sample, explanation):
        """A plan counts the sample as what an explanation calls it."""
        key = FeatureKey(feature)
        [row] = self.plan.features.filter(pl.col("feature") == str(key)).to_dicts()
        if feature == A or row["missing"] or row["unknown"]:
            return
        pending = dict(self.plan.pending(key).select("sample_id", "kind").iter_rows())
        status = explanation.status
        assert (status if status in ("new", "stale") else None) == pending.get(sample), explanation


class ExplanationsOnFiles(Explanations):
    """The same on files, which are pruned by id."""

    new_store = IncrementsOnFiles.new_store


def test_explanations_agree_with_the_model():
    run_state_machine_as_test(Explanations, settings=examples(6, stateful_step_count=20))


def test_explanations_agree_with_the_model_on_files():
    run_state_machine_as_test(ExplanationsOnFiles, settings=examples(2, stateful_step_count=20))
