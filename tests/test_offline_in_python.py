"""`offline=True` from Python opens no socket, whatever is named and whatever libraries were imported before: each call
of theirs is told so. The environment stays as it was, so that the next edit may ask."""

import os
import socket

import numpy as np
import pytest
from diffusers import DDIMScheduler
from tiny_latent import SD, save_sd

from editkit import edit
from editkit.errors import EditkitError
from editkit.models import describe
from editkit.plugin import hints
from editkit.plugins import Classifier, Clip, ControlNet, Guide, Inpaint, SDEdit

PICTURE = np.full((32, 32, 3), 90, np.uint8)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Whom somebody tried to reach; nobody is."""
    names = []

    def refuse(*given, **more):
        names.append(given)
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(tmp_path / "none"), raising=False)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None, raising=False)
    return names


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return str(save_sd(tmp_path_factory.mktemp("sd"), DDIMScheduler(**SD)))


MASK = "box:4,4,20,20"
NAMED = {
    "model": lambda sd: (SDEdit(strength=0.5), {"model": "nobody/nothing"}),
    "variant": lambda sd: (SDEdit(strength=0.5), {"model": "nobody/nothing@main:fp16"}),
    "refiner": lambda sd: (SDEdit(strength=0.5), {"model": sd, "refiner": "nobody/nothing"}),
    "classifier": lambda sd: (Inpaint(mask=MASK) & Classifier(label="0", classifier="nobody/nothing"), {}),
    "timm": lambda sd: (Inpaint(mask=MASK) & Classifier(label="0", classifier="timm:resnet18"), {}),
    "clip": lambda sd: (Inpaint(mask=MASK) & Clip(text="a"), {}),
    "clip by tag": lambda sd: (Inpaint(mask=MASK) & Clip(text="a", clip_model="RN50:openai"), {}),
    "controlnet": lambda sd: (SDEdit() & ControlNet(control="canny", controlnet="nobody/nothing"), {"model": sd}),
    "hint": lambda sd: (SDEdit() & ControlNet(control="softedge", controlnet="nobody/nothing"), {"model": sd}),
    "features": lambda sd: (
        Inpaint(mask=MASK) & Guide(loss="features", reference=PICTURE, network="timm:resnet18"),
        {},
    ),
}


@pytest.mark.parametrize("what", NAMED)
def test_offline_opens_no_socket(what, sd, asked):
    before = dict(os.environ)
    edits, options = NAMED[what](sd)
    try:
        edit(PICTURE, edits, steps=1, offline=True, **options)
    except EditkitError as error:
        assert "offline" in str(error) or "not found" in str(error) or "installed" in str(error), str(error)
    assert asked == []
    assert {key: os.environ.get(key) for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")} == {
        key: before.get(key) for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }


@pytest.mark.parametrize("detector", ["softedge", "depth", "dwpose"])
def test_hints_ask_nobody_offline(detector, asked):
    with pytest.raises(EditkitError):
        hints.detect(hints.make(detector), PICTURE, offline=True)
    assert asked == []


def test_a_description_asks_nobody_offline(asked):
    with pytest.raises(EditkitError, match="offline"):
        describe("nobody/nothing", offline=True)
    assert asked == []
