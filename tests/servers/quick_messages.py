"""The messages that the quick server reads and writes."""

from collections.abc import Mapping
from typing import NamedTuple


class Request(NamedTuple):
    """One request, whole."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """A status, more headers, and a body; a body is not sent where `length` is given."""

    status: int
    headers: tuple[str, ...] = ()
    body: bytes | memoryview = b""
    length: int | None = None
