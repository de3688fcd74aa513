"""`--fast`: the options for a few-step LoRA, which is recognised by its file's name or its metadata.

Such a LoRA was trained for a certain number of steps, sampler, level spacing and guidance scale; with others its
results are oversaturated or blurred. `KINDS` has the authors' recommendations, in editkit's guidance scale, where 1 is
none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from editkit.common.notify import Notify
from editkit.diffusion.model import ModelInfo
from editkit.errors import ModelError, UsageError
from editkit.models.files.weights import unreadable_error
from editkit.models.lora import check_readable, lora_and_weight
from editkit.plugin.options import Options

UNET, XL = "Stable Diffusion 1.x/2.x", "Stable Diffusion XL"


@dataclass(frozen=True)
class FastLora:
    """One kind of few-step LoRA.

    Args:
        word: part of its name by which it is recognised.
        family: beginning of the model family's name.
        steps: default number of steps, if its name does not give one.
        of: the numbers of steps for which it exists; its name says which.
        options: options for the run.
        weight: default weight of the LoRA.
    """

    word: str
    family: str
    steps: int
    of: tuple[int, ...]
    options: Options
    weight: float = 1.0


KINDS = (
    FastLora("lightning", "Qwen-Image", 8, (4, 8), Options(sampler="euler", shift=3.0, guidance_scale=1.0)),
    FastLora("lightning", XL, 4, (2, 4, 8), Options(sampler="euler", spacing="trailing", guidance_scale=1.0)),
    FastLora("hyper", "FLUX.1", 8, (8, 16), Options(sampler="euler"), 0.125),
    FastLora("turbo", "FLUX.1", 8, (8,), Options(sampler="euler")),
    FastLora("hyper", XL, 8, (2, 4, 8, 12), Options(sampler="ddim", spacing="trailing", guidance_scale=1.0)),
    FastLora("hyper", UNET, 8, (2, 4, 8, 12), Options(sampler="ddim", spacing="trailing", guidance_scale=1.0)),
    FastLora("lcm", XL, 4, (2, 3, 4, 5, 6, 7, 8), Options(sampler="lcm", guidance_scale=1.0)),
    FastLora("lcm", UNET, 4, (2, 3, 4, 5, 6, 7, 8), Options(sampler="lcm", guidance_scale=1.0)),
)  # fmt: skip
"""Written from memory but for Qwen-Image's row, and compared on 2026-11-28 with stored copies of the makers' pages:
Qwen-Image-Lightning's script (its shift is 3 at every size, and nothing is stretched to the last level), ByteDance's
SDXL-Lightning and Hyper-SD, alimama's FLUX.1-Turbo-Alpha, LCM-LoRA (Luo et al. 2023). Still from memory: that both
Lightnings want no guidance. Chosen here, where a page leaves it open: 4 of LCM's 2 to 8 steps and none of its "none, or
1 to 2" of guidance; 5 of the "5 to 8" of Hyper-SD's files that keep guidance (of 12 steps there are these alone). None
was tried.
"""

STEPS = re.compile(r"(\d+)[ _-]?steps?(?![a-z])")

TOLD = ("modelspec.title", "ss_output_name", "name", "modelspec.description")
"""Keys of a file's metadata that may identify it."""


@dataclass(frozen=True)
class FoundLora:
    """A few-step LoRA in a run: its value of `--lora`, its kind, and its number of steps."""

    lora: str
    kind: FastLora
    steps: int


def find_fast_lora(loras: Sequence[str], info: ModelInfo) -> FoundLora | None:
    """Find the first few-step LoRA in `loras` for the family of `info`; None if there is none.

    Raises:
        UsageError: a LoRA does not exist, or is for an unknown number of steps.
        ModelError: a LoRA cannot be read.
    """
    for word in loras:
        name, description = _description(word)
        for text in (name, description):  # the file's name takes precedence over its metadata
            for kind in KINDS:
                if info.family.startswith(kind.family) and re.search(rf"(?<![a-z]){kind.word}(?![a-z])", text):
                    return FoundLora(
                        word, kind, _steps(word, kind, name) or _steps_of_metadata(kind, description) or kind.steps
                    )
    return None


def _description(word: str) -> tuple[str, str]:
    """Return a LoRA file's name and its metadata's description, in lower case."""
    from safetensors import SafetensorError, safe_open

    file, _ = check_readable(word)
    try:
        with safe_open(file, "np") as tensors:
            metadata = tensors.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"--lora {file.name} {unreadable_error(file, error)}") from error
    return file.stem.lower(), " ".join(str(metadata.get(key, ""))[:500] for key in TOLD).lower()


def _steps(word: str, kind: FastLora, text: str) -> int | None:
    """Parse the number of steps in a name: `8steps`, `4-step`, `8_steps`; None if there is none."""
    found = STEPS.search(text)
    if found is None:
        return None
    if int(found[1]) not in kind.of:
        there = ", ".join(map(str, kind.of))
        raise UsageError(
            f"--fast: {lora_and_weight(word)[0].name} is for {found[1]} steps; of this kind ({kind.word}) only "
            f"{there} are known; set --steps, --sampler and --guidance-scale by hand, without --fast"
        )
    return int(found[1])


def _steps_of_metadata(kind: FastLora, description: str) -> int | None:
    """Return the steps given by metadata, if they match the kind; other step counts are those of training."""
    return next((int(n) for n in STEPS.findall(description) if int(n) in kind.of), None)


def settle_options(options: Options, asked: Options, info: ModelInfo, notify: Notify, inherited: bool) -> Options:
    """Set `options` for the few-step LoRA among them, keep those `asked` by the user, and report the choice.

    Args:
        options: all options of the stage.
        asked: options that the user set explicitly.
        info: the stage's model.
        notify: called with messages for the user.
        inherited: --fast was given for an earlier stage, so this stage need not have such a LoRA.

    Raises:
        UsageError: there is no such LoRA for this model, and the model is not distilled itself.
    """
    found = find_fast_lora(options.lora, info)
    if found is None:
        if info.distilled or inherited:
            notify(f"--fast sets nothing: {info.name} takes {info.steps} steps by itself")
            return options
        known = ", ".join(dict.fromkeys(kind.word for kind in KINDS if info.family.startswith(kind.family)))
        how = f"give one by --lora ({known})" if known else "none is known for this family"
        raise UsageError(
            f"--fast needs a few-step LoRA for {info.name} ({info.family}), recognised by its file's name or metadata, "
            f"but --lora has none; {how}, or set --steps, --sampler and --guidance-scale by hand"
        )
    by_hand = {name for name, value in asked.model_dump(exclude_unset=True).items() if value is not None}
    wanted = {"steps": found.steps, **found.kind.options.model_dump(exclude_unset=True)}
    if "cfg" in lora_and_weight(found.lora)[0].stem.lower().split("-") and wanted.get("guidance_scale") == 1.0:
        wanted["guidance_scale"] = 5.0  # Hyper-SD's files that keep guidance
    made = options.model_copy(update={name: value for name, value in wanted.items() if name not in by_hand})
    file, _ = lora_and_weight(found.lora)
    if found.kind.weight != 1.0 and found.lora.lower().endswith(".safetensors"):  # no weight by hand
        weighed = tuple(f"{word}:{found.kind.weight:g}" if word == found.lora else word for word in made.lora)
        made = made.model_copy(update={"lora": weighed})
        wanted["lora weight"] = found.kind.weight
    listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in wanted.items() if name not in by_hand)
    kept = ", ".join(f"{name.replace('_', ' ')} {getattr(options, name)}" for name in wanted if name in by_hand)
    notify(f"--fast: {file.name} ({found.kind.word}): {listed or 'nothing'}" + (f"; by hand: {kept}" if kept else ""))
    return made
