"""The types of the columns that this process has seen in each partition, and rows that do not fit them.

Types are compared with what was seen and with nothing else: no root is listed before a write. A store of files asks
its root besides (see `metaxy_fs.log.writing.types`).
"""

import threading
from dataclasses import replace

import polars as pl

from metaxy_fs.log.objects.agreed import AgreedTypes
from metaxy_fs.log.writing.chunks import Chunks
from metaxy_fs.spec import FeatureKey, FeatureSpec


class SeenSchemas:
    """The types of the columns that one store has read or written, by partition. Safe to share between threads."""

    def __init__(self) -> None:
        self._seen: dict[tuple[FeatureKey, str], AgreedTypes] = {}
        self._lock = threading.Lock()

    def check(self, spec: FeatureSpec, partition: str, rows: Chunks) -> None:
        """Refuse rows that could not be read together with what was seen; none at all can always be.

        Raises:
            MetadataSchemaError: A column has a type that has none in common with the one seen.
        """
        seen = self.of(spec.key, partition)
        if seen.conflicts(rows.schema) and any(frame.height for frame in rows):
            replace(seen, id_columns=spec.id_columns).refuse_conflicts(rows.schema, feature=str(spec.key))

    def add(self, key: FeatureKey, partition: str, schema: pl.Schema) -> None:
        """Remember a schema that was read or written; what does not fit is passed over."""
        with self._lock:
            seen = self._seen.get((key, partition), AgreedTypes())
            strange = set(seen.conflicts(schema))
            known = pl.Schema({name: dtype for name, dtype in schema.items() if name not in strange})
            self._seen[key, partition] = seen.added(seen.further(known))

    def of(self, key: FeatureKey, partition: str) -> AgreedTypes:
        """Return the types that were seen in a partition."""
        with self._lock:
            return self._seen.get((key, partition), AgreedTypes())
