"""Translate what Polars raises in a read: files that are damaged, files that cannot be opened, or a wrong question.

Polars reads local files without a look at their checksums, and fails in its own ways where one is damaged. A panic in
it is no Exception, so that it would pass by whoever catches those. Where the system does not let it open a file, it
raises errors of the system, which name no root.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from metaxy_fs.errors import MetadataSchemaError, MetaxyError, StorageAccessError, StorageError
from metaxy_fs.log.reading.unreadable import READ_ERRORS
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.chain import chain
from metaxy_fs.system_errors import NO_DESCRIPTOR, REFUSED, explained, number_of

# What Polars leaves of a long path in its messages: the partition, and the name in it.
_DATA_FILE = re.compile(r"[0-9a-f]{16}[/\\][A-Za-z0-9][A-Za-z0-9._-]*\.parquet")

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Backend)


def names_damage(function: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Have a function of a store raise errors of metaxy_fs where Polars met a file that it could not read.

    Those are `CorruptObjectError`, which names a damaged object, and `StorageError` where a file could not be opened.
    """

    @wraps(function)
    def checked(store: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(store, *args, **kwargs)
        except (*READ_ERRORS, MetadataSchemaError) as error:
            # What a predicate could not be evaluated on may be damaged, too.
            met = error.__cause__ if isinstance(error, MetadataSchemaError) else error
            if isinstance(met, READ_ERRORS):
                for each in chain(store, fallback=True):
                    each.refuse_damaged_reads(met)
            raise
        except MetaxyError:
            raise
        except OSError as error:
            refuse_unopened(error)
            raise

    return checked


def refuse_unopened(error: OSError) -> None:
    """Refuse to go on where the system did not let Polars open a data file; files of users are theirs.

    Raises:
        StorageAccessError: This user may not read it.
        StorageError: It could not be opened for another reason.
    """
    number, file = number_of(error), _DATA_FILE.search(str(error))
    if file is not None or number in NO_DESCRIPTOR:
        kind = StorageAccessError if number in REFUSED else StorageError
        what = f"the data file {file[0]}" if file else "a file"
        raise kind(f"cannot open {what}: {explained(error)}.") from error
