"""Is a failed read the fault of what was asked, or of what is stored?

Polars reads local files without a look at their checksums, and fails in its own ways where one is damaged. A panic in
it is no Exception, so that it would pass by whoever catches those.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log.reading.unreadable import READ_ERRORS
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.chain import chain

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Backend)


def names_damage(function: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Have a function of a store raise `CorruptObjectError`, which names the object, where Polars met a damaged one."""

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

    return checked
