"""The model hub: its availability is checked once per process with a short timeout, and the retry messages of its
library are hidden."""

from __future__ import annotations

import logging
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SECONDS = 3.0
"""Timeout of the check, in seconds."""


def local_only(offline: bool) -> bool:
    """Whether to use only the cache: because of `--offline`, or because the hub does not answer.

    Offline, the telemetry of huggingface_hub is disabled; otherwise it would contact the hub with every access to the
    cache.
    """
    if offline:
        from huggingface_hub import constants

        constants.HF_HUB_DISABLE_TELEMETRY = True
    return offline or unreachable() is not None


def explain_failure(offline: bool, error: Exception) -> str:
    """Explain why a file that is not in the cache was not downloaded."""
    if offline:
        return "--offline is on, so the hub was not asked"
    reason = unreachable()
    if reason is not None:
        return f"the hub cannot be reached ({reason})"
    lines = str(error).strip().splitlines()
    return f"the hub says: {lines[0] if lines else type(error).__name__}"


@cache
def unreachable() -> str | None:
    """Return why the hub, or its proxy, cannot be reached; None if it answers."""
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
