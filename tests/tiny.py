"""Small things with random weights. They prove plumbing (the same numbers as diffusers), never quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from editkit.diffusion.model import PixelSpace
from editkit.diffusion.prediction import PredictionType, convert
from editkit.diffusion.schedule import Level, Schedule
from editkit.models import Conditioning, ModelInfo, Prediction
from editkit.models.schedules import make_schedule


class TinyNet(nn.Module):
    """(x_t, t) -> output of `channels`: two convolutions with a time embedding; bounded, depends on x_t and t."""

    def __init__(self, channels: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, channels, 3, padding=1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        self.requires_grad_(False)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        time = torch.cos(torch.as_tensor(t, dtype=torch.float32) / 400.0 + torch.arange(8.0)).to(x.dtype)
        out: Tensor = self.second(torch.tanh(self.first(x) + time[None, :, None, None]))
        return out


class TinyModel(PixelSpace):
    """`TinyNet` as a Model, with the schedule of a diffusers scheduler configuration."""

    info = ModelInfo("tiny", "test")

    def __init__(
        self, config: dict[str, Any], kind: PredictionType, clip: float | None = None, learned: bool = False
    ) -> None:
        self.schedule: Schedule = make_schedule(config)
        self.kind, self.clip, self.learned = kind, clip, learned
        self.net = TinyNet(6 if learned else 3)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        out = self.net(x_t, level.t)
        if not self.learned:
            return (convert(out, x_t, level, self.kind),) * len(conds)
        pred = convert(out[:, :3], x_t, level, self.kind)
        return (Prediction(pred.x0, pred.eps, (out[:, 3:] + 1) / 2),) * len(conds)

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> TinyModel:
        return self


def unet2d(**config: Any) -> Any:
    """A UNet2DModel with random weights, its last convolution included (diffusers leaves it random as well)."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    made = UNet2DModel(**{
        "sample_size": 32, "block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8, **config,
    })  # fmt: skip
    return made.eval()
