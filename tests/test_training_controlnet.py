"""Training of a ControlNet for `pocket`, on a tiny network and painted pictures: seconds, no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d
from toy_training import TINY, generator, photos

from editkit.errors import EditkitError
from editkit.training.controlnet import ControlLesson, Steered, add_hints, split
from editkit.training.loop import Run
from editkit.training.network import build_unet, export, load
from editkit.training.pictures import crop, load_collection
from editkit.training.settings import ControlSettings

pytestmark = pytest.mark.slow

__all__ = ["photos"]


@pytest.fixture
def base(photos: Path) -> Path:
    torch.manual_seed(0)
    export(photos.parent / "base", TINY, dict(build_unet(TINY).state_dict()))
    return photos.parent / "base"


def settings(photos: Path, base: Path, output: str = "run", **changes: Any) -> ControlSettings:
    values: dict[str, Any] = {
        "images": photos, "output": photos.parent / output, "heldout": photos.parent / "heldout.txt", "base": base,
        "steps": 4, "batch": 5, "warmup": 2, "threads": 2, "measure_every": 2, "sheet_every": 100,
        "checkpoint_every": 100, "dtype": "fp32", "architecture": TINY,
    }  # fmt: skip
    return ControlSettings(**(values | changes))


def test_it_begins_at_the_network_as_it_is_and_leaves_that_alone(photos: Path, base: Path) -> None:
    made = settings(photos, base, learning_rate=1e-2)
    lesson = ControlLesson(made)
    batch = lesson.draw(0)
    assert batch.hint is not None
    asked = (torch.randn(5, 3, 16, 16, generator=generator()), batch.t, batch.task, batch.condition, batch.mask)
    with torch.no_grad():
        torch.testing.assert_close(lesson.network(*asked, batch.hint), lesson.network.pocket(*asked))
    Run(made, lesson).run()
    with torch.no_grad():
        steered, plain = lesson.network(*asked, batch.hint), load(base)(*asked)
        torch.testing.assert_close(lesson.network.pocket(*asked), plain, atol=1e-4, rtol=1e-4)
        other = lesson.network(*asked, 1 - batch.hint)
    assert float((steered - plain).abs().max()) > 1e-3
    assert float((steered - other).abs().max()) > 1e-4
    rows = [json.loads(line) for line in (made.output / "log.jsonl").read_text().splitlines()]
    assert {"inpaint", "prior"} <= next(row for row in rows if row["kind"] == "validation").keys()
    assert (made.output / "sheets" / "step000004.png").exists()


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(photos: Path, base: Path) -> None:
    def run(output: str, resume: bool = False, **changes: Any) -> Run:
        made = settings(photos, base, output, measure_every=100, **changes)
        done = Run(made, ControlLesson(made), resume)
        done.run()
        return done

    whole = run("whole", cooldown=0.0)
    run("parts", steps=2, cooldown=0.0)
    # the average's reach and the rate do not depend on the length of a run without cooldown
    parts = run("parts", resume=True, cooldown=0.0)
    for name, value in whole.trainer.state().items():
        torch.testing.assert_close(parts.trainer.state()[name], value, msg=name)


def test_what_it_leaves_is_a_controlnet_of_diffusers(photos: Path, base: Path) -> None:
    from diffusers import ControlNetModel

    made = settings(photos, base)
    lesson = ControlLesson(made)
    run = Run(made, lesson)
    run.run()
    folder = made.output / "export"
    theirs = ControlNetModel.from_pretrained(folder, torch_dtype=torch.float32)
    mine = {name: value.half().float() for name, value in run.trainer.average.items()}
    assert all(torch.equal(value, mine[name]) for name, value in theirs.state_dict().items())
    again = Steered(load(base), theirs)
    batch = lesson.draw(1)
    assert batch.hint is not None
    asked = (batch.eps, batch.t, batch.task, batch.condition, batch.mask, batch.hint)
    with torch.no_grad():
        assert again(*asked).shape == batch.x0.shape
    facts = json.loads((folder / "steers.json").read_text())
    assert facts["control"] == "canny"
    assert len(facts["sha256"]) == 64


def test_hints_are_cut_like_their_picture(photos: Path) -> None:
    """A hint that is the picture itself stays equal to it through levels, cut, resize and mirror."""
    found = add_hints(load_collection(photos, 16, photos.parent / "heldout.txt"), "tile:factor=1")
    for photograph in found.training:
        for k in range(4):
            both = crop(photograph, 16, generator(k)).unsqueeze(0)
            x0, hint = split(both)
            torch.testing.assert_close(hint * 2 - 1, x0, atol=0.02, rtol=0)
    edges = add_hints(load_collection(photos, 16), "canny").training[1]
    above = edges.levels[0][3:, : 40 // 2 * 2].float()
    lower = avg_pool2d(above.unsqueeze(0), 2)[0]
    assert len(edges.levels) > 1
    torch.testing.assert_close(edges.levels[1][3:].float(), lower, atol=0.51, rtol=0)


def test_refusals(photos: Path, base: Path) -> None:
    with pytest.raises(EditkitError, match="is not an exported network"):
        ControlLesson(settings(photos, base / "nowhere"))
    with pytest.raises(EditkitError, match="kanny"):
        ControlLesson(replace_control(settings(photos, base), "kanny"))


def replace_control(made: ControlSettings, control: str) -> ControlSettings:
    return made.model_copy(update={"control": control})
