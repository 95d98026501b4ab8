"""Receipts of prepared writes: what a worker hands to the driver that commits them."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Self

import msgspec

from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import FORMAT_VERSION, Manifest, decode_object, encode_manifest
from metaxy_fs.log.resolve import Shared


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a worker hands to the driver: a write whose rows are stored, and which nobody sees before it is committed.

    A small value without credentials that can be pickled, or sent as JSON.

    Attributes:
        feature: The key of the feature, its parts joined by `/`.
        version: The version of the partition, the first digits of the data version of the definition.
        commit: The id of the write.
        rows: How many rows it has.
        task_id: The task that prepared it, if that has a name.
        manifest: What a manifest would say of it, as JSON.
    """

    format_version: int = FORMAT_VERSION
    feature: str
    version: str
    commit: str
    rows: int
    task_id: str | None = None
    manifest: str

    def __repr__(self) -> str:
        return f"Receipt({self.feature!r}, commit={self.commit!r}, rows={self.rows}, task_id={self.task_id!r})"

    def to_json(self) -> str:
        """Return the receipt as a JSON object."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the receipt that `to_json` gave.

        Raises:
            CorruptObjectError: It is something else.
        """
        return decode_object(text.encode() if isinstance(text, str) else text, cls, name="The receipt")


def receipt_of(manifest: Manifest, *, task_id: str | None) -> Receipt:
    """Return the receipt of a write whose data files are put."""
    return Receipt(
        feature="/".join(manifest.feature),
        version=manifest.definition.version[:16],
        commit=manifest.commit,
        rows=manifest.rows,
        task_id=task_id,
        manifest=encode_manifest(manifest).decode(),
    )


class Attempts(NamedTuple):
    """What the receipts of some tasks stand for.

    Attributes:
        writes: What their manifests would have said, each write and each task once, in commit order.
        others: By the commit of a write, those of later attempts at its task.
    """

    writes: tuple[Manifest, ...]
    others: Mapping[str, AbstractSet[str]] = {}


def attempts_of(receipts: Iterable[Receipt], *, partition: Partition) -> Attempts:
    """Return what receipts stand for; of several of one task the one that was prepared first.

    Raises:
        CorruptObjectError: One is no receipt of a write to the partition.
    """
    shared = Shared()
    chosen: dict[tuple[str | None, str], Receipt] = {}
    others: dict[str, set[str]] = {}
    for receipt in sorted(receipts, key=lambda receipt: receipt.commit):
        named = receipt.task_id is not None
        first = chosen.setdefault((receipt.task_id, "" if named else receipt.commit), receipt)
        if first.commit != receipt.commit:
            others.setdefault(first.commit, set()).add(receipt.commit)
    once = sorted({receipt.commit: receipt for receipt in chosen.values()}.items())
    writes = tuple(
        shared.manifest(
            decode_manifest(
                receipt.manifest.encode(), partition=partition, commit=commit, name=f"in the receipt of {commit}"
            )
        )
        for commit, receipt in once
    )
    return Attempts(writes, others)
