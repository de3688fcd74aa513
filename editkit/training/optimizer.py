"""Master weights in fp32, their update and their average.

The network may compute in bf16; the weights that are trained are fp32 copies (Micikevicius et al. 2018, arXiv:1710.03740).
Convolutions and matrices of the hidden layers follow Muon (Jordan et al. 2024: the momentum, orthogonalised; a convolution is the matrix
of its filters), everything else AdamW. The average is that of Karras et al. 2024 (arXiv:2312.02696, section 3.1): it reaches over
a fixed fraction of the run, however long that is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from editkit.training.settings import PriorSettings

_EDGES = ("conv_in.", "conv_out.", "class_embedding.", "time_embedding.")


def ema_exponent(width: float) -> float:
    """The exponent gamma for a relative width: `width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))` (Karras et al., equation 123)."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        if (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > width**2:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def rate(settings: PriorSettings, step: int) -> float:
    """Factor on the learning rate at a step: linear warm-up, constant, linear fall to 0 at the end of the run."""
    cooldown = max(1.0, settings.cooldown * settings.steps)
    return min(1.0, (step + 1) / max(1, settings.warmup), max(0.0, (settings.steps - step) / cooldown))


class Trainer:
    """Masters, optimizers and the average of one network's parameters. `state()` holds all of it as named tensors."""

    def __init__(self, network: nn.Module, settings: PriorSettings) -> None:
        self.settings = settings
        self.parameters = dict(network.named_parameters())
        self.masters = {name: p.detach().float().clone(memory_format=torch.contiguous_format) for name, p in self.parameters.items()}
        self.average = {name: m.clone() for name, m in self.masters.items()}
        self.exponent = ema_exponent(settings.ema)
        hidden = [
            name
            for name, m in self.masters.items()
            if settings.optimizer == "muon" and m.ndim >= 2 and not any(edge in name for edge in _EDGES)
        ]
        # Muon takes matrices: it sees a view of the same memory.
        self._seen = {name: (m.view(m.shape[0], -1) if name in hidden else m) for name, m in self.masters.items()}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        rest = [self._seen[name] for name in self.masters if name not in hidden]
        lr = settings.learning_rate
        self.optimizers["adamw"] = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)
        if hidden:
            matrices = [self._seen[name] for name in hidden]
            self.optimizers["muon"] = torch.optim.Muon(
                matrices, lr=lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            )

    @torch.no_grad()
    def update(self, step: int) -> float:
        """One update from the gradients that lie in the network; they are cleared. Returns their norm (clipped at 1)."""
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            self._seen[name].grad = gradient.float().contiguous().view(self._seen[name].shape)
            parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(list(self._seen.values()), 1.0, foreach=True)
        factor = rate(self.settings, step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * factor
            optimizer.step()
        for seen in self._seen.values():
            seen.grad = None
        forget = 1 - (1 - 1 / (step + 1)) ** (self.exponent + 1)
        torch._foreach_lerp_(list(self.average.values()), list(self.masters.values()), forget)
        self.write_back(self.masters)
        return float(norm)

    @torch.no_grad()
    def write_back(self, weights: dict[str, Tensor]) -> None:
        """Put weights (the masters, or the average to measure it) into the network."""
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name; all of it tensors."""
        tensors = {f"master.{name}": m for name, m in self.masters.items()}
        tensors |= {f"average.{name}": m for name, m in self.average.items()}
        owners = {id(seen): name for name, seen in self._seen.items()}
        for kind, optimizer in self.optimizers.items():
            for seen, values in optimizer.state.items():
                for key, value in values.items():
                    tensors[f"{kind}.{key}.{owners[id(seen)]}"] = torch.as_tensor(value)
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
        for kind, optimizer in self.optimizers.items():
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, seen in self._seen.items():
                if id(seen) not in mine:
                    continue
                values: dict[str, Any] = {}
                for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
                    stored = tensors.get(f"{kind}.{key}.{name}")
                    if stored is not None:
                        values[key] = stored.clone()
                optimizer.state[seen] = values
        self.write_back(self.masters)
