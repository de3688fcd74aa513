"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept (Chen et al. 2016,
arXiv:1604.06174). The numbers stay the same; guidance through a large network needs a fraction of the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_USERS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How many want it of a block; another edit meanwhile has it too, with the same numbers."""
_LOCK = threading.Lock()


@contextmanager
def checkpointed(networks: Sequence[Any]) -> Iterator[bool]:
    """Within it every diffusers network of `networks` has it on; False where there is none. What had it on before keeps
    it.
    """
    able = [network for network in networks if getattr(network, "_supports_gradient_checkpointing", False)]
    with _LOCK:
        blocks = {block for network in able for block in network.modules() if _is_free(block)}
        for block in blocks:
            block._gradient_checkpointing_func, block.gradient_checkpointing = _again, True
            _USERS[block] = _USERS.get(block, 0) + 1
    try:
        yield bool(able)
    finally:
        with _LOCK:
            for block in blocks:
                _USERS[block] -= 1
                if not _USERS[block]:
                    del _USERS[block]
                    block.gradient_checkpointing = False  # the function stays: a call that has just looked may need it


def _is_free(block: Any) -> bool:
    """It can have it, and nobody else turned it on."""
    return hasattr(block, "gradient_checkpointing") and (block in _USERS or not block.gradient_checkpointing)


def _again(block: Any, *args: Any) -> Any:
    """As diffusers does it, without torch's global generator: networks that do not learn draw nothing."""
    from torch.utils.checkpoint import checkpoint

    return checkpoint(block.__call__, *args, use_reentrant=False, preserve_rng_state=False)
