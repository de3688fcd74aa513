"""A tiny folder of every family of today's transformers, and a ControlNet where there is one, once a session."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import test_parity_flux
import test_parity_flux2
import test_parity_qwen
import test_parity_siblings
import test_parity_zimage
import tiny_flow as tiny

NAMES = (
    "flux2", "flux2-dev", "klein", "klein-kv", "flux", "schnell", "fill", "kontext", "control", "z-image",
    "z-image-base", "qwen", "qwen-edit", "qwen-plus", "qwen-2511", "chroma", "krea", "krea-turbo", "longcat",
    "longcat-edit",
)  # fmt: skip
LOOKS = (
    "flux2", "flux2-dev", "klein", "klein-kv", "kontext", "qwen-edit", "qwen-plus", "qwen-2511", "longcat-edit",
)  # fmt: skip
"""Those that look at pictures."""
CONTROLNETS = {
    **dict.fromkeys(("flux", "schnell", "fill", "kontext"), tiny.flux_controlnet),
    **dict.fromkeys(("qwen", "qwen-edit", "qwen-plus", "qwen-2511"), tiny.qwen_controlnet),
    **dict.fromkeys(("z-image", "z-image-base"), tiny.zimage_controlnet),
}  # fmt: skip


def pipe(name: str) -> Any:
    match name:
        case "flux2" | "klein":
            return diffusers.Flux2KleinPipeline(**test_parity_flux2.parts(), is_distilled=name == "klein")
        case "klein-kv":
            return test_parity_flux2.kv()
        case "flux2-dev":
            return diffusers.Flux2Pipeline(**test_parity_flux2.dev())
        case "z-image" | "z-image-base":
            return test_parity_zimage.pipe(shift=6.0 if name == "z-image-base" else 3.0)
        case "qwen" | "qwen-edit" | "qwen-plus" | "qwen-2511":
            return test_parity_qwen.pipe("text" if name == "qwen" else name.removeprefix("qwen-"), whole=False)
        case "chroma":
            return test_parity_siblings.chroma()
        case "krea" | "krea-turbo":
            return test_parity_siblings.krea(name == "krea-turbo")
        case "longcat" | "longcat-edit":
            return test_parity_siblings.cat(name == "longcat-edit", whole=False)
        case _:
            return test_parity_flux.pipe("dev" if name == "flux" else name)


class Folders:
    """What is saved beneath `place`, each when it is first asked for."""

    def __init__(self, place: Path) -> None:
        self.model = cache(lambda name: self._saved(pipe(name), place / name))
        self.controlnet = cache(lambda name: self._saved(CONTROLNETS[name](), place / f"{name}-controlnet"))

    def _saved(self, made: Any, path: Path) -> str:
        made.save_pretrained(path)
        return str(path)
