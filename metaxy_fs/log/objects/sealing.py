"""Is an object of JSON as its writer left it?

With one digit changed, a time, a bound of a column or the id of a commit is as good as before, and gives other rows. So
the last field of an object is the checksum of all bytes that stand before it. It guards against what happens to bytes,
not against those who write them.
"""

import hashlib
from typing import Final

from metaxy_fs.errors import CorruptObjectError

_BEGIN: Final = b',"sha256":"'
_END: Final = b'"}'
_LENGTH: Final = len(_BEGIN) + 64 + len(_END)


def sealed(data: bytes) -> bytes:
    """Return the bytes of a JSON object of at least one field with its checksum."""
    body = data[:-1]
    return b"".join((body, _BEGIN, hashlib.sha256(body).hexdigest().encode(), _END))


def unsealed(data: bytes, *, name: str) -> bytes:
    """Return the bytes of an object without its checksum; a damaged checksum is left where it is, as a strange field.

    Args:
        data: All bytes. Objects of earlier versions have no checksum, and are returned as they are.
        name: What to call the object, such as `The manifest ...`.

    Raises:
        CorruptObjectError: The checksum is that of other bytes.
    """
    seal = data[-_LENGTH:]
    if not (seal.startswith(_BEGIN) and seal.endswith(_END)):
        return data
    body = memoryview(data)[:-_LENGTH]
    if hashlib.sha256(body).hexdigest().encode() != seal[len(_BEGIN) : -len(_END)]:
        raise CorruptObjectError(f"{name} does not have the checksum that it ends with: it was damaged, or changed.")
    return b"".join((body, b"}"))
