"""Read messages of HTTP/1.1 from a stream and pass them on, as far as object stores use them."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

LONGEST_HEAD = 1 << 20
_PIECE = 1 << 18
_WITHOUT_BODY = {"204", "304"}


class Head(NamedTuple):
    """The first line of a message, and its headers by their names in lower case."""

    first: str
    headers: dict[str, str]

    @property
    def words(self) -> list[str]:
        """Method and target of a request; version and status of an answer."""
        return self.first.split(" ")

    def encode(self) -> bytes:
        """Return the head as it is sent."""
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def framed(self, size: int) -> "Head":
        """Return the head for a body of another size, sent in one piece."""
        kept = {name: value for name, value in self.headers.items() if name != "transfer-encoding"}
        return self._replace(headers={**kept, "content-length": str(size)})


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Return the next head; raises EOFError where the stream has ended."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    named = (line.partition(":") for line in lines)
    return Head(first, {name.strip().lower(): value.strip() for name, _, value in named})


async def read_body(reader: asyncio.StreamReader, head: Head, *, method: str) -> AsyncIterator[bytes]:
    """Yield the body of a message in pieces, without the marks of chunks.

    Args:
        reader: The stream, right behind the head.
        head: The head.
        method: That of the request, or of the one that is answered.
    """
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
    elif "content-length" in head.headers:
        remaining = 0 if method == "HEAD" else int(head.headers["content-length"])
        while remaining:
            piece = await reader.read(min(remaining, _PIECE))
            if not piece:
                raise EOFError("the stream ended within a body")
            remaining -= len(piece)
            yield piece
    elif head.first.startswith("HTTP/") and method != "HEAD" and head.words[1] not in _WITHOUT_BODY:
        while piece := await reader.read(_PIECE):
            yield piece
