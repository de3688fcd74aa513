"""Prepare a loaded model: add LoRA files (`models/lora.py`), join a refiner, compile, offload.

All of this is done by diffusers, peft and accelerate, on a pipeline of the model's networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from editkit.common.spec import number
from editkit.diffusion.capability import capability
from editkit.diffusion.model import Model, ModelInfo, Notifies
from editkit.errors import ModelError, UsageError
from editkit.models import backends, lora
from editkit.models.backends import Backend
from editkit.models.files.quantising import Quantize

if TYPE_CHECKING:
    import torch

Offload = Literal["none", "model", "group", "sequential"]


class ModelOptions(Protocol):
    """The options for a model, as in `editkit.plugin.options.Options`."""

    @property
    def lora(self) -> tuple[str, ...]: ...

    @property
    def refiner(self) -> str | None: ...

    @property
    def compile(self) -> bool: ...

    @property
    def offload(self) -> Offload: ...

    @property
    def backend(self) -> Backend: ...

    @property
    def quantize(self) -> Quantize: ...


@dataclass(frozen=True)
class Setup:
    """The options of a run that change a model; see `Options`. Hashable, as part of the key of loaded models."""

    lora: tuple[str, ...] = ()
    refiner: str | None = None
    compile: bool = False
    offload: Offload = "none"
    backend: Backend = "torch"
    quantize: Quantize = "none"

    @classmethod
    def of(cls, options: ModelOptions) -> Setup:
        """Collect the setup from `options`.

        Raises:
            ModelError: a LoRA is a pickle.
            UsageError: a LoRA or refiner is not written correctly, or a file does not exist.
        """
        for word in options.lora:
            lora.check_readable(word)
        if options.refiner is not None:
            refiner_and_start(options.refiner)
        return cls(options.lora, options.refiner, options.compile, options.offload, options.backend, options.quantize)


@runtime_checkable
class FromPipeline(Protocol):
    """A model whose networks form a diffusers pipeline."""

    @property
    def denoiser(self) -> Any:
        """Return the network that is called at every step."""
        ...

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of the same network objects."""
        ...


def refiner_and_start(word: str) -> tuple[str, float]:
    """Split `MODEL[:start]` into the model and the fraction of training time of the switch (default 0.8).

    Raises:
        UsageError: the start is not a fraction.
    """
    name, colon, start = word.rpartition(":")
    if not colon or "/" in start or not start[:1].isdigit():  # `name:fp16` is a variant
        return word, 0.8
    fraction = number(start, f"--refiner {word}: the start")
    if not 0.0 < fraction < 1.0:
        raise UsageError(f"--refiner {word}: the start is {fraction:g}; it must lie between 0 and 1")
    return name, fraction


def check(info: ModelInfo, setup: Setup, device: torch.device, offline: bool) -> None:
    """Check whether `setup` is possible, before any weight is loaded.

    Raises:
        ModelError: not with this model.
        UsageError: not on this device.
        ExtraError: a library is not installed.
    """
    backends.check(info, setup.backend, device.type, setup.compile)
    backends.check_bits(info, setup)
    if setup.offload != "none" and device.type == "cpu":
        raise UsageError(
            "--offload moves networks between a GPU and main memory, and this run is on the CPU; leave it out (to need "
            "less memory: --dtype bf16, --canvas crop)"
        )
    if setup.refiner is not None:
        from editkit.models.latent import refiner

        refiner.check(info, refiner_and_start(setup.refiner)[0], offline)


def loading_device(setup: Setup, device: torch.device) -> torch.device:
    """Return the device for loading weights; offloaded ones stay in main memory."""
    import torch

    return device if setup.offload == "none" else torch.device("cpu")


def prepare_model(model: Model, setup: Setup, device: torch.device, dtype: torch.dtype, offline: bool) -> Model:
    """Prepare `model`, loaded to its `loading_device`, by `setup`.

    Raises:
        ModelError: it is not possible with this model.
        UsageError: a file does not exist.
    """
    if setup == Setup():
        return model
    experts: Sequence[Model] = (model,)
    if setup.lora:
        notes, notifier = (
            lora.add(_as_pipeline(model, "--lora").pipeline(), model.info.name, setup.lora),
            capability(model, Notifies),
        )
        if notifier is not None:
            notifier.chosen = (*notifier.chosen, *notes)
    if setup.refiner is not None:
        from editkit.models.latent.refiner import with_refiner

        name, start = refiner_and_start(setup.refiner)
        refined = with_refiner(model, name, start, loading_device(setup, device), dtype, offline, setup.quantize)
        model, experts = refined, (refined.model, refined.refiner)
    for expert in experts:
        if setup.compile:
            _as_pipeline(expert, "--compile").denoiser.compile()
        if setup.backend == "openvino":
            from editkit.models.fast.converted import by_openvino

            by_openvino(expert)
        if setup.offload != "none":
            _offload(_as_pipeline(expert, "--offload"), setup.offload, device)
    return model


def _as_pipeline(model: Model, flag: str) -> FromPipeline:
    found = capability(model, FromPipeline)
    if found is not None:
        return found
    raise ModelError(
        f"{flag} is for models that diffusers has a pipeline of (Stable Diffusion 1.x/2.x, XL, 3, the x4 upscaler, "
        f"FLUX.1, FLUX.2, Z-Image, Qwen-Image, Chroma, Krea 2, LongCat-Image); "
        f"{model.info.name} ({model.info.family}) is none"
    )


def _offload(model: FromPipeline, how: Offload, device: torch.device) -> None:
    """Keep networks in main memory and move each to the device only while it is used (accelerate), or move each layer
    while the previous one computes (diffusers' group offloading).
    """
    import torch

    from editkit.models.fast.packing import unpack

    pipe = model.pipeline()
    for network in pipe.components.values():
        if isinstance(network, torch.nn.Module):
            unpack(network)
    if how == "group":
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
        return
    move = pipe.enable_model_cpu_offload if how == "model" else pipe.enable_sequential_cpu_offload
    move(device=device)
