"""What is done to a model once it is loaded: LoRA files added, a refiner joined, compiled, offloaded.

All of it is done by diffusers, peft and accelerate themselves, on the pipeline that a model's networks make up.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from editkit.common import trust
from editkit.common.places import expanded
from editkit.common.process import quiet
from editkit.diffusion.capability import capability
from editkit.diffusion.model import Model, ModelInfo, Notifies
from editkit.errors import ModelError, UsageError, short
from editkit.models.files.loading import nameable
from editkit.models.files.quantised import quantised
from editkit.models.files.weights import shapes

if TYPE_CHECKING:
    import torch

Offload = Literal["none", "model", "group", "sequential"]


class Asked(Protocol):
    """What is asked of a model, as `editkit.plugin.options.Options` has it."""

    @property
    def lora(self) -> tuple[str, ...]: ...

    @property
    def refiner(self) -> str | None: ...

    @property
    def compile(self) -> bool: ...

    @property
    def offload(self) -> Offload: ...


@dataclass(frozen=True)
class Setup:
    """Options of the run that make another model of a model; see `Options`. Hashable: loaded models are kept by it."""

    lora: tuple[str, ...] = ()
    refiner: str | None = None
    compile: bool = False
    offload: Offload = "none"

    @classmethod
    def of(cls, options: Asked) -> Setup:
        """What `options` ask for.

        Raises:
            ModelError: a LoRA that is a pickle.
            UsageError: a LoRA or a refiner that is not written as it should be, or a file that is not there.
        """
        for word in options.lora:
            readable(word)
        if options.refiner is not None:
            refiner_and_start(options.refiner)
        return cls(options.lora, options.refiner, options.compile, options.offload)


@runtime_checkable
class FromPipeline(Protocol):
    """A model whose networks make up a diffusers pipeline."""

    @property
    def denoiser(self) -> Any:
        """The network that is called at every step."""
        ...

    def pipeline(self) -> Any:
        """A diffusers pipeline of the very same networks."""
        ...


def lora_and_weight(word: str) -> tuple[Path, float]:
    """`FILE[:weight]` as the file and the weight, 1 by default.

    Raises:
        UsageError: a weight that is no number.
    """
    name, colon, weight = word.rpartition(":")
    if not colon or "/" in weight or weight.lower().endswith(".safetensors"):
        return expanded(word), 1.0
    return expanded(name), _number(weight, f"--lora {word}: the weight")


def readable(word: str) -> tuple[Path, float]:
    """As `lora_and_weight`, of a file that is there and no pickle."""
    file, weight = lora_and_weight(word)
    if not nameable(str(file)) or not file.is_file():
        raise UsageError(f"--lora {word}: there is no such file")
    if file.suffix.lower() != ".safetensors":
        raise ModelError(f"--lora {file.name}: only .safetensors is read as a LoRA; a pickle can run code")
    return file, weight


def refiner_and_start(word: str) -> tuple[str, float]:
    """`MODEL[:start]` as the model and the fraction of training time at which it takes over, 0.8 by default.

    Raises:
        UsageError: a fraction that is none.
    """
    name, colon, start = word.rpartition(":")
    if not colon or "/" in start or not start[:1].isdigit():  # `name:fp16` is a variant
        return word, 0.8
    fraction = _number(start, f"--refiner {word}: the start")
    if not 0.0 < fraction < 1.0:
        raise UsageError(f"--refiner {word}: the start is {fraction:g}; it must lie between 0 and 1")
    return name, fraction


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{what} is {text!r}; a number is needed") from None


def check(info: ModelInfo, setup: Setup, device: torch.device, offline: bool) -> None:
    """Look whether `setup` can be done, before any weight is loaded.

    Raises:
        ModelError: not with the model of `info`.
        UsageError: not on this device.
    """
    if setup.offload != "none" and device.type == "cpu":
        raise UsageError(
            "--offload moves networks between a GPU and main memory, and this run is on the CPU; leave it out (to need "
            "less memory: --dtype bf16, --canvas crop)"
        )
    if setup.refiner is not None:
        from editkit.models.latent import refiner

        refiner.check(info, refiner_and_start(setup.refiner)[0], offline)


def home(setup: Setup, device: torch.device) -> torch.device:
    """Where weights are loaded to: what is offloaded rests in main memory."""
    import torch

    return device if setup.offload == "none" else torch.device("cpu")


def prepared(model: Model, setup: Setup, device: torch.device, dtype: torch.dtype, offline: bool) -> Model:
    """`model`, loaded to its `home`, as `setup` asks for it.

    Raises:
        ModelError: it cannot be done with this model.
        UsageError: files that are not there.
    """
    if setup == Setup():
        return model
    experts: Sequence[Model] = (model,)
    if setup.lora:
        said, told = _add_lora(_as_pipeline(model, "--lora"), model.info.name, setup.lora), capability(model, Notifies)
        if told is not None:
            told.chosen = (*told.chosen, *said)
    if setup.refiner is not None:
        from editkit.models.latent.refiner import joined

        refined = joined(model, *refiner_and_start(setup.refiner), home(setup, device), dtype, offline)
        model, experts = refined, (refined.model, refined.refiner)
    for expert in experts:
        if setup.compile:
            _as_pipeline(expert, "--compile").denoiser.compile()
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
    """Networks stay in main memory and are moved to the device for as long as each is used (accelerate), or each of
    their layers, by diffusers' group offloading while the layer before it works.
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


def _add_lora(model: FromPipeline, name: str, words: Sequence[str]) -> list[str]:
    """Every file with its weight, fused into the networks' own weights: a step costs what it did before; beside them
    where they are quantised. What the user should know: files that fit in part.
    """
    import torch

    from editkit.models.fast.packing import swap, unpack

    pipe = model.pipeline()
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(
            f"--lora: model {name} is of a family that diffusers adds no LoRA to ({type(pipe).__name__}); leave it "
            "out, or choose another --model: FLUX.1, FLUX.2, Z-Image, Qwen-Image, Chroma, Krea 2, Stable Diffusion"
        )
    networks: list[Any] = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    if any(network.device.type == "meta" for network in networks):
        raise ModelError(
            f"--lora is added to all networks of model {name}, and there is no memory for its text encoders; what "
            f"helps: --dtype bf16, closing other programs"
        )
    packed = [layer for network in networks for layer in unpack(network)]  # peft puts layers of its own in their place
    try:
        with torch.no_grad(), quiet("diffusers"):
            weights = [_load_lora(pipe, f"lora{k}", name, word) for k, word in enumerate(words)]
            said = [line for k, word in enumerate(words) for line in _in_part(pipe, f"lora{k}", name, word)]
            pipe.set_adapters([f"lora{k}" for k in range(len(words))], weights)
            there = {part: getattr(pipe, part, None) for part in pipe._lora_loadable_modules}
            whole = [part for part, network in there.items() if network is not None and not quantised(network)]
            if whole:
                pipe.fuse_lora(components=whole)
            if not any(quantised(network) for network in there.values()):
                pipe.unload_lora_weights()
    finally:
        for layer, kind in packed:
            swap(layer, kind)
    return said


def _in_part(pipe: Any, adapter: str, name: str, word: str) -> Iterator[str]:
    """A line, where a file has matrices for layers that the networks do not have: diffusers leaves them out."""
    import torch

    file, _ = lora_and_weight(word)
    pairs = sum(any(mark in key for mark in DOWN) for key, _ in shapes(file.name, file))
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    there = sum(adapter in getattr(layer, "lora_A", ()) for network in networks for layer in network.modules())
    if there < pairs:
        left = f"{pairs - there} of its {pairs} layers are not in the model"
        yield f"--lora {file.name} fits model {name} in part: {left}"


DOWN = ("lora_down.", "lora_A.", "lora.down.", "lora_linear_layer.down.")
"""What stands in the name of the first matrix of each pair."""


OTHER_KINDS = {
    "hada_w1": "a LoHa (LyCORIS)", "lokr_w": "a LoKr (LyCORIS)", "lora_mid": "a LoCon in Tucker's form (LyCORIS)",
    "oft_": "an OFT (LyCORIS)", "boft_": "a BOFT", "glora_": "a GLoRA", "ia3_": "an IA3",
    "on_input": "an IA3 (LyCORIS)",
    ".diff": "whole weights' differences (LyCORIS full)", "emb_params": "a textual inversion",
    "clip_l": "a textual inversion", "down_blocks.0.resnets.0.conv1.weight": "a whole UNet",
    "model.diffusion_model": "a whole checkpoint",
}  # fmt: skip
"""What stands in the names of tensors of files that are taken for a LoRA."""


PEFT = "lora_adapter_metadata"
"""Under this name a file of diffusers keeps peft's configuration."""

NAME = re.compile(r"[\w.:/@ -]*")
"""Words that mean themselves as regular expressions too."""


PAIRS = ("lora_down", "lora_up", "lora_A", "lora_B", "lora.down")
"""What the tensors of a plain LoRA have in their names."""


def is_lora(name: str) -> bool:
    """Whether `name` is a file whose tensors are a LoRA's, by its header alone."""
    file = expanded(name)
    if not nameable(str(file)) or not file.is_file() or file.suffix.lower() != ".safetensors":
        return False
    try:
        return any(mark in key for key, _ in shapes(name, file) for mark in PAIRS)
    except ModelError:
        return False


def _check_kind(file: Path) -> None:
    """Refuse what is no LoRA, by its name.

    Raises:
        ModelError: it is something else, or cannot be read.
    """
    try:
        keys = [key for key, _ in shapes("", file)]
    except ModelError as error:
        raise ModelError(f"--lora {str(error).removeprefix('model : ')}") from error
    pairs = any(mark in key for key in keys for mark in PAIRS)
    for mark, what in OTHER_KINDS.items():
        found = [key for key in keys if mark in key]
        if found and (mark == "lora_mid" or not pairs):
            raise ModelError(
                f"--lora {file.name}: is {what}, by its tensor {found[0][:80]}; plain LoRA files (lora_down "
                "and lora_up, or lora_A and lora_B) are read"
            )


def _check_words(file: Path) -> None:
    """Refuse a LoRA whose names are more than names: peft takes them for regular expressions, and a stranger's may take
    for ever.

    Raises:
        ModelError: names the first.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            keys, told = list(tensors.keys()), (tensors.metadata() or {}).get(PEFT, "{}")
            metadata = json.loads(told)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise ModelError(f"--lora {file.name}: what it says of itself cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise ModelError(f"--lora {file.name}: what it says of itself is not a JSON object")
    trust.network_configuration(file.name, PEFT, metadata)
    left: list[Any] = [*keys, metadata]
    while left:
        match left.pop():
            case str() as word if not NAME.fullmatch(word):
                raise ModelError(f"--lora {file.name}: {short(word)} is not a plain name of a layer, and is not read")
            case list() as several:
                left += several
            case dict() as keyed:
                left += [*keyed, *keyed.values()]


@contextmanager
def _lower_case(file: Path) -> Iterator[Path]:
    """`file` under a name that ends in .safetensors: by another ending diffusers would take it for a pickle."""
    if file.suffix == ".safetensors":
        yield file
        return
    with TemporaryDirectory() as folder:
        there = Path(folder) / "lora.safetensors"
        try:
            there.symlink_to(file.resolve())
        except OSError:
            shutil.copyfile(file, there)
        yield there


def _load_lora(pipe: Any, adapter: str, name: str, word: str) -> float:
    """One file into the pipeline of the model called `name`; its weight."""
    from safetensors import SafetensorError

    file, weight = readable(word)
    _check_kind(file)
    _check_words(file)
    try:
        with _lower_case(file) as lower:
            pipe.load_lora_weights(
                str(lower.parent), adapter_name=adapter, weight_name=lower.name, local_files_only=True
            )
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = " ".join(lines).removesuffix(":")[:300]
        raise ModelError(f"--lora {file.name} does not fit model {name}: {said}") from error
    if not any(adapter in names for names in pipe.get_list_adapters().values()):
        raise ModelError(f"--lora {file.name} does not fit model {name}: it has no weights for any of its networks")
    return weight
