"""Take over frames of other libraries, whose Arrow streams Polars reads, or name the column that it cannot read.

A stream is asked for its schema first. Polars panics where it meets some of Arrow's types, and does not say in which
column; and where it knows the library it goes by other ways, on which an index is dropped and a name is replaced.
"""

import ctypes
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import polars as pl

from metaxy_fs.errors import MetadataSchemaError


@runtime_checkable
class ArrowStream(Protocol):
    """Any object with the Arrow PyCapsule stream interface: a pandas or pyarrow table, a DuckDB relation, and more."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a capsule of an Arrow C stream."""


def from_arrow(frame: ArrowStream) -> pl.DataFrame:
    """Return a frame of another library as a Polars DataFrame: all columns, under their names.

    Raises:
        MetadataSchemaError: A column has a type that Polars lacks, or no string for a name; or the stream fails.
    """
    kind = kind_of(frame)
    try:
        if all(hasattr(frame, name) for name in ("index", "columns", "reset_index")):
            frame = _with_index_as_columns(frame)
        capsule = frame.__arrow_c_stream__()
        names = _column_names(capsule, kind)
        imported = pl.DataFrame(_CapsuleStream(capsule))
        imported.columns = names or imported.columns  # Polars puts names of its own in the place of empty ones
    except (MetadataSchemaError, OSError, MemoryError):
        raise
    # A panic is no Exception, and what Polars makes of a stream of others must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        blamed = "".join(f"; look at the column {name!r}" for name in _failing_columns(frame))
        raise MetadataSchemaError(f"Polars cannot take over this {kind}: {error}{blamed}") from error
    return imported


def kind_of(frame: object) -> str:
    """Return what an object is, with its library: several have a class of the name LazyFrame."""
    kind = type(frame)
    library = kind.__module__.partition(".")[0]
    return kind.__name__ if library in ("builtins", "__main__") else f"{library}.{kind.__name__}"


class _CapsuleStream:
    """A stream whose capsule was taken already; of some objects a second one cannot be had."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:  # a part of the interface
        return self._capsule


def _with_index_as_columns(frame: Any) -> Any:
    """Return a pandas frame with the levels of its index that are named as columns; row numbers are no data."""
    for name in frame.columns:
        if not isinstance(name, str):
            raise MetadataSchemaError(
                f"The column {name!r} of this {kind_of(frame)} has no string for a name. Rename it: "
                "frame.columns = frame.columns.map(str)."
            )
    for level, name in enumerate(frame.index.names):
        is_number = frame.index.get_level_values(level).dtype.kind in "iu"
        if (name is None and not is_number and len(frame)) or not isinstance(name, str | None):
            raise MetadataSchemaError(
                f"The index of this {kind_of(frame)} holds values under the name {name!r}, which is no name of a "
                "column. Name it, frame.rename_axis('name'), or leave it out: frame.reset_index(drop=True)."
            )
    named = [name for name in frame.index.names if name is not None]
    for name in named:
        if name in frame.columns:
            raise MetadataSchemaError(
                f"The index of this {kind_of(frame)} has the name of its column {name!r}. Leave the index out: "
                "frame.reset_index(drop=True)."
            )
    return (frame.reset_index(named) if named else frame).reset_index(drop=True)


def _failing_columns(frame: Any) -> Iterator[str]:
    """Yield the first column of a pandas frame that cannot be taken over by itself."""
    names = list(frame.columns) if hasattr(frame, "reset_index") else []
    for name in names:
        try:
            pl.DataFrame(_CapsuleStream(frame[[name]].__arrow_c_stream__()))
        except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  # whatever it was, this is the column
            yield name
            return


# What a stream says of its columns, by the C data interface of Arrow.


class _Schema(ctypes.Structure):
    pass


_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.POINTER(_Schema)),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Schema))),
    ("private_data", ctypes.c_void_p),
]


class _Stream(ctypes.Structure):
    _fields_ = (("get_schema", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Schema))),)


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _column_names(capsule: object, kind: str) -> list[str]:
    """Return the names of the columns of a stream, or refuse one that has a column of a type that Polars lacks."""
    address = _pointer_of(capsule, b"arrow_array_stream")
    schema = _Schema()
    if _Stream.from_address(address).get_schema(address, ctypes.byref(schema)):
        return []  # Polars gets the reason when it asks
    try:
        if schema.format != b"+s":
            raise MetadataSchemaError(f"This {kind} is a single column; give a table, whose columns have names.")
        columns = [schema.children[index].contents for index in range(schema.n_children)]
        names = [(column.name or b"").decode() for column in columns]
        for name, column in zip(names, columns, strict=True):
            if reason := _unreadable(column):
                raise MetadataSchemaError(f"The column {name!r} of this {kind} is {reason}", column=name)
        return names
    finally:
        schema.release(ctypes.byref(schema))


def _unreadable(schema: _Schema) -> str | None:
    """Say which type of Arrow that Polars lacks is in a column, and what to cast to; None if there is none."""
    written = (schema.format or b"").decode()
    inner = [schema.children[index].contents for index in range(schema.n_children)]
    inner += [schema.dictionary.contents] if schema.dictionary else []
    reasons = [_unreadable_itself(written), *map(_unreadable, inner)]
    return next((reason for reason in reasons if reason), None)


_UNREADABLE = {
    "tiM": "an interval of months, which has no fixed length; cast it to an integer.",
    "tiD": "an interval of days and milliseconds; cast it to a duration.",
    "tin": "an interval of months and days, which has no fixed length; cast it to a duration, or to a string.",
    "+us": "a union of several types; give each of them a column.",
    "+ud": "a union of several types; give each of them a column.",
    "+r": "run-end encoded; decode it, for example with pyarrow.compute.run_end_decode.",
    "+vl": "a view of lists; cast it to a list.",
    "+vL": "a view of lists; cast it to a list.",
}


def _unreadable_itself(written: str) -> str | None:
    kind, _, parameters = written.partition(":")
    if kind == "d":
        precision, scale, bits = map(int, f"{parameters},128".split(",")[:3])
        if precision > 38 or scale < 0 or bits != 128:
            return f"decimal({precision}, {scale}) of {bits} bits; cast it to one of 128 bits, or to float64."
    if kind.startswith("ts") and parameters and not _is_zone(parameters):
        return f"a time in the zone {parameters!r}, which is not known; cast it to UTC."
    return _UNREADABLE.get(kind)


def _is_zone(name: str) -> bool:
    if name[0] in "+-":  # an offset, which Polars turns into the zone of that
        return True
    try:
        pl.Series([0], dtype=pl.Int64).cast(pl.Datetime("us", name))
    except pl.exceptions.PolarsError:
        return False
    return True
