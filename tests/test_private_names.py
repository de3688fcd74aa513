"""The private names of other libraries that editkit uses: one list, and a test at both ends.

Where a library drops one, the second test names it before a user's traceback does; where we use a new one, or one no
longer, the first test fails until the list says so.
"""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import editkit
import editkit_plugins

PUBLIC = {"_class_name", "_replace"}
"""Documented: the key of a model folder's files that says of which class it is, and what named tuples have."""


def _is_in(module: str, name: str) -> bool:
    """`module.name` exists, or the module's source uses the name (an attribute set on objects)."""
    found = __import__(module, fromlist=["_"])
    return hasattr(found, name) or name in inspect.getsource(found)


def _is_an_operator(name: str) -> bool:
    return hasattr(torch.ops.mkldnn, name) or not torch.backends.mkldnn.is_available()


PRIVATE: dict[str, Callable[[str], bool]] = {
    "_foreach_mul_": lambda name: hasattr(torch, name),
    "_foreach_lerp_": lambda name: hasattr(torch, name),
    "_foreach_copy_": lambda name: hasattr(torch, name),
    "_foreach_norm": lambda name: hasattr(torch, name),
    "_reorder_convolution_weight": _is_an_operator,
    "_reorder_linear_weight": _is_an_operator,
    "_convolution_pointwise": _is_an_operator,
    "_linear_pointwise": _is_an_operator,
    "_is_avx512_bf16_supported": lambda name: hasattr(torch.cpu, name),
    "_IMAGENET_CATEGORIES": lambda name: _is_in("torchvision.models._meta", name),
    "_body": lambda name: _is_in("aiohttp.client_reqrep", name),
    "_LPIPS": lambda name: _is_in("torchmetrics.functional.image.lpips", name),
    "_hf_hook": lambda name: _is_in("accelerate.hooks", name),
    "_diffusers_hook": lambda name: (
        _is_in("diffusers.hooks.hooks", name) and _is_in("diffusers.hooks.group_offloading", "_GROUP_OFFLOADING")
    ),
    "_supports_gradient_checkpointing": lambda name: _is_in("diffusers.models.modeling_utils", name),
    "_gradient_checkpointing_func": lambda name: _is_in("diffusers.models.modeling_utils", name),
    "_keep_in_fp32_modules": lambda name: _is_in("diffusers.models.modeling_utils", name),
    "_get_output_for_continuous_inputs": lambda name: _is_in("diffusers.models.transformers.transformer_2d", name),
    "_convert_ip_adapter_image_proj_to_diffusers": lambda name: (
        _is_in("diffusers.loaders.unet", name) and _is_in("diffusers.loaders.transformer_flux", name)
    ),
    "_lora_loadable_modules": lambda name: _is_in("diffusers.loaders.lora_pipeline", name),
}
"""Each name, and whether its library still has it."""


def _trees() -> list[ast.Module]:
    roots = [Path(package.__file__).parent for package in (editkit, editkit_plugins)]
    return [ast.parse(file.read_text()) for root in roots for file in sorted(root.rglob("*.py"))]


def _private(name: str) -> bool:
    return name.isidentifier() and name.startswith("_") and not name.startswith("__") and name != "_"


def _own(tree: ast.Module) -> set[str]:
    """Names that a module of ours defines: functions, classes, fields, what is assigned."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _used(tree: ast.Module) -> set[str]:
    """Private names that a module reads: as attributes, imports, or strings (`getattr`, `"_x" in vars(it)`)."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("editkit"):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            found |= {at.value for at in node.args if isinstance(at, ast.Constant) and isinstance(at.value, str)}
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            found.add(node.left.value)
    return {name for name in found if _private(name)}


ALLOWED = {
    "_exit": "os._exit: documented",
}


def test_the_list_is_what_the_source_uses():
    trees = _trees()
    ours = set().union(*map(_own, trees)) - set(PRIVATE)  # a private method of another library may be overridden
    used = set().union(*map(_used, trees)) - ours - PUBLIC - set(ALLOWED)
    assert used == set(PRIVATE)


@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_the_library_still_has_it(name: str):
    assert PRIVATE[name](name), f"{name} is gone: see where editkit uses it"
