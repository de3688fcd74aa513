"""The settings of a training run: one frozen declaration, stored in the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from editkit.common.small import read_limited_bytes


def _numbers(value: Any) -> Any:
    """Parse `64,128,256` to numbers; return anything else unchanged."""
    return value.split(",") if isinstance(value, str) else value


class Architecture(BaseModel):
    """The network's architecture. A checkpoint can only be continued with the architecture that made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(64, ge=8, description="Side of the square windows, pixels.")
    unshuffle: int = Field(2, ge=1, description="Pixels per side that are folded into channels before the network.")
    channels: Annotated[tuple[int, ...], BeforeValidator(_numbers)] = Field(
        (64, 128, 256), description="Feature channels of each level, as 64,128,256."
    )
    layers: int = Field(1, ge=1, description="Residual blocks of a level.")
    head: int = Field(32, ge=1, description="Channels of one attention head (lowest level only).")
    groups: int = Field(32, ge=1, description="Groups of the group normalisation.")


class Settings(BaseModel):
    """All settings that determine the weights of a run, and its output folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Path = Field(description="Folder of photographs (its manifest.json lists licences and authors).")
    output: Path = Field(description="Folder of the run: checkpoint, log, sheets and, in export/, the network.")
    heldout: Path | None = Field(None, description="List of held-out file names, used only for measuring.")
    steps: int = Field(10_000, ge=1, description="Length of the run; the learning rate falls to 0 at its end.")
    minutes: float | None = Field(
        None, gt=0, description="Time limit in minutes; the learning rate falls to 0 by then."
    )
    batch: int = Field(32, ge=1, description="Windows per step.")
    seed: int = Field(0, ge=0, description="Seed of weights, crops, masks and noise.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate (root mean square of an update).")
    optimizer: Literal["muon", "adamw"] = Field("muon", description="Optimizer for the matrices of the hidden layers.")
    warmup: int = Field(200, ge=0, description="Steps of linear warm-up.")
    cooldown: float = Field(
        0.25, ge=0, le=1, description="Last fraction of the steps, in which the rate falls linearly."
    )
    ema: float = Field(0.1, gt=0, lt=0.29, description="Width of the weight average, as a fraction of the run.")
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the network (weights are kept in fp32)."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device; auto: a GPU if there is one.")
    compile: bool = Field(False, description="Compile the network (torch.compile): a minute or two before step 1.")
    threads: int | None = Field(None, ge=1, description="Processor threads.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    report_every: int = Field(25, ge=1, description="Steps between training losses in the log.")
    measure_every: int = Field(500, ge=1, description="Steps between validation losses.")
    sheet_every: int = Field(2000, ge=1, description="Steps between sample sheets.")
    architecture: Architecture = Architecture()

    def in_bf16(self, able: bool) -> bool:
        """Whether the network computes in bf16; `able`: the device supports it."""
        return self.dtype == "bf16" or (self.dtype == "auto" and able)


class PriorSettings(Settings):
    """`editkit train prior`."""


class DenoiserSettings(Settings):
    """`editkit train denoiser`."""

    batch: int = Field(16, ge=1, description="Windows per step.")
    cooldown: float = Field(
        0.6, ge=0, le=1, description="Last fraction of the steps, in which the rate falls linearly."
    )
    ema: float = Field(0.02, gt=0, lt=0.29, description="Width of the weight average, as a fraction of the run.")
    architecture: Architecture = Architecture(channels=(64, 96, 128), layers=2)


class DistillSettings(PriorSettings):
    """`editkit train distill`."""

    base: Path = Field(description="Folder of the teacher; the student starts from its weights.")
    student_steps: int = Field(8, ge=1, description="Steps of the student; the teacher takes twice as many.")


class ControlSettings(Settings):
    """`editkit train controlnet`."""

    base: Path = Field(description="Folder of the frozen network that the ControlNet is for.")
    control: str = Field("canny", min_length=1, description="The detector that draws the hints.")


class ClassifierSettings(BaseModel):
    """`editkit train classifier`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(32, ge=8, description="Side of the pictures.")
    steps: int = Field(2000, ge=1, description="Steps of the optimizer.")
    batch: int = Field(64, ge=1, description="Pictures per step.")
    seed: int = Field(0, ge=0, description="Seed of weights, order and noise.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak of the one-cycle learning rate.")
    width: int = Field(32, ge=8, multiple_of=8, description="Channels of the first stage.")
    stages: int = Field(3, ge=1, le=6, description="Stages; each halves the side and doubles the channels.")
    minutes: float | None = Field(None, gt=0, description="Time limit in minutes; the weights so far are saved.")
    flip: bool = Field(False, description="Mirror half of the pictures.")


def architecture_of(folder: Path) -> dict[str, Any]:
    """Return the architecture of an exported folder; {} if it cannot be read."""
    try:
        return dict(json.loads(read_limited_bytes(folder / "pocket.json"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # the loader reports the error
