"""The features, rows and expectations that the suites of stores share.

Expectations are spelled out with hashlib and Python's own lists: nothing asks the code under test what is right.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, new_class
from typing import Any, ClassVar, Protocol

import polars as pl
import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.metadata_store import Append, MetadataStore, Query, Scan
from metaxy_fs.spec import (
    ALL,
    ContainerDep,
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
)

VIDEO = FeatureKey(["video", "processing"])
PROCESSED = FeatureKey(["processed", "video"])
SAMPLE_ID = "sample_id"
VERSIONS: pl.DataType = pl.Struct({"frames": pl.String, "audio": pl.String})
EMPTY_VIDEOS = pl.Schema({SAMPLE_ID: pl.Int64(), "data_version": VERSIONS})
NO_COLUMNS: Mapping[str, Any] = MappingProxyType({})


class MakeStore(Protocol):
    """Opens stores for one test."""

    def __call__(self, name: str = "", fallback_stores: Sequence[MetadataStore] = ()) -> MetadataStore:
        """Return a store, empty when a name is first used; later, where rows persist, another one on the same rows."""


class StoreCase(ABC):
    """What every suite of stores asks of the one who runs it."""

    persistent: ClassVar[bool] = True
    """Whether `make_store` under a name that was used before opens the same rows again."""

    @pytest.fixture
    @abstractmethod
    def make_store(self) -> MakeStore:
        """Return what opens the stores of one test."""

    @pytest.fixture
    def store(self, make_store: MakeStore) -> MetadataStore:
        """Return an empty store."""
        return make_store()

    @pytest.fixture
    def reopen(self, make_store: MakeStore) -> MakeStore:
        """Return what opens a store again, as another process would."""
        if not self.persistent:
            pytest.skip("needs rows that outlive the object that wrote them")
        return make_store


class UnreachableStore(MetadataStore):
    """A store that nobody knows the content of: every question ends in a `StorageError`."""

    @property
    def location(self) -> str:
        """A place that does not answer."""
        return "unreachable://store"

    def append_rows(self, append: Append) -> None:
        """Fail."""
        raise StorageError(f"{self.location} does not take {append.spec.key}")

    def scan_rows(self, query: Query) -> Scan | None:
        """Fail."""
        raise StorageError(f"{self.location} does not answer about {query.key}")

    def stored_versions(self, key: FeatureKey) -> list[str]:
        """Fail."""
        raise StorageError(f"{self.location} does not answer about {key}")

    def stored_features(self) -> list[FeatureKey]:
        """Fail."""
        raise StorageError(f"{self.location} does not answer")

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        """Fail."""
        raise StorageError(f"{self.location} does not answer about {key}")


class ArrowOnly:
    """A frame that offers nothing but the Arrow stream interface."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a capsule of an Arrow C stream."""
        return self._frame.__arrow_c_stream__(requested_schema)


def declare(*specs: FeatureSpec) -> list[type[Feature]]:
    """Return Feature classes for specs, upstream first, in a graph of their own."""
    with FeatureGraph().use():
        return [new_class(spec.key.string, (Feature,), {"spec": spec}) for spec in specs]


def container(name: str, version: int | str = 1, **upstream: Iterable[str]) -> ContainerSpec:
    """Return a container made from all that is upstream, or from the named containers of some features."""
    deps = [
        ContainerDep(feature_key=FeatureKey([feature]), containers=[ContainerKey([name]) for name in names])
        for feature, names in upstream.items()
    ]
    return ContainerSpec(key=ContainerKey([name]), code_version=version, deps=deps or ALL)


def root(key: FeatureKey, *containers: ContainerSpec, id_columns: Sequence[str] = (SAMPLE_ID,)) -> FeatureSpec:
    """Return the spec of a root feature; without containers it has the default one."""
    chosen: dict[str, Any] = {"containers": containers} if containers else {}
    return FeatureSpec(key=key, id_columns=id_columns, **chosen)


def derived(
    key: FeatureKey,
    upstream: Iterable[FeatureKey],
    *containers: ContainerSpec,
    id_columns: Sequence[str] = (SAMPLE_ID,),
) -> FeatureSpec:
    """Return the spec of a feature made from others; without containers it has the default one."""
    chosen: dict[str, Any] = {"containers": containers} if containers else {}
    return FeatureSpec(key=key, deps=[FeatureDep(key=above) for above in upstream], id_columns=id_columns, **chosen)


def pipeline(*, frames: int = 1, audio: int = 2, processed: int = 1) -> list[type[Feature]]:
    """Return the two features of the tutorial, declared with these code versions."""
    video = root(VIDEO, container("frames", frames), container("audio", audio))
    return declare(video, derived(PROCESSED, [VIDEO], container("default", processed)))


def videos(ids: Iterable[Any], columns: Mapping[str, Any] = NO_COLUMNS, *, take: str = "", **more: Any) -> pl.DataFrame:
    """Return rows of the video feature; `take` tells the versions of one recording from those of another."""
    ids = list(ids)
    versions = [{"frames": f"f{sample}{take}", "audio": f"a{sample}{take}"} for sample in ids]
    types = None if ids else EMPTY_VIDEOS
    return pl.DataFrame({SAMPLE_ID: ids, **columns, **more, "data_version": versions}, schema_overrides=types)


def samples(ids: Iterable[Any], columns: Mapping[str, Any] = NO_COLUMNS, **more: Any) -> pl.DataFrame:
    """Return samples without versions."""
    return pl.DataFrame({SAMPLE_ID: list(ids), **columns, **more})


def processed_version(sample: Any, *, take: str = "", code: int = 1) -> dict[str, str]:
    """Return the version that a processed video has to get from a row of `videos`."""
    return {
        "default": sha256(
            f"default|{code}|video_processing/audio|a{sample}{take}|video_processing/frames|f{sample}{take}"
        )
    }


def sha256(text: str) -> str:
    """Return the digest of a string in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def ids_of(frame: pl.DataFrame) -> list[Any]:
    """Return the ids in the order of the rows."""
    return frame[SAMPLE_ID].to_list()
