"""Settle which rows the name of a write stands for, between writers and copies.

Theory of operation. A name is taken by the first manifest of its commit, `appends/<commit>.json`, which is put if it is
absent. Compactions of this root take names over with the rows that they have. Only a copy brings a compaction of
another root, which may stand for other rows under a name that is being written here at the same moment: once it is put,
the manifest of the write counts no more. So each of the two shows what it is about to do, and then looks for the other:

- a writer puts its data files, whose names begin with the commit's id, then gets `_writes/<commit>.json`, and puts its
  manifest if there is none;
- a copy puts `_writes/<commit>.json`, then lists the partition, and puts its manifest if there is neither a data file
  nor a manifest of the commit.

One of the two sees the other, whatever the order. A copy that sees a write under way leaves it alone, and is repeated
once that has ended. A writer that sees what a copy has put does not know how far that is: it asks for the decision,
`_decisions/<commit>.json`, which is put if it is absent and names the digest of the rows that the name stands for from
then on. A copy asks for it too, before its manifest. So no rows are ever shown that have to vanish again, and a writer
that dies leaves a name that the owner of its rows can still complete.

`_writes/<commit>.json` proves nothing by itself: which rows a name stands for is what the manifests that count say.
`tests/proof/names_model.py` is a model of all this.
"""

from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import (
    ObjectExistsError,
    StorageError,
    WriteConflictError,
)
from metaxy_fs.log.commit_table import CommitTables
from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.layout import Partition, commit_of_append, commit_of_compaction
from metaxy_fs.log.manifest import FORMAT_VERSION, Manifest, decode_object, encode_manifest
from metaxy_fs.log.resolve import Covers, resolve
from metaxy_fs.log.verified_io import get_checked, put_idempotent
from metaxy_fs.log.view import manifest_bytes, read_manifests, retry_listing
from metaxy_fs.storage.base import Storage

_MAX_DECISION_BYTES: Final = 4096


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which rows a name stands for, where a writer and a copy had both been about to take it."""

    format_version: int
    digest: str


class Standing(NamedTuple):
    """The commit that a name stands for.

    Attributes:
        digest: The digest of its rows.
        rows: How many they are.
        path: The object that says so.
        manifest: The manifest that its writer put, None if that is gone.
    """

    digest: str
    rows: int
    path: str
    manifest: Manifest | None


def keep_write(
    source: Storage, target: Storage, partition: Partition, commit: str, *, with_values: bool = True
) -> None:
    """Keep what a retry of a named write is compared with, where a compaction stands for it.

    Args:
        source: The root that has it.
        target: The root of the retry, which may be the same.
        partition: Where it was written.
        commit: The id that its name gives.
        with_values: Whether to keep what its manifest says of the values of columns.
    """
    for path in (partition.append_manifest(commit), partition.kept_write(commit)):
        if (data := manifest_bytes(source, partition, commit, path=path)) is not None:
            if not with_values:
                data = _without_values(decode_manifest(data, partition=partition, commit=commit, name=path))
            with suppress(ObjectExistsError):  # of the attempt that was committed, or that the target has seen
                put_idempotent(target, partition.kept_write(commit), data)
            return


def _without_values(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest that says nothing of any value: its digest tells a retry by itself."""
    files = (
        msgspec.structs.replace(file, footer="", columns=b"", statistics=(), split_points=()) for file in manifest.files
    )
    return encode_manifest(msgspec.structs.replace(manifest, files=tuple(files)))


class WriteName:
    """The name of a write in one partition.

    Args:
        storage: The root.
        partition: Where it is written.
        commit: The id that the name gives.
    """

    def __init__(self, storage: Storage, partition: Partition, commit: str) -> None:
        self._storage = storage
        self._partition = partition
        self._commit = commit
        self._facts = {"feature": partition.feature, "root": storage.location, "commit": commit}

    def claim(self, digest: str) -> Standing | None:
        """Return the commit that the name stands for; None if a manifest of these rows may be put.

        To be called when the data files are put, and before the manifest is.

        Raises:
            WriteConflictError: The name was given to other rows, whose copy or write has not ended.
            StorageError: The root could not be asked.
        """
        kept = self._find(self._partition.kept_write(self._commit))
        if kept is None:
            return None
        standing = self._standing(kept)
        if standing is None:
            try:
                self.decide(digest)
            except WriteConflictError:
                # A writer that began before the copy needs no decision, and may have put these rows meanwhile.
                standing = self._standing(kept)
                if standing is None:
                    raise
        return standing

    def confirm(self, *, is_put: bool) -> Standing | None:
        """Return the commit that the name stands for after a manifest was put, or refused as the name was taken.

        None if it stands for what was put.

        Raises:
            StorageError: The root could not be asked.
        """
        kept = self._find(self._partition.kept_write(self._commit))
        if kept is None and is_put:
            return None
        if kept is None:
            path = self._partition.append_manifest(self._commit)
            if (append := self._find(path)) is not None:
                return Standing(append.digest, append.rows, path, append)
            kept = self._find(self._partition.kept_write(self._commit))  # a vacuum has moved it meanwhile
        standing = self._standing(kept)
        if standing is None:
            raise StorageError(
                f"{self._storage.location}/{self._partition.append_manifest(self._commit)} is gone, and no compaction "
                "stands for it.",
                **self._facts,
            )
        return standing

    def decide(self, digest: str) -> None:
        """Make sure that the name stands for rows of this digest, which nothing that counts contradicts so far.

        Raises:
            WriteConflictError: It was given to other rows.
            StorageError: The root could not be asked.
        """
        path = self._partition.decided_write(self._commit)
        try:
            put_idempotent(self._storage, path, msgspec.json.encode(Decision(FORMAT_VERSION, digest)))
        except ObjectExistsError as error:
            if self._decided(path) == digest:
                return
            raise WriteConflictError(
                f"The name {self._commit} in {self._storage.location}/{self._partition} was given to other rows, by a "
                f"write or a copy that has not ended ({path}). Nothing was committed. Run that again to complete it, "
                "or use another write_id for these rows.",
                path=path,
                **self._facts,
            ) from error

    def _decided(self, path: str) -> str:
        name = f"{self._storage.location}/{path}"

        def decoded(data: bytes) -> Decision:
            return decode_object(data, Decision, name=f"The decision {name}")

        data = get_checked(self._storage, path, limit=_MAX_DECISION_BYTES, check=decoded)
        if data is None:
            raise StorageError(f"{name} is gone since it was put.", path=path, **self._facts)
        return decoded(data).digest

    def _find(self, path: str) -> Manifest | None:
        """Return a manifest of the commit, None if there is none at a path."""
        partition, commit = self._partition, self._commit
        data = manifest_bytes(self._storage, partition, commit, path=path)
        return None if data is None else decode_manifest(data, partition=partition, commit=commit, name=path)

    def _standing(self, kept: Manifest | None) -> Standing | None:
        """Return the commit by what the manifests that count say, None if none of them has it."""
        return retry_listing(partial(self._look, kept))

    def _look(self, kept: Manifest | None) -> Standing | None:
        listed = list(self._storage.list(self._partition.manifests))
        found = {commit: info for info in listed if (commit := commit_of_compaction(info.path, self._partition))}
        compactions = dict(read_manifests(self._storage, self._partition, found, is_compaction=True))
        covers = {commit: Covers(manifest.covers) for commit, manifest in compactions.items()}
        mine = frozenset([self._commit])
        answering = [commit for commit in resolve((), covers).compactions if covers[commit].intersection(mine)]
        if answering:
            return self._covered(compactions[min(answering)], kept)
        path = self._partition.append_manifest(self._commit)
        if all(commit_of_append(info.path, self._partition) != self._commit for info in listed):
            return None
        append = self._find(path)
        return None if append is None else Standing(append.digest, append.rows, path, append)

    def _covered(self, compaction: Manifest, kept: Manifest | None) -> Standing:
        """Return the commit as the table of a compaction says."""
        table = CommitTables(self._storage).of(self._partition, compaction)
        row = table.row(by_predicate=pl.col("commit") == self._commit, named=True)
        if kept is not None and kept.digest == row["digest"]:
            return Standing(kept.digest, kept.rows, self._partition.kept_write(self._commit), kept)
        return Standing(row["digest"], row["rows"], self._partition.compaction_manifest(compaction.commit), None)
