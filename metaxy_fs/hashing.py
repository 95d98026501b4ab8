"""The hash algorithms of row versions.

A root records the name of one when it is made, and all who write to it or calculate for it use that one. Polars
computes them, with polars-hash. All give at least 128 bits, as lowercase hex digits in the order in which the authors
of the algorithm write them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import polars as pl
import polars_hash as plh

HashAlgorithm = Literal["sha256", "sha3_256", "blake3", "xxh3_128"]

DEFAULT_ALGORITHM: Final = "sha256"


def hash_string(text: pl.Expr, *, algorithm: str) -> pl.Expr:
    """Return the digest of a string as lowercase hex digits: 64 of them, 32 for `xxh3_128`; null for null."""
    return _EXPRESSIONS[algorithm](text)


def hash_strings(strings: Sequence[str], *, algorithm: str) -> list[str]:
    """Return the digests of some strings, in order."""
    column = pl.DataFrame({"text": strings}, schema={"text": pl.String})
    return column.select(hash_string(pl.col("text"), algorithm=algorithm)).to_series().to_list()


def check_algorithm(name: str) -> None:
    """Refuse a name of an algorithm that is not offered.

    Raises:
        ValueError: It is none of those.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"hash_algorithm is one of {', '.join(map(repr, ALGORITHMS))}, got {name!r}.")


def _xxh3_128(text: pl.Expr) -> pl.Expr:
    digest = plh.NonCryptographicHashingNameSpace(text).xxh3_128(return_binary=True, byte_order="big")
    return digest.bin.encode("hex")


_EXPRESSIONS: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "sha256": lambda text: plh.CryptographicHashingNameSpace(text).sha2_256(),
    "sha3_256": lambda text: plh.CryptographicHashingNameSpace(text).sha3_256(),
    "blake3": lambda text: plh.CryptographicHashingNameSpace(text).blake3(),
    "xxh3_128": _xxh3_128,
}

ALGORITHMS: Final = tuple(_EXPRESSIONS)
"""The names, the default first."""
