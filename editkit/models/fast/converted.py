"""Networks whose calls OpenVINO computes on the CPU, in place of a frozen network's forward pass.

The network keeps its class, configuration and weights. torch still computes calls that need gradients or have arguments
other than tensors and plain values (image prompts), and all calls of a copy of the network (`StepCache`, whose hooks
are on its blocks).

A program belongs to one form of call: which arguments are tensors, their numbers of dimensions, and the values of the
other arguments. It is compiled for one picture size and any batch size.
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
from editkit.models.fast.programs import Program, compile_model, model_of
from editkit.models.files.quantised import is_quantised

NETWORKS = ("unet", "transformer", "network", "vae")
"""Attributes in which adapters hold their networks."""

KNOWN = (
    "UNet2DConditionModel", "UNet2DModel", "PocketUNet", "SD3Transformer2DModel", "FluxTransformer2DModel",
    "Flux2Transformer2DModel", "LongCatImageTransformer2DModel", "ChromaTransformer2DModel",
    "AutoencoderKL", "AutoencoderKLFlux2",
)  # fmt: skip
"""Classes whose results were compared with torch's (tests/test_openvino.py)."""

HINTS = frozenset({"copies"})
"""Keywords that change a network's speed, not its result (`editkit.models.fast.blocks.Attend`)."""

SIZES, TILES = 2, 4
"""Maximum number of programs kept for a network and for a VAE.

A network has one for a coarse pass and one for a fine pass, each with the weights in its own order. A VAE is small, and
the last tiles of a row, of a column and of the picture are smaller than the others.
"""


class FlatCall(NamedTuple):
    """A call taken apart: its form, and its tensors in the order of the form."""

    form: Hashable
    tensors: list[Tensor]


class _UnsupportedArgumentError(Exception):
    """An argument that is neither a tensor nor a plain value."""


def flatten_call(value: Any) -> FlatCall | None:
    """Take `value` (tensors, plain values, lists, tuples, dictionaries) apart; None if it contains anything else."""
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
        raise _UnsupportedArgumentError

    try:
        return FlatCall(form(value), tensors)
    except _UnsupportedArgumentError:
        return None


def unflatten_call(form: Any, tensors: Iterator[Tensor]) -> Any:
    """Rebuild the value that `flatten_call` took apart, without hints."""
    match form:
        case ("tensor", *_):
            return next(tensors)
        case ("dict", parts):
            return {key: unflatten_call(one, tensors) for key, one in parts}
        case ("list", parts):
            return [unflatten_call(one, tensors) for one in parts]
        case ("tuple", parts):
            return tuple(unflatten_call(one, tensors) for one in parts)
    return form[1]


class FlatNetwork(nn.Module):
    """`network` with the tensors of a call of this `form` as positional arguments and its outputs as a tuple."""

    def __init__(self, network: nn.Module, form: Hashable) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given, named = unflatten_call(self.form, iter(tensors))
        out = self.network(*given, **named)
        return (out,) if isinstance(out, Tensor) else tuple(out)


class PlainRebuild(NamedTuple):
    """Rebuilds `network`, or its submodule `within`, in float32 from ordinary layers."""

    network: Any
    within: str

    @property
    def made_of(self) -> str:
        """Class and configuration, without the path it was read from and the version that wrote it."""
        settings = {key: value for key, value in self.network.config.items() if not key.startswith("_")}
        config = json.dumps(settings, sort_keys=True, default=str)
        return f"{type(self.network).__name__} {config} {self.within}"

    def __call__(self) -> nn.Module:
        from editkit.models.fast.tracing import make_traceable
        from editkit.models.files.skeleton import meta_skeleton

        with meta_skeleton():
            made = type(self.network).from_config(self.network.config)
        made.load_state_dict(
            {name: _to_float32(tensor) for name, tensor in self.network.state_dict().items()}, assign=True
        )
        for name, buffer in self.network.named_buffers():
            owner, _, last = name.rpartition(".")
            setattr(made.get_submodule(owner), last, _to_float32(buffer))
        part = make_traceable(made.get_submodule(self.within))
        return part.eval().requires_grad_(False)


class OpenVINONetwork:
    """A network's forward pass, computed by OpenVINO.

    Args:
        network: frozen, on the CPU, with the forward pass of its class.
        plain: rebuilds the same network for OpenVINO to convert.
        name: the network's name in messages.
        sizes: maximum number of programs kept.
    """

    def __init__(self, network: Any, plain: PlainRebuild, name: str, sizes: int = SIZES) -> None:
        self.network, self.torch = network, MethodType(type(network).forward, network)
        self._plain, self._name, self._sizes = plain, name, sizes
        self._models: dict[Hashable, Any] = {}
        self._programs: OrderedDict[Hashable, Program] = OrderedDict()
        self._lock = Lock()

    def __call__(self, *given: Any, **named: Any) -> Any:
        apart = flatten_call((given, named))
        if apart is None or any(map(_needs_gradient, apart.tensors)):
            return self.torch(*given, **named)
        dtype = next(self.network.parameters()).dtype
        with self._lock:
            made = self._program(apart, dtype != torch.float32)([tensor.detach() for tensor in apart.tensors])
        out = tuple(one.to(dtype) for one in made)
        return out if named.get("return_dict") is False else out[0]

    def _program(self, apart: FlatCall, half: bool) -> Program:
        """Return the program for this form and these sizes; the most recent ones are kept."""
        key = apart.form, tuple(tuple(tensor.shape[1:]) for tensor in apart.tensors)
        if key not in self._programs:
            while len(self._programs) >= self._sizes:
                self._programs.popitem(last=False)
            self._programs[key] = compile_model(self._model(apart, half), apart.tensors, half)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _model(self, apart: FlatCall, half: bool) -> Any:
        """Return OpenVINO's model for this form of call."""
        if apart.form not in self._models:
            made_of = f"{self._plain.made_of} {apart.form}"
            flat = lambda: FlatNetwork(self._plain(), apart.form)  # noqa: E731
            self._models[apart.form] = model_of(self._name, self.network, made_of, flat, apart.tensors, half)
        return self._models[apart.form]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Let a copy of the network compute with torch, because OpenVINO would not call hooks on its layers."""
        twin = memo.get(id(self.network), self.network)
        return MethodType(type(twin).forward, twin)


def _needs_gradient(tensor: Tensor) -> bool:
    return torch.is_grad_enabled() and tensor.requires_grad


def by_openvino(model: Model) -> None:
    """Let OpenVINO compute the networks of `model`, which are frozen and on the CPU; text encoders stay with torch.

    Raises:
        ModelError: a network is quantised or of a class not in `KNOWN`, or the model has no network.
    """
    while isinstance(model, Wraps):
        model = model.wrapped
    held: Mapping[str, Any] = {name: getattr(model, name, None) for name in NETWORKS}
    found = {name: network for name, network in held.items() if isinstance(network, nn.Module)}
    for part, network in found.items():
        name = f"{part} of model {model.info.name}"
        if type(network).__name__ not in KNOWN or is_quantised(network):
            kind = "quantised" if is_quantised(network) else f"a {type(network).__name__}"
            raise ModelError(
                f"--backend openvino: the {name} is {kind}; classes compared with torch: {', '.join(KNOWN)}; leave "
                "--backend out, or choose another --model"
            )
    if not found:
        raise ModelError(f"--backend openvino computes networks, and model {model.info.name} has none; leave it out")
    for part, network in found.items():
        parts, sizes = (("encoder", "decoder"), TILES) if part == "vae" else (("",), SIZES)
        for within in parts:
            one, name = network.get_submodule(within), f"{within or part} of model {model.info.name}"
            one.forward = OpenVINONetwork(one, PlainRebuild(network, within), name, sizes)


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
