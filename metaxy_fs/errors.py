"""The errors that metaxy_fs raises, sorted by what a caller does about them.

    MetaxyError
    ├── SpecError (ValueError)                    change the declaration of the feature
    ├── ConfigError (ValueError)                  change the file that names the stores
    ├── MetadataSchemaError (ValueError)          change the frame, nothing was stored
    ├── FeatureNotFoundError (LookupError)        compute the feature, or look in another root
    ├── SnapshotError (LookupError)               choose another snapshot, or open the stores that it was made through
    ├── DependencyError (LookupError)             compute the upstream feature first
    ├── HashAlgorithmError (ValueError)           open the root with its own algorithm, or chain others
    ├── ForkedProcessError (RuntimeError)         start processes with spawn or forkserver
    ├── WriteConflictError                        a write_id was used again with other rows
    ├── CorruptObjectError (ValueError)           a stored object cannot be trusted
    │   └── UnsupportedFormatError                upgrade metaxy_fs
    └── StorageError (OSError)                    the root could not be reached or used
        ├── ObjectNotFoundError (FileNotFoundError)
        ├── ObjectExistsError (FileExistsError)
        ├── StorageAccessError (PermissionError)
        └── CommitStateUnknownError               the write may have happened: look before writing again

Messages say what failed, the value, what was expected and what to do; none holds a credential.

An error carries what it is about as attributes, each None where it does not apply, so that a job can react to it
without taking a message apart.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

__all__ = [
    "CommitStateUnknownError",
    "ConfigError",
    "CorruptObjectError",
    "DependencyError",
    "FeatureNotFoundError",
    "ForkedProcessError",
    "HashAlgorithmError",
    "MetadataSchemaError",
    "MetaxyError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "SnapshotError",
    "SpecError",
    "StorageAccessError",
    "StorageError",
    "UnsupportedFormatError",
    "WriteConflictError",
]


class Facts(TypedDict, total=False):
    """What any error may be about; the attributes of `MetaxyError`."""

    feature: str | None
    root: str | None
    path: str | None
    commit: str | None
    column: str | None
    write_id: str | None


class MetaxyError(Exception):
    """The base of every error that metaxy_fs raises on purpose.

    A message quotes names from shared roots, and is printed on terminals: what is no printable character is escaped.
    Attributes hold the names as they are. They survive pickling, and no message or repr repeats them.

    Attributes:
        feature: The feature, as text that every method of a store takes: the parts of its key joined by `/`.
        root: The root, as messages name it: without credentials.
        path: The object, relative to the root.
        commit: The id of the commit.
        column: The column of the frame, or of the stored rows.
        write_id: The name that the caller gave to the write.

    Examples:
        >>> from metaxy_fs import FeatureKey, FeatureNotFoundError, InMemoryMetadataStore
        >>> try:
        ...     InMemoryMetadataStore().read_metadata(FeatureKey(["video", "frames"]))
        ... except FeatureNotFoundError as error:
        ...     print(error.feature, error.roots)
        video/frames ('memory',)
    """

    feature: str | None = None
    root: str | None = None
    path: str | None = None
    commit: str | None = None
    column: str | None = None
    write_id: str | None = None

    def __init__(
        self,
        *args: object,
        feature: str | None = None,
        root: str | None = None,
        path: str | None = None,
        commit: str | None = None,
        column: str | None = None,
        write_id: str | None = None,
    ) -> None:
        super().__init__(*args)
        add_facts(self, feature=feature, root=root, path=path, commit=commit, column=column, write_id=write_id)

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.isprintable() else "".join(map(_shown, text))


class SpecError(MetaxyError, ValueError):
    """A feature, container or graph is declared in a way that has no meaning."""


class ConfigError(MetaxyError, ValueError):
    """The file that names the stores of a project is missing, or says what has no meaning.

    Attributes:
        file: The file.
        line: The line in it that is to blame, from 1 on.
        key: The key that is to blame, with dots between tables.
    """

    file: Path | None = None
    line: int | None = None
    key: str | None = None

    def __init__(
        self,
        *args: object,
        file: Path | None = None,
        line: int | None = None,
        key: str | None = None,
        **facts: Unpack[Facts],
    ) -> None:
        super().__init__(*args, **facts)
        self.file, self.line, self.key = file, line, key


class MetadataSchemaError(MetaxyError, ValueError):
    """A frame does not fit the feature; nothing was stored. `column` is the one to blame, where it is one."""


class FeatureNotFoundError(MetaxyError, LookupError):
    """No root that was searched holds the feature.

    Attributes:
        roots: Where it was looked for, in order.
    """

    roots: tuple[str, ...] = ()

    def __init__(self, *args: object, roots: Sequence[str] = (), **facts: Unpack[Facts]) -> None:
        super().__init__(*args, **facts)
        self.roots = tuple(roots)


class SnapshotError(MetaxyError, LookupError):
    """A snapshot does not exist, or was made through stores that are not in this chain.

    Attributes:
        name: The name of the snapshot.
    """

    name: str | None = None

    def __init__(self, *args: object, name: str | None = None, **facts: Unpack[Facts]) -> None:
        super().__init__(*args, **facts)
        self.name = name


class DependencyError(MetaxyError, LookupError):
    """An upstream feature, or an upstream row of some sample, is missing.

    Attributes:
        upstream: The upstream feature, as `feature` is given.
    """

    upstream: str | None = None

    def __init__(self, *args: object, upstream: str | None = None, **facts: Unpack[Facts]) -> None:
        super().__init__(*args, **facts)
        self.upstream = None if upstream is None else _feature_text(upstream)


class HashAlgorithmError(MetaxyError, ValueError):
    """A root hashes versions with another algorithm than it was opened for, or than the rest of its chain."""


class ForkedProcessError(MetaxyError, RuntimeError):
    """This process was forked from one that had used Polars, and could only hang."""


class WriteConflictError(MetaxyError):
    """A `write_id` names a commit that holds other rows; `commit` is that one, `write_id` its name."""


class CorruptObjectError(MetaxyError, ValueError):
    """A stored object is truncated, altered, or claims what it may not: that at `path` below `root`."""


class UnsupportedFormatError(CorruptObjectError):
    """A stored object was written by a newer metaxy_fs."""


class StorageError(MetaxyError, OSError):
    """A root cannot be reached or used; says nothing about what it holds."""


class ObjectNotFoundError(StorageError, FileNotFoundError):
    """The root answered: there is no such object."""


class ObjectExistsError(StorageError, FileExistsError):
    """A put-if-absent met an object of that name."""


class StorageAccessError(StorageError, PermissionError):
    """The root refused the credentials or the operation."""


class CommitStateUnknownError(StorageError):
    """A write may or may not have been committed, and the root cannot be asked.

    The history of `feature` in `root` tells, once it can be read: `commit` is among its commits or not.
    """


def add_facts(error: MetaxyError, **facts: Unpack[Facts]) -> None:
    """Tell an error what it is about, as far as it does not know: who raised it knows best."""
    for name, value in facts.items():
        if value is not None and getattr(error, name) is None:
            setattr(error, name, _feature_text(str(value)) if name == "feature" else value)


@contextmanager
def about(**facts: Unpack[Facts]) -> Iterator[None]:
    """Add facts to every error that leaves the block."""
    try:
        yield
    except MetaxyError as error:
        add_facts(error, **facts)
        raise


def _feature_text(name: str) -> str:
    """Return the name of a feature as people write it, from that of its directory, which has dots between the parts."""
    return name.replace(".", "/")


def _shown(character: str) -> str:
    return character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
