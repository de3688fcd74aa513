"""The configuration of a studio: its folder, its secrets, its limits."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from editkit.errors import EditkitError
from editkit.pictures.files.reading import MAX_BYTES, MAX_PIXELS

MIB = 1 << 20


class RefusedRequest(EditkitError):  # noqa: N818
    """A refused request: its HTTP status, and the reason in one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Bounds:
    """The limits of a studio.

    Args:
        upload: most bytes of one uploaded file. pixels: most pixels of one picture.
        text: most bytes of any other request.
        waiting, waiting_of_one: most waiting edits, in all and of one tab.
        streams: most event streams at once.
        pictures, masks, edits: how many are kept; more are refused until some are deleted.
        decoded: most bytes of decoded pictures kept for views.
        away: seconds after which a tab whose stream has ended counts as closed.
    """

    upload: int = 512 * MIB
    pixels: int = MAX_PIXELS
    text: int = 2 * MIB
    waiting: int = 256
    waiting_of_one: int = 64
    streams: int = 64
    pictures: int = 10_000
    masks: int = 10_000
    edits: int = 10_000
    decoded: int = 768 * MIB
    away: float = 20.0

    def __post_init__(self) -> None:
        if self.upload > MAX_BYTES or self.pixels > MAX_PIXELS:
            raise RefusedRequest(500, f"at most {MAX_BYTES} bytes and {MAX_PIXELS} pixels of a picture can be read")


@dataclass(frozen=True)
class Config:
    """The configuration of a studio.

    Args:
        folder: the only folder that is read or written; absolute, with links resolved.
        token: the secret that every request needs.
        password: what other machines must enter; None: no password.
        host: the address to listen on. port: filled in once it is known.
        models: the models that recipes may name in addition to the embedded ones.
        online: whether the models in `models` may be downloaded.
    """

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    password: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    models: tuple[str, ...] = ()
    online: bool = False
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine has access."""
        return is_loopback(self.host)

    def knows(self, token: str) -> bool:
        """Whether `token` is the token; takes the same time for every wrong one."""
        return hmac.compare_digest(_digest(token), _digest(self.token))

    def is_password(self, word: str) -> bool:
        """Whether `word` is the password."""
        return self.password is not None and hmac.compare_digest(_digest(word), _digest(self.password))

    def allows(self, name: str) -> bool:
        """Whether a recipe may name this model, network or weights file."""
        return name in self.models


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def is_loopback(host: str) -> bool:
    """Whether an address or name is a loopback address of this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, which no name server can redirect."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
