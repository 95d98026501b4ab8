"""The terms of a root: what one process has agreed on with all other writers to it.

Theory of operation. What a root and a partition are is said by objects that are put if they are absent: whoever is
first decides, and everybody else goes by what is there. A process asks with its first write to a partition, remembers
the answer, and asks again beside a later write once the answer is old, because the root may have been removed.
"""

import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import NamedTuple

import msgspec

from metaxy_fs.errors import HashAlgorithmError, MetaxyError
from metaxy_fs.hashing import DEFAULT_ALGORITHM
from metaxy_fs.ids import elapsed
from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.commit import CommitRequest
from metaxy_fs.log.descriptions import (
    PartitionInfo,
    Root,
    check_info,
    decode_info,
    decode_root,
    find_info,
    find_root,
    refuse_overwriting_storage,
    shared_partition_file,
    shared_root_file,
    types_of,
)
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import DataFile, Manifest
from metaxy_fs.log.schema import Path as SchemaPath
from metaxy_fs.log.types import (
    AgreedTypes,
    agree_on_rows,
    agree_on_types,
    agreed_columns,
    large_integers,
    refuse_unfit,
    types_of_files,
)
from metaxy_fs.log.verified_io import SharedObject, ensure_shared
from metaxy_fs.storage.base import Storage

_BELIEVED_SECONDS = 60.0
"""How long a process that writes goes by what a root and its partitions were agreed to be: they may be removed."""
_TWICE = "two attempts of one write_id could both be committed there: write without one"


class Terms:
    """What all writers to a root agree on, as far as this process has asked. Safe to share between threads.

    Args:
        storage: Where the root is.
        hash_algorithm: What the root has to record; None if it may record any, and a new one is to record the default.
    """

    def __init__(self, storage: Storage, *, hash_algorithm: str | None) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._root: Root | None = None
        self._expected_algorithm = hash_algorithm
        self._put_is_conditional = False
        self._agreed: dict[Partition, _Agreed] = {}
        self._agreeing: dict[Partition, threading.Lock] = {}
        self._glimpsed: dict[Partition, AgreedTypes | None] = {}

    @property
    def expected_algorithm(self) -> str | None:
        """What the root has to record, None if it may record any."""
        return self._expected_algorithm

    def hash_algorithm(self) -> str:
        """Return what the root records; before it is made, what it will.

        Looks into the root until there is one. What was answered before has to be what is recorded then, so that
        versions which were calculated meanwhile fit those of others.

        Raises:
            HashAlgorithmError: The root records another algorithm than it has to.
            StorageError: The root could not be asked.
        """
        if self._root is None:
            found = find_root(self._storage)
            with self._lock:
                if found is None and self._root is None:
                    self._expected_algorithm = self._expected_algorithm or DEFAULT_ALGORITHM
                    return self._expected_algorithm
                if found is not None:
                    self._root = self._expected(found)
        return self._root.hash_algorithm

    def agree(self, request: CommitRequest, spec: bytes) -> CommitRequest:
        """Agree with all other writers to a partition on a write, and return it with rows that fit what was agreed on.

        The first write of a process to a root and to a partition also leaves their descriptions.

        Args:
            request: The rows, and where they belong.
            spec: The feature's declaration, as JSON; kept in the description of a partition that has none yet.
        """
        types = self._agreed_with(request, spec).types
        if types is None:
            return request
        agreed, rows = agree_on_rows(self._storage, request.partition, types, request.rows, feature=_name(request))
        self._remember(request.partition, agreed)
        return msgspec.structs.replace(request, rows=rows)

    def agree_on_prepared(self, request: CommitRequest, spec: bytes, writes: Sequence[Manifest]) -> None:
        """Agree with all other writers to a partition on the types of writes whose data files are put already.

        Args:
            request: Where they belong; its rows have the first of their schemas.
            spec: The feature's declaration, as JSON.
            writes: What their manifests would say.

        Raises:
            MetadataSchemaError: A column does not fit what others have agreed on.
        """
        types = self._agreed_with(request, spec).types
        if (prove := self.proof(request, spec)) is not None:
            prove()
            types = self._agreed[request.partition].types
        if types is not None:
            for schema, large in types_of_files(writes):
                types = agree_on_types(self._storage, request.partition, types, schema, large, feature=_name(request))
            self._remember(request.partition, types)

    def refuse_types(self, partition: Partition, rows: Chunks, *, feature: str) -> None:
        """Refuse rows in memory that do not fit what is known to be agreed on; asks the root once, and puts nothing.

        Raises:
            MetadataSchemaError: A column does not fit.
        """
        if (agreed := self._agreed.get(partition)) is not None:
            types = agreed.types
        else:
            if partition not in self._glimpsed:
                self._glimpsed[partition] = self._glimpse(partition)
            types = self._glimpsed[partition]
        if types is not None:
            refuse_unfit(rows, types, feature=feature)

    def admit(self, request: CommitRequest, entry: DataFile) -> None:
        """Refuse a data file whose integers no float holds, where there are floats."""
        types = self._agreed[request.partition].types
        if types is None:
            return
        schema = request.rows.schema
        large = large_integers(schema, entry.statistics, rows=entry.rows, id_columns=request.id_columns)
        if large - types.large:
            self._agree_on_columns(request, types, large)

    def proof(self, request: CommitRequest, spec: bytes) -> Callable[[], object] | None:
        """Return what has to be asked while a write is under way; None if nothing has."""
        is_old = elapsed() - self._agreed[request.partition].since > _BELIEVED_SECONDS
        is_unproven = request.write_id is not None and not self._put_is_conditional
        if not is_old and not is_unproven:
            return None

        def prove() -> None:
            if is_old:
                self._agree_again(request, spec)
            if is_unproven:
                self._refuse_overwriting()

        return prove

    def _agreed_with(self, request: CommitRequest, spec: bytes) -> "_Agreed":
        """Return what all writers to a partition agree on; the first write of a process there makes sure of it.

        Nothing is put into a root, or a partition, that is there and does not fit.
        """
        name = f"{self._storage.location}/{request.partition.definition_file}"
        with self._lock:
            agreeing = self._agreeing.setdefault(request.partition, threading.Lock())
        with agreeing:  # one thread asks about a partition; those that write to others do not wait for it
            is_known = self._root is not None
            if is_known and (agreed := self._agreed.get(request.partition)) is not None:
                check_info(agreed.info, feature=request.feature, id_columns=request.id_columns, name=name)
                return agreed
            wanted = [self._shared_partition_file(request, spec)]
            shared = ensure_shared(self._storage, wanted if is_known else [self._shared_root_file(), *wanted])
            found = decode_info(shared[-1], name=name)
            agreed = _Agreed(found, types_of(found, name=name), elapsed())
            with self._lock:
                if not is_known:
                    self._root = self._expected(decode_root(shared[0], name=self._storage.location))
                self._agreed[request.partition] = agreed
            return agreed

    def _shared_partition_file(self, request: CommitRequest, spec: bytes) -> SharedObject:
        # The types of rows that cannot even be made, since some of them lack what is upstream, bind nobody.
        return shared_partition_file(
            self._storage,
            request.partition,
            _description(request, spec),
            before_put=lambda: next(iter(request.rows), None),
        )

    def _glimpse(self, partition: Partition) -> AgreedTypes | None:
        """Return the types of a partition's description; None if it cannot be had, which the next write will say."""
        with suppress(MetaxyError):
            info = find_info(self._storage, partition)
            if info is not None:
                return types_of(info, name=f"{self._storage.location}/{partition.definition_file}")
        return None

    def _agree_on_columns(
        self, request: CommitRequest, types: AgreedTypes, large: AbstractSet[SchemaPath] = frozenset()
    ) -> None:
        """Agree on the types of the rows of a write, and remember them."""
        schema, name = request.rows.schema, _name(request)
        self._remember(
            request.partition, agree_on_types(self._storage, request.partition, types, schema, large, feature=name)
        )

    def _remember(self, partition: Partition, types: AgreedTypes) -> None:
        with self._lock:
            terms = self._agreed[partition]
            if terms.types is not None and terms.types.number < types.number:
                self._agreed[partition] = terms._replace(types=types)

    def _agree_again(self, request: CommitRequest, spec: bytes) -> None:
        """Make sure that what was agreed on is there: a root that was removed may have been made again, or not."""
        wanted = [self._shared_root_file(), self._shared_partition_file(request, spec)]
        data, described = ensure_shared(self._storage, wanted)
        name = f"{self._storage.location}/{request.partition.definition_file}"
        found = decode_info(described, name=name)
        types = types_of(found, name=name)
        with self._lock:
            self._root = decode_root(data, name=self._storage.location)
            self._agreed[request.partition] = _Agreed(found, types, elapsed())
        if types is not None:
            self._agree_on_columns(request, types)

    def _shared_root_file(self) -> SharedObject:
        algorithm = self._root.hash_algorithm if self._root else self._expected_algorithm or DEFAULT_ALGORITHM
        return shared_root_file(self._storage, hash_algorithm=algorithm, check=self._expected)

    def _refuse_overwriting(self) -> None:
        if self._root is not None:
            refuse_overwriting_storage(self._storage, self._root, hence=_TWICE)
            self._put_is_conditional = True

    def _expected(self, root: Root) -> Root:
        if self._expected_algorithm not in (None, root.hash_algorithm):
            raise HashAlgorithmError(
                f"{self._storage.location} hashes versions with {root.hash_algorithm}, as was decided when it was "
                f"made, and was opened for {self._expected_algorithm}. Open it without hash_algorithm, or make another "
                "root.",
                root=self._storage.location,
            )
        if self._root is not None and self._root.hash_algorithm != root.hash_algorithm:
            raise HashAlgorithmError(
                f"{self._storage.location} was removed and made again since this store began to use it: it hashes "
                f"versions with {root.hash_algorithm} now, not with {self._root.hash_algorithm}. Open it anew.",
                root=self._storage.location,
            )
        return root


class _Agreed(NamedTuple):
    """What all writers to a partition agree on, and when this was last looked at; `types` is None in older roots."""

    info: PartitionInfo
    types: AgreedTypes | None
    since: float


def _name(request: CommitRequest) -> str:
    return "/".join(request.feature)


def _description(request: CommitRequest, spec: bytes) -> PartitionInfo:
    return PartitionInfo(
        feature=request.feature,
        definition=request.definition,
        id_columns=request.id_columns,
        spec=msgspec.Raw(spec),
        columns=agreed_columns(request.rows.schema),
    )
