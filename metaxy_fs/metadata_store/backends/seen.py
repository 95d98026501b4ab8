"""Would rows fit those that this process has already seen in the partition?

Types are compared with what was seen and with nothing else: no root is listed before a write. What two processes
write without knowing of each other is compared when it is read.
"""

import threading

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log.reading.widening import widen
from metaxy_fs.spec import FeatureKey


class SeenSchemas:
    """The types of the columns that one store has read or written, by partition. Safe to share between threads."""

    def __init__(self) -> None:
        self._seen: dict[tuple[FeatureKey, str], dict[str, pl.DataType]] = {}
        self._lock = threading.Lock()

    def check(self, key: FeatureKey, partition: str, schema: pl.Schema) -> None:
        """Refuse a schema that could not be read together with what was seen.

        Raises:
            MetadataSchemaError: A column has a type that has none in common with the one seen.
        """
        with self._lock:
            held = self._seen.get((key, partition), {})
            for column, dtype in schema.items():
                if column in held and widen(held[column], dtype) is None:
                    raise MetadataSchemaError(
                        f"The column '{column}' of feature '{key}' is {dtype}, but rows that are stored have it as "
                        f"{held[column]}, and no type holds both exactly. Cast it, or give it another name."
                    )

    def add(self, key: FeatureKey, partition: str, schema: pl.Schema) -> None:
        """Remember a schema that was read or written."""
        with self._lock:
            held = self._seen.setdefault((key, partition), {})
            for column, dtype in schema.items():
                held[column] = widen(held.get(column, dtype), dtype) or dtype
