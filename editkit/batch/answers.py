"""Turn errors of a service's library into one line with the address, without anything that could be secret."""

from __future__ import annotations

from editkit.errors import EditkitError, PictureError

LASTING = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""Errors that are passed on to the caller."""


class TemporaryError(Exception):
    """A temporary failure: a busy service, a lost connection."""


class StoreGoneError(PictureError):
    """The store itself no longer exists."""


class StoreErrors:
    """Turns errors of a service's library into one line with the address, without anything that could be secret."""

    def __init__(self, at: str) -> None:
        self._at = at

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, (*LASTING[:1], EditkitError)):
            return
        if isinstance(error, LASTING[2:]):
            return
        name = type(error).__name__
        refused = isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403)
        if refused or "Credential" in name or "Token" in name:
            raise PictureError(
                f"{self._at}: access is refused, or no credentials were found ({name}); give them by the environment, "
                f"as docs/scale.md says"
            ) from None
        if isinstance(error, (OSError, TimeoutError)) or "Timeout" in name or "Connection" in name:
            raise TemporaryError(f"does not answer as it should ({name})") from None
        if type(error).__module__.split(".")[0] in ("aiohttp", "botocore", "aiobotocore", "s3fs"):
            raise TemporaryError(f"does not answer as it should ({name})") from None
        raise PictureError(f"{self._at}: cannot be read or written ({name})") from None
