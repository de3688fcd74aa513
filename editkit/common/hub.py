"""The model hub: whether it answers is checked once a process, with a short timeout, and the retries that its library
logs are not shown."""

from __future__ import annotations

import logging
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SECONDS = 3.0
"""How long an answer is waited for."""


def local_only(offline: bool) -> bool:
    """Whether to look into the cache alone: because the user says so (`--offline`), or because nobody answers.

    Offline, huggingface_hub is told to send no telemetry from now on: with every look into the cache it would ask the
    hub which programs it is to name in that.
    """
    if offline:
        from huggingface_hub import constants

        constants.HF_HUB_DISABLE_TELEMETRY = True
    return offline or unreachable() is not None


def why(offline: bool, error: Exception) -> str:
    """Why a file that is not in the cache did not come from the hub either."""
    if offline:
        return "--offline is on, so the hub was not asked"
    reason = unreachable()
    if reason is not None:
        return f"the hub cannot be reached ({reason})"
    lines = str(error).strip().splitlines()
    return f"the hub says: {lines[0] if lines else type(error).__name__}"


@cache
def unreachable() -> str | None:
    """Why the hub, or the proxy before it, cannot be reached; None where it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry would be a line
    hub = urlsplit(constants.ENDPOINT)
    proxy = None if proxy_bypass(hub.netloc) else getproxies().get(hub.scheme)
    place = urlsplit(proxy if proxy is None or "//" in proxy else f"//{proxy}") if proxy else hub
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((str(place.hostname), port), timeout=SECONDS).close()
    except OSError as error:
        return f"{place.hostname}: {error.strerror or error}"
    return None
