"""Stores of pictures and results, by address: `s3://bucket/photos`, `gs://`, `memory://`, `https://host/photos/`,
archives (`photos.zip`, `s3://bucket/photos.tar`). Anything else is a local folder.

A `Store` is the minimal interface for a batch. An object is written completely or not at all, and `create` writes it
only if no object has that name; the journal in a store relies only on these two properties (`editkit.batch.ledger`).
fsspec provides the services. Credentials come from the environment, as for the services' own tools, and never from an
address, because addresses are written into journals.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from editkit.batch.answers import StoreErrors, StoreGoneError, TemporaryError
from editkit.batch.web import client
from editkit.common.extras import explained
from editkit.common.spec import did_you_mean
from editkit.errors import ExtraError, PictureError, UsageError
from editkit.pictures.files.reading import MAX_BYTES

T = TypeVar("T")

ARCHIVES = {".zip": "zip", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".tar.bz2": "tar", ".tar.xz": "tar"}
KEEPING = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Services that write an object atomically, and only if it does not exist, so that they can store results."""

LISTED = ("http", "https")
TRIES = 6
"""Attempts after temporary errors (a 503, a timeout), with pauses of 0.1, 0.2, 0.4 ... seconds."""

PAUSE = 0.1


class Store(Protocol):
    """A remote or local folder. Names are relative to it, with slashes.

    Every method raises PictureError for permanent errors, with the address and without secrets.
    """

    @property
    def address(self) -> str:
        """The address without secrets, for messages and journals."""
        ...

    def names(self, under: str = "") -> Iterator[tuple[str, int]]:
        """Yield every object below `under` with its size in bytes, -1 if unknown; folder by folder."""
        ...

    def read(self, name: str) -> bytes | None:
        """Read an object; None: there is none."""
        ...

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None: there is none."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Create an object if there is none. Return whether it now contains `data`; also True if it did before, which
        happens when the response of a successful write was lost.
        """
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, replacing an existing one."""
        ...

    def put(self, name: str, path: str) -> None:
        """Upload a local file, replacing an existing object."""
        ...

    def remove(self, names: list[str]) -> None:
        """Remove those of `names` that exist."""
        ...


def is_address(text: str) -> bool:
    """Whether it is more than a local folder."""
    inside = "::" in text and archive_of(text.partition("::")[0]) is not None
    return inside or scheme(text) not in ("", "file", "local") or archive_of(text) is not None


def scheme(text: str) -> str:
    """Return the scheme, `s3` of `s3://bucket`; "" without one."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    return found.group(1).lower() if found else ""


def local_path(text: str) -> str:
    """Convert `file:///photos` to a path; return anything else unchanged."""
    return re.sub(r"^(file|local)://", "", text)


def archive_of(text: str) -> str | None:
    """Return the kind of archive of an address, by its suffix."""
    lower = redact(text).lower().rstrip("/")
    return next((kind for ending, kind in ARCHIVES.items() if lower.endswith(ending)), None)


def redact(address: str) -> str:
    """Return an address without secrets: without the part before an @, and without a query."""
    kind = scheme(address)
    if not kind:
        return address
    rest = address[len(kind) + 3 :]
    host, slash, path = rest.partition("/")
    return f"{kind}://{host.rpartition('@')[2]}{slash}{re.split(r'[?#]', path, maxsplit=1)[0]}"


def open_store(address: str, *, offline: bool = False, results: bool = False) -> Store:
    """Open the store at an address.

    Args:
        offline: never connect to the internet.
        results: results will be written to it.

    Raises:
        UsageError: unknown kind of address, a secret in it, no support for results, or it needs the internet while
            `offline`.
        ExtraError: the library for it is not installed.
    """
    kind, archive = scheme(address), archive_of(address)
    if kind and "@" in address[len(kind) + 3 :].partition("/")[0]:
        raise UsageError(
            f"{redact(address)}: has a name or a password before an @, which would be written into journals; give them "
            f"by the environment (for s3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile), see docs/scale.md"
        )
    if re.search("::[a-z0-9+.-]+://", address, re.IGNORECASE):
        raise UsageError(f"{redact(address)}: is an address within another; copy what is meant to a place of its own")
    if offline and kind not in ("", "file", "local", "memory"):
        raise UsageError(
            f"{redact(address)}: lies behind a network, and --offline opens no socket; leave one of them out"
        )
    if results and (archive is not None or kind not in KEEPING):
        why = "is an archive, which a kill would leave damaged" if archive else f"cannot keep results ({kind}://)"
        raise UsageError(f"{redact(address)}: {why}; name a folder, or one of {' '.join(k + '://' for k in KEEPING)}")
    if archive and kind in ("", "file", "local") and not Path(local_path(address)).is_file():  # a pipe would block
        raise UsageError(f"{address}: there is no such archive")
    _check_kind(kind, address)
    return Remote(address)


def _check_kind(kind: str, address: str) -> None:
    with explained():
        import fsspec
        from fsspec.registry import known_implementations
    if not kind:
        return
    if kind not in known_implementations and kind not in fsspec.available_protocols():
        near = did_you_mean(kind, [*KEEPING, *LISTED])
        raise UsageError(f"{redact(address)}: {kind}:// is not a kind of address that is known{near}")
    try:
        fsspec.get_filesystem_class(kind)
    except ImportError as error:
        what = "pip install 'editkit[stores]'" if kind in ("s3", "s3a", *LISTED) else str(error)
        raise ExtraError(f"{redact(address)}: {kind}:// needs a library that is not installed: {what}") from None


@dataclass(frozen=True)
class Remote:
    """A store by fsspec. In another process it connects again."""

    whole: str = field(repr=False)
    """The address with its query, which may be a secret."""

    @property
    def address(self) -> str:
        return redact(self.whole)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """Return the file system and the root path in it."""
        import fsspec

        archive = archive_of(self.whole)

        def connect() -> tuple[Any, str]:
            outer, path = fsspec.core.url_to_fs(self.whole, **_options(scheme(self.whole)))
            if archive is None:
                return outer, str(path).rstrip("/")
            return fsspec.filesystem(archive, fo=outer.open(path, "rb"), skip_instance_cache=True), ""

        try:
            return self._retry("", connect)
        except FileNotFoundError:
            raise UsageError(f"{self.address}: there is nothing of that name; look at the address") from None

    @cached_property
    def _turn(self) -> threading.Lock | None:
        """Return a lock for archives, which have a single read position."""
        return None if archive_of(self.whole) is None else threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.whole,)

    def names(self, under: str = "") -> Iterator[tuple[str, int]]:
        fs, root = self._opened
        if "s3" in _protocols(fs):
            yield from self._list_pages(fs, root, under)
            return
        try:
            if archive_of(self.whole) is not None:
                found = self._retry(under, lambda: fs.find(under, detail=True))
                yield from ((_plain_name(name), int(entry.get("size") or -1)) for name, entry in found.items())
                return
            yield from self._list_below(fs, f"{root}/{under}".rstrip("/"), root)
        except FileNotFoundError:
            if not under:
                raise UsageError(f"{self.address}: there is nothing of that name; look at the address") from None

    def _list_below(self, fs: Any, at: str, root: str) -> Iterator[tuple[str, int]]:
        """List a folder and its subfolders; links of an HTTP listing that lead elsewhere are not followed."""
        folder = f"{at}/" if scheme(self.whole) in LISTED else at
        entries = self._retry("", lambda: fs.ls(folder, detail=True))
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            path = str(entry["name"]).rstrip("/")
            if not path.startswith(f"{at}/") or path == at:
                continue
            if entry["type"] == "directory":
                yield from self._list_below(fs, path, root)
            elif "?" not in path:
                yield self._relative(path, root), int(entry.get("size") or -1)

    def _list_pages(self, fs: Any, root: str, under: str) -> Iterator[tuple[str, int]]:
        """List page by page; fsspec would keep the whole listing in memory."""
        bucket, _, prefix = root.partition("/")
        prefix = "/".join(part for part in (prefix, under.strip("/")) if part)
        asked = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
        while True:
            try:
                page = self._retry(under, lambda: fs.call_s3("list_objects_v2", **asked))
            except FileNotFoundError:
                raise UsageError(f"{self.address}: there is no such bucket; look at the address") from None
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    yield self._relative(f"{bucket}/{entry['Key']}", root), int(entry["Size"])
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _relative(self, path: str, root: str) -> str:
        return (
            path.lstrip("/") if not root.strip("/") else path[path.index(root.strip("/")) + len(root.strip("/")) + 1 :]
        )

    def read(self, name: str) -> bytes | None:
        fs, _ = self._opened
        path = self._path(name)

        def fetch() -> bytes:
            if archive_of(self.whole) is not None:
                return _member(fs, path)
            return bytes(fs.cat_file(path))

        try:
            if self._turn is None:
                return self._retry(name, fetch)
            with self._turn:
                return self._retry(name, fetch)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def size(self, name: str) -> int | None:
        fs, _ = self._opened
        if archive_of(self.whole) is not None:
            return None
        try:
            return int(self._retry(name, lambda: fs.info(self._path(name)))["size"])
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        fs, _ = self._opened

        def put() -> bool:
            try:
                fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:  # services that do not report the failed condition
                if "PreconditionFailed" in str(error.__cause__):
                    return False
                raise
            return True

        try:
            return self._retry(name, put) or self.read(name) == data
        except FileNotFoundError:
            raise StoreGoneError(f"{self.address}: is not there any more; nothing can be written") from None

    def replace(self, name: str, data: bytes) -> None:
        fs, _ = self._opened
        try:
            self._retry(name, lambda: fs.pipe_file(self._path(name), data))
        except FileNotFoundError:
            raise StoreGoneError(f"{self.address}: is not there any more; nothing can be written") from None

    def put(self, name: str, path: str) -> None:
        fs, _ = self._opened
        self._retry(name, lambda: fs.put_file(path, self._path(name)))

    def remove(self, names: list[str]) -> None:
        fs, _ = self._opened
        for first in range(0, len(names), 1000):
            paths = [self._path(name) for name in names[first : first + 1000]]
            if "s3" in _protocols(fs):  # a thousand per call; missing objects are not an error
                self._retry("", partial(fs.rm, paths))
                continue
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self._retry("", partial(fs.rm_file, path))

    def _path(self, name: str) -> str:
        _, root = self._opened
        return f"{root}/{name}" if root or archive_of(self.whole) is None else name

    def _at(self, name: str) -> str:
        whole = f"{self.address.rstrip('/')}/{name}" if name else self.address
        return redact(whole) if "?" in name else whole  # the part after a ? may be a signature

    def _retry(self, name: str, ask: Callable[[], T]) -> T:
        """Call `ask`, again after temporary errors."""
        for k in range(TRIES):
            try:
                with self._explain_errors(name):
                    return ask()
            except TemporaryError as error:
                if k == TRIES - 1:
                    raise PictureError(f"{self._at(name)}: {error} ({TRIES} times)") from None
                time.sleep(PAUSE * 2**k)
        raise AssertionError

    def _explain_errors(self, name: str) -> StoreErrors:
        return StoreErrors(self._at(name))


def _member(fs: Any, path: str) -> bytes:
    """Read one file of an archive; some archives have all names as ./name."""
    at = path if fs.exists(path) else f"./{path}"
    if int(fs.info(at).get("size") or 0) > MAX_BYTES:
        raise PictureError(f"{path}: larger than {MAX_BYTES >> 20} MiB, the most that is read")
    return bytes(fs.cat_file(at))


def _plain_name(name: str) -> str:
    return name.removeprefix("./")


def _options(kind: str) -> dict[str, Any]:
    """What keeps fsspec from remembering listings, which others change meanwhile, and from reading without end."""
    known = {"use_listings_cache": False} if kind in ("s3", "s3a", "gs", "gcs", *LISTED) else {}
    return {**known, "get_client": client} if kind in LISTED else known


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def read_from(address: str) -> tuple[bytes, str]:
    """The bytes of one object by its whole address, and its name for messages.

    Raises:
        PictureError: there is none, or it is empty.
    """
    place, name = _split(address)
    reader = _reader(place)
    if scheme(address) not in LISTED and (reader.size(name) or 0) > MAX_BYTES:
        raise PictureError(f"{redact(address)}: larger than {MAX_BYTES >> 20} MiB, the most that is read")
    data = reader.read(name)
    if data is None:
        raise PictureError(f"{redact(address)}: there is no such object")
    if not data:
        raise PictureError(f"{redact(address)}: is empty (zero bytes); a picture was expected")
    return data, redact(address)


def _split(address: str) -> tuple[str, str]:
    """The store that an object lies in, and its name there; of an archive the archive."""
    if "::" in address:  # archive::name
        place, _, name = address.partition("::")
        return place, name.lstrip("/")
    place, _, name = address.rpartition("/")
    return place, name


@lru_cache(maxsize=8)
def _reader(address: str) -> Remote:
    """A connection is kept for as long as the process reads from there."""
    return Remote(address)
