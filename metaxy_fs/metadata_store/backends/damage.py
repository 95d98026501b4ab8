"""Translate what Polars raises where the system does not let it open a file: such errors name no root.

Whoever reads files tells damaged ones from a wrong question (see `metaxy_fs.log.reading.fetching`).
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from metaxy_fs.errors import MetaxyError, StorageAccessError, StorageError
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.system_errors import NO_DESCRIPTOR, REFUSED, explained, number_of

# What Polars leaves of a long path in its messages: the partition, and the name in it.
_DATA_FILE = re.compile(r"[0-9a-f]{16}[/\\][A-Za-z0-9][A-Za-z0-9._-]*\.parquet")

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Backend)


def names_damage(function: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Have a function of a store raise `StorageError` where Polars met a file that it could not open."""

    @wraps(function)
    def checked(store: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(store, *args, **kwargs)
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
