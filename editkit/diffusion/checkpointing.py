"""Gradient checkpointing: recompute activations in the backward pass instead of storing them.

Chen et al. 2016, arXiv:1604.06174. Results do not change, and guidance through a large network needs a fraction of the
memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_USERS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Number of edits that need it for a block. Other edits then use it as well, with the same results."""
_LOCK = threading.Lock()


@contextmanager
def gradient_checkpointing(networks: Sequence[Any]) -> Iterator[bool]:
    """Enable gradient checkpointing in every diffusers network of `networks`; yields False if none supports it.

    Blocks in which it was enabled before keep it.
    """
    able = [network for network in networks if getattr(network, "_supports_gradient_checkpointing", False)]
    with _LOCK:
        blocks = {block for network in able for block in network.modules() if _is_free(block)}
        for block in blocks:
            block._gradient_checkpointing_func, block.gradient_checkpointing = _checkpoint_block, True
            _USERS[block] = _USERS.get(block, 0) + 1
    try:
        yield bool(able)
    finally:
        with _LOCK:
            for block in blocks:
                _USERS[block] -= 1
                if not _USERS[block]:
                    del _USERS[block]
                    block.gradient_checkpointing = False  # the function stays: a running call may still need it


def _is_free(block: Any) -> bool:
    """Whether a block supports it, and nobody else has enabled it."""
    return hasattr(block, "gradient_checkpointing") and (block in _USERS or not block.gradient_checkpointing)


def _checkpoint_block(block: Any, *args: Any) -> Any:
    """Checkpoint as diffusers does, but leave torch's global generator alone: in inference networks draw nothing."""
    from torch.utils.checkpoint import checkpoint

    return checkpoint(block.__call__, *args, use_reentrant=False, preserve_rng_state=False)
