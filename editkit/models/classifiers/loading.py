"""Load classifiers from folders, hub ids, and architectures of torchvision and timm; safetensors only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editkit.common.places import expand_path
from editkit.common.spec import did_you_mean
from editkit.errors import ModelError, short
from editkit.models.classifiers.kinds import KINDS, OWN, Clean, NoiseAware
from editkit.models.files.layout import Layout
from editkit.models.files.loading import find_layout
from editkit.models.files.skeleton import meta_skeleton
from editkit.models.files.weights import PICKLES, unreadable_error, weight_files

MOST_STAGES = 16
"""Most stages of an editkit network; each halves the picture."""

MOST_SIDE = 4096
"""Largest input size of a classifier, in pixels; every picture is resized to it."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_folder(source: str, device: torch.device, *, offline: bool) -> Clean | NoiseAware:
    """Load what `editkit train classifier` saved, or timm's layout: config.json and model.safetensors."""
    if source.count("/") != 1 and not expand_path(source).exists():
        raise ModelError(f"classifier {source!r} was not found; it can be {KINDS}")
    try:
        layout = find_layout(source, offline=offline, weights=True)
        config = layout.config()
        file, _ = weight_files(layout, "")
    except ModelError as error:
        raise ModelError(f"classifier {source}: {_format_error(error, source)}") from error
    tensors = _load_tensors(source, file)
    if config.get("_class_name") != OWN and "architecture" not in config:
        raise ModelError(
            f"classifier {source}: its config.json names no architecture; known are timm's layout and what "
            f"`editkit train classifier` saves"
        )
    try:
        if config.get("_class_name") == OWN:
            return _load_own_kind(layout, config, tensors, device)
        library, given = str(config.get("library", "timm")), config.get("pretrained_cfg") or config
        return _build_with_weights(library, str(config["architecture"]), tensors, given, source, device)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ModelError(f"classifier {source}: its config.json is damaged ({wrong}); download it again") from error


def by_architecture(library: str, name: str, file: str, device: torch.device, *, offline: bool) -> Clean:
    """Build an architecture by name, with weights from a file, or from the hub for timm."""
    source = f"{library}:{name}" + (f":{file}" if file else "")
    if file:
        path = expand_path(file)
        if path.suffix.lower() in PICKLES:
            raise ModelError(
                f"classifier {source}: a pickle can run code when it is read; if you trust it, convert it once: "
                f"safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
            )
        return _build_with_weights(library, name, _load_tensors(source, path), {}, source, device)
    if library == "torchvision":
        raise ModelError(f"classifier {source}: torchvision's weights are pickles; write {source}:FILE.safetensors")
    import timm

    _check_architecture(name, timm.list_models(), source)
    tag = timm.get_pretrained_cfg(name)
    if tag is None or not tag.hf_hub_id:
        raise ModelError(f"classifier {source}: timm has no weights for it; give a file, {source}:FILE.safetensors")
    made = from_folder(tag.hf_hub_id, device, offline=offline)
    assert isinstance(made, Clean)
    return made


def _load_own_kind(
    layout: Layout, config: Mapping[str, Any], tensors: dict[str, Tensor], device: torch.device
) -> Clean | NoiseAware:
    from editkit.models.classifiers.network import Network

    labels, channels, size = tuple(config["labels"]), int(config["channels"]), int(config["size"])
    width, stages = int(config["width"]), int(config["stages"])
    if not (0 < stages <= MOST_STAGES and width > 0 and channels > 0 and 0 < size <= MOST_SIDE):
        raise ValueError(f"width {width}, stages {stages}, channels {channels}, size {size}")
    with meta_skeleton():  # the sizes are compared with the file's tensors before memory is allocated
        _matching_tensors(Network(channels, len(labels), width, stages), tensors, layout.name)
    network = Network(channels, len(labels), width, stages)
    _load_state(network, tensors, layout.name)
    network.to(device).eval().requires_grad_(False)
    if "log_snr" in config:
        low, high = config["log_snr"]
        return NoiseAware(network, labels, channels, size, (float(low), float(high)), f"classifier {layout.name}")
    _check_channels(channels, layout.name)
    clean = lambda x: network(x, x.new_zeros(len(x)))  # noqa: E731
    return Clean(clean, labels, size, (0.5,) * 3, (0.5,) * 3)


def _build_with_weights(
    library: str, name: str, tensors: dict[str, Tensor], config: Mapping[str, Any], source: str, device: torch.device
) -> Clean:
    """Build an architecture with its weights; size, normalisation and labels are the configuration's or ImageNet's."""
    classes, network = _build_empty(library, name, tensors, source)
    defaults: Mapping[str, Any] = dict(getattr(network, "pretrained_cfg", None) or {})
    config = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    channels, size = (config.get("input_size") or (3, 224, 224))[:2]
    _check_channels(int(channels), source)
    if not 0 < int(size) <= MOST_SIDE:
        raise ValueError(f"input_size {size}")
    _load_state(network, tensors, source)
    network.to(device).eval().requires_grad_(False)
    mean, std = tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))
    return Clean(network, _labels(config, classes), int(size), mean, std)


def _build_empty(library: str, name: str, tensors: Mapping[str, Tensor], source: str) -> tuple[int, Any]:
    """Return (number of classes, from the weights of the last layer; the network without weights)."""
    build: Callable[[int], torch.nn.Module]
    if library == "torchvision":
        from torchvision import models

        _check_architecture(name, models.list_models(module=models), source)
        build = lambda classes: models.get_model(name, weights=None, num_classes=classes)  # noqa: E731
    elif library == "timm":
        import timm

        _check_architecture(name, timm.list_models(), source)
        build = lambda classes: timm.create_model(name, pretrained=False, num_classes=classes)  # noqa: E731
    else:
        raise ModelError(f"classifier {source}: its library is {library!r}; known are torchvision and timm")
    with meta_skeleton():
        heads = [key for key, part in build(1000).named_modules() if isinstance(part, torch.nn.Linear)]
    head = tensors.get(f"{heads[-1]}.weight") if heads else None
    if head is not None and head.ndim != 2:
        raise ModelError(f"classifier {source}: its last layer has the shape {tuple(head.shape)}; it has no classes")
    classes = 1000 if head is None else len(head)
    return classes, build(classes)


def _check_architecture(name: str, names: Sequence[str], source: str) -> None:
    if name.split(".")[0] not in names:
        raise ModelError(f"classifier {source}: unknown architecture {short(name)}{did_you_mean(name, names, most=3)}")


def _labels(config: Mapping[str, Any], classes: int) -> Sequence[str]:
    """Return the label names: the configuration's own, ImageNet's for 1000 classes, else the numbers."""
    named = config.get("label_names")
    if named:
        return tuple(map(str, named))
    if classes == 1000:
        from torchvision.models._meta import _IMAGENET_CATEGORIES

        return tuple(_IMAGENET_CATEGORIES)
    return tuple(str(k) for k in range(classes))


def _check_channels(channels: int, source: str) -> None:
    if channels != 3:
        raise ModelError(f"classifier {source}: takes pictures of {channels} channels; editkit's have 3")


def _load_tensors(source: str, file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (OSError, SafetensorError) as error:
        raise ModelError(f"classifier {source}: {file} {unreadable_error(file, error)}") from error


def _load_state(network: Any, tensors: dict[str, Tensor], source: str) -> None:
    wanted = _matching_tensors(network, tensors, source)
    network.load_state_dict({key: tensors[key] for key in wanted if key in tensors}, strict=False)


def _matching_tensors(network: Any, tensors: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """Return the network's tensors from the file.

    Raises:
        ModelError: some are missing or have the wrong shape.
    """
    wanted: Mapping[str, Tensor] = network.state_dict()
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(
            f"classifier {source}: lacks {len(missing)} of {len(wanted)} tensors, the first is {missing[0]}"
        )
    wrong = [key for key, value in wanted.items() if key in tensors and tensors[key].shape != value.shape]
    if wrong:
        got, needed = tuple(tensors[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
        raise ModelError(
            f"classifier {source}: {wrong[0]} is {got} instead of {needed}; the weights are of another architecture"
        )
    return wanted


def _format_error(error: ModelError, source: str) -> str:
    return str(error).removeprefix(f"model {source!r} ").removeprefix(f"model {source}: ").removeprefix(f"{source}: ")
