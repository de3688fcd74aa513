"""Skip most blocks of a transformer when the output of the first one has hardly changed since the last step.

This is diffusers' FirstBlockCache: if the relative mean change of the first block's residual is at most a threshold,
the cached residual of the other blocks is used again. The hooks are on a copy of the network's modules that shares its
tensors and belongs to one edit, so they do not affect other edits.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


CONTROL = ("controlnet_block_samples", "controlnet_single_block_samples")
"""Arguments of diffusers' transformers for ControlNet residuals, which they add after their blocks."""


class StepCache:
    """Replaces `network`, and counts its calls and the skipped ones.

    Calls are distinguished by their conditions and sizes, and equal ones at the same time by their order: the two
    branches of guidance, the texts of a translation and the windows of a large picture each have a separate cache.
    The cache is not used when gradients are needed (of the state or the conditions), when a ControlNet adds to the
    blocks (its residuals would be added twice), and while it is not `active`.
    """

    def __init__(self, network: Any) -> None:
        from torch import nn

        self.plain, self.twin = network, twin(network)
        self.calls = self.saved = 0
        self.active = False
        self._computed = False
        self._time, self._call_counts = 0.0, Counter[tuple[Any, ...]]()
        blocks = [block for part in self.twin.children() if isinstance(part, nn.ModuleList) for block in part]
        if len(blocks) < 2:
            raise ModelError("a step cache skips all blocks but the first, and this network has only one")
        next(blocks[-1].children()).register_forward_pre_hook(self._mark_computed)
        self._forward = self.twin.forward
        self.twin.forward = self._cached_forward

    def begin(self, threshold: float) -> None:
        """Clear the cache, and skip calls by this `threshold` from now on."""
        from diffusers import FirstBlockCacheConfig

        if self.twin.is_cache_enabled:
            self.twin.disable_cache()
        self.twin.enable_cache(FirstBlockCacheConfig(threshold=threshold))

    def _mark_computed(self, *given: Any) -> None:
        self._computed = True

    def _cached_forward(self, *given: Any, **named: Any) -> Any:
        """The network's forward pass; diffusers' pipelines, and so these adapters, use keyword arguments only."""
        import torch

        self.calls += 1
        x: Tensor = named["hidden_states"]
        learns = torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in named.values())
        if not self.active or learns or any(named.get(name) is not None for name in CONTROL):
            return self.plain(*given, **named)
        self._computed = False
        with self.twin.cache_context(self._cache_key(x, named["encoder_hidden_states"], named["timestep"])):
            made = self._forward(*given, **named)
        self.saved += not self._computed
        return made

    def _cache_key(self, x: Tensor, words: Tensor, timestep: Tensor) -> str:
        time = float(timestep.flatten()[0])
        if time != self._time:
            self._time = time
            self._call_counts.clear()
        values = words.detach().float()
        key = (tuple(x.shape), tuple(words.shape), float(values.sum()), float(values.square().sum()))
        self._call_counts[key] += 1
        return f"{key} {self._call_counts[key]}"


def twin(network: nn.Module) -> Any:
    """Copy the modules of `network`; the tensors are shared."""
    shared = [*network.parameters(), *network.buffers()]
    quantizer = getattr(network, "hf_quantizer", None)
    memo: dict[int, Any] = {id(one): one for one in [*shared, *([] if quantizer is None else [quantizer])]}
    return copy.deepcopy(network, memo)


class CachingTransformer:
    """Implements `CachesSteps` for a model whose network is its `transformer`. The leased copy has the twin there, and
    the network itself as `whole`, used for gradients, so that checkpointing finds it (`networks`).
    """

    transformer: Any
    whole: Any = None
    step_cache: StepCache | None = None

    def cache_steps(self, threshold: float) -> StepCache:
        if self.step_cache is None:
            self.step_cache = StepCache(self.transformer)
            self.whole, self.transformer = self.transformer, self.step_cache.twin
        self.step_cache.begin(threshold)
        return self.step_cache
