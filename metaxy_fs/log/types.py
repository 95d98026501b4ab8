"""The types of columns that all writers to a partition have agreed on, and what fits them.

The first write to a partition settles the types of its columns, and a later one those of the columns that it adds.
Every agreement is an object that is put if it is absent, so all writers go through the same types in the same order,
and each of them refuses what could not be read beside what the others have written, before anything is stored.

What `_definition.json` settles costs nothing more. A column that it lacks, or a type that widens one of its, is put as
`_types/<n>.json`: the first free number. If another writer has taken it, what that one says is agreed on from then on,
and what is still missing goes under the next number.

A type is agreed on if the join of those before holds it exactly: nothing that is written later can come into conflict
with it that would not have been refused already. Integers and floats are one kind as long as the integers lie within
+-2**53; where they do not, the agreement says so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, MetadataSchemaError
from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import FORMAT_VERSION, Manifest, decode_object
from metaxy_fs.log.schema import Path, decode_schema, encode_schema
from metaxy_fs.log.statistics import ColumnStatistics, exact_in, exact_integers
from metaxy_fs.log.verified_io import SharedObject, ensure_shared
from metaxy_fs.log.widening import join, unproven, wide_integers, widen
from metaxy_fs.reserved import PREFIX
from metaxy_fs.storage.base import Storage


class FurtherTypes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The content of one object below `_types`.

    Attributes:
        columns: The columns and types that were agreed on, as `metaxy_fs.log.schema` writes them.
        large_integers: The leaves that hold integers beyond +-2**53, which no float stands beside.
    """

    format_version: int
    columns: msgspec.Raw
    large_integers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class AgreedTypes:
    """What is agreed on so far.

    Attributes:
        id_columns: The columns that name a sample: each has one type.
        types: The types of each column, in the order in which they were agreed on.
        large: The leaves that hold integers beyond +-2**53.
        number: How many objects of `_types` these come from.
    """

    id_columns: Sequence[str] = ()
    types: Mapping[str, tuple[pl.DataType, ...]] = field(default_factory=dict)
    large: AbstractSet[Path] = frozenset()
    number: int = 0

    def of(self, name: str) -> pl.DataType | None:
        """Return the type that a column is read as, None if none is agreed on."""
        agreed = self.types.get(name)
        return None if agreed is None else self._join(name, agreed, self.large)

    @property
    def is_mixed(self) -> bool:
        """Whether 64-bit integers stand beside floats in some column, which they may as long as they are small."""
        return any(
            len(agreed) > 1 and join(agreed, name=name, is_exact=unproven) is None
            for name, agreed in self.types.items()
        )

    def added(self, schema: pl.Schema, large: AbstractSet[Path] = frozenset(), *, number: int = 0) -> "AgreedTypes":
        """Return what is agreed on with further types."""
        types = dict(self.types)
        for name, dtype in schema.items():
            agreed = types.get(name, ())
            types[name] = agreed if dtype in agreed else (*agreed, dtype)
        return AgreedTypes(self.id_columns, types, self.large | large, number or self.number)

    def fitted(self, schema: pl.Schema) -> pl.Schema:
        """Return the schema that rows are brought to: id columns have the agreed type, if theirs may fit it."""
        fitted = dict(schema)
        for name in self.id_columns:
            agreed, given = self.types.get(name), schema[name]
            if agreed is not None and given != pl.Null() and widen(agreed[0], given) is not None:
                fitted[name] = agreed[0]
        return pl.Schema(fitted)

    def further(self, schema: pl.Schema, large: AbstractSet[Path] = frozenset()) -> pl.Schema:
        """Return those of the columns that are to be agreed on, since nothing is that holds their types.

        Args:
            schema: Columns that do not conflict with what is agreed on.
            large: The leaves that hold integers beyond +-2**53.
        """
        wanted = {}
        for name, dtype in schema.items():
            agreed = self.types.get(name, ())
            if _binds(name, dtype) and dtype not in agreed:
                joined = self._join(name, (*agreed, dtype), self.large | large)
                if not agreed or joined != self.of(name):
                    wanted[name] = dtype
        return pl.Schema(wanted)

    def conflicts(self, schema: pl.Schema, large: AbstractSet[Path] = frozenset()) -> list[str]:
        """Return the columns whose types no type holds together with those that are agreed on."""
        together = self.large | large
        changed = {path[0] for path in large - self.large}
        return [
            name
            for name, dtype in schema.items()
            if (name in changed or dtype not in self.types.get(name, ()))
            and self._join(name, (*self.types.get(name, ()), dtype), together) is None
        ]

    def refuse_conflicts(self, schema: pl.Schema, large: AbstractSet[Path] = frozenset(), *, feature: str) -> None:
        """Refuse columns that do not fit what is agreed on.

        Args:
            schema: The columns.
            large: The leaves that hold integers beyond +-2**53.
            feature: Whose rows they are, for messages.

        Raises:
            MetadataSchemaError: Some column does not.
        """
        for name in self.conflicts(schema, large):
            raise MetadataSchemaError(self._refusal(name, schema[name], feature=feature), column=name)

    def _refusal(self, name: str, given: pl.DataType, *, feature: str) -> str:
        agreed = self.of(name)
        if join((*self.types[name], given), name=name, is_exact=lambda _path: True) is not None:
            return (
                f"The column {name!r} of feature '{feature}' would hold integers beyond 2^53 beside floats, which no "
                f"type holds exactly: it is {agreed} in the rows that are stored, and {given} here. Cast it to "
                "pl.String under another name, or write numbers that fit."
            )
        if name in self.id_columns:
            return (
                f"The id column {name!r} of feature '{feature}' is {given}, and {agreed} in the rows that are stored. "
                f"Cast it{_cast(name, given, agreed)}. Rows whose ids are of another kind belong to another feature, "
                "or under another code_version."
            )
        return (
            f"The column {name!r} of feature '{feature}' is {given}, and {agreed} in the rows that are stored; no type "
            f"holds the values of both exactly. Cast it{_cast(name, given, agreed)}; or give it another name."
        )

    @staticmethod
    def _join(name: str, dtypes: Sequence[pl.DataType], large: AbstractSet[Path]) -> pl.DataType | None:
        return join(dtypes, name=name, is_exact=lambda path: path not in large)


def _cast(name: str, given: pl.DataType, wanted: pl.DataType | None) -> str:
    """Return how to cast a column, as an expression where one can be copied."""
    column = f": pl.col({name!r})"
    match wanted:
        case pl.Date() if given == pl.String():
            return f"{column}.str.to_date()"
        case pl.Datetime() if given == pl.String():
            return f"{column}.str.to_datetime(time_unit={wanted.time_unit!r}, time_zone={wanted.time_zone!r})"
    is_plain = wanted is not None and not wanted.is_nested() and not isinstance(wanted, pl.Enum)
    try:
        pl.Series([], dtype=given).cast(pl.Null() if wanted is None else wanted)
    except pl.exceptions.PolarsError:
        is_plain = False
    return f"{column}.cast(pl.{wanted})" if is_plain else f" to {wanted}"


def _binds(name: str, dtype: pl.DataType) -> bool:
    """Whether a type is to be agreed on: the library's own columns have each their own, and nulls fit any."""
    return dtype != pl.Null() and not name.startswith(PREFIX)


def large_integers(
    schema: pl.Schema, statistics: Sequence[ColumnStatistics], *, rows: int, id_columns: Sequence[str]
) -> frozenset[Path]:
    """Return the leaves of which statistics do not prove that all integers lie within +-2**53; ids are no floats."""
    return _large_leaves(_wide_leaves(schema, id_columns), statistics, rows=rows)


def _wide_leaves(schema: pl.Schema, id_columns: Sequence[str]) -> list[Path]:
    return [path for path in wide_integers(schema) if path[0] not in id_columns]


def _large_leaves(paths: Iterable[Path], statistics: Sequence[ColumnStatistics], *, rows: int) -> frozenset[Path]:
    is_exact = exact_integers(statistics, rows=rows)
    return frozenset(path for path in paths if not is_exact(path))


def types_of_files(manifests: Iterable[Manifest]) -> Iterator[tuple[pl.Schema, frozenset[Path]]]:
    """Yield each schema of the data files of manifests, and the leaves that hold integers beyond +-2**53 there."""
    found: dict[bytes, frozenset[Path]] = {}
    wide: dict[bytes, list[Path]] = {}
    for manifest in manifests:
        for file in manifest.files:
            data = manifest.schema_of(file)
            if data not in wide:
                wide[data] = _wide_leaves(decode_schema(data), manifest.id_columns)
                found[data] = frozenset()
            if wide[data]:
                found[data] |= _large_leaves(wide[data], file.statistics, rows=file.rows)
    for data, large in found.items():
        yield decode_schema(data), large


def large_in(frame: pl.DataFrame, *, id_columns: Sequence[str]) -> frozenset[Path]:
    """Return the same leaves of the rows of a frame."""
    is_exact = exact_in(frame)
    return frozenset(path for path in _wide_leaves(frame.schema, id_columns) if not is_exact(path))


def agreed_columns(schema: pl.Schema) -> msgspec.Raw:
    """Write the types of a schema that settle anything: a column without any value has the type of the others."""
    return msgspec.Raw(encode_schema(pl.Schema({name: dtype for name, dtype in schema.items() if _binds(name, dtype)})))


def encode_further(columns: pl.Schema, large: AbstractSet[Path]) -> bytes:
    """Return the bytes of an object of `_types`."""
    further = FurtherTypes(
        format_version=FORMAT_VERSION,
        columns=msgspec.Raw(encode_schema(columns)),
        large_integers=tuple(sorted(large)),
    )
    return msgspec.json.encode(further)


def decode_further(data: bytes, *, name: str) -> tuple[pl.Schema, frozenset[Path]]:
    """Return the columns of an object of `_types`, and the leaves that hold integers beyond +-2**53.

    Args:
        data: The object's bytes.
        name: The object as users would look it up, for messages.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: It is something else.
    """
    further = decode_object(data, FurtherTypes, name=name)
    return decode_columns(bytes(further.columns), name=name), frozenset(further.large_integers)


def decode_columns(data: bytes, *, name: str) -> pl.Schema:
    """Return the schema that an object holds.

    Raises:
        CorruptObjectError: It is none.
    """
    try:
        return decode_schema(data)
    except CorruptObjectError as error:
        raise CorruptObjectError(f"{name} has no columns that can be read: {error}.") from error


def agree_on_types(
    storage: Storage,
    partition: Partition,
    types: AgreedTypes,
    schema: pl.Schema,
    large: AbstractSet[Path] = frozenset(),
    *,
    feature: str,
) -> AgreedTypes:
    """Return what is agreed on, with the types of some columns among it.

    Args:
        storage: The root.
        partition: Where the columns are to be written.
        types: What is known to be agreed on.
        schema: The columns.
        large: The leaves that hold integers beyond +-2**53.
        feature: Whose rows they are, for messages.

    Raises:
        MetadataSchemaError: A column does not fit what others have agreed on.
        StorageError: They could not be asked.
    """
    while (more := _one_more(storage, partition, types, schema, large, feature=feature)) is not types:
        types = more
    return types


def agree_on_rows(
    storage: Storage, partition: Partition, types: AgreedTypes, rows: Chunks, *, feature: str
) -> tuple[AgreedTypes, Chunks]:
    """Return what is agreed on, with the types of some rows among it, and the rows in types that fit it.

    Raises:
        MetadataSchemaError: A column does not fit what others have agreed on.
        StorageError: They could not be asked.
    """
    while True:
        fitted = fitting(rows, types, feature=feature)
        more = _one_more(storage, partition, types, fitted.schema, frozenset(), feature=feature)
        if more is types:
            return types, fitted
        types = more  # what others have agreed on may ask for other types of ids, or of columns without a value


def _one_more(
    storage: Storage,
    partition: Partition,
    types: AgreedTypes,
    schema: pl.Schema,
    large: AbstractSet[Path],
    *,
    feature: str,
) -> AgreedTypes:
    """Return what is known to be agreed on and the object of `_types` that follows; the former if none is needed."""
    types.refuse_conflicts(schema, large, feature=feature)
    columns, unknown = types.further(schema, large), large - types.large
    if not columns and not unknown:
        return types
    number = types.number + 1
    path = partition.types_file(number)
    decode = partial(decode_further, name=f"{storage.location}/{path}")
    [agreed] = ensure_shared(storage, [SharedObject(path, encode_further(columns, unknown), decode)])
    return types.added(*decode(agreed), number=number)


def fitting(rows: Chunks, types: AgreedTypes, *, feature: str) -> Chunks:
    """Return rows in types that fit those that are agreed on: ids in the agreed ones.

    Raises:
        MetadataSchemaError: Some column does not fit; of ids in later chunks, when these are made.
    """
    target = types.fitted(rows.schema)
    if conflicts := types.conflicts(target):
        if any(frame.height for frame in rows):
            types.refuse_conflicts(target, feature=feature)
        target = pl.Schema({**target, **dict.fromkeys(conflicts, pl.Null())})
    if list(target.items()) == list(rows.schema.items()):
        return rows
    return Chunks(target, lambda: (_brought(frame, target, feature=feature) for frame in rows))


def refuse_unfit(rows: Chunks, types: AgreedTypes, *, feature: str) -> None:
    """Refuse rows in memory that do not fit what is agreed on.

    Raises:
        MetadataSchemaError: Some column does not.
    """
    for frame in fitting(rows, types, feature=feature):
        if types.added(frame.schema).is_mixed:
            large = large_in(frame, id_columns=types.id_columns)
            types.refuse_conflicts(frame.schema, large, feature=feature)


def _brought(frame: pl.DataFrame, target: pl.Schema, *, feature: str) -> pl.DataFrame:
    if not frame.height:
        return target.to_frame()
    return frame.with_columns(_cast_ids(frame, target, feature=feature))


def _cast_ids(frame: pl.DataFrame, target: pl.Schema, *, feature: str) -> Iterator[pl.Series]:
    """Yield the ids whose type is another one; casts of Polars round and wrap in silence, so they are cast back."""
    for ids in frame.get_columns():
        agreed = target[ids.name]
        if ids.dtype != agreed:
            cast = ids.cast(agreed, strict=False)
            is_wrong = cast.is_null() | (cast.cast(ids.dtype, strict=False) != ids)
            if is_wrong.any():
                raise MetadataSchemaError(
                    f"The id column {ids.name!r} of feature '{feature}' is {agreed} in the rows that are stored, which "
                    f"does not hold {ids.filter(is_wrong)[0]!r}, the first of {is_wrong.sum()} such {ids.dtype} ids "
                    "here. Leave them out, or write them to another feature or under another code_version.",
                    column=ids.name,
                )
            yield cast
