"""Weights for words of a prompt, by compel: `(a red door)1.3`, `door++`, `sky-`."""

from __future__ import annotations

from typing import Any

from editkit.errors import ModelError


def weighted(tokenizer: Any, encoder: Any, kind: Any = None, pooled: Any = False) -> Any:
    """compel's reader for a tokenizer and a text encoder, or for lists of both; texts of any length.

    Raises:
        ModelError: compel is not installed.
    """
    try:
        from compel import Compel, SplitLongTextMode
    except ImportError:
        raise ModelError("weights for words need compel: pip install 'editkit[weights]'") from None
    more = {} if kind is None else {"returned_embeddings_type": kind}
    first = encoder[0] if isinstance(encoder, list) else encoder
    return Compel(
        tokenizer, encoder, truncate_long_prompts=False, requires_pooled=pooled, device=first.device,
        dtype_for_device_getter=lambda device: first.dtype,
        split_long_text_mode=SplitLongTextMode.BRUTAL, **more,
    )  # fmt: skip
