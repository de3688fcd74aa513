"""Options that change nothing are reported, once and with the reason; options that change something are not."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from editkit.cli.words import parse
from editkit.editing.settle import plan_stages
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugins import Guide

HOLE = "--mask box:8,8,24,24"

IDLE = {
    "upscale {} --steps 1": "--steps 1 changes nothing here: upscale by upconv takes 1 step anyway",
    "upscale {} --sampler ddim": "--sampler ddim changes nothing here: upscale by upconv uses it anyway",
    "upscale {} --sampler ddim:eta=1": "takes a single step, which is the same with every sampler",
    "upscale {} --zeta 0.5": "upscale: --zeta 0.5 has no effect: it is for --method dps, not for conditioned, which "
    "--method auto chose",
    "upscale {} --method dps --eta 0.5": "--eta 0.5 has no effect: it is for --method ddrm, not for --method dps",
    "upscale {} --samples 4": "--samples 4 has no effect without --estimate mean",
    "restore {} --degradation gaussian:1 --eta 0.3": "it is for --method ddrm, not for the steps that denoiser takes",
    "restore {} --degradation gaussian:1 --model pocket --eta 0.3": "it is for --method ddrm, not for wiener",
    "sdedit {} --canvas full": "--canvas full changes nothing here: without a mask, all of it is worked on",
    "sdedit {} --crop-padding 4 --model pocket": "--crop-padding 4 changes nothing here: without a mask",
    f"inpaint {{}} {HOLE} --canvas full": "--canvas full changes nothing here: the same part of the image is worked on",
    f"inpaint {{}} {HOLE} --jump 2": "inpaint: --jump 2 has no effect: it is for --method repaint",
    f"inpaint {{}} {HOLE} --repeats 3": "inpaint: --repeats 3 has no effect: it is for --method repaint",
    "guide {} --loss color --color red --brightness 0.3": "--brightness 0.3 has no effect: it is for --loss brightness",
    "guide {} --loss symmetry --color red": "--color red has no effect: it is for --loss color",
    "guide {} --loss color --color red --every 2": "--every 2 has no effect: patches copies texture",
    "guide {} --loss symmetry --weight 3 --amount 2": "--amount 2.0 has no effect: --weight is given",
}

ACTIVE = (
    "upscale {}",
    "upscale {} --steps 3",
    "upscale {} --estimate mean --samples 4",
    "upscale {} --method dps --zeta 0.5",
    "upscale {} --method ddrm --eta 0.3 --eta-b 0.9",
    "upscale {} --model patches --steps 5 --sampler ddpm",
    "upscale {} --no-project",
    "restore {} --degradation jpeg --samples 4 --model pocket",
    "restore {} --degradation gaussian:1 --lam 3",
    "restore {} --degradation gaussian:1 --no-taper",
    f"inpaint {{}} {HOLE}",
    f"inpaint {{}} {HOLE} --steps 30 --sampler ddpm --seed 3 --grow 2 --feather 1",
    f"inpaint {{}} {HOLE} --method repaint --jump 2 --repeats 3",
    f"inpaint {{}} {HOLE} --jump 2 --method repaint-diffusers",
    f"inpaint {{}} {HOLE} --model pocket --crop-padding 4",
    f"inpaint {{}} {HOLE} --steps 9 then upscale",
    f"inpaint {{}} {HOLE} with guide --loss color --color red",
    "guide {} --loss brightness --brightness 0.3",
    "guide {} --loss palette --palette red,blue",
    "guide {} --loss symmetry --symmetry top-bottom --every 2 --amount 2",
    "sdedit {} --strength 0.4 --steps 30",
    "uncrop {} --right 6 --overlap 3",
    "texture {} --size 20x16",
    "denoise {} --sigma 20",
    "colorize {} --steps 4",
)


def notices(command: str) -> list[str]:
    line = parse(shlex.split(command.format("photo.png")))
    lines: list[str] = []
    plan_stages(line.chain, photo(), lines.append)
    return [line for line in lines if "changes nothing here" in line or "has no effect" in line]


def photo() -> Picture:
    return Picture(np.random.default_rng(0).integers(60, 190, (40, 40, 3), np.uint8))


@pytest.mark.parametrize("command", IDLE)
def test_an_option_without_effect_is_reported_once(command: str) -> None:
    found = notices(command)
    assert len(found) == 1
    assert IDLE[command] in found[0]


@pytest.mark.parametrize("command", ACTIVE)
def test_an_option_with_an_effect_is_not(command: str) -> None:
    assert notices(command) == []


@pytest.mark.parametrize("command", [one for one in IDLE if "guide" not in one])
def test_what_is_reported_leaves_every_pixel_as_it_was(command: str) -> None:
    """The result with the option equals the one without: the last option of each command, with its value."""
    from editkit.editing.result import make

    words = shlex.split(command.format("photo.png"))
    option = re.search(r"--[a-z-]+", IDLE[command])
    at = words.index(option[0]) if option is not None and option[0] in words else len(words) - 2
    with_option, without = (make(photo(), parse(each).chain) for each in (words, words[:at] + words[at + 2 :]))
    assert np.array_equal(with_option.picture.pixels, without.picture.pixels)


def test_an_inherited_option_is_not_reported() -> None:
    """`--steps 9 then upscale`: the second stage inherits the steps."""
    assert notices(f"inpaint {{}} {HOLE} --sampler ddpm then sdedit --canvas full --strength 0.5") == [
        "--canvas full changes nothing here: without a mask, all of it is worked on"
    ]


def test_a_parameter_at_its_default_is_not_reported() -> None:
    assert notices(f"inpaint {{}} {HOLE} --repeats 10") == []


def test_pixels_in_memory_that_have_no_effect_are_reported() -> None:
    lines: list[str] = []
    guide = Guide(loss="color", color="red", reference=np.zeros((4, 4, 3), np.uint8))
    plan_stages(Chain.of(guide), photo(), lines.append)
    assert any("guide: --reference has no effect: it is for --loss reference" in line for line in lines)
