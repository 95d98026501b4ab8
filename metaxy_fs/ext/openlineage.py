"""Tell OpenLineage what was made of what: one run event for each job or write.

Nothing is sent until OpenLineage is configured as its client is: by `OPENLINEAGE_URL`, by `openlineage.yml`, or by
variables `OPENLINEAGE__TRANSPORT__...`. A transport that fails fails no job, since what is committed is committed: the
logger `metaxy_fs` warns. Source of the format: https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import polars as pl

try:
    import attr
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import (
        DatasetFacet,
        RunFacet,
        dataset_version_dataset,
        error_message_run,
        output_statistics_output_dataset,
        schema_dataset,
    )
    from openlineage.client.transport.noop import NoopConfig, NoopTransport
    from openlineage.client.uuid import generate_new_uuid
except ImportError as error:
    raise ImportError("metaxy_fs.ext.openlineage needs its client: pip install 'metaxy_fs[openlineage]'") from error

from metaxy_fs._version import __version__
from metaxy_fs.ids import elapsed, wall_clock
from metaxy_fs.metadata_store import FeatureNotFoundError, Materialization, MetadataStore
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.batches import shown_error
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.features import FeatureLike, require_declaration
from metaxy_fs.metadata_store.frames import FrameLike, to_frame
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage.redaction import redact
from metaxy_fs.versioning.definition import definition_version

__all__ = ["CountsFacet", "VersionsFacet", "materialize", "write_metadata"]

_LOG: Final = logging.getLogger("metaxy_fs")
_PRODUCER: Final = f"urn:metaxy-fs:{__version__}"
_Done = TypeVar("_Done")


@attr.define
class VersionsFacet(DatasetFacet):  # type: ignore[misc,unused-ignore]
    """The dataset facet `metaxyFs_versions`: which declaration the rows are of.

    Attributes:
        definition: The data version of the feature, which names its partition.
        codeVersions: The code version of each container.
    """

    definition: str = ""
    codeVersions: dict[str, str] = attr.field(factory=dict)  # noqa: N815  # as the standard spells fields


@attr.define
class CountsFacet(RunFacet):  # type: ignore[misc,unused-ignore]
    """The run facet `metaxyFs_counts`: what the job found and did.

    Attributes:
        counts: The samples by the names of `MaterializationCounts`; of a write, `written` alone.
        seconds: How long it took.
    """

    counts: dict[str, int] = attr.field(factory=dict)
    seconds: float = 0.0


def materialize(
    store: MetadataStore,
    feature: FeatureLike,
    compute: Callable[[pl.DataFrame], FrameLike],
    *,
    client: OpenLineageClient | None = None,
    namespace: str = "metaxy_fs",
    job: str | None = None,
    **options: Any,
) -> Materialization:
    """Do what `MetadataStore.materialize` does, and emit an event: `COMPLETE`, or `FAIL` with the error.

    Args:
        store: The store.
        feature: A Feature class, or a key that the active graph holds.
        compute: As for `MetadataStore.materialize`.
        client: Whom to tell; by default the client that the environment configures, nobody if it configures none.
        namespace: The namespace of the job.
        job: The name of the job; by default that of the feature.
        options: Those of `MetadataStore.materialize`.

    Raises:
        MetaxyError: As `MetadataStore.materialize` does.

    Examples:
        >>> from metaxy_fs import Feature, FeatureGraph, FeatureSpec, InMemoryMetadataStore
        >>> with FeatureGraph().use():
        ...
        ...     class Video(Feature, spec=FeatureSpec(key="video")):
        ...         pass
        >>> videos = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v1"}]})
        >>> materialize(InMemoryMetadataStore(), Video, lambda batch: batch, samples=videos).counts.written
        1
    """
    run = _Observed(store, feature, client, namespace, job)
    return run.of(lambda: store.materialize(feature, compute, **options), counts=lambda done: done.counts._asdict())


def write_metadata(
    store: MetadataStore,
    feature: FeatureLike,
    df: FrameLike,
    *,
    client: OpenLineageClient | None = None,
    namespace: str = "metaxy_fs",
    job: str | None = None,
    **options: Any,
) -> None:
    """Do what `MetadataStore.write_metadata` does, and emit an event; see `materialize`.

    A LazyFrame is collected, to count its rows.

    Raises:
        MetaxyError: As `MetadataStore.write_metadata` does.
    """
    rows = to_frame(df)
    run = _Observed(store, feature, client, namespace, job)
    run.of(lambda: store.write_metadata(feature, rows, **options), counts=lambda _: {"written": rows.height})


class _Observed:
    """A call of a store, whose end is told to OpenLineage if somebody listens."""

    def __init__(
        self,
        store: MetadataStore,
        feature: FeatureLike,
        client: OpenLineageClient | None,
        namespace: str,
        job: str | None,
    ) -> None:
        self._store, self._feature = store, feature
        self._declared = require_declaration(feature)
        self._client = client or _configured_client()
        self._job = Job(namespace=namespace, name=job or str(self._declared.key))

    def of(self, call: Callable[[], _Done], *, counts: Callable[[_Done], Mapping[str, int]]) -> _Done:
        """Make the call, tell of its end, and return or raise what it does."""
        started = elapsed()
        try:
            done = call()
        except BaseException as error:  # Ctrl-C too: the run has ended
            failure = error_message_run.ErrorMessageRunFacet(redact(shown_error(error)), "python", producer=_PRODUCER)
            self._emit(RunState.FAIL, {"errorMessage": failure}, written=None)
            raise
        found = dict(counts(done))
        facet = CountsFacet(counts=found, seconds=elapsed() - started, producer=_PRODUCER)
        self._emit(RunState.COMPLETE, {"metaxyFs_counts": facet}, written=found["written"])
        return done

    def _emit(self, state: RunState, facets: dict[str, RunFacet], *, written: int | None) -> None:
        if self._client is None:
            return
        try:
            event = RunEvent(
                eventTime=datetime.fromtimestamp(wall_clock() / 1e6, UTC).isoformat(),
                eventType=state,
                run=Run(runId=str(generate_new_uuid()), facets=facets),
                job=self._job,
                inputs=[
                    InputDataset(*_named(self._read_from(key), key), facets=self._versions(key))
                    for key in self._upstream()
                ],
                outputs=[self._output(written)],
                producer=_PRODUCER,
            )
            self._client.emit(event)
        except Exception as error:  # noqa: BLE001  # what the job did stands whoever hears of it
            _LOG.warning(
                "%s: OpenLineage was not told of %s: %s",
                self._store.location,
                self._declared.key,
                redact(shown_error(error)),
            )

    def _upstream(self) -> list[FeatureKey]:
        return [dep.key for dep in self._declared.spec.deps or ()]

    def _output(self, written: int | None) -> OutputDataset:
        key = self._declared.key
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=written, producer=_PRODUCER
        )
        return OutputDataset(
            *_named(self._store, key),
            facets={**self._versions(key), **self._schema()},
            outputFacets={} if written is None else {"outputStatistics": statistics},
        )

    def _read_from(self, key: FeatureKey) -> Backend:
        """Return the store of the chain that a feature is read from."""
        partition = definition_version(self._declared.graph, key).partition
        stores = chain(self._store, fallback=True)
        return next((each for each in stores if each.has_version(key, partition)), self._store)

    def _versions(self, key: FeatureKey) -> dict[str, DatasetFacet]:
        """Return the facets that say which declaration of a feature is meant."""
        graph = self._declared.graph
        definition = definition_version(graph, key).partition
        spec = graph.find(key)
        codes = {str(each.key): str(each.code_version) for each in (spec.containers if spec else ())}
        return {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(definition, producer=_PRODUCER),
            "metaxyFs_versions": VersionsFacet(definition=definition, codeVersions=codes, producer=_PRODUCER),
        }

    def _schema(self) -> dict[str, DatasetFacet]:
        """Return the facet of the columns that are stored, if any are."""
        try:
            columns = self._store.scan_metadata(self._feature).collect_schema()
        except FeatureNotFoundError:
            return {}
        fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=str(kind)) for name, kind in columns.items()]
        return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields, producer=_PRODUCER)}


def _named(store: Backend, key: FeatureKey) -> tuple[str, str]:
    """Return the namespace and the name of a dataset, as the standard has those of files, or of tables."""
    if isinstance(store, _OfTables):
        return store.dataset_of(key)
    scheme, separator, rest = store.location.partition("://")
    host, _, path = rest.partition("/")
    return (f"{scheme}://{host}", f"{path}/{key}".lstrip("/")) if separator else ("file", f"{store.location}/{key}")


@runtime_checkable
class _OfTables(Protocol):
    """A store of tables in a database, whose URL is no name."""

    def dataset_of(self, key: FeatureKey) -> tuple[str, str]: ...


def _configured_client() -> OpenLineageClient | None:
    """Return the client that the environment configures; without any, the client itself would print events."""
    silent = OpenLineageClient(transport=NoopTransport(NoopConfig()))
    is_configured = bool(silent.config.transport) or bool(os.environ.get("OPENLINEAGE_URL"))
    return OpenLineageClient() if is_configured else None
