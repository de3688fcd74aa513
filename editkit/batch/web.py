"""HTTP answers are read up to a limit: a server may send for ever, or state a wrong length."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from editkit.errors import PictureError
from editkit.pictures.files import reading

if TYPE_CHECKING:
    import aiohttp

MOST_LISTED = 64 << 20
"""Bytes of a listing, or of any other answer that is read as text."""


@cache
def _bounded() -> type[aiohttp.ClientResponse]:
    """An answer that is read as far as a picture's file may be long, once it is needed."""
    import aiohttp

    class Bounded(aiohttp.ClientResponse):
        """Content that is decompressed on the way counts at its decompressed size."""

        async def read(self) -> bytes:
            """All of it.

            Raises:
                PictureError: it is longer.
            """
            return await self._whole(reading.MAX_BYTES)

        async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
            """All of it as text, of at most `MOST_LISTED` bytes."""
            return (await self._whole(MOST_LISTED)).decode(encoding or self.get_encoding(), errors)

        async def _whole(self, most: int) -> bytes:
            if self._body is None:
                held = bytearray()
                async for part in self.content.iter_any():
                    held += part
                    if len(held) > most:
                        self.close()
                        place = self.url.with_query(None).with_user(None)
                        raise PictureError(f"{place}: larger than {most >> 20} MiB, the most that is read")
                self._body = bytes(held)
            return self._body

    return Bounded


async def client(**options: Any) -> aiohttp.ClientSession:
    """A session whose answers are bounded; fsspec calls it for the sessions of its HTTP file system."""
    import aiohttp

    return aiohttp.ClientSession(response_class=_bounded(), **options)
