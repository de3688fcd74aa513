"""ControlNets steer `pocket`: what its trainer's own network gives, at any size, by windows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editkit import edit
from editkit.diffusion.conditioning import Conditioning
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.assets import folder
from editkit.models.pocket.residual import TASKS, Residual, deviation
from editkit.pictures.picture import Picture
from editkit.plugins import ControlNet, Inpaint, SDEdit
from editkit.training.controlnet import Steered
from editkit.training.network import Pocket, export
from editkit.training.settings import Architecture
from editkit_plugins.controlnet import _Control

TINY = Architecture(window=16, unshuffle=2, channels=(8, 16), layers=1, head=8, groups=4)
HERE: dict[str, Any] = {"steps": 3, "device": "cpu", "dtype": "fp32", "offline": True}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Steered]:
    """Folders of a network and of its ControlNet, whose zero convolutions are not zero; and both as trained."""
    where = tmp_path_factory.mktemp("pocket")
    torch.manual_seed(0)
    steered = Steered(Pocket(TINY)).eval()
    for name, value in steered.controlnet.named_parameters():
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(value, std=0.3)
    weights = {name: value.half().float() for name, value in steered.pocket.unet.state_dict().items()}
    steered.pocket.unet.load_state_dict(weights)
    export(where / "base", TINY, weights)
    steered.controlnet.save_pretrained(where / "edges")
    return str(where / "base"), str(where / "edges"), steered


def photo(height: int, width: int) -> Picture:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 3 % 256, y * 3 % 256, (x + y) % 256], -1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 250
    return Picture(pixels)


@pytest.mark.parametrize("batch", [1, 2])
def test_one_window_is_the_trainers_network(saved: tuple[str, str, Steered], batch: int) -> None:
    base, _, steered = saved
    model = load(describe(base), torch.device("cpu"), torch.float32)
    x_t, known, hint = torch.rand((3, batch, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(batch, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    cond = Conditioning(known=known, mask=mask, control=(_Control(steered.controlnet, hint, 1.0, False),))
    level = model.schedule.level(300)
    from editkit.pictures.filling import smooth_fill

    told, label = smooth_fill(known, mask), torch.full((batch,), TASKS.index("inpaint"))
    residual = Residual(told, deviation(label, told, mask), level.alpha, level.sigma)
    with torch.no_grad():
        z = residual.seen(x_t)
        f = steered(z, torch.full((batch,), 300), label, told, mask, hint)
        torch.testing.assert_close(model(x_t, level, (cond,))[0].x0, residual.x0(z, f), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("canvas", ["crop", "full"])
def test_windows_see_their_own_part_of_the_hint(saved: tuple[str, str, Steered], canvas: str) -> None:
    base, edges, _ = saved
    picture = photo(41, 53)
    free = edit(picture, [Inpaint(mask="box:8,8,36,30")], model=base, canvas=canvas, **HERE).pixels
    plugin = ControlNet(control="luma", controlnet=edges)
    steered = edit(picture, [Inpaint(mask="box:8,8,36,30"), plugin], model=base, canvas=canvas, **HERE).pixels
    kept = np.ones((41, 53), bool)
    kept[8:30, 8:36] = False
    assert (steered[kept] == picture.pixels[kept]).all()
    assert (steered != free).any()
    again = edit(picture, [Inpaint(mask="box:8,8,36,30"), plugin], model=base, canvas=canvas, **HERE).pixels
    assert (steered == again).all()


def test_the_embedded_one_was_made_for_the_embedded_network() -> None:
    where = folder("pocket-canny")
    weights = (folder("pocket") / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert json.loads((where / "steers.json").read_text())["sha256"] == hashlib.sha256(weights).hexdigest()
    assert sum(path.stat().st_size for path in where.iterdir()) < 15e6
    picture, hole = photo(64, 64), Inpaint(mask="box:16,16,48,48")
    steered = edit(picture, [hole, ControlNet(control="canny")], model="pocket", **HERE).pixels
    assert (steered != edit(picture, [hole], model="pocket", **HERE).pixels).any()


def test_one_of_another_network_is_refused(saved: tuple[str, str, Steered], tmp_path: Path) -> None:
    base, _, _ = saved
    other = Architecture(window=16, unshuffle=2, channels=(8, 24), layers=1, head=8, groups=4)
    Steered(Pocket(other)).controlnet.save_pretrained(tmp_path / "wide")
    plugin = ControlNet(control="luma", controlnet=str(tmp_path / "wide"))
    with pytest.raises(ModelError, match="is of another family than the model"):
        edit(photo(20, 20), [SDEdit(), plugin], model=base, **HERE)
