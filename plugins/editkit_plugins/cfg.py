"""Classifier-free guidance: away from what the model says without the prompt, towards what it says with it.

Ho & Salimans 2022 (arXiv:2207.12598), in the network's own output: out = out_n + scale (out_p - out_n), with p the
prompt and n the negative one. `rescale` r gives the result back the deviation of out_p, as far as r
(Lin et al. 2023, arXiv:2305.08891, section 3.4): out <- (r std(out_p) / std(out) + 1 - r) out, for each item.
A model may fold in a form of its own (`FoldsGuidance`): Qwen-Image gives each token the length of out_p.
A scale of 1 is the prompt alone, and the other half is not computed; nor is it outside of `start` and `stop`
(Kynkaanniemi et al. 2024, arXiv:2404.07724). A network that was distilled from guidance is told the scale instead, and
is called once (Meng et al. 2023, arXiv:2210.03142); `true_scale` guides it besides, by the negative prompt, as
diffusers' `true_cfg_scale`. One whose steps were distilled has no guidance at all.

--guidance-scale means the same for every model: 1 is none. diffusers' Z-Image and Krea 2 count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from editkit.plugin import FoldsGuidance, Hooks, Plugin, Prediction, Run, Section, Step, capability, convert

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, Level


class Cfg(Plugin):
    """Follow the prompt more closely than the model does by itself; implied by every model that takes text.

    The scale is --guidance-scale. `start` and `stop` bound when it acts: at high noise it narrows what can come of the
    prompt, at low noise it costs time for little.
    """

    name: ClassVar[str] = "cfg"
    group: ClassVar[Section] = "advanced"
    usage: ClassVar[tuple[str, ...]] = (
        'sdedit photo.png --model DIR --prompt "a barn" with cfg --rescale 0.7',
        'inpaint photo.png --mask mask.png --model DIR --prompt "a barn" with cfg --start 0.2',
        'plan sdedit photo.png --model DIR --prompt "a barn" with cfg',
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    neutral: ClassVar[Mapping[str, Any] | None] = {"scale": 1.0}

    scale: float | None = Field(
        None, ge=0.0, description="Strength; default: --guidance-scale, else the model's; 1: none."
    )
    rescale: float = Field(0.0, ge=0.0, le=1.0, description="Restore the prediction's standard deviation; 1: fully.")

    true_scale: float | None = Field(
        None, ge=0.0, description="Models that are told the scale (FLUX.1): real guidance besides, by the negative."
    )

    def hooks(self) -> type[Hooks[Cfg]]:
        return _CfgHooks


class _CfgHooks(Hooks[Cfg]):
    def __init__(self, plugin: Cfg, run: Run) -> None:
        super().__init__(plugin, run)
        chosen = plugin.scale if plugin.scale is not None else run.options.guidance_scale
        info = run.model.info
        self.told = info.guidance if chosen is None else chosen
        self.tells = "guidance" in info.takes and not info.distilled
        self.scale = (plugin.true_scale or 1.0) if self.tells else self.told
        self.folds = capability(run.model, FoldsGuidance)
        if info.distilled:
            self.scale = 1.0
        self._say_what_is_idle(chosen)

    def _say_what_is_idle(self, chosen: float | None) -> None:
        """A scale or a negative prompt that changes nothing is said."""
        run, plugin, name = self.run, self.plugin, self.run.model.info.name
        if run.model.info.distilled:
            given = {"--negative": run.options.negative, "--guidance-scale": None if chosen == 1.0 else chosen}
            given["cfg --true-scale"] = plugin.true_scale
            idle = [word for word, value in given.items() if value is not None]
            if idle:
                run.notify(f"{' and '.join(idle)}: without effect, {name} was distilled and has no guidance")
        elif self.tells and self.scale == 1.0 and run.options.negative is not None:
            run.notify(f"--negative: without effect, {name} is told its guidance; `with cfg --true-scale 4` heeds it")
        elif not self.tells and plugin.true_scale is not None:
            run.notify(f"cfg --true-scale: without effect, {name} is not told its guidance; --guidance-scale is real")
        elif self.scale == 1.0 and run.options.negative is not None:
            run.notify(
                f"--negative: without effect, {name} is not guided at scale 1; a larger --guidance-scale heeds it"
            )

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return replace(cond, guidance=self.told) if self.tells and cond.guidance is None else cond

    def branches(self, step: Step, cond: Conditioning) -> Sequence[Conditioning]:
        return (cond,) if self._wanted(cond) == 1.0 else (replace(cond, prompt=cond.negative), cond)

    def combine(self, step: Step, predictions: Sequence[Prediction]) -> Prediction:
        if len(predictions) == 1:
            return predictions[0]
        without, wanted = predictions
        made = folded(without, wanted, self._wanted(step.told[-1]), step.x_t, step.t, self.folds)
        if not self.plugin.rescale:
            return made
        if made.output is None or wanted.output is None or made.kind is None:
            return wanted.with_x0(self._rescaled(made.x0, wanted.x0), step.x_t, step.t)
        out = self._rescaled(made.output, wanted.output)
        return replace(convert(out, step.x_t, step.t, made.kind), variance=wanted.variance)

    def _wanted(self, cond: Conditioning) -> float:
        """The scale; another plugin may have said one of its own for this prediction (`Conditioning.guidance`)."""
        own = None if self.tells or self.run.model.info.distilled else cond.guidance
        return self.scale if own is None else own

    def _rescaled(self, out: Tensor, wanted: Tensor) -> Tensor:
        """`out` with the deviation of `wanted`, as far as `rescale`; items of one value, and those whose values are all
        the same, have none to give back."""
        r = self.plugin.rescale
        if not r or out[0].numel() == 1:
            return out
        deviation = _deviation(out)
        ratio = _deviation(wanted) / deviation.where(deviation > 0.0, deviation.new_ones(()))
        return (r * (out * ratio) + (1.0 - r) * out).where(deviation > 0.0, out)


def folded(
    without: Prediction, wanted: Prediction, scale: float, x_t: Tensor, t: Level, folds: FoldsGuidance | None
) -> Prediction:
    """Both predictions at (x_t, t) in one: out_n + scale (out_p - out_n), or as the model folds them."""
    if without.output is None or wanted.output is None or wanted.kind is None:
        return wanted.with_x0(without.x0 + scale * (wanted.x0 - without.x0), x_t, t)
    if folds is not None:
        out = folds.fold(without.output, wanted.output, scale)
    else:
        out = without.output + scale * (wanted.output - without.output)
    return replace(convert(out, x_t, t, wanted.kind), variance=wanted.variance)


def _deviation(out: Tensor) -> Tensor:
    """(batch, 1, ...)."""
    return out.std(dim=tuple(range(1, out.ndim)), keepdim=True)
