"""The features of the demo.

A file has two parts that change for different reasons: `content`, its bytes, and `stat`, what the file system notes of
it. What is counted in a text is made from `content` alone, so a file that is merely touched is not counted again.
"""

from dataclasses import dataclass

from metaxy_fs.spec import (
    ContainerDep,
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
)

CONTENT = ContainerKey(["content"])
STAT = ContainerKey(["stat"])
ID = "path"


@dataclass(frozen=True)
class DemoFeatures:
    """The root feature, one sample a file, and the one that is made from it."""

    files: type[Feature]
    texts: type[Feature]


def declare_features() -> DemoFeatures:
    """Return the features, declared in a graph of their own."""
    files = FeatureSpec(
        key=FeatureKey(["demo", "files"]),
        containers=[ContainerSpec(key=CONTENT), ContainerSpec(key=STAT)],
        id_columns=[ID],
    )
    counts = ContainerSpec(deps=[ContainerDep(feature_key=files.key, containers=[CONTENT])])
    texts = FeatureSpec(
        key=FeatureKey(["demo", "texts"]), deps=[FeatureDep(key=files.key)], containers=[counts], id_columns=[ID]
    )
    with FeatureGraph().use():

        class Files(Feature, spec=files):
            """The files of a directory."""

        class Texts(Feature, spec=texts):
            """What was counted in those that are texts."""

    return DemoFeatures(Files, Texts)
