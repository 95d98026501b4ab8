"""The features of the demo: files, and what is counted in those that are texts."""

from dataclasses import dataclass

from metaxy_fs.spec import ContainerKey, ContainerSpec, Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec

ID = "path"


@dataclass(frozen=True)
class DemoFeatures:
    """The root feature, one sample per file, and the one that is made from it."""

    files: type[Feature]
    texts: type[Feature]


def declare_features() -> DemoFeatures:
    """Return the features, declared in a graph of their own."""
    files = FeatureSpec(
        key=FeatureKey(["demo", "files"]),
        containers=[ContainerSpec(key=ContainerKey(["content"]))],
        id_columns=[ID],
    )
    texts = FeatureSpec(
        key=FeatureKey(["demo", "texts"]),
        deps=[FeatureDep(key=files.key, columns=["bytes", "modified"])],
        id_columns=[ID],
    )
    with FeatureGraph().use():

        class Files(Feature, spec=files):
            """The files of a directory."""

        class Texts(Feature, spec=texts):
            """What was counted in those that are texts."""

    return DemoFeatures(Files, Texts)
