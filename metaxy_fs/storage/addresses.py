"""Give a root one address: the same for each spelling of it, for every client.

`s3://bucket//prefix/` and `s3a://bucket/prefix` are one root, and so are `/data/x` and `file://localhost/data/x`. What
names no root, or names it so that some client would misread it, is refused before anything is written somewhere else.
"""

import os
import re
from urllib.parse import unquote_to_bytes

from metaxy_fs.storage.redaction import redact

BUCKETS = frozenset({"s3", "gs"})
"""The protocols whose roots are a bucket, or a prefix in one; others that mean the same are rewritten to them."""
_SAME = {"s3a": "s3", "gcs": "gs"}
# Two characters at least: `C:\data` is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::.*)?://", re.DOTALL)
_FILE_URI = re.compile(r"file:", re.IGNORECASE)
_OF_THIS_MACHINE = re.compile(r"file:|local://", re.IGNORECASE)
_NEARLY_URL = re.compile(
    r"([a-z][a-z0-9+.-]+(?=:[/\\](?![/\\]))|(?:s3a?|gcs|gs)(?=:(?!//)|//)|https?(?=//))([:/\\]+)", re.IGNORECASE
)
_URL_BELOW_A_DIRECTORY = re.compile(r"[/\\](s3a?|gcs|gs):([/\\]|$)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{\w+\}|(?:^|(?<=/))\$\w+(?=/|$)")
_OPTION_IN_URL = re.compile(r"\?\w+=")


def one_name(protocol: str) -> str:
    """Return the one name of a protocol that has several."""
    return _SAME.get(protocol.lower(), protocol.lower())


def text_of_root(root: object) -> str:
    """Return what a root is given as: the path of a directory, or a URL.

    Raises:
        TypeError: It is something else.
        ValueError: It is the path of another file system than the local one, or no path has such characters.
    """
    # Asked before `os.fspath`, for which cloudpathlib downloads an object into a local cache.
    if not isinstance(root, str) and is_url(written := str(root)):
        raise TypeError(
            f"expected a string or a local path, got {type(root).__name__}({redact(written)!r}): give the URL as a "
            "string, str(path), and its options as storage_options"
        )
    text = os.fspath(root) if isinstance(root, str | os.PathLike) else None
    if not isinstance(text, str):
        shown = redact(repr(root))
        raise TypeError(f"a root is the path of a directory, or a URL such as 's3://bucket/prefix'; got {shown}")
    if "\0" in text:
        raise ValueError(f"no path has a null character, got {redact(text)!r}")
    if not isinstance(root, str) and is_url(text):
        raise TypeError(f"expected a string or a local path, got {type(root).__name__}: give {redact(text)!r} itself")
    return text


def address_of(root: object) -> str:
    """Return the URL of a root, or its path in the local file system, in one spelling.

    Raises:
        TypeError: It is neither, nor a path of `pathlib`.
        ValueError: It names no root, or one that clients would understand in different ways.

    Examples:
        >>> address_of("s3a://bucket//prefix/")
        's3://bucket/prefix'
        >>> address_of("file://localhost/data/my%20features")
        '/data/my features'
    """
    text = text_of_root(root)
    if text != text.strip() and (is_url(text.strip()) or text != text.strip("\r\n")):
        raise ValueError(f"{redact(text)!r} begins or ends with white space; remove it")
    if variable := _VARIABLE.search(text):
        raise ValueError(
            f"{redact(text)!r} holds {variable[0]!r}, and variables are not replaced; use os.path.expandvars(root)"
        )
    if _FILE_URI.match(text):
        return _path_of_file_uri(text)
    return url_of(text) if is_url(text) else _local(text)


def is_url(text: str) -> bool:
    """Whether a root is a URL, and not a path of the local file system."""
    return bool(_URL.match(text)) and not _OF_THIS_MACHINE.match(text)


def is_nearly_url(text: str) -> bool:
    """Whether a root is a URL with a typing error between its protocol and its bucket, which no store takes."""
    return bool(_NEARLY_URL.match(text))


def protocols_of(url: str) -> list[str]:
    """Return the protocols of a URL, several if it is chained, the outermost first.

    Examples:
        >>> protocols_of("simplecache::s3://bucket/prefix")
        ['simplecache', 's3']
    """
    return [part.partition("://")[0] for part in url.split("::")]


def url_of(url: str) -> str:
    """Return a URL in one spelling.

    Raises:
        ValueError: It names no bucket, or holds what is no part of a root.
    """
    if not url.isprintable():
        raise ValueError(f"{redact(url)!r} holds a character that cannot be printed, such as the end of a line")
    return "::".join(_link(part, url) for part in url.split("::"))


def path_on_filesystem(path: str, *, protocol: str) -> str:
    """Return a path on a filesystem of a protocol without the slashes that mean nothing there."""
    if "://" in path:
        return path.rstrip("/")
    is_absolute = path.startswith("/") and one_name(protocol) not in BUCKETS
    return "/" * is_absolute + _joined(path)


def _link(part: str, url: str) -> str:
    protocol, separator, rest = part.partition("://")
    if not separator:
        return part
    protocol = one_name(protocol)
    if protocol in BUCKETS:
        _check_bucket(rest, url)
    if protocol in ("http", "https") and {"?", "#"} & set(rest):
        raise ValueError(f"{redact(url)!r} has a query or a fragment, and a root has neither: give the address alone")
    if protocol in BUCKETS or protocol == "memory":
        rest = _joined(rest)
    return f"{protocol}://{rest.rstrip('/')}"


def _check_bucket(path: str, url: str) -> None:
    bucket, *prefix = path.split("/")
    if not bucket:
        raise ValueError(f"{redact(url)!r} names no bucket: expected s3://bucket/prefix or gs://bucket/prefix")
    if not bucket.startswith("arn:") and {"@", ":"} & set(bucket):
        raise ValueError(
            f"{redact(url)!r} has credentials or a port where its bucket stands: expected s3://bucket/prefix; those go "
            "into storage_options, as key, secret and endpoint_url of S3, or token and endpoint_url of GCS"
        )
    if {".", ".."} & {bucket, *prefix}:
        raise ValueError(f"{redact(url)!r} has a part '.' or '..', which object stores take for a name; leave it out")
    if _OPTION_IN_URL.search(path):
        raise ValueError(f"{redact(url)!r} has options behind '?': give them as storage_options")


def _joined(path: str) -> str:
    return "/".join(part for part in path.split("/") if part)


def _path_of_file_uri(uri: str) -> str:
    """Return the path that a URI of RFC 8089 names."""
    rest = uri.partition(":")[2]
    host = ""
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        rest = slash + rest
    if host.lower() not in ("", "localhost") or not rest.startswith("/"):
        raise ValueError(
            f"{redact(uri)!r} does not name an absolute path of this machine: expected file:///path; give a relative "
            "path without 'file:', and a directory of another machine by the path where it is mounted"
        )
    path = os.fsdecode(unquote_to_bytes(rest))
    if "\0" in path:
        raise ValueError(f"no path has a null character, got {redact(uri)!r}")
    return path.lstrip("/") if os.name == "nt" else path


def _local(path: str) -> str:
    if (nearly := _NEARLY_URL.match(path)) is not None:
        url = redact(f"{nearly[1]}://{path[nearly.end() :]}")
        raise ValueError(
            f"{url.replace('://', nearly[2], 1)!r} is nearly a URL: did you mean {url!r}? Give it as a string, since "
            "pathlib drops a slash; for a directory of that name, write './' before it"
        )
    if _URL_BELOW_A_DIRECTORY.search(path):
        raise ValueError(
            f"{redact(path)!r} looks like a URL that was joined to a directory or made absolute: give the URL alone"
        )
    path = path.removeprefix("local://")
    if not path:
        raise ValueError("expected the path of a directory, got an empty one")
    if path.startswith("~") and os.path.expanduser(path) == path:  # noqa: PTH111  # Path raises RuntimeError
        raise ValueError(f"there is no home directory for {path!r}; a directory of that name is './{path}'")
    return path
