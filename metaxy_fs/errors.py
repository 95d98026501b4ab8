"""Which errors does metaxy_fs raise, and what is the caller to do about each?

    MetaxyError
    ├── SpecError (ValueError)                    change the declaration of the feature
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
"""


class MetaxyError(Exception):
    """The base of every error that metaxy_fs raises on purpose.

    A message quotes names from shared roots, and is printed on terminals: what is no printable character is escaped.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.isprintable() else "".join(map(_shown, text))


class SpecError(MetaxyError, ValueError):
    """A feature, container or graph is declared in a way that has no meaning."""


class MetadataSchemaError(MetaxyError, ValueError):
    """A frame does not fit the feature; nothing was stored."""


class FeatureNotFoundError(MetaxyError, LookupError):
    """No root that was searched holds the feature."""


class SnapshotError(MetaxyError, LookupError):
    """A snapshot does not exist, or was made through stores that are not in this chain."""


class DependencyError(MetaxyError, LookupError):
    """An upstream feature, or an upstream row of some sample, is missing."""


class HashAlgorithmError(MetaxyError, ValueError):
    """A root hashes versions with another algorithm than it was opened for, or than the rest of its chain."""


class ForkedProcessError(MetaxyError, RuntimeError):
    """This process was forked from one that had used Polars, and could only hang."""


class WriteConflictError(MetaxyError):
    """A `write_id` names a commit that holds other rows."""


class CorruptObjectError(MetaxyError, ValueError):
    """A stored object is truncated, altered, or claims what it may not."""


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
    """A write may or may not have been committed, and the root cannot be asked."""


def _shown(character: str) -> str:
    return character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
