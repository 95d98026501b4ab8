"""Stores to draw: pipelines of any size, whose features were written over weeks and are in every state."""

from dataclasses import dataclass
from random import Random

import polars as pl

from metaxy_fs import ContainerSpec, FeatureDep, FeatureGraph, FeatureSpec, InMemoryMetadataStore
from metaxy_fs.ids import Source, driven_by

SUBJECTS = ("video", "audio", "text", "image", "lidar", "users", "ads", "search")
STEPS = (
    "frames",
    "faces",
    "crops",
    "embedding",
    "captions",
    "tracks",
    "scenes",
    "quality",
    "near_duplicates",
    "labels",
)
OF_A_SUBJECT = 25
SAMPLES = 12
TAGS = {"run": "2026-11-28", "git": "3f2a9c1"}


class Weeks(Source):
    """A clock that goes on by some minutes at each look."""

    def __init__(self, dice: Random) -> None:
        super().__init__()
        self.dice = dice
        self.now = 1_780_000_000_000_000

    def microseconds(self) -> int:
        self.now += self.dice.randrange(600_000_000)
        return self.now


@dataclass(frozen=True)
class Pipeline:
    """A store, and the graph of its present code."""

    store: InMemoryMetadataStore
    graph: FeatureGraph


def pipeline(features: int, *, rounds: int = 3, is_computed: bool = True, seed: int = 7) -> Pipeline:
    """Return features of several subjects: chains and fans, few joins across, some changed and not yet run again.

    Args:
        features: How many.
        rounds: How often new samples came, and every feature was run.
        is_computed: Whether the versions are right, which takes most of the time.
        seed: Another one gives another graph.
    """
    dice = Random(seed)  # noqa: S311  # the same each time
    store = InMemoryMetadataStore(tags=TAGS)
    specs = specs_of(features, Random(seed))  # noqa: S311  # likewise
    before = FeatureGraph.from_specs(specs)
    idle = {spec.key for spec in specs if spec.deps and dice.random() < 0.04}
    changed = {spec.key for spec in specs if spec.deps and dice.random() < 0.08}
    after = FeatureGraph.from_specs([next_version(spec) if spec.key in changed else spec for spec in specs])
    with driven_by(Weeks(dice)):
        for number in range(rounds):
            with (after if number == rounds - 1 else before).use() as graph:
                for spec in graph.specs.values():
                    if spec.key not in idle and dice.random() < (1.0 if spec.is_root else 0.85):
                        run(store, spec, number, is_computed=is_computed or spec.is_root)
            if number == rounds - 2:
                store.create_snapshot("train-2026-11")
    return Pipeline(store, after)


def specs_of(features: int, dice: Random) -> list[FeatureSpec]:
    specs: list[FeatureSpec] = []
    subjects: dict[str, list[str]] = {}
    for number in range(features):
        subject = SUBJECTS[number // OF_A_SUBJECT % len(SUBJECTS)]
        names = subjects.setdefault(subject, [])
        deps = (
            {names[max(0, len(names) - 1 - dice.randrange(8))] for _ in range(dice.choice((1, 1, 1, 2, 2, 3)))}
            if names
            else []
        )
        if names and number >= OF_A_SUBJECT and dice.random() < 0.06:
            deps |= {dice.choice(subjects[SUBJECTS[number // OF_A_SUBJECT % len(SUBJECTS) - 1]])}
        again, step = divmod(len(names) - 1, len(STEPS))
        names.append(f"{subject}/{STEPS[step]}{again + 1 if again else ''}" if names else f"{subject}/files")
        parts = [ContainerSpec(key=name, code_version=f"2026.{number % 12}") for name in ("mask", "boxes")]
        specs.append(
            FeatureSpec(
                key=names[-1],
                deps=[FeatureDep(key=name) for name in sorted(deps)],
                containers=parts if dice.random() < 0.3 else [ContainerSpec()],
            )
        )
    return specs


def next_version(spec: FeatureSpec) -> FeatureSpec:
    containers = [ContainerSpec(key=each.key, code_version=f"{each.code_version}+1") for each in spec.containers]
    return FeatureSpec(key=spec.key, deps=spec.deps, containers=containers)


def run(store: InMemoryMetadataStore, spec: FeatureSpec, number: int, *, is_computed: bool) -> None:
    """Compute what is pending of a feature; of one that is not computed, or a source, write new samples."""
    if is_computed and spec.deps:
        if (
            all(store.has_feature(dep.key) for dep in spec.deps)
            and (pending := store.resolve_update(spec.key).pending).height
        ):
            store.write_metadata(spec.key, pending)
        return
    version = {str(container.key): f"v{number}" for container in spec.containers}
    ids = range(number * SAMPLES, (number + 1) * SAMPLES)
    store.write_metadata(spec.key, pl.DataFrame({"sample_id": list(ids), "data_version": [version] * len(ids)}))
