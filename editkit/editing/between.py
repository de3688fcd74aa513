"""Interpolation between two pictures: map both to their noise, interpolate the noise, and map it back.

The noise of a diffusion model is N(0, s^2 I), nearly all of it on a sphere, and `slerp` stays on that sphere (Song et
al. 2020, arXiv:2010.02502, section 5.3): with w the angle between z_a and z_b,

    z = (sin((1 - share) w) z_a + sin(share w) z_b) / sin w.

The straight line (`lerp`) passes through the inside of the sphere: in the middle the variance is half. Texts are
interpolated linearly in the encoder's space. The ways up and down are those of the plugin `invert`; other plugins act
in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Unpack

import numpy as np

from editkit.common.notify import Notify, silent
from editkit.diffusion.capability import capability
from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.model import ModelInfo, ReadsText
from editkit.editing.in_python import in_python, words
from editkit.editing.settle import StagePlan, plan_stage
from editkit.errors import ChainError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin import registry
from editkit.plugin.chain import Chain, Edits, Stage
from editkit.plugin.options import Options, RunOptions
from editkit.plugin.params import PictureSource
from editkit.plugin.protocol import Hooks, Plugin, Slot
from editkit.plugin.step import Run, Step

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.diffusion.model import Model
    from editkit.editing.stages import Left, Update
    from editkit.models.leasing import Models

WAY = "invert"
"""The registered plugin that makes the ways up and down."""

DEFAULT_MODEL = "pocket"
"""The meaning of `--model auto` here: a prior learnt from one picture does not know the other."""

R = TypeVar("R")

Mix = Literal["slerp", "lerp"]


def between(a: Tensor, b: Tensor, share: float, mix: Mix = "slerp") -> Tensor:
    """Interpolate between a and b, (batch, ...), at the fraction `share`, item by item."""
    import torch

    if mix == "lerp":
        return torch.lerp(a, b, share)
    first, second = a.flatten(1).double(), b.flatten(1).double()
    cosine = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1)).clamp_min(1e-30)
    w = torch.acos(cosine.clamp(-1.0, 1.0))[:, None]
    near = torch.sin(w) < 1e-6  # parallel or opposite: no unique arc
    u = torch.where(near, 1.0 - share, torch.sin((1.0 - share) * w) / torch.sin(w).clamp_min(1e-12))
    v = torch.where(near, share, torch.sin(share * w) / torch.sin(w).clamp_min(1e-12))
    return (u * first + v * second).reshape(a.shape).to(a.dtype)


class Blend(Plugin):
    """Pass an interpolation of two texts to the model, at the fraction `share` towards the second."""

    name: ClassVar[str] = "blend"
    holds: ClassVar[frozenset[Slot]] = frozenset({"prompt"})
    needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    order: ClassVar[int] = -50
    second: str = ""
    share: float = 0.0

    def hooks(self) -> type[Hooks[Blend]]:
        return _BlendHooks


class _BlendHooks(Hooks[Blend]):
    def __init__(self, plugin: Blend, run: Run) -> None:
        super().__init__(plugin, run)
        first, second = (self._encode(text) for text in (run.options.prompt or "", plugin.second))
        self.prompt = self._mix(first, second)
        self.negative = None if run.options.negative is None else self._encode(run.options.negative)

    def _encode(self, text: str) -> Prompt:
        reads = capability(self.run.model, ReadsText)
        if reads is None:
            raise ChainError(f"{self.run.model.info.name} says that it takes text, but has no encode_text")
        prompt, dropped = reads.encode_text(text)
        if dropped:
            self.run.notify(f"the prompt is longer than the model can read; left out: {dropped}")
        return prompt

    def _mix(self, first: Prompt, second: Prompt) -> Prompt:
        import torch

        if first.embeds.shape != second.embeds.shape:
            raise UsageError(
                f"{self.run.model.info.name} reads texts token by token, and these have different lengths; use texts "
                "of equal length, or leave --prompt-to out"
            )
        share = self.plugin.share
        pooled = None
        if first.pooled is not None and second.pooled is not None:
            pooled = torch.lerp(first.pooled, second.pooled, share)
        mask = None
        if first.mask is not None and second.mask is not None:
            mask = torch.maximum(first.mask, second.mask)
        return Prompt(torch.lerp(first.embeds, second.embeds, share), pooled, mask=mask)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return replace(cond, prompt=self.prompt, negative=self.negative)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The specification of an interpolation.

    Args:
        a, b: the pictures, of the same size.
        chain: its first stage begins with the plugin `invert`, whose strength and refinement are used; further plugins
            in it act on all ways up and down, later stages on every frame.
        frames: number of pictures, including the reconstructions of `a` and `b`.
        prompt_to: the text that describes b; None: the prompt, for both.
        mix: how noise is interpolated.
    """

    a: Picture
    b: Picture
    chain: Chain
    frames: int = 9
    prompt_to: str | None = None
    mix: Mix = "slerp"

    def shares(self) -> list[float]:
        """Return the position of each frame, from 0 to 1."""
        return [k / (self.frames - 1) for k in range(self.frames)]

    def up(self, share: float) -> Stage:
        """Return the stage that maps one of the pictures (0 or 1) to its noise."""
        return self._stage_along("up", share)

    def down(self, share: float) -> Stage:
        """Return the stage that makes one frame from noise."""
        return self._stage_along("down", share)

    def _stage_along(self, way: str, share: float) -> Stage:
        first = self.chain.stages[0]
        walker, *others = first.plugins
        walking = walker.model_copy(update={"way": way, "refine": getattr(walker, "refine", 0) if way == "up" else 0})
        blend = () if self.prompt_to is None else (Blend(second=self.prompt_to, share=share),)
        return replace(first, plugins=(walking, *blend, *others))

    def plans(self, notify: Notify = silent, info: ModelInfo | None = None) -> list[StagePlan]:
        """Plan both ways up, every way down, and the later stages of every frame; loads no weights."""
        stages = [(self.up(0.0), self.a), (self.up(1.0), self.b)]
        for share in self.shares():
            stages += [(stage, self.a) for stage in (self.down(share), *self.chain.stages[1:])]
        return [plan_stage(stage, picture, notify, info) for stage, picture in stages]


def interpolation(
    a: Picture, b: Picture, chain: Chain, *, frames: int = 9, prompt_to: str | None = None, mix: Mix = "slerp",
    notify: Notify = silent,
) -> Interpolation:  # fmt: skip
    """Check the arguments and return an `Interpolation`, with `b` resized to the size of `a`.

    Raises:
        UsageError: there are fewer than 2 frames, or the first plugin is not `invert`.
        ChainError: the model learns from one picture only.
    """
    if frames < 2:
        raise UsageError(f"an interpolation needs 2 frames or more, got {frames}")
    first = chain.inherited().stages[0]
    if first.plugins[0].name != WAY:
        raise UsageError(f"an interpolation needs {WAY} first, and its chain begins with {first.plugins[0].name}")
    if first.options.model == "auto":
        notify(f"using model {DEFAULT_MODEL}; --model chooses another")
        chain = chain.with_options(Options(model=DEFAULT_MODEL))
    if first.options.model == "patches":
        raise ChainError("patches learns from one picture and cannot interpolate between two; use --model pocket")
    return Interpolation(a, _crop_to_aspect(b, a, notify), chain.inherited(), frames, prompt_to, mix)


def _crop_to_aspect(b: Picture, a: Picture, notify: Notify) -> Picture:
    """Crop `b` around its centre to the aspect ratio of `a`, and resize it to the size of `a`."""
    if b.size == a.size:
        return b
    scale = min(b.width / a.width, b.height / a.height)
    width, height = max(1, round(a.width * scale)), max(1, round(a.height * scale))
    left, top = (b.width - width) // 2, (b.height - height) // 2
    notify(f"--to is {b.width}x{b.height}: its centre, {width}x{height}, is resized to {a.width}x{a.height}")
    return Picture(b.visible[top : top + height, left : left + width].copy()).resized(a.width, a.height)


def run_interpolation(
    asked: Interpolation, models: Models, notify: Notify = silent, own: Model | None = None
) -> Generator[Update, None, list[Picture]]:
    """Run an interpolation: yield every step, and return the frames.

    Raises:
        EditkitError: an edit failed.
    """
    from editkit.editing.running import lease_model, run_chain
    from editkit.editing.stages import make_ready, run_stage

    total, later = 2 + asked.frames, Chain(asked.chain.stages[1:])

    def staged(
        stage: Stage, picture: Picture, number: int, handed: Left
    ) -> Generator[Update, None, tuple[Picture, Left]]:
        settled = plan_stage(stage, picture, notify, None if own is None else own.info)
        with lease_model(models, settled, own) as lease:
            make_ready(lease.model, settled, notify)
            steps = run_stage(settled, lease, 0, 1, notify, lambda *_: None, handed)
            return (yield from _renumber_steps(steps, number, total))

    _, first = yield from staged(asked.up(0.0), asked.a, 0, {})
    _, second = yield from staged(asked.up(1.0), asked.b, 1, {})
    frames = []
    for k, share in enumerate(asked.shares()):
        handed = {box: replace(z, x=between(z.x, second[box].x, share, asked.mix)) for box, z in first.items()}
        shown = asked.a if share < 0.5 else asked.b
        frame, _ = yield from staged(asked.down(share), shown, 2 + k, handed)
        if later.stages:
            frame = yield from _renumber_steps(
                run_chain(frame, later, own, notify, models, lambda *_: None), 2 + k, total
            )
        frames.append(frame)
    return frames


def _renumber_steps(steps: Generator[Update, None, R], number: int, total: int) -> Generator[Update, None, R]:
    """Yield the same steps, numbered as stage `number` of `total`."""
    while True:
        try:
            update = next(steps)
        except StopIteration as done:
            made: R = done.value
            return made
        yield replace(update, stage=number, stages=total)


def interpolate(
    a: PictureSource,
    b: PictureSource,
    edits: Edits = (),
    *,
    frames: int = 9,
    prompt_to: str | None = None,
    mix: Mix = "slerp",
    strength: float = 1.0,
    refine: int = 0,
    model: str | Model = "auto",
    notify: Notify | None = None,
    models: Models | None = None,
    progress: Callable[[Update], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[Picture]:
    """Interpolate between pictures `a` and `b`: `interpolate("a.png", "b.png", frames=9, steps=50)`.

    Args:
        a, b: the pictures; `b` is cropped and resized to the size of `a`.
        edits: plugins that act on every way up and down.
        frames: number of pictures, including the reconstructions of `a` and `b`.
        prompt_to: the text that describes b, where `prompt` describes a; the way down uses interpolated texts.
        mix: slerp, or lerp, whose frames have less contrast.
        strength, refine: as for the plugin `invert`.
        model, notify, models, progress, options: as for `editkit.edit`.

    Raises:
        EditkitError: the edit failed. The message is one line and says how to fix it.
    """
    from editkit.models.leasing import Models

    with in_python("interpolate"):
        python_notify: Notify = silent if notify is None else lambda message: notify(words(message))
        own = None if isinstance(model, str) else model
        named = {"model": model} if isinstance(model, str) and model != "auto" else {}
        walking: dict[str, Any] = {"strength": strength, "refine": refine}
        walker = registry.load(WAY)(**walking)
        chain = Chain.of(walker) if not edits else Chain.of(walker) & Chain.of(edits)
        chain = chain.with_options(Options(**{**options, **named, **({"model": own.info.name} if own else {})}))
        asked = interpolation(
            Picture.read(a), Picture.read(b), chain, frames=frames, prompt_to=prompt_to, mix=mix, notify=python_notify
        )
        making = run_interpolation(asked, models or Models(most=1), python_notify, own)
        while True:
            try:
                update = next(making)
            except StopIteration as done:
                return list(done.value)
            if progress is not None:
                progress(update)


def strip(frames: Sequence[Picture]) -> Picture:
    """Arrange the frames side by side, in 8 bits a channel, each at the height of the first."""
    from editkit.editing.watching.sheets import eight_bit

    return Picture(np.concatenate([eight_bit(frame.pixels) for frame in frames], axis=1))
