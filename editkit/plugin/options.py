"""The options of a run, which every edit command takes in addition to its plugins' parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

from pydantic import ConfigDict, Field

from editkit.diffusion.schedule import Spacing
from editkit.plugin.declaration import ValidatedModel
from editkit.plugin.params import Metavar


class Options(ValidatedModel):
    """Options of a stage. Frozen; unset options default to the model's own values, and later stages inherit them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "auto",
        description="Embedded name, folder, .safetensors or hub id (OWNER/NAME@REVISION:VARIANT); auto: embedded.",
    )
    transformer: str | None = Field(
        None, description="File (.safetensors, .gguf) with other weights for --model's transformer or UNet."
    )
    lora: tuple[Annotated[str, Metavar("FILE[:WEIGHT]")], ...] = Field(
        (), description="A LoRA (.safetensors) for the model, with its weight; repeatable."
    )
    fast: bool = Field(
        False, description="Steps, sampler, levels and guidance of the few-step LoRA (Lightning, Hyper, Turbo, LCM)."
    )
    refiner: str | None = Field(
        None, description="MODEL[:START]: a refiner that takes over at this fraction of the process (0.8)."
    )
    prompt: str | None = Field(None, description="What the result should show (models that take text).")
    negative: str | None = Field(None, description="What the result should not show.")
    guidance_scale: float | None = Field(None, ge=0.0, description="Strength of classifier-free guidance.")
    steps: int | None = Field(None, ge=1, le=10_000, description="Noise levels of the process; default: the model's.")
    shift: float | None = Field(
        None,
        gt=0.0,
        le=1000.0,
        description="Shift of the noise levels to the noisy side (flow matching); default: by picture size.",
    )
    sampler: str | None = Field(
        None, description="ddpm, ddim, euler, heun, dpm++2m, unipc, lcm ...; with parameters as ddim:eta=1."
    )
    estimate: Literal["sample", "mean"] = Field(
        "sample", description="One sample, or the mean of several: closer to the truth on average, and smoother."
    )
    samples: int = Field(8, ge=1, le=1000, description="Number of samples of --estimate mean.")
    tries: int = Field(
        1, ge=1, le=100, description="Attempts at the coarsest size; the one that fits the known pixels best is kept."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed: same seed, same machine, same bytes.")
    device: str = Field("auto", description="cpu, cuda, mps; auto: the fastest available.")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="Number format of the network.")
    canvas: Literal["auto", "crop", "full"] = Field(
        "auto", description="Work on a crop around the mask, or on the full picture; auto: crop if there is a mask."
    )
    crop_padding: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Crop to the mask with this many pixels around it, enlarged to the model's size.",
    )
    spacing: Spacing = Field(
        "auto",
        description="Spacing of the noise levels; auto: the model's, or trailing for few steps.",
    )
    noise: Literal["streams", "streams-1", "diffusers"] = Field(
        "streams",
        description="Random numbers: a stream for each plugin (-1: as in recipes with `editkit: 1`), or one generator "
        "in the order of diffusers' pipelines.",
    )
    compile: bool = Field(False, description="Compile the network: slow to start, faster steps (torch.compile).")
    offload: Literal["none", "model", "group", "sequential"] = Field(
        "none",
        description="On a GPU: keep idle networks in main memory; group: single layers, each loaded while another one "
        "runs; sequential: single layers, one after the other.",
    )
    backend: Literal["torch", "openvino"] = Field(
        "torch", description="Backend for networks on a CPU: torch, or OpenVINO (extra openvino; slow to start)."
    )
    quantize: Literal["none", "int8"] = Field(
        "none", description="Keep the weights of the network's linear layers in 8 bits (extra torchao): less memory."
    )
    preview_decoder: str | None = Field(
        None, description="An AutoencoderTiny (TAESD) for --preview, --trace: folder or .safetensors; not for results."
    )
    offline: bool = Field(False, description="Never connect to the internet.")
    allow_code: bool = Field(False, description="Allow parameters that name Python code to import.")

    @property
    def draws(self) -> int:
        """Number of samples in a stage."""
        return self.samples if self.estimate == "mean" else 1

    @property
    def floats(self) -> bool:
        """Whether strengths are computed in floats, as diffusers does."""
        return self.noise == "diffusers"

    def merged(self, later: Options) -> Options:
        """Return these options, overridden by those that `later` sets explicitly."""
        return self.model_copy(update=later.model_dump(exclude_unset=True))


class RunOptions(TypedDict, total=False):
    """The same options as keyword arguments of `edit` and `stream`, for code completion; `model` is separate."""

    transformer: str | None
    lora: Sequence[str]
    fast: bool
    refiner: str | None
    prompt: str | None
    negative: str | None
    guidance_scale: float | None
    steps: int | None
    shift: float | None
    sampler: str | None
    estimate: Literal["sample", "mean"]
    samples: int
    tries: int
    seed: int
    device: str
    dtype: Literal["auto", "fp32", "bf16", "fp16"]
    canvas: Literal["auto", "crop", "full"]
    crop_padding: int | None
    spacing: Spacing
    noise: Literal["streams", "streams-1", "diffusers"]
    compile: bool
    offload: Literal["none", "model", "group", "sequential"]
    backend: Literal["torch", "openvino"]
    quantize: Literal["none", "int8"]
    preview_decoder: str | None
    offline: bool
    allow_code: bool
