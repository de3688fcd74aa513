"""Classifier-free guidance: extrapolate from the negative prompt's prediction past the prompt's prediction.

Ho & Salimans 2022 (arXiv:2207.12598), applied to the network's own output: out = out_n + scale (out_p - out_n), where p
is the prompt and n the negative prompt.

- `rescale` r restores the standard deviation of out_p (Lin et al. 2023, arXiv:2305.08891, section 3.4), for each item:
  out <- (r std(out_p) / std(out) + 1 - r) out.
- A model may combine the two predictions in its own way (`FoldsGuidance`): Qwen-Image rescales each token to the norm
  that it has in out_p.
- At scale 1, and outside of `start` and `stop` (Kynkaanniemi et al. 2024, arXiv:2404.07724), only the prompt's
  prediction is computed.
- A guidance-distilled network takes the scale as an input and is called once (Meng et al. 2023, arXiv:2210.03142).
  `true_scale` adds real guidance by the negative prompt, as diffusers' `true_cfg_scale` does.
- A step-distilled network has no guidance at all.

--guidance-scale means the same for every model: 1 is no guidance. diffusers' Z-Image and Krea 2 count from 0.
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

    The scale is --guidance-scale. `start` and `stop` limit guidance to a part of the process: at high noise levels it
    reduces variety, at low noise levels it has little effect for its cost.
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
        None, ge=0.0, description="Guidance-distilled models (FLUX.1): scale of real guidance by --negative."
    )

    def hooks(self) -> type[Hooks[Cfg]]:
        return _CfgHooks


class _CfgHooks(Hooks[Cfg]):
    def __init__(self, plugin: Cfg, run: Run) -> None:
        super().__init__(plugin, run)
        chosen = plugin.scale if plugin.scale is not None else run.options.guidance_scale
        info = run.model.info
        self.embedded_guidance = info.guidance if chosen is None else chosen
        self.tells = "guidance" in info.takes and not info.distilled
        self.scale = (plugin.true_scale or 1.0) if self.tells else self.embedded_guidance
        self.folds = capability(run.model, FoldsGuidance)
        if info.distilled:
            self.scale = 1.0
        self._report_idle(chosen)

    def _report_idle(self, chosen: float | None) -> None:
        """Notify the user of a scale or a negative prompt that has no effect."""
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
        return replace(cond, guidance=self.embedded_guidance) if self.tells and cond.guidance is None else cond

    def branches(self, step: Step, cond: Conditioning) -> Sequence[Conditioning]:
        return (cond,) if self._guidance_scale(cond) == 1.0 else (replace(cond, prompt=cond.negative), cond)

    def combine(self, step: Step, predictions: Sequence[Prediction]) -> Prediction:
        if len(predictions) == 1:
            return predictions[0]
        without, wanted = predictions
        made = combine_folded(without, wanted, self._guidance_scale(step.told[-1]), step.x_t, step.t, self.folds)
        if not self.plugin.rescale:
            return made
        if made.output is None or wanted.output is None or made.kind is None:
            return wanted.with_x0(self._rescale(made.x0, wanted.x0), step.x_t, step.t)
        out = self._rescale(made.output, wanted.output)
        return replace(convert(out, step.x_t, step.t, made.kind), variance=wanted.variance)

    def _guidance_scale(self, cond: Conditioning) -> float:
        """Return the scale. Another plugin may have set its own for this prediction (`Conditioning.guidance`)."""
        own = None if self.tells or self.run.model.info.distilled else cond.guidance
        return self.scale if own is None else own

    def _rescale(self, out: Tensor, wanted: Tensor) -> Tensor:
        """Move the standard deviation of `out` towards that of `wanted`, by the fraction `rescale`.

        Items with a single value, or whose values are all equal, have no deviation and are returned unchanged.
        """
        r = self.plugin.rescale
        if not r or out[0].numel() == 1:
            return out
        deviation = _deviation(out)
        ratio = _deviation(wanted) / deviation.where(deviation > 0.0, deviation.new_ones(()))
        return (r * (out * ratio) + (1.0 - r) * out).where(deviation > 0.0, out)


def combine_folded(
    without: Prediction, wanted: Prediction, scale: float, x_t: Tensor, t: Level, folds: FoldsGuidance | None
) -> Prediction:
    """Combine both predictions at (x_t, t): out_n + scale (out_p - out_n), or the model's own rule `folds`."""
    if without.output is None or wanted.output is None or wanted.kind is None:
        return wanted.with_x0(without.x0 + scale * (wanted.x0 - without.x0), x_t, t)
    if folds is not None:
        out = folds.fold(without.output, wanted.output, scale)
    else:
        out = without.output + scale * (wanted.output - without.output)
    return replace(convert(out, x_t, t, wanted.kind), variance=wanted.variance)


def _deviation(out: Tensor) -> Tensor:
    """Return the standard deviation of each item, (batch, 1, ...)."""
    return out.std(dim=tuple(range(1, out.ndim)), keepdim=True)
