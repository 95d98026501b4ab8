"""What do manifests have in common, that need not be held once for each?

Nearly all manifests of a partition have one schema, one definition and one list of columns. What is decoded of each
anew is most of what it takes in memory, where many are held.
"""

from typing import TypeVar

import msgspec

from metaxy_fs.log.objects.manifest import DataFile, Definition, Manifest

_T = TypeVar("_T")

_MOST = 10_000
"""Values that are kept to be shared; a root whose manifests have nothing in common is no reason to keep more."""


class Shared:
    """Gives what is equal in several manifests as one object. Safe to share between threads."""

    def __init__(self) -> None:
        self._kept: dict[object, object] = {}

    def manifest(self, manifest: Manifest) -> Manifest:
        """Return an equal manifest, which also holds nothing of the bytes that it was decoded from."""
        if len(self._kept) > _MOST:
            self._kept = {}
        return msgspec.structs.replace(
            manifest,
            feature=self._one(manifest.feature),
            definition=self._definition(manifest.definition),
            id_columns=self._one(manifest.id_columns),
            schema=self._schema(manifest.schema),
            schemas=tuple(map(self._schema, manifest.schemas)),
            writer=self._one(manifest.writer),
            files=tuple(map(self._file, manifest.files)),
        )

    def _file(self, file: DataFile) -> DataFile:
        statistics = tuple(msgspec.structs.replace(leaf, path=self._one(leaf.path)) for leaf in file.statistics)
        return msgspec.structs.replace(file, statistics=statistics)

    def _schema(self, schema: msgspec.Raw) -> msgspec.Raw:
        text = bytes(schema)
        return self._under(text, msgspec.Raw(text))

    def _definition(self, definition: Definition) -> Definition:
        return self._under((definition.version, *definition.containers.items()), definition)

    def _one(self, value: _T) -> _T:
        return self._under(value, value)

    def _under(self, key: object, value: _T) -> _T:
        kept = self._kept.setdefault(key, value)
        return kept if type(kept) is type(value) else value
