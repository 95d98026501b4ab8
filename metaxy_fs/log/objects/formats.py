"""Was an object written by a version of the library that knows more than this one?

Every JSON object of a root states the version of its format. One of a newer format need not decode otherwise, so its
version is looked for on its own: who meets it is told to upgrade, and not that it is damaged.
"""

import msgspec

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.log.objects.manifest import FORMAT_VERSION


class _Version(msgspec.Struct):
    format_version: int = FORMAT_VERSION


def refuse_other_format(data: bytes, *, name: str) -> None:
    """Refuse an object of another format than this version knows; one that does not say is left to its decoder.

    Args:
        data: The object's bytes.
        name: What to call it, such as `The manifest ...`.

    Raises:
        UnsupportedFormatError: A newer version wrote it.
        CorruptObjectError: No version did.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{name} has format version {version}; this metaxy_fs knows up to {FORMAT_VERSION}. Upgrade metaxy_fs."
        )
    if version != FORMAT_VERSION:
        raise CorruptObjectError(f"{name} claims format version {version}, which never existed.")
