"""Of every pipeline that is compared (test_parity_*): would the test see a mistake?

What editkit makes equals the pipelines to 1e-5; here it is made once more with one thing wrong, and has to move by more
than 1e-2 of the largest latent: rows and columns exchanged in the positions, two halves of the channels exchanged,
another mu, queries that are not normalised, and, where a picture goes in, its latents as the VAE gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import pytest
import test_parity_controlnet_flow as steered
import test_parity_flux as flux
import test_parity_flux2 as flux2
import test_parity_qwen as qwen
import test_parity_zimage as zimage
import tiny_flow as tiny
import tiny_prompts
import torch
from torch import Tensor

from editkit.models import describe, load
from editkit.plugin import Plugin
from editkit.plugins import Cfg, ControlNet, ImagePrompt, Inpaint, SDEdit

SEEN = 1e-2
SIZE = (64, 96)
small = qwen.small
IMAGE, OTHER = tiny.picture(96, 64), tiny.picture(64, 64, seed=9)
HOLE = tiny.mask((16, 16, 64, 64), 96, 64)
REDRAWN: dict[str, Any] = {"known": tiny.tensor(IMAGE), "steps": 4}
HOLED: dict[str, Any] = {**REDRAWN, "mask": tiny.tensor(HOLE)}
PIPES: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: flux.pipe(name) for name in flux.CLASSES},
    "klein": lambda: diffusers.Flux2KleinPipeline(**flux2.parts(), is_distilled=True),
    "klein-base": lambda: diffusers.Flux2KleinPipeline(**flux2.parts(), is_distilled=False),
    "klein-kv": flux2.kv, "flux2-dev": lambda: diffusers.Flux2Pipeline(**flux2.dev()),
    "z-image": zimage.pipe,
    **{f"qwen-{name}": lambda name=name: qwen.pipe(name, whole=False) for name in qwen.CLASSES},
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A pipeline: `model` of PIPES, what acts, what is given; `hint`: the ControlNet that is shown one, or "" for
    Control's own.
    """

    pipeline: str
    model: str
    plugins: tuple[Plugin, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    hint: str | None = None

    @property
    def pictured(self) -> bool:
        """Whether a picture goes in that the VAE encodes (XLabs' hint is pixels)."""
        looks = any(isinstance(plugin, tiny.Look) for plugin in self.plugins)
        return looks or "known" in self.options or (self.hint is not None and self.hint != "xlabs")


REDUX = "FluxPriorRedux"
LOOK, BOTH = tiny.Look(pictures=(IMAGE,)), tiny.Look(pictures=(IMAGE, OTHER))
REDRAW, NEGATIVE = SDEdit(strength=0.6), {"negative": qwen.NEGATIVE}
ROWS = (
    Row("Flux", "dev"), Row("Flux, few steps", "schnell"),
    Row("Flux, true guidance", "dev", (Cfg(true_scale=3.0),), NEGATIVE),
    Row("FluxImg2Img", "dev", (REDRAW,), REDRAWN), Row("FluxInpaint", "dev", (REDRAW, Inpaint()), HOLED),
    Row("FluxFill", "fill", (Inpaint(),), HOLED), Row("FluxKontext", "kontext", (LOOK,)),
    Row("FluxKontextInpaint", "kontext", (REDRAW, LOOK, Inpaint()), HOLED),
    Row("FluxControl", "control", hint=""), Row("FluxControlImg2Img", "control", (REDRAW,), REDRAWN, ""),
    Row("FluxControlInpaint", "control", (REDRAW, Inpaint()), HOLED, ""),
    Row("FluxControlNet", "dev", hint="flux"), Row("FluxControlNet, XLabs", "dev", hint="xlabs"),
    Row("FluxControlNetImg2Img", "dev", (REDRAW,), REDRAWN, "flux"),
    Row("FluxControlNetInpaint", "dev", (REDRAW, Inpaint()), HOLED, "flux"), Row(REDUX, "dev"),
    Row("Flux2Klein", "klein"), Row("Flux2Klein, guided", "klein-base"),
    Row("Flux2Klein, two references", "klein", (BOTH,)),
    Row("Flux2KleinInpaint", "klein", (REDRAW, LOOK, Inpaint()), HOLED),
    Row("Flux2KleinInpaint, another reference", "klein", (REDRAW, BOTH, Inpaint()), HOLED),
    Row("Flux2KleinKV", "klein-kv", (BOTH,)), Row("Flux2", "flux2-dev", (LOOK,)),
    Row("ZImage", "z-image"), Row("ZImage, guided", "z-image", (), {"guidance_scale": 5.0, **NEGATIVE}),
    Row("ZImageImg2Img", "z-image", (REDRAW,), REDRAWN), Row("ZImageInpaint", "z-image", (REDRAW, Inpaint()), HOLED),
    Row("ZImageControlNet", "z-image", hint="z-image"),
    Row("ZImageControlNetInpaint", "z-image", (), HOLED, "z-image-inpaint"),
    Row("QwenImage", "qwen-text", (), NEGATIVE), Row("QwenImageImg2Img", "qwen-text", (REDRAW,), REDRAWN | NEGATIVE),
    Row("QwenImageInpaint", "qwen-text", (REDRAW, Inpaint()), HOLED | NEGATIVE),
    Row("QwenImageEdit", "qwen-edit", (LOOK,), NEGATIVE),
    Row("QwenImageEditPlus", "qwen-plus", (BOTH,), NEGATIVE),
    Row("QwenImageEditPlus, 2511", "qwen-2511", (BOTH,), NEGATIVE),
    Row("QwenImageEditInpaint", "qwen-edit", (REDRAW, qwen.LookAtItself(), Inpaint()), HOLED | NEGATIVE),
    Row("QwenImageControlNet", "qwen-text", (), NEGATIVE, "qwen"),
    Row("QwenImageControlNetInpaint", "qwen-text", (), HOLED | NEGATIVE, "qwen-inpaint"),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seen")
    for name in {row.hint for row in ROWS if row.hint}:
        steered.NETWORKS[name]().save_pretrained(path / name)
    tiny_prompts.redux(path / "redux")
    tiny.picture(96, 64, seed=9).save(path / "hint.png")
    return path


@pytest.fixture(scope="module")
def models(place: Path) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in made:
            PIPES[name]().save_pretrained(place / "models" / name)
            folder = describe(str(place / "models" / name))
            made[name] = load(folder, torch.device("cpu"), torch.float32)
        return made[name]

    return of


def walk(model: Any, row: Row, place: Path, **more: Any) -> list[Tensor]:
    plugins: Sequence[Plugin] = row.plugins
    if row.hint is not None:
        own = {"controlnet": str(place / row.hint)} if row.hint else {}
        plugins = [ControlNet(control=str(place / "hint.png"), **own), *plugins]
    if row.pipeline == REDUX:
        plugins = [ImagePrompt(image=IMAGE, adapter=str(place / "redux"))]
    return tiny.walked(model, plugins, SIZE, **{"steps": 2, **row.options, **more})


def _exchanged(ids: Tensor) -> Tensor:
    """(..., axes) with rows, the second, and columns, the third, exchanged."""
    return torch.cat([ids[..., :1], ids[..., 2:3], ids[..., 1:2], ids[..., 3:]], dim=-1)


def turned(network: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any]:
    """What a transformer is handed, with other positions."""
    if "img_ids" in given:
        return args, {**given, "img_ids": _exchanged(given["img_ids"])}
    shapes = [[(frames, width, height) for frames, height, width in item] for item in given["img_shapes"]]
    return args, {**given, "img_shapes": shapes}


@contextmanager
def positions(model: Any) -> Iterator[None]:
    """Z-Image's transformer finds the positions itself: it sees the state turned, and what it says is turned back."""
    if "ZImage" in type(model.transformer).__name__:
        own = type(model).velocities
        with pytest.MonkeyPatch.context() as m:
            m.setattr(type(model), "velocities", lambda self, x, *rest: [v.mT for v in own(self, x.mT, *rest)])
            yield
        return
    handle = model.transformer.register_forward_pre_hook(turned, with_kwargs=True)
    yield
    handle.remove()


@contextmanager
def channels(model: Any) -> Iterator[None]:
    own = type(model).velocities

    def halves(x: Tensor) -> Tensor:
        return x.roll(x.shape[1] // 2, 1)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(type(model), "velocities", lambda self, x, *rest: [halves(v) for v in own(self, halves(x), *rest)])
        yield


@contextmanager
def queries(model: Any) -> Iterator[None]:
    """Queries as they are, in every attention of the transformer."""
    norms = [part for name, part in model.transformer.named_modules() if name.endswith("norm_q")]
    assert norms
    handles = [part.register_forward_hook(lambda part, given, made: given[0]) for part in norms]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def latents(model: Any) -> Iterator[None]:
    """What the VAE says, neither shifted nor scaled; in patches where the model's are."""
    plain = (lambda self, x: torch.pixel_unshuffle(x, 2)) if "Flux2" in type(model).__name__ else (lambda self, x: x)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(type(model), "normalised", plain)
        yield


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.pipeline)
def test_a_mistake_moves_the_latents(row: Row, models: Callable[[str], Any], place: Path) -> None:
    model = models(row.model)
    right = walk(model, row, place)
    moved = {"mu": tiny.distance(walk(model, row, place, shift=6.5), right)}
    for mistake in (positions, channels, queries, *((latents,) if row.pictured else ())):
        with mistake(model):
            moved[mistake.__name__] = tiny.distance(walk(model, row, place), right)
    assert tiny.distance(walk(model, row, place), right) == 0.0, "nothing stays wrong"
    assert min(moved.values()) > SEEN, moved
