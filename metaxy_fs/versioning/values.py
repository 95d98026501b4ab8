"""Write the values of some columns of a row as one string, from which the version of the row can be hashed.

The string holds, for each column that is not null, in the order of their names, the name as ids that are strings are
written (see `metaxy_fs.versioning.relations`), and the value: ids as they are written there, and others likewise as
`<kind><length>:<text>`:

    o  booleans  0 or 1                                                     o1:1
    f  floats    the 64 bits of the number as an integer, in decimal;       f19:4609434218613702656
                 -0.0 is 0.0, and every NaN is one
    c  decimals  without zeros at the end                                   c3:1.5
    l  lists     the values one after the other, `n0:` for null             l11:i1:1n0:i1:2
    r  structs   as a row is written                                        r8:s1:ai1:1

So no two rows have one string, and the order of columns, the width of types, columns without a value and the place of a
row do not count.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import polars.selectors as cs

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.versioning.columns import is_id_type
from metaxy_fs.versioning.relations import id_text


def row_text(columns: Mapping[str, pl.DataType]) -> pl.Expr:
    """Return the values of some columns of a row as a string that no others have.

    Args:
        columns: Their names and types.

    Raises:
        MetadataSchemaError: A column has a type that is none of those.

    Examples:
        >>> row = pl.DataFrame({"path": ["a.mp4"], "size": [7]})
        >>> row.select(row_text(row.schema)).item()
        's4:paths5:a.mp4s4:sizei1:7'
    """
    return _fields([(name, cs.by_name(name).as_expr(), dtype) for name, dtype in columns.items()])


def _fields(values: Iterable[tuple[str, pl.Expr, Any]]) -> pl.Expr:
    named: list[pl.Expr] = []
    for name, value, dtype in sorted(values, key=lambda each: each[0]):
        try:
            text = _text(value, dtype)
        except TypeError as error:
            raise MetadataSchemaError(
                f"Column {name!r} has the type {error}, and no version is made of that; name other columns.",
                column=name,
            ) from None
        named.append(pl.concat_str(pl.lit(f"s{len(name.encode())}:{name}"), text).fill_null(""))
    return pl.concat_str(pl.lit(""), *named)


def _text(value: pl.Expr, dtype: Any) -> pl.Expr:
    """Return a value as a string that no other, and no beginning of one, is written as; null for null."""
    if is_id_type(dtype):
        return id_text(value, dtype)
    match dtype:
        case pl.Null():
            return value.cast(pl.String)
        case pl.Boolean():
            kind, text = "o", value.cast(pl.Int8).cast(pl.String)
        case pl.Float32() | pl.Float64():
            number = value.cast(pl.Float64).fill_nan(float("nan"))
            positive = pl.when(number == 0).then(0.0).otherwise(number)  # `+ 0.0` would be optimized away
            kind, text = "f", positive.reinterpret(dtype=pl.UInt64).cast(pl.String)
        case pl.Decimal():
            kind, text = "c", value.cast(pl.String).str.replace(r"(\.\d*?)0+$", "$1").str.strip_suffix(".")
        case pl.List() | pl.Array():
            listed = value.arr.to_list() if isinstance(dtype, pl.Array) else value
            kind, text = "l", listed.list.eval(_text(pl.element(), dtype.inner).fill_null("n0:")).list.join("")
        case pl.Struct():
            fields = ((field.name, value.struct.field(field.name), field.dtype) for field in dtype.fields)
            kind, text = "r", pl.when(value.is_not_null()).then(_fields(fields))
        case _:
            raise TypeError(dtype)
    return pl.concat_str(pl.lit(kind), text.str.len_bytes().cast(pl.String), pl.lit(":"), text)
