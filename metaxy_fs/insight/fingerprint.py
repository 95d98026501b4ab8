"""The model of a fingerprint: digests of the ids and versions of features, and what a check of them finds.

The formula. The text of a row is the text of its ids (as groups hash them; see `metaxy_fs.versioning.relations`), in
the order of the names of the id columns, then `|name|version` for each container that it has, in the order of their
names. The row's digest is the sha256 of that, in hex, and its bucket is the first 3 digits of the sha256 of the text of
its ids. The digest of a bucket is the sha256 of the digests of its rows, sorted and joined. The digest of a feature is
the sha256 of its id columns, as a JSON list in order without blanks, followed by `|bucket|digest` for each bucket that
has rows, in order. The digest of a fingerprint is the sha256 of the lines `feature|digest` of its features, in order,
each with an end of line.

So nothing counts but which samples there are and which versions they have. A bucket stays what it is when a version
changes, so buckets that differ hold all samples that do.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final, Self

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.hashing import hash_string
from metaxy_fs.markup import count, fragment, printable, table
from metaxy_fs.spec import Feature, FeatureKey
from metaxy_fs.spec.keys import named_key
from metaxy_fs.system_errors import naming
from metaxy_fs.versioning.columns import DATA_VERSION
from metaxy_fs.versioning.relations import id_text

FORMAT_VERSION: Final = 1
BUCKET_DIGITS: Final = 3
BUCKETS: Final = 16**BUCKET_DIGITS

_SHOWN: Final = {"feature": pl.String, "samples": pl.Int64, "digest": pl.String}
_BUCKET, _ROW, _IDS, _SAMPLES, _DIGEST = "bucket", "row", "ids", "samples", "digest"
_KEPT_DIGITS: Final = 16
"""Of the digests of buckets, which only say where to look."""

CHECKED: Final = pl.Schema(
    {
        "feature": pl.String(),
        "status": pl.String(),
        "samples_then": pl.Int64(),
        "samples_now": pl.Int64(),
        "buckets": pl.Int64(),
    }
)
"""The columns of a check; see `FingerprintCheck`."""


class FeatureFingerprint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a fingerprint says of one feature.

    Attributes:
        definition: The version of the partition whose rows were looked at; None for those of all definitions.
        id_columns: The columns that name a sample, in order.
        samples: How many there are.
        digest: The digest of all ids and versions, 64 hex digits.
        buckets: The first digits of the digest of each bucket that has rows.
    """

    definition: str | None
    id_columns: tuple[str, ...]
    samples: int
    digest: str
    buckets: dict[str, str]


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digests of the ids and versions of features: of the same definitions, equal if and only if these are.

    Nothing else counts: not the order of writes, compactions, copies, the kind of root, or other columns. A fingerprint
    is compared with `==`, kept as JSON, and checked by `store.check`.

    Attributes:
        features: What it says of each feature, by the text of its key.
        format_version: The version of this format.

    Examples:
        >>> from metaxy_fs import FeatureGraph, FeatureSpec, InMemoryMetadataStore
        >>> store = InMemoryMetadataStore()
        >>> with FeatureGraph.from_specs([FeatureSpec(key="video")]).use():
        ...     rows = pl.DataFrame({"sample_id": [1, 2], "data_version": [{"default": "v1"}, {"default": "v2"}]})
        ...     store.write_metadata("video", rows)
        ...     taken = store.fingerprint(["video"])
        >>> taken.digest[:12], taken.features["video"].samples
        ('c37c70f01d86', 2)
        >>> Fingerprint.from_json(taken.to_json()) == taken
        True
    """

    features: dict[str, FeatureFingerprint]
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """The digest of everything, 64 hex digits."""
        return _sha256("".join(f"{name}|{self.features[name].digest}\n" for name in sorted(self.features)))

    def __str__(self) -> str:
        samples = sum(feature.samples for feature in self.features.values())
        return f"Fingerprint {self.digest[:16]} of {count(samples, 'sample')} of {', '.join(sorted(self.features))}"

    def _repr_html_(self) -> str:
        rows = [(name, feature.samples, feature.digest) for name, feature in self.features.items()]
        return fragment(
            f"Fingerprint {self.digest[:16]}", table(pl.DataFrame(rows, schema=_SHOWN, orient="row"), rows=len(rows))
        )

    def to_json(self) -> str:
        """Return the fingerprint as JSON, which `from_json` reads."""
        return msgspec.json.encode(self, order="sorted").decode()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the JSON to a file.

        Raises:
            OSError: The file could not be written.
        """
        with naming("write the fingerprint", path):
            Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the fingerprint that some JSON holds.

        Raises:
            UnsupportedFormatError: A newer metaxy_fs made it.
            CorruptObjectError: It is none.
        """
        try:
            found = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _refuse_newer(text)
            raise CorruptObjectError(
                f"This is no fingerprint: {error}. `save` and `metaxy-fs fingerprint --json` make one."
            ) from error
        _refuse_newer(text)
        return found

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return the fingerprint that `save` wrote to a file; raises what `from_json` does.

        Raises:
            OSError: The file could not be read.
        """
        with naming("read the fingerprint", path):
            data = Path(path).read_bytes()
        try:
            return cls.from_json(data)
        except CorruptObjectError as error:
            raise CorruptObjectError(f"{path}: {error}") from error


@dataclass(frozen=True)
class FingerprintCheck:
    """What differs between a fingerprint and what a store holds; true if nothing does.

    Attributes:
        features: One row for each feature of the fingerprint: `feature` (string), `status` (string: `"same"`,
            `"changed"`, or `"missing"` where no store of the chain has rows of it under that definition),
            `samples_then` and `samples_now` (Int64), `buckets` (Int64, how many of the 4,096 differ).
    """

    features: pl.DataFrame
    _samples: Mapping[FeatureKey, pl.DataFrame]

    def __bool__(self) -> bool:
        return bool((self.features.get_column("status") == "same").all())

    def samples(self, feature: type[Feature] | FeatureKey | str) -> pl.DataFrame:
        """Return the ids of the stored samples that may differ: those in buckets that do, sorted.

        All that were changed or added are among them. Those that are gone are not, since a fingerprint holds no ids.

        Raises:
            KeyError: The fingerprint does not hold the feature.
        """
        key = feature.spec.key if isinstance(feature, type) else named_key(FeatureKey, feature, what="A feature")
        if key not in self._samples:
            raise KeyError(f"The fingerprint has no feature '{key}'; it has {', '.join(map(str, self._samples))}.")
        return self._samples[key]

    def to_text(self) -> str:
        """Return one line for all, and one for each feature that differs."""
        differing = self.features.filter(pl.col("status") != "same")
        if differing.is_empty():
            return f"the same in {count(self.features.height, 'feature')}"
        verb = "differs" if differing.height == 1 else "differ"
        lines = [f"{differing.height} of {count(self.features.height, 'feature')} {verb}"]
        return "\n".join([*lines, *(f"  {self._line(row)}" for row in differing.iter_rows(named=True))])

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return fragment(self.to_text().splitlines()[0], table(self.features))

    def _line(self, row: Mapping[str, object]) -> str:
        name = printable(str(row["feature"]))
        if row["status"] == "missing":
            return f"{name}: no rows, there were {row['samples_then']:,}"
        places = self._samples[FeatureKey.parse(str(row["feature"]))].height
        return (
            f"{name}: {count(int(str(row['samples_now'])), 'sample')}, there were {row['samples_then']:,}; "
            f"{row['buckets']:,} of {BUCKETS:,} buckets differ, which hold {places:,}"
        )


def fingerprint_of(rows: pl.LazyFrame, *, id_columns: Sequence[str], definition: str | None) -> FeatureFingerprint:
    """Return what a fingerprint says of a feature.

    Args:
        rows: The row of each sample that counts, with its ids and `data_version`.
        id_columns: What names a sample.
        definition: The partition that the rows are from; None if they are from any.
    """
    ordered = tuple(sorted(id_columns))
    schema = rows.collect_schema()
    buckets = (
        rows.select(_bucket(schema, ordered), _row_digest(schema, ordered))
        .group_by(_BUCKET)
        .agg(pl.len().alias(_SAMPLES), pl.col(_ROW).sort().str.join("").alias(_ROW))
        .select(_BUCKET, _SAMPLES, hash_string(pl.col(_ROW), algorithm="sha256").alias(_DIGEST))
        .sort(_BUCKET)
        .collect()
    )
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False)
    text += "".join(f"|{bucket}|{digest}" for bucket, digest in buckets.select(_BUCKET, _DIGEST).iter_rows())
    kept = buckets.select(_BUCKET, pl.col(_DIGEST).str.slice(0, _KEPT_DIGITS))
    return FeatureFingerprint(
        definition=definition,
        id_columns=ordered,
        samples=int(buckets.get_column(_SAMPLES).sum()),
        digest=_sha256(text),
        buckets=dict(kept.iter_rows()),
    )


def differing_buckets(then: FeatureFingerprint, now: FeatureFingerprint) -> list[str]:
    """Return the buckets whose rows differ, in order."""
    names = then.buckets.keys() | now.buckets.keys()
    return sorted(name for name in names if then.buckets.get(name) != now.buckets.get(name))


def samples_in(rows: pl.LazyFrame, *, id_columns: Sequence[str], buckets: Sequence[str]) -> pl.DataFrame:
    """Return the ids of the rows that are in some buckets, sorted."""
    found = rows.filter(_bucket(rows.collect_schema(), sorted(id_columns)).is_in(buckets))
    return found.select(id_columns).sort(id_columns).collect()


def _bucket(schema: pl.Schema, id_columns: Sequence[str]) -> pl.Expr:
    return hash_string(_ids(schema, id_columns), algorithm="sha256").str.slice(0, BUCKET_DIGITS).alias(_BUCKET)


def _row_digest(schema: pl.Schema, id_columns: Sequence[str]) -> pl.Expr:
    versions = schema[DATA_VERSION]
    names = sorted(field.name for field in versions.fields) if isinstance(versions, pl.Struct) else []
    # A container that a definition lacks is null in its rows, and no part of their text.
    fields = ((name, pl.col(DATA_VERSION).struct.field(name)) for name in names)
    # Not `pl.format`, which panics on a column that has an empty chunk beside others.
    parts = [pl.concat_str([pl.lit(f"|{name}|"), field]).fill_null("") for name, field in fields]
    return hash_string(pl.concat_str([_ids(schema, id_columns), *parts]), algorithm="sha256").alias(_ROW)


def _ids(schema: pl.Schema, id_columns: Sequence[str]) -> pl.Expr:
    return pl.concat_str([id_text(pl.col(name), schema[name]) for name in id_columns])


def _refuse_newer(text: str | bytes) -> None:
    try:
        version = msgspec.json.decode(text, type=_Versioned).format_version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"This fingerprint has format version {version}, and this metaxy_fs knows {FORMAT_VERSION}; upgrade it."
        )


class _Versioned(msgspec.Struct):
    """What every version of the format says."""

    format_version: int


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
