"""Large invented content, and results that do not explain their input, are announced with a remedy; others are not."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from editkit.cli.words import parse
from editkit.diffusion.model import ModelInfo
from editkit.editing.settle import plan_stages
from editkit.pictures.picture import Picture
from editkit.plugins import Restore

INVENTED = {
    "uncrop {} --right 18": ("about 25 % of the result is invented", "patches joins pieces of the image"),
    "uncrop {} --left 50% --right 50%": ("about 60 % of the result is invented", "a downloaded model draws new ones"),
    "inpaint {} --mask box:0,0,50%,60%": ("about 30 % of the result is invented", "repeated or blurred objects"),
    "remove {} --mask box:10%,10%,90%,90% --grow 0": ("about 65 % of the result is invented", "models suggest"),
    "inpaint {} --mask box:10,10,40,40 --model pocket": ("pocket, a small network", "--model patches"),
}

SMALL = (
    "uncrop {} --right 4",
    "inpaint {} --mask box:10,10,40,40",
    "inpaint {} --mask box:10,10,20,60 --model pocket",
    "inpaint {} --mask box:0,0,50%,90% with sdedit --strength 0.4",
    "texture {} --size 40x40",
    "upscale {}",
    "sdedit {}",
)


def notices(command: str) -> list[str]:
    photo = Picture(np.random.default_rng(0).integers(60, 190, (96, 96, 3), np.uint8))
    lines: list[str] = []
    plan_stages(parse(shlex.split(command.format("photo.png"))).chain, photo, lines.append)
    return [line for line in lines if "invented" in line or "small network" in line]


@pytest.mark.parametrize("command", INVENTED)
def test_much_invented_content_is_announced_once(command: str) -> None:
    found = notices(command)
    assert len(found) == 1
    assert all(words in found[0] for words in INVENTED[command])


@pytest.mark.parametrize("command", SMALL)
def test_little_is_not(command: str) -> None:
    assert notices(command) == []


def test_options_against_the_advice_are_the_first_to_leave_out() -> None:
    pocket, patches = ModelInfo("pocket", "embedded network"), ModelInfo("patches", "patches")
    blur = {"degradation": "gaussian:2"}
    assert Restore(**blur, taper=False).mend(pocket).startswith("leave out --model pocket and --no-taper, or try")
    assert Restore(**blur, taper=False).mend(patches).startswith("leave out --no-taper, or try")
    assert Restore(**blur).mend(patches).startswith("try another --method")
