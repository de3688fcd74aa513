"""inpaint x sdedit x cfg x threshold on every family: it runs, or is refused with an error that says what can."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_sd3 as three
import test_parity_sdxl as xl
import test_parity_upscaler as upscaler
import tiny
import tiny_latent

from editkit import edit
from editkit.errors import EditkitError
from editkit.models.leasing import Models
from editkit.plugins import Cfg, Inpaint, SDEdit, Threshold

pytestmark = pytest.mark.slow

PARTS: dict[str, Any] = {
    "inpaint": Inpaint(mask="box:8,8,20,18"), "sdedit": SDEdit(strength=0.5), "cfg": Cfg(scale=3.0),
    "threshold": Threshold(),
}  # fmt: skip
CHAINS = [names for n in range(1, 5) for names in combinations(PARTS, n)]
TEXT = ("sd4", "sd9", "sdxl", "refiner", "sdxl to refiner", "sd3")
FAMILIES = ("patches", "pocket", "pixel", *TEXT, "upscaler")
MODELS = Models()


@cache
def folder(family: str, base: Path) -> str:
    path = base / family
    if family in ("patches", "pocket"):
        return family
    ddim = diffusers.DDIMScheduler.from_config(tiny_latent.SD)
    match family:
        case "pixel":
            pixel = diffusers.DDIMScheduler(clip_sample=True)
            diffusers.DDIMPipeline(tiny.unet2d(), pixel).save_pretrained(path)
        case "sd4":
            tiny_latent.save_sd(path, ddim)
        case "sd9":
            tiny_latent.save_sd(path, ddim, in_channels=9)
        case "sdxl" | "sdxl to refiner":
            xl.pipeline("text", ddim).save_pretrained(path)
        case "refiner":
            xl.pipeline("img2img", ddim, refiner=True).save_pretrained(path)
        case "sd3":
            three.pipeline("text").save_pretrained(path)
        case "upscaler":
            upscaler.pipeline("ddim", tiny_latent.SD).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def refusal(family: str, names: tuple[str, ...]) -> str | None:
    """What the error must say, or None where it runs."""
    if family == "upscaler":
        return "threshold keeps pixels in range|use the plugin upscale"
    if "cfg" in names and family not in TEXT:
        return "cfg needs a model that takes prompt; .* choose another model="
    if "threshold" in names and family in TEXT:
        return "works on latents, which have no range; lower guidance_scale= or use"
    return None


@pytest.mark.parametrize("names", CHAINS, ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_runs_or_says_what_can(base: Path, family: str, names: tuple[str, ...]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (31, 29, 3), dtype=np.uint8)
    given: dict[str, Any] = {
        "model": folder(family, base), "steps": 2, "dtype": "fp32", "device": "cpu", "offline": True, "models": MODELS,
        "prompt": "x" if family in (*TEXT, "upscaler") else None,
        "refiner": f"{folder('refiner', base)}:0.5" if family == "sdxl to refiner" else None,
    }  # fmt: skip
    expected = refusal(family, names)
    if expected is not None:
        with pytest.raises(EditkitError, match=expected):
            edit(photo, [PARTS[name] for name in names], **given)
        return
    made = edit(photo, [PARTS[name] for name in names], **given).pixels
    assert made.shape == photo.shape
    changed = (made != photo).any(-1)
    assert changed.any() or (family == "patches" and "inpaint" not in names)  # a picture is its own most likely redraw
    if "inpaint" in names:
        changed[8:18, 8:20] = False
        assert not changed.any()
