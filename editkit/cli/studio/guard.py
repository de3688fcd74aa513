"""Which requests are answered: nothing of a request is processed before it has passed here.

The token stands in the path (`/TOKEN/...`, what the page uses: links, pictures and event streams carry it by
themselves, and no cookie goes to other servers of this machine) or in `Authorization: Bearer TOKEN` (programs). Host
must be this machine, so that no foreign name can be made to point here (DNS rebinding). Origin and Sec-Fetch-Site must
be ours, so that no other page of the browser may ask. A body is bounded whether or not it says its length.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from editkit.cli.studio.config import Config, Refused, is_address, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""Nothing from elsewhere, no script or style in the page itself, no text that becomes one."""

HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # without any a form says that it comes from nowhere
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=()"),
)

UPLOADS = ("/pictures", "/masks")
"""Where files are sent."""

OPEN = ("/", "/login", "/login.css")
"""What a studio with a password shows to whoever has no token yet."""

PAUSE = 1.0
"""Seconds between two passwords."""


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
                message["headers"] = [*message.get("headers", ()), *HEADERS, *_keep(message)]
            await send(message)

        try:
            scope = self._admitted(scope)
            await self.app(scope, self._bounded(scope, receive), guarded)
        except Refused as refused:
            if not began:
                await _say(guarded, refused)

    def _admitted(self, scope: Scope) -> Scope:
        """`scope` with the token taken out of its path.

        Raises:
            Refused: with a status and one line.
        """
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)
        path = scope["path"]
        if path.startswith("/.") or "\0" in path or "\\" in path or ".." in path.split("/"):
            raise Refused(400, "the address is no place here")
        first, _, rest = path[1:].partition("/")
        if self.config.knows(first):
            if not path[1 + len(first) :]:
                raise Refused(404, "the address ends with the token and a slash")
            return {**scope, "path": "/" + rest, "raw_path": ("/" + rest).encode(), "studio.in_path": True}
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.config.knows(bearer.strip()):
            return scope
        if self.config.password is not None and path in OPEN:
            self._pace(scope)
            return scope
        raise Refused(401, "the token is missing or wrong; open the address that `editkit studio` printed")

    def _pace(self, scope: Scope) -> None:
        """Passwords come at most one in a second, whoever tries."""
        if scope["method"] != "POST":
            return
        now = self.clock()
        if now - self._last_try < PAUSE:
            raise Refused(429, "one password in a second; wait and try again")
        self._last_try = now

    def _check_host(self, host: str) -> None:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.removeprefix("[").removesuffix("]")
        fits = is_loopback(name) if self.config.is_loopback else is_loopback(name) or is_address(name)
        if not fits:
            raise Refused(421, "the Host of the request is not this machine; open the address that was printed")

    def _check_origin(self, headers: dict[str, str]) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        ours = f"http://{headers.get('host', '')}"
        if (origin is not None and origin != ours) or site not in ("none", "same-origin"):
            raise Refused(403, "another page asks, and only the studio's own may")

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` of at most as many bytes as are taken there.

        Raises:
            Refused: more are announced; or they come.
        """
        bounds = self.config.bounds
        most = bounds.upload if scope["path"] in UPLOADS else bounds.text
        length = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > most:
            raise Refused(413, f"more than {most} bytes, the most that is taken here")
        got = 0

        async def bounded() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise Refused(413, f"more than {most} bytes, the most that is taken here")
            return message

        return bounded


def _keep(message: Message) -> tuple[tuple[bytes, bytes], ...]:
    """What is not to be kept by the browser, unless the answer says otherwise."""
    said = any(name.lower() == b"cache-control" for name, _ in message.get("headers", ()))
    return () if said else ((b"cache-control", b"no-store"),)


async def _say(send: Send, refused: Refused) -> None:
    body = json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status in (401, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
