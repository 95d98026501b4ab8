"""What is said of an object that is not needed any more, and how is it deleted?"""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Literal

import msgspec

from metaxy_fs.errors import MetaxyError
from metaxy_fs.parallel import ordered_map

State = Literal["deleted", "deletable", "waiting", "failed"]


class Removal(msgspec.Struct, frozen=True, order=True):
    """An object that is not needed any more, and what becomes of it.

    Attributes:
        path: The object, below the root.
        state: `"deleted"`. `"deletable"`: it would be deleted, this was a dry run. `"waiting"`: it is too early.
            `"failed"`: the storage did not delete it.
        reason: Why it is not needed; what went wrong, if something did.
        age: For how long it has not been needed.
        bytes: Its size.
    """

    path: str
    state: State
    reason: str
    age: timedelta
    bytes: int


def delete_all(removals: Iterable[Removal], *, delete: Callable[[str], object], at_once: int) -> Iterator[Removal]:
    """Delete what is deletable, and yield what became of each object, whether or not others failed.

    Args:
        removals: What is to be deleted, and what is left as it is.
        delete: Deletes the object at a path.
        at_once: How many are deleted side by side.
    """
    act = partial(_deleted, delete)
    yield from map(act, removals) if at_once == 1 else ordered_map(act, removals, workers=at_once)


def _deleted(delete: Callable[[str], object], removal: Removal) -> Removal:
    if removal.state != "deletable":
        return removal
    try:
        delete(removal.path)
    except MetaxyError as error:
        return msgspec.structs.replace(removal, state="failed", reason=f"{removal.reason}; {error}")
    return msgspec.structs.replace(removal, state="deleted")
