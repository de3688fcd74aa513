"""Weights for words of a prompt, in compel's syntax: `(a red door)1.3`, `door++`, `sky-`."""

from __future__ import annotations

from typing import Any

from editkit.errors import ModelError


def encode_weighted_text(text: str, tokenizer: Any, encoder: Any, kind: Any = None, pooled: Any = False) -> Any:
    """Encode `text`, of any length, with compel for a tokenizer and a text encoder, or for lists of both.

    Raises:
        ModelError: compel is not installed, or the encoders are on disk because memory is short.
    """
    try:
        from compel import Compel, SplitLongTextMode
    except ImportError:
        raise ModelError("weights for words need compel: pip install 'editkit[weights]'") from None
    first = encoder[0] if isinstance(encoder, list) else encoder
    if first.device.type == "meta":
        raise ModelError(
            "weights for words need the text encoders in memory, and there is not enough for them; what helps: "
            "--dtype bf16, closing other programs, a prompt without weights"
        )
    from editkit.common.process import READING

    more = {} if kind is None else {"returned_embeddings_type": kind}
    with READING:
        read = Compel(
            tokenizer, encoder, truncate_long_prompts=False, requires_pooled=pooled, device=first.device,
            dtype_for_device_getter=lambda device: first.dtype,
            split_long_text_mode=SplitLongTextMode.BRUTAL, **more,
        )  # fmt: skip
        return read(text)
