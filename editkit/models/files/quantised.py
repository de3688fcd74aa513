"""Networks of a folder whose configuration names torchao or bitsandbytes: weights in few bits, which diffusers reads by
that library. The library is checked against a short list, and its settings may only be numbers and names (`trust`).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from editkit.common.process import quiet
from editkit.errors import ExtraError, ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.weights import weight_files

if TYPE_CHECKING:
    import torch

KEY = "quantization_config"


def quantised(network: Any) -> bool:
    """Its weights are packed in few bits (GGUF, torchao, bitsandbytes): nothing can be added to them, so that a LoRA
    stays beside them and is computed at every step.
    """
    return getattr(network, "hf_quantizer", None) is not None or bool(getattr(network, "is_quantized", False))


def method(layout: Layout, component: str) -> str | None:
    """The library that packed a component's weights; None: they are plain."""
    named = layout.config(component).get(KEY)
    return None if named is None else str(named["quant_method"])


def check(layout: Layout, component: str, gpu: bool) -> None:
    """Look whether a component that is packed can be read here, before anything is.

    Raises:
        ExtraError: its library is not installed.
        ModelError: that library computes on GPUs alone.
    """
    library = method(layout, component)
    if library is None:
        return
    if find_spec(library) is None:
        raise ExtraError(
            f"model {layout.name}: its {component} is quantised by {library}, which is not installed: "
            f"pip install 'editkit[{library}]'"
        )
    if library == "bitsandbytes" and not gpu:
        raise ModelError(
            f"model {layout.name}: its {component} is quantised by bitsandbytes, which diffusers computes with on GPUs "
            "alone; on a CPU take a folder that is not quantised, or lay a GGUF over it: --transformer FILE.gguf"
        )


def load(layout: Layout, component: str, kind: type[Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A network of class `kind` with its packed weights; the rest of it in `dtype`.

    Raises:
        ExtraError, ModelError: as `check`; or it cannot be read.
    """
    check(layout, component, device.type == "cuda")
    _, variant = weight_files(layout, component)
    try:
        with quiet("diffusers"):
            network, report = kind.from_pretrained(
                str(layout.path), subfolder=component, torch_dtype=dtype, variant=variant, use_safetensors=True,
                local_files_only=True, output_loading_info=True,
                device_map={"": device} if device.type == "cuda" else None,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, AssertionError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"model {layout.name}: {component} (quantised) cannot be loaded: {said}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model {layout.name}: {component} lacks {len(missing)} tensors, the first is {missing[0]}")
    return network.eval().requires_grad_(False)
