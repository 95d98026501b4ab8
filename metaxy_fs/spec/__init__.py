"""The declarative API: features, their containers, and what they are made from."""

from metaxy_fs.spec.deps import ALL, SAME_NAME, ContainerDep, FeatureDep
from metaxy_fs.spec.feature import Feature
from metaxy_fs.spec.graph import FeatureGraph, GraphNote
from metaxy_fs.spec.keys import ContainerKey, FeatureKey
from metaxy_fs.spec.specs import ContainerSpec, FeatureSpec

__all__ = [
    "ALL",
    "SAME_NAME",
    "ContainerDep",
    "ContainerKey",
    "ContainerSpec",
    "Feature",
    "FeatureDep",
    "FeatureGraph",
    "FeatureKey",
    "FeatureSpec",
    "GraphNote",
]
