"""ControlNet: steer the result by the structure of a picture.

Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models", arXiv:2302.05543. A copy of the
UNet's encoder sees x_t and a hint c (edges, depth, a pose ...). Its outputs are added to the UNet's own features
through zero-initialised convolutions: h_k <- h_k + scale z_k(x_t, t, c). Several ControlNets add up, in any order.

A model that was itself trained on hints (FLUX.1 Canny, Depth) takes the hint directly, in the model's own space.
Transformers have ControlNets of their own kind (FLUX.1, Qwen-Image, Z-Image: `BringsControl`). The model evaluates the
ControlNets (`editkit.diffusion.control`), so every branch of guidance is steered; a UNet's ControlNet sees the prompt
of its branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from editkit.common.spec import name_of
from editkit.diffusion.control import BringsControl, Control, ControlInputs, Folded, TakesControl, cut_like
from editkit.diffusion.space import space_of
from editkit.models.files.layout import Layout
from editkit.models.files.loading import find_layout, load_network
from editkit.plugin import (
    EditkitError,
    Given,
    Hooks,
    Metavar,
    ModelError,
    Notify,
    Picture,
    Pixels,
    Plugin,
    Reference,
    Residuals,
    Run,
    Section,
    Step,
    UsageError,
    from_unit,
    hints,
    largest,
    to_unit,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.plugin import Conditioning

COMPARED = ("block_out_channels", "layers_per_block", "cross_attention_dim", "addition_embed_type")
"""Configuration values that a ControlNet and its UNet must share; otherwise their features do not fit."""

EMBEDDED = "pocket-canny"
"""The ControlNet that comes with editkit: edges, for `--model pocket`."""

KINDS = {"canny": 0, "tile": 1, "depth": 2, "blur": 3, "pose": 4, "gray": 5, "low-quality": 6}
"""Kind of hint -> its number in FLUX.1's union ControlNets (InstantX, Shakker Labs)."""

DETECTED = {"luma": "gray", "dwpose": "pose", "zoe": "depth", "leres": "depth"}
"""Detector -> kind of hint, where the two names differ."""

FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Width of the text embeddings -> model family."""


def _hint(value: Any) -> Any:
    """Accept a detector's name, a path or a picture. A misspelt name is refused here, before anything is loaded."""
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        if hasattr(value, "shape") or hasattr(value, "size"):
            return value
        raise ValueError(f"is {value!r}; the name of a detector, a path, an array or a PIL image is needed")
    if hints.is_words(value):
        hints.make(value)
    elif not hints.looks_like_a_file(value):
        raise ValueError(hints.unknown_message(name_of(value)))
    return value


HintSource = Annotated[Any, BeforeValidator(_hint), Metavar("HINT", words=hints.is_words)]
"""A detector (`canny`, `canny:low=50,high=150`), or a ready-made hint picture."""


def _kind(value: Any) -> Any:
    """Return a kind's name unchanged, and the text of a number as an integer."""
    if value is None or isinstance(value, int):
        return value
    if str(value).isdigit():
        return int(value)
    if str(value) not in KINDS:
        raise ValueError(f"is {value!r}; {', '.join(KINDS)} or a number is needed")
    return str(value)


def _is_name(value: str) -> bool:
    """Whether the value names a ControlNet (embedded, or owner/name on the hub). `./a/b` is always a folder."""
    if value == EMBEDDED:
        return True
    return value.count("/") == 1 and value[0] not in "./~" and not Path(value).is_dir()


class ControlNet(Plugin):
    """Follow the structure of the picture (edges, lines, depth, poses) or of a hint of your own.

    --control is either the name of a detector that is run on the edited picture (`editkit hint` shows its output), or
    the file of a ready-made hint that covers the same area. Give the plugin several times for several ControlNets.
    """

    name: ClassVar[str] = "controlnet"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "controlnet photo.png --control canny",
        "sdedit photo.png --model DIR --strength 0.8 with controlnet --control depth --controlnet DIR",
        "inpaint photo.png --mask mask.png --model DIR with controlnet --control canny --controlnet DIR",
    )
    offers: ClassVar[frozenset[str]] = frozenset({"control"})
    needs: ClassVar[frozenset[str]] = frozenset({"control", "hint"})
    able: ClassVar[str] = "Stable Diffusion 1.x, 2.x and XL, FLUX.1, Qwen-Image, Z-Image and pocket do"
    neutral: ClassVar[Mapping[str, Any] | None] = {"scale": 0.0}
    example: ClassVar[Mapping[str, Any]] = {"control": "canny", "controlnet": "./controlnet"}

    control: HintSource = Field(description="A detector, as canny or canny:low=50,high=150; or a hint file.")
    controlnet: Annotated[str, Metavar("DIR_OR_ID", words=_is_name)] = Field(
        EMBEDDED, min_length=1, description="The ControlNet: a folder as diffusers saves it, or a hub id."
    )
    scale: float = Field(1.0, ge=0.0, description="Strength; 0 changes nothing.")
    guess: bool = Field(False, description="Guess mode: follow the hint without a prompt; deep features count more.")
    mode: Annotated[str | int | None, BeforeValidator(_kind), Metavar("KIND", path=False)] = Field(
        None,
        description="Kind of hint for FLUX.1's union ControlNets: canny, tile, depth, blur, pose, gray, low-quality or "
        "a number; default: by the detector.",
    )

    def default_model(self) -> str | None:
        """Return `pocket` for the embedded ControlNet, which fits no other network."""
        return "pocket" if self.controlnet == EMBEDDED else None

    def hooks(self) -> type[Hooks[ControlNet]]:
        return _ControlNetHooks

    def beside(self) -> int:
        return 1 if self.scale > 0.0 else 0

    def open(self, picture: Picture, notify: Notify) -> Picture:
        control = self.control
        if isinstance(control, str) and not hints.is_words(control) and not Path(control).is_file():
            raise UsageError(f"controlnet: --control {control}: there is no such file")
        return picture


class _ControlNetHooks(Hooks[ControlNet]):
    def __init__(self, plugin: ControlNet, run: Run) -> None:
        super().__init__(plugin, run)
        self.control: Control | None = None
        self.shown: Reference | None = None
        if plugin.scale > 0.0 and "hint" in run.model.info.takes:
            self.shown = _control_inputs(plugin, run)
        elif plugin.scale > 0.0:
            self.control = _bind_controlnet(plugin, run)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if self.shown is not None:
            return replace(cond, references=(self.shown,))
        window = self.plugin.start, self.plugin.stop
        if self.control is None or not self.run.convention.steers(*window, step.index, step.total):
            return cond
        return cond.plus_control(self.control)


def _control_inputs(plugin: ControlNet, run: Run) -> Reference:
    """Encode the hint for a model that was itself trained on hints: a sample of the encoder's posterior.

    Notifies the user of options of the plugin that then have no effect.
    """
    idle = {"--controlnet": plugin.controlnet != EMBEDDED, "--scale": plugin.scale != 1.0, "--guess": plugin.guess}
    idle["--mode"] = plugin.mode is not None
    words = [word for word, given in idle.items() if given]
    if words:
        run.notify(
            f"{' and '.join(words)}: without effect, {run.model.info.name} was trained on hints and needs no ControlNet"
        )
    hint = 2.0 * _place_hint(plugin, run) - 1.0
    return Reference(run.model.encode(hint, run.stream), hint)


@dataclass(frozen=True, eq=False)
class _Control:
    """A ControlNet with its hint: (batch, 3, H, W) in [0, 1], or (windows * batch, 3, h, w) for windows."""

    network: Any
    hint: Tensor
    scale: float
    guess: bool

    @property
    def wanted_only(self) -> bool:
        return self.guess

    def __call__(self, given: Given) -> Residuals:
        dtype = self.network.dtype
        down, mid = self.network(
            given.x.to(dtype),
            given.t,
            encoder_hidden_states=None if given.words is None else given.words.to(dtype),
            controlnet_cond=self.hint.to(dtype).repeat(len(given.x) // len(self.hint), 1, 1, 1),
            conditioning_scale=self.scale,
            class_labels=given.label,
            added_cond_kwargs=given.added,
            guess_mode=self.guess,
            return_dict=False,
        )
        return Residuals(tuple(down), mid)

    def cut(self, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> _Control:
        return replace(self, hint=cut_like(self.hint, spots, size))


def _bind_controlnet(plugin: ControlNet, run: Run) -> Control:
    """Load the network with its hint; the network is checked against the model before its weights are read.

    Raises:
        ModelError: the network is not found, is a pickle, or does not belong to the model's family.
        UsageError: it is a union ControlNet, and the kind of hint is unknown.
    """
    from editkit.models.assets import folder
    from editkit.plugin import capability

    try:
        where = _folder_of(plugin.controlnet) if plugin.controlnet != EMBEDDED else str(folder(EMBEDDED))
        layout = find_layout(where, offline=run.options.offline)
        component = "controlnet" if layout.index and layout.has("controlnet") else ""
        config = layout.config(component)
        own = capability(run.model, BringsControl)
        if own is not None:
            return _transformer_control(plugin, run, own, where, component, config)
        model = capability(run.model, TakesControl)
        if model is None:
            raise ModelError(f"{run.model.info.name} ({run.model.info.family}) does not support ControlNets")
        _check(plugin.controlnet, config, model, run)
        layout = find_layout(where, offline=run.options.offline, weights=True)
        network = run.lease.network(_load_network, layout, component, run.device, model.unet.dtype)
    except ModelError as error:
        raise ModelError(f"controlnet: {str(error).removeprefix('controlnet: ')}") from error
    if plugin.mode is not None:
        run.notify(f"--mode: without effect, {plugin.controlnet} takes hints of one kind")
    guess = plugin.guess or bool(config.get("global_pool_conditions"))
    return _Control(network, _place_hint(plugin, run), plugin.scale, guess)


def _folder_of(word: str) -> str:
    """Return what `--controlnet` names, or the folder of weights in diffusers format; other files: ModelError."""
    file, weights = Path(word).expanduser(), "diffusion_pytorch_model.safetensors"
    if file.suffix.lower() != ".safetensors" or not file.is_file():
        return word
    if file.name == weights and (file.parent / "config.json").is_file():
        return str(file.parent)
    raise ModelError(
        f"{word} is a ControlNet in a single file, which is not supported; give its hub id, or its diffusers folder "
        f"(config.json and {weights})"
    )


def _transformer_control(
    plugin: ControlNet, run: Run, model: BringsControl, where: str, component: str, config: Mapping[str, Any]
) -> Control:
    """Do the same as `_bind_controlnet` for a model with ControlNets of its own kind."""
    try:
        kind = model.controlnet(config)
    except ModelError as error:
        raise ModelError(f"{plugin.controlnet} {error}; choose a ControlNet that was made for this model") from error
    number = _number_of_kind(plugin, config, run.notify)
    layout = find_layout(where, offline=run.options.offline, weights=True)
    network = run.lease.network(load_network, layout, component, kind, model.transformer.dtype, run.device)
    inputs = run.inputs
    shown = ControlInputs(2.0 * _place_hint(plugin, run) - 1.0, inputs.picture, inputs.mask, inputs.region, number)
    return model.steered(network, shown, plugin.scale, plugin.guess, run.stream)


def _number_of_kind(plugin: ControlNet, config: Mapping[str, Any], notify: Notify) -> int | None:
    """Return a union ControlNet's number for the kind of hint; None if the network takes one kind only.

    Raises:
        UsageError: the kind is unknown, or its number is too large for the network.
    """
    count, mode = config.get("num_mode"), plugin.mode
    if count is None:
        if mode is not None:
            notify(f"--mode: without effect, {plugin.controlnet} takes hints of one kind")
        return None
    if mode is None and isinstance(plugin.control, str) and hints.is_words(plugin.control):
        detector = name_of(plugin.control)
        mode = DETECTED.get(detector, detector if detector in KINDS else None)
        if mode is not None:
            notify(f"controlnet: {plugin.controlnet} takes hints of several kinds; this one is passed as {mode}")
    if mode is None:
        raise UsageError(
            f"controlnet: {plugin.controlnet} takes hints of several kinds; say which with --mode: {', '.join(KINDS)} "
            f"or a number below {count}"
        )
    number = KINDS[mode] if isinstance(mode, str) else mode
    if number >= int(count):
        raise UsageError(f"controlnet: --mode {mode} is number {number}; {plugin.controlnet} has {count}, from 0")
    return number


def _load_network(layout: Layout, component: str, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import ControlNetModel

    from editkit.models.fast.blocks import replace_blocks

    return replace_blocks(load_network(layout, component, ControlNetModel, dtype, device))


def _check(name: str, config: Mapping[str, Any], model: TakesControl, run: Run) -> None:
    """Raise ModelError if the ControlNet was not made for this model's UNet. The message shows both."""
    kind = config.get("_class_name")
    if kind != "ControlNetModel":
        raise ModelError(f"{name} is a {kind}; a ControlNetModel is needed (no union ControlNets, no T2I-Adapters yet)")
    unet, folded = model.unet.config, isinstance(model, Folded)
    pairs = {key: (_list_to_tuple(config.get(key)), _list_to_tuple(unet.get(key))) for key in COMPARED}
    pairs["in_channels"] = config.get("in_channels", 4), unet["in_channels"] if folded else run.shape[1]
    side = space_of(run.model).factor * (model.unshuffle if isinstance(model, Folded) else 1)
    pairs["pixels a side of one value"] = 2 ** (len(_embedding(config)) - 1), side
    wrong = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    if wrong:
        mine, theirs = (
            f"{_family(width)}{', '.join(f'{key} {pair[k]}' for key, pair in wrong.items())}"
            for k, width in enumerate((config.get("cross_attention_dim"), unet.get("cross_attention_dim")))
        )
        raise ModelError(
            f"{name} is of another family than the model: {name} has {mine}; {run.model.info.name} has {theirs}; "
            f"choose a ControlNet that was made for this model"
        )


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _embedding(config: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256))


def _family(width: Any) -> str:
    return f"{FAMILIES[width]}: " if width in FAMILIES else ""


def _place_hint(plugin: ControlNet, run: Run) -> Tensor:
    """Return the hint, aligned with the picture and at its size: (batch, 3, H, W) in [0, 1]."""
    import torch

    from editkit.plugin import resize

    size = tuple(space_of(run.model).factor * side for side in run.shape[-2:])
    pictures = _hints(plugin, run)
    wanted = run.inputs.whole.shape[:2] if run.inputs.whole is not None else size
    height, width = pictures[0].shape[:2]
    if (height, width) != wanted:
        run.notify(
            f"the hint is {width}x{height}, the picture {wanted[1]}x{wanted[0]}; the hint was resized to cover it"
        )
    hint = torch.cat([run.inputs.place(to_unit(pixels).to(run.device)) for pixels in pictures])
    hint = resize(hint, *size).expand(run.shape[0], -1, -1, -1)
    if bool((hint == hint[..., :1, :1]).all()):
        run.notify("the hint is empty: every pixel is the same, so the ControlNet has nothing to follow")
    return (hint.clamp(-1.0, 1.0) + 1.0) / 2.0


def _on_black(hint: Picture) -> Pixels:
    """Return the pixels of a hint file, with transparent parts black: there is no structure to follow there."""
    if hint.alpha is None:
        return hint.pixels
    weight = hint.alpha[..., None] / float(largest(hint.alpha.dtype))
    return np.rint(hint.pixels * weight).astype(hint.pixels.dtype)


def _hints(plugin: ControlNet, run: Run) -> list[Pixels]:
    """Return the hint of the whole picture as pixels (H, W, 3); for a batch of pictures, one hint for each."""
    control = plugin.control
    if not (isinstance(control, str) and hints.is_words(control)):
        try:
            return [_on_black(Picture.read(control))]
        except EditkitError as error:
            raise UsageError(f"controlnet: the hint: {error}") from error
    detector, inputs = hints.make(control), run.inputs
    if inputs.whole is not None:
        seen = [inputs.whole]
    elif inputs.picture is not None:
        seen = [from_unit(item, "uint8") for item in inputs.picture]
    else:
        raise UsageError(f"controlnet: --control {control} looks at a picture, and there is none; give a hint's file")
    detect = run.lease.network(hints.prepare_detector, detector, offline=run.options.offline)
    return [detect(pixels) for pixels in seen]
