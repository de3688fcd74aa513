"""A complete model in one .safetensors file, as model-sharing sites offer them; read by diffusers (`from_single_file`).

Such a file has no configuration and no tokenizer. Both come from a folder in diffusers' layout, without weights: one
beside the file with its name, or the hub repository that diffusers knows for the file's tensors.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from editkit.common import trust
from editkit.errors import ModelError
from editkit.models.files.weights import check_sizes, read_stored, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import torch

    from editkit.models.files.layout import Layout


def find_configuration(file: Path, fetch: Callable[[str], Path]) -> Path:
    """Find the folder that configures the networks in `file`. `fetch` downloads a repository's configuration.

    Raises:
        ModelError: there is none; the message says which is needed and where to put it.
    """
    beside = file.with_suffix("")
    if (beside / "model_index.json").is_file():
        return beside
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    tensors = {key: SimpleNamespace(shape=shape) for key, shape in shapes(file.name, file)}
    repository = str(fetch_diffusers_config(tensors)["pretrained_model_name_or_path"])
    try:
        return fetch(repository)
    except ModelError as error:
        raise ModelError(
            f"model {file.name} is one file without the configuration of its networks; it looks like {repository}: "
            f"put that model's folder, without weights, beside it as {beside.name}/, or let editkit "
            f"download it ({error})"
        ) from error


def load_component(layout: Layout, name: str, dtype: torch.dtype, classes: Collection[str]) -> Any:
    """Load one network of `layout.file` in `dtype`, or a tokenizer of its configuration; only of `classes`, as
    `trust.check_component` lists them, because diffusers would import any module that the configuration names.

    Raises:
        ModelError: it names another class, or diffusers cannot read the file with that configuration.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    named = str(layout.index.get("_class_name"))
    kind = getattr(diffusers, named, None)
    if kind is None or not hasattr(kind, "from_single_file"):
        raise ModelError(f"model {layout.name}: diffusers cannot read a {named} from a single file")
    trust.check_component(layout.name, name, layout.index.get(name), classes)
    if (layout.path / name / "config.json").is_file():  # checked here: diffusers reads it again itself
        assert layout.file is not None
        config = layout.config(name)
        try:
            check_sizes(layout.file.name, name, config, read_stored(layout.name, layout.file))
        except ModelError as error:
            raise ModelError(f"model {layout.name} does not fit the configuration in {layout.path}: {error}") from None
    plain = (bool, int, float, type(None))
    others = {part: None for part, value in layout.index.items() if not isinstance(value, plain) and part[:1] != "_"}
    others.pop(name, None)
    try:
        pipe = kind.from_single_file(
            str(layout.file), config=str(layout.path), torch_dtype=dtype, local_files_only=True, **others
        )
        return getattr(pipe, name)
    except (SingleFileComponentError, OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"model {layout.name} does not fit the configuration in {layout.path}: {lines[0]}") from error
