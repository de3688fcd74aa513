"""The hub is asked once, quickly, and what it does not give is named with how to fetch it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.cli import run
from editkit.common import hub


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[object]]:
    """The places that are asked, none of which answers; an empty cache and a photograph."""
    places: list[object] = []

    def refused(place: object, timeout: float) -> socket.socket:
        assert 0.0 < timeout <= 5.0
        places.append(place)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("photo.png")
    hub.unreachable.cache_clear()
    yield places
    hub.unreachable.cache_clear()


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["sdedit", "photo.png", "--model", "owner/name"], "editkit models download owner/name"),
        (["models", "download", "owner/name"], "editkit models download owner/name"),
        (["hint", "photo.png", "--control", "depth"], "hf download lllyasviel/Annotators"),
        (["hint", "photo.png", "--control", "softedge"], "hf download lllyasviel/Annotators ControlNetHED.pth"),
    ],
)
def test_without_a_network_one_line_says_what_to_fetch_and_how(asked, capsys, words, how) -> None:
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "the hub cannot be reached (" in said
    assert "Network is unreachable)" in said
    assert how in said
    assert len(said.splitlines()) == 1
    assert len(asked) == 1


def test_it_is_asked_once_and_not_at_all_offline(asked) -> None:
    assert hub.local_only(offline=True)
    assert asked == []
    assert hub.local_only(offline=False)
    assert hub.local_only(offline=False)
    assert len(asked) == 1
    assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)


def test_a_proxy_is_asked_in_its_place(asked, monkeypatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example")
    assert hub.unreachable() == "proxy.example: Network is unreachable"
    assert asked == [("proxy.example", 3128)]
