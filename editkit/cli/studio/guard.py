"""Access control: no part of a request is processed before it has passed these checks.

The token is part of the path (`/TOKEN/...`, used by the page: links, pictures and event streams then carry it, and no
cookie is sent to other servers on this machine) or of `Authorization: Bearer TOKEN` (for programs). Host must be this
machine, which prevents DNS rebinding. Origin and Sec-Fetch-Site must be the studio's own, so that no other page of the
browser can send requests. The size of a body is limited whether or not its length is declared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from editkit.cli.studio.config import Config, RefusedRequest, is_address, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""No resources from other origins, no inline script or style, no text that becomes a script."""

HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # without a referrer, a form sends "Origin: null"
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=()"),
)

UPLOADS = ("/pictures", "/masks")
"""Where files are uploaded."""

OPEN = ("/", "/login", "/login.css")
"""What a studio with a password shows without a token."""

PAUSE = 1.0
"""Seconds between two password attempts."""


class Guard:
    """The outermost layer of the server."""

    def __init__(self, app: App, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.config, self.clock = app, config, clock
        self._last_try = -PAUSE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        began = False

        async def guarded(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message["headers"] = [*message.get("headers", ()), *HEADERS, *_no_store_header(message)]
            await send(message)

        try:
            scope = self._admit(scope)
            await self.app(scope, self._limit_body(scope, receive), guarded)
        except RefusedRequest as refused:
            if not began:
                await _send_refusal(guarded, refused)

    def _admit(self, scope: Scope) -> Scope:
        """Return `scope` with the token removed from its path.

        Raises:
            Refused: the request is not allowed.
        """
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)
        path = scope["path"]
        if path.startswith("/.") or "\0" in path or "\\" in path or ".." in path.split("/"):
            raise RefusedRequest(400, "the address does not exist here")
        first, _, rest = path[1:].partition("/")
        if self.config.knows(first):
            if not path[1 + len(first) :]:
                raise RefusedRequest(404, "the address must end with the token and a slash")
            return {**scope, "path": "/" + rest, "raw_path": ("/" + rest).encode(), "studio.in_path": True}
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.config.knows(bearer.strip()):
            return scope
        if self.config.password is not None and path in OPEN:
            self._limit_attempts(scope)
            return scope
        raise RefusedRequest(401, "the token is missing or wrong; open the address that `editkit studio` printed")

    def _limit_attempts(self, scope: Scope) -> None:
        """Limit password attempts to one a second, for all clients together."""
        if scope["method"] != "POST":
            return
        now = self.clock()
        if now - self._last_try < PAUSE:
            raise RefusedRequest(429, "only one password a second is accepted; wait and try again")
        self._last_try = now

    def _check_host(self, host: str) -> None:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.removeprefix("[").removesuffix("]")
        fits = is_loopback(name) if self.config.is_loopback else is_loopback(name) or is_address(name)
        if not fits:
            raise RefusedRequest(421, "the Host of the request is not this machine; open the address that was printed")

    def _check_origin(self, headers: dict[str, str]) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        ours = f"http://{headers.get('host', '')}"
        if (origin is not None and origin != ours) or site not in ("none", "same-origin"):
            raise RefusedRequest(403, "the request comes from another page; only the studio's own may send requests")

    def _limit_body(self, scope: Scope, receive: Receive) -> Receive:
        """Limit `receive` to the bytes that the address accepts.

        Raises:
            Refused: more bytes are declared or sent.
        """
        bounds = self.config.bounds
        most = bounds.upload if scope["path"] in UPLOADS else bounds.text
        length = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > most:
            raise RefusedRequest(413, f"more than {most} bytes, the limit here")
        got = 0

        async def bounded() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise RefusedRequest(413, f"more than {most} bytes, the limit here")
            return message

        return bounded


def _no_store_header(message: Message) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that forbids caching, unless the response sets its own."""
    has_header = any(name.lower() == b"cache-control" for name, _ in message.get("headers", ()))
    return () if has_header else ((b"cache-control", b"no-store"),)


async def _send_refusal(send: Send, refused: RefusedRequest) -> None:
    body = json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status in (401, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
