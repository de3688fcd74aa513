"""Networks whose calls OpenVINO computes, on a processor: in the place of a frozen network's forward pass.

The network stays what it is to whoever holds it: its class, its configuration, its weights. What asks for gradients, or
gives it more than tensors and plain values (image prompts), goes to torch as before, and so does a copy of the network
(`StepCache`, whose hooks lie on its blocks).

A program belongs to one form of call: which arguments are tensors, of how many dimensions, and what the others are. It
is compiled for one size of picture at a time, and any number of them.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from threading import Lock
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from editkit.diffusion.capability import Wraps
from editkit.diffusion.model import Model
from editkit.errors import ModelError
from editkit.models.fast.programs import Program, compiled, model_of
from editkit.models.files.quantised import quantised

NETWORKS = ("unet", "transformer", "network", "vae")
"""What adapters call theirs."""

KNOWN = (
    "UNet2DConditionModel", "UNet2DModel", "PocketUNet", "SD3Transformer2DModel", "FluxTransformer2DModel",
    "Flux2Transformer2DModel", "LongCatImageTransformer2DModel", "ChromaTransformer2DModel",
    "AutoencoderKL", "AutoencoderKLFlux2",
)  # fmt: skip
"""Classes that were compared with torch (tests/test_openvino.py)."""

HINTS = frozenset({"copies"})
"""Keywords that change how fast a network computes, not what (`editkit.models.fast.blocks.Attend`)."""

SIZES, TILES = 2, 4
"""Programs of one network that are kept: a coarse pass's and a fine one's, each with the weights in its own order; of a
VAE, which is small, and whose last tiles of a row, a column and a picture are smaller.
"""


class Apart(NamedTuple):
    """A call taken apart: its form, and its tensors in the form's order."""

    form: Hashable
    tensors: list[Tensor]


class _OtherError(Exception):
    """Something that is neither tensor nor plain value."""


def taken_apart(value: Any) -> Apart | None:
    """`value` (tensors, plain values, lists, tuples and dictionaries of them); None: there is something else in it."""
    tensors: list[Tensor] = []

    def form(part: Any) -> Hashable:
        match part:
            case Tensor():
                tensors.append(part)
                return "tensor", part.ndim, part.is_floating_point()
            case dict():
                kept = {key: one for key, one in part.items() if key not in HINTS}
                return (
                    ("dict", tuple((key, form(one)) for key, one in kept.items())) if kept or not part else ("is", None)
                )
            case list() | tuple():
                return "list" if isinstance(part, list) else "tuple", tuple(form(one) for one in part)
            case None | bool() | int() | float() | str():
                return "is", part
        raise _OtherError

    try:
        return Apart(form(value), tensors)
    except _OtherError:
        return None


def put_together(form: Any, tensors: Iterator[Tensor]) -> Any:
    """What `taken_apart` took apart, without hints."""
    match form:
        case ("tensor", *_):
            return next(tensors)
        case ("dict", parts):
            return {key: put_together(one, tensors) for key, one in parts}
        case ("list", parts):
            return [put_together(one, tensors) for one in parts]
        case ("tuple", parts):
            return tuple(put_together(one, tensors) for one in parts)
    return form[1]


class Flat(nn.Module):
    """`network`, given the tensors of a call of this `form` one after the other; its tensors as a tuple."""

    def __init__(self, network: nn.Module, form: Hashable) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given, named = put_together(self.form, iter(tensors))
        out = self.network(*given, **named)
        return (out,) if isinstance(out, Tensor) else tuple(out)


class Plain(NamedTuple):
    """Makes `network`, or what is called `within` of it, anew in float32, of ordinary layers."""

    network: Any
    within: str

    @property
    def made_of(self) -> str:
        """Class and configuration, but for where it was read and by which version it was written."""
        told = {key: value for key, value in self.network.config.items() if not key.startswith("_")}
        config = json.dumps(told, sort_keys=True, default=str)
        return f"{type(self.network).__name__} {config} {self.within}"

    def __call__(self) -> nn.Module:
        from editkit.models.fast.tracing import traceable
        from editkit.models.files.skeleton import without_values

        with without_values():
            made = type(self.network).from_config(self.network.config)
        made.load_state_dict({name: _wide(tensor) for name, tensor in self.network.state_dict().items()}, assign=True)
        for name, buffer in self.network.named_buffers():
            owner, _, last = name.rpartition(".")
            setattr(made.get_submodule(owner), last, _wide(buffer))
        part = traceable(made.get_submodule(self.within))
        return part.eval().requires_grad_(False)


class Converted:
    """A network's forward pass.

    Args:
        network: frozen, on the CPU; its forward pass is that of its class.
        plain: makes the same network anew for OpenVINO to look at.
        name: for messages.
        sizes: programs that are kept.
    """

    def __init__(self, network: Any, plain: Plain, name: str, sizes: int = SIZES) -> None:
        self.network, self.torch = network, MethodType(type(network).forward, network)
        self._plain, self._name, self._sizes = plain, name, sizes
        self._models: dict[Hashable, Any] = {}
        self._programs: OrderedDict[Hashable, Program] = OrderedDict()
        self._lock = Lock()

    def __call__(self, *given: Any, **named: Any) -> Any:
        apart = taken_apart((given, named))
        if apart is None or any(map(_learns, apart.tensors)):
            return self.torch(*given, **named)
        dtype = next(self.network.parameters()).dtype
        with self._lock:
            made = self._program(apart, dtype != torch.float32)([tensor.detach() for tensor in apart.tensors])
        out = tuple(one.to(dtype) for one in made)
        return out if named.get("return_dict") is False else out[0]

    def _program(self, apart: Apart, half: bool) -> Program:
        """Of this form and these sizes; the last few are kept."""
        key = apart.form, tuple(tuple(tensor.shape[1:]) for tensor in apart.tensors)
        if key not in self._programs:
            while len(self._programs) >= self._sizes:
                self._programs.popitem(last=False)
            self._programs[key] = compiled(self._model(apart, half), apart.tensors, half)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _model(self, apart: Apart, half: bool) -> Any:
        """OpenVINO's, of this form of call."""
        if apart.form not in self._models:
            made_of = f"{self._plain.made_of} {apart.form}"
            flat = lambda: Flat(self._plain(), apart.form)  # noqa: E731
            self._models[apart.form] = model_of(self._name, self.network, made_of, flat, apart.tensors, half)
        return self._models[apart.form]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the network computes by torch: hooks on its layers would not be called here."""
        twin = memo.get(id(self.network), self.network)
        return MethodType(type(twin).forward, twin)


def _learns(tensor: Tensor) -> bool:
    return torch.is_grad_enabled() and tensor.requires_grad


def by_openvino(model: Model) -> None:
    """Let OpenVINO compute the networks of `model`, which are frozen and on the CPU; text encoders stay torch's.

    Raises:
        ModelError: a network of a class that was not tried, or quantised; a model without any.
    """
    while isinstance(model, Wraps):
        model = model.wrapped
    held: Mapping[str, Any] = {name: getattr(model, name, None) for name in NETWORKS}
    found = {name: network for name, network in held.items() if isinstance(network, nn.Module)}
    for part, network in found.items():
        name = f"{part} of model {model.info.name}"
        if type(network).__name__ not in KNOWN or quantised(network):
            kind = "quantised" if quantised(network) else f"a {type(network).__name__}"
            raise ModelError(
                f"--backend openvino: the {name} is {kind}; what was compared with torch: {', '.join(KNOWN)}; leave "
                "--backend out, or choose another --model"
            )
    if not found:
        raise ModelError(f"--backend openvino computes networks, and model {model.info.name} has none; leave it out")
    for part, network in found.items():
        parts, sizes = (("encoder", "decoder"), TILES) if part == "vae" else (("",), SIZES)
        for within in parts:
            one, name = network.get_submodule(within), f"{within or part} of model {model.info.name}"
            one.forward = Converted(one, Plain(network, within), name, sizes)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
