"""Master weights in fp32, their update and their average.

The network may compute in bf16; the trained weights are fp32 copies (Micikevicius et al. 2018,
arXiv:1710.03740). Convolutions and matrices of the hidden layers follow Muon (Jordan et al. 2024: the
momentum, orthogonalised; a convolution is the matrix of its filters), everything else AdamW. The average is
that of Karras et al. 2024 (arXiv:2312.02696, section 3.1): it covers a fixed fraction of the run, whatever
its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

from editkit.errors import EditkitError
from editkit.training.settings import Settings

_EDGES = ("conv_in.", "conv_out.", "class_embedding.", "time_embedding.")
_MEMORY = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


def ema_exponent(width: float) -> float:
    """Return the exponent gamma for a relative width: `width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))` (Karras
    et al., equation 123).
    """
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        if (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > width**2:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def rate(settings: Settings, step: int, seconds: float = 0.0) -> float:
    """Return the learning rate factor at a step, `seconds` after the start: linear warm-up, constant, linear decay to 0
    at the end of the run, by steps or by minutes, whichever is closer to its end.
    """
    left = (settings.steps - step) / max(1.0, settings.cooldown * settings.steps)
    if settings.minutes is not None:
        left = min(left, (1.0 - seconds / (60 * settings.minutes)) / max(1e-6, settings.cooldown))
    return min(1.0, (step + 1) / max(1, settings.warmup), max(0.0, left))


def norm_of(norms: Sequence[Tensor]) -> Tensor:
    """Return the total norm of parts with these norms."""
    return torch.stack(list(norms)).square().sum().sqrt()


class Shard:
    """The parameters that one worker updates, with their optimizers."""

    def __init__(self, masters: dict[str, Tensor], average: dict[str, Tensor], settings: Settings) -> None:
        self.settings, self.masters, self.average = settings, masters, average
        hidden = [name for name in masters if settings.optimizer == "muon" and _is_hidden(name, masters[name])]
        # Muon takes matrices: it sees a view of the same memory.
        self.seen = {name: (m.view(m.shape[0], -1) if name in hidden else m) for name, m in masters.items()}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        rest = [self.seen[name] for name in masters if name not in hidden]
        lr = settings.learning_rate
        if rest:
            self.optimizers["adamw"] = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        if hidden:
            matrices = [self.seen[name] for name in hidden]
            self.optimizers["muon"] = torch.optim.Muon(
                matrices, lr=lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            )

    @torch.no_grad()
    def gather(self, replicas: list[dict[str, nn.Parameter]]) -> None:
        """Sum the replicas' gradients in fp32 and clear them."""
        for name, seen in self.seen.items():
            whole = torch.zeros_like(seen)
            for parameters in replicas:
                found = parameters[name].grad
                if found is not None:
                    whole += found.reshape(seen.shape)
                parameters[name].grad = None
            seen.grad = whole

    @property
    def gradients(self) -> list[Tensor]:
        """Return the gathered gradients."""
        return [seen.grad for seen in self.seen.values() if seen.grad is not None]

    @torch.no_grad()
    def step(self, shrink: Tensor, factor: float, forget: float, network: dict[str, nn.Parameter]) -> None:
        """Scale the gradients by `shrink`, update with the learning rate times `factor`, average, write into
        the network.
        """
        torch._foreach_mul_(self.gradients, shrink)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * factor
            optimizer.step()
        torch._foreach_lerp_(list(self.average.values()), list(self.masters.values()), forget)
        for seen in self.seen.values():
            seen.grad = None
        torch._foreach_copy_([network[name] for name in self.masters], list(self.masters.values()))

    def state(self) -> dict[str, Tensor]:
        """Return masters, average and the optimizers' state, by name."""
        tensors = {f"master.{name}": m for name, m in self.masters.items()}
        tensors |= {f"average.{name}": m for name, m in self.average.items()}
        owners = {id(seen): name for name, seen in self.seen.items()}
        for kind, optimizer in self.optimizers.items():
            for seen, values in optimizer.state.items():
                for key, value in values.items():
                    tensors[f"{kind}.{key}.{owners[id(seen)]}"] = torch.as_tensor(value)
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`. Raises KeyError if weights are missing."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
        for kind, optimizer in self.optimizers.items():
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, seen in self.seen.items():
                if id(seen) in mine:
                    found = {key: tensors.get(f"{kind}.{key}.{name}") for key in _MEMORY}
                    optimizer.state[seen] = {k: v.to(seen.device, copy=True) for k, v in found.items() if v is not None}


class Trainer:
    """Masters, optimizers and the average of one network's parameters, split among workers.

    `replicas` are copies of the network that share its memory: each worker computes its part of a batch with
    its own copy, so that no operation waits for another core. (With two threads inside every operation a busy
    neighbour stalled both at each of some 2,000 barriers a step; measured beside two other programs, 38 steps
    took 295 s.)
    """

    def __init__(self, network: nn.Module, settings: Settings, workers: int = 1) -> None:
        if settings.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise EditkitError("this PyTorch has no Muon optimizer (2.9 has); update it or use --optimizer adamw")
        self.settings = settings
        shapes = dict(network.named_parameters())
        masters = {name: p.detach().float().clone(memory_format=torch.contiguous_format) for name, p in shapes.items()}
        self.masters = masters
        self.average = {name: m.clone() for name, m in masters.items()}
        self.exponent = ema_exponent(settings.ema)
        self.shards = []
        for names in _split(masters, workers):
            self.shards.append(Shard({n: masters[n] for n in names}, {n: self.average[n] for n in names}, settings))
        self.replicas: list[dict[str, nn.Parameter]] = []

    def gather(self, pool: Executor) -> list[Tensor]:
        """Sum the replicas' gradients; return those of all parameters, to be changed in place."""
        list(pool.map(lambda shard: shard.gather(self.replicas), self.shards))
        return [gradient for shard in self.shards for gradient in shard.gradients]

    def update(self, factor: float, step: int, pool: Executor) -> Tensor:
        """Update with the gathered gradients and the learning rate times `factor`; return their norm before clipping
        (at 1), which stays on the device.
        """
        norms = list(pool.map(lambda shard: norm_of(torch._foreach_norm(shard.gradients)), self.shards))
        norm = norm_of(norms)
        shrink = (1.0 / (norm + 1e-6)).clamp(max=1.0)
        forget = 1 - (1 - 1 / (step + 1)) ** (self.exponent + 1)
        list(pool.map(lambda shard: shard.step(shrink, factor, forget, self.replicas[0]), self.shards))
        return norm

    @torch.no_grad()
    def write_back(self, weights: dict[str, Tensor]) -> None:
        """Copy weights (the masters, or the average for measuring) into the network."""
        for name, parameter in self.replicas[0].items():
            parameter.copy_(weights[name])

    def state(self) -> dict[str, Tensor]:
        """Return everything that a resumed run needs, as tensors by name."""
        return {name: value for shard in self.shards for name, value in shard.state().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for shard in self.shards:
            shard.restore(tensors)
        self.write_back(self.masters)


def _is_hidden(name: str, tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and not any(edge in name for edge in _EDGES)


def _split(masters: dict[str, Tensor], workers: int) -> list[list[str]]:
    """Split the names into lists with about equal work of orthogonalisation (numel times the shorter side)."""
    lists: list[list[str]] = [[] for _ in range(workers)]
    loads = [0.0] * workers
    for name in sorted(masters, key=lambda n: (-masters[n].numel(), n)):
        lightest = loads.index(min(loads))
        lists[lightest].append(name)
        shape = masters[name].shape
        loads[lightest] += masters[name].numel() * (min(shape[0], masters[name].numel() // shape[0]) + 32)
    return [names for names in lists if names]
