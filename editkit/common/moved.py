"""Modules that have moved: their old names keep working for one release, with a DeprecationWarning.

`install` adds a finder after all others, so it is used only for modules that are not found otherwise. `forward` is for
packages with the name of a former module. editkit itself uses neither; tests/test_house.py checks that.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

TYPE_CHECKING = False  # importing `typing` takes longer than this module
if TYPE_CHECKING:
    from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "editkit.batch": ("editkit.batch.driver",),
    "editkit.boxes": ("editkit.pictures.boxes",),
    "editkit.canvas": ("editkit.editing.canvas", "editkit.pictures.resizing"),
    "editkit.chain": ("editkit.plugin.chain", "editkit.editing.settle", "editkit.editing.cost"),
    "editkit.charts": ("editkit.editing.watching.charts",),
    "editkit.classifiers": ("editkit.models.classifiers", "editkit.models.classifiers.kinds"),
    "editkit.classifiers.loading": ("editkit.models.classifiers.loading",),
    "editkit.classifiers.network": ("editkit.models.classifiers.network",),
    "editkit.contract": ("editkit.editing.contract",),
    "editkit.contract_kinds": ("editkit.cli.contract_kinds",),
    "editkit.decoding": ("editkit.pictures.files.decoding",),
    "editkit.device": ("editkit.common.device",),
    "editkit.editing": ("editkit.editing.api", "editkit.editing.stages", "editkit.engine.binding"),
    "editkit.encoding": ("editkit.pictures.files.encoding",),
    "editkit.energies": ("editkit.engine.energies",),
    "editkit.engine": ("editkit.engine.loop", "editkit.diffusion.convention", "editkit.engine.predictor"),
    "editkit.entries": ("editkit.common.entries",),
    "editkit.extras": ("editkit.plugin.outputs",),
    "editkit.fit": ("editkit.editing.coherence", "editkit.pictures.filling"),
    "editkit.folder": ("editkit.batch.folder",),
    "editkit.guidance": ("editkit.plugin.guidance",),
    "editkit.hints": ("editkit.plugin.hints",),
    "editkit.images": (
        "editkit.pictures.picture",
        "editkit.pictures.tensors",
        "editkit.pictures.raster",
        "editkit.pictures.files.metadata",
    ),
    "editkit.journal": ("editkit.batch.journal",),
    "editkit.making": ("editkit.editing.result",),
    "editkit.masks": ("editkit.pictures.masks",),
    "editkit.metadata": (
        "editkit.pictures.files.metadata",
        "editkit.pictures.files.png",
        "editkit.pictures.files.exif",
        "editkit.pictures.files.xmp",
    ),
    "editkit.models.base": (
        "editkit.diffusion.model",
        "editkit.diffusion.prediction",
        "editkit.diffusion.conditioning",
    ),
    "editkit.models.blocks": ("editkit.models.fast.blocks",),
    "editkit.models.checkpointing": ("editkit.diffusion.checkpointing",),
    "editkit.models.control": ("editkit.diffusion.control", "editkit.diffusion.conditioning"),
    "editkit.models.fingerprint": ("editkit.models.files.fingerprint",),
    "editkit.models.folder": ("editkit.models.families",),
    "editkit.models.gaussian": ("editkit.diffusion.gaussian",),
    "editkit.models.latent": ("editkit.models.latent.unet",),
    "editkit.models.latent_space": ("editkit.models.latent.space",),
    "editkit.models.linear_decoder": ("editkit.diffusion.linear_decoder",),
    "editkit.models.loading": ("editkit.models.files.loading", "editkit.models.files.layout"),
    "editkit.models.packing": ("editkit.models.fast.packing",),
    "editkit.models.patches": ("editkit.models.patches.model", "editkit.models.patches.info"),
    "editkit.models.pocket": ("editkit.models.pocket.model",),
    "editkit.models.pocket_unet": ("editkit.models.pocket.unet",),
    "editkit.models.refiner": ("editkit.models.latent.refiner",),
    "editkit.models.scheduling": ("editkit.models.schedules",),
    "editkit.models.sd3": ("editkit.models.latent.sd3",),
    "editkit.models.sdxl": ("editkit.models.latent.xl",),
    "editkit.models.single": ("editkit.models.files.single_file",),
    "editkit.models.upscaler": ("editkit.models.latent.upscaler",),
    "editkit.models.weighting": ("editkit.models.latent.weighting",),
    "editkit.models.weights": ("editkit.models.files.weights",),
    "editkit.noise": ("editkit.diffusion.noise",),
    "editkit.openclip": ("editkit.models.clip",),
    "editkit.options": ("editkit.plugin.options",),
    "editkit.params": ("editkit.plugin.params",),
    "editkit.passes": (
        "editkit.editing.passes",
        "editkit.models.patches.info",
        "editkit.diffusion.model",
        "editkit.pictures.resizing",
    ),
    "editkit.plan": ("editkit.diffusion.plan",),
    "editkit.provenance": ("editkit.pictures.files.provenance", "editkit.pictures.files.xmp"),
    "editkit.reading": ("editkit.pictures.files.reading",),
    "editkit.recipe": ("editkit.editing.recipe",),
    "editkit.refine": ("editkit.editing.cascade",),
    "editkit.registry": ("editkit.plugin.registry",),
    "editkit.run": ("editkit.plugin.step", "editkit.common.notify"),
    "editkit.samplers": ("editkit.diffusion.samplers", "editkit.diffusion.multistep"),
    "editkit.scaffold": ("editkit.cli.scaffold",),
    "editkit.schedule": ("editkit.diffusion.schedule",),
    "editkit.seeing": ("editkit.editing.watching.trace",),
    "editkit.shapes": ("editkit.pictures.shapes",),
    "editkit.sheets": ("editkit.editing.watching.sheets",),
    "editkit.smooth": ("editkit.pictures.filling",),
    "editkit.space": ("editkit.diffusion.space",),
    "editkit.timing": ("editkit.editing.watching.time_left",),
    "editkit.training.residual": ("editkit.models.pocket.residual",),
    "editkit.trust": ("editkit.common.trust",),
    "editkit.windows": ("editkit.diffusion.windows",),
    "editkit.workers": ("editkit.batch.engines",),
    "editkit.writing": ("editkit.pictures.files.writing", "editkit.pictures.files.atomic"),
}
"""Old module name -> the modules with its names now."""

SHADOWED = ("editkit.plan",)
"""Old names that are also public functions of `editkit`, which an import must not replace by a module."""


class Finder:
    """A meta path finder and loader for the names in `MOVED`; the classes of `importlib.abc` take 14 ms to import."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return _spec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Moved(spec.name, spec)

    def exec_module(self, module: ModuleType) -> None:
        """Replace a module that has one successor by that module; look up names one by one if there are several.

        Packages are looked up by name too, because their path would allow loading their modules twice.
        """
        homes = MOVED[module.__name__]
        now = import_module(homes[0])
        if len(homes) == 1 and not hasattr(now, "__path__"):
            _warn(module.__name__, homes[0])
            sys.modules[module.__name__] = now


def _spec(name: str, loader: Any) -> ModuleSpec:
    return ModuleSpec(name, loader)


class Moved(ModuleType):
    """A module that no longer exists; its names are looked up in their new modules."""

    def __init__(self, name: str, spec: ModuleSpec) -> None:
        super().__init__(name, f"Moved to {' and '.join(MOVED[name])}.")
        self.__spec__ = spec
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return forward(self.__name__)(name)


def forward(module: str) -> Callable[[str], Any]:
    """Make a package's `__getattr__` for the names that it had as a single module."""

    def found(name: str) -> Any:
        # `from package import module` asks here first: leave modules to the import system
        if not name.startswith("__") and find_spec(f"{module}.{name}") is None:
            for home in MOVED[module]:
                there = import_module(home)
                if hasattr(there, name):
                    _warn(f"{module}.{name}", f"{home}.{name}")
                    return getattr(there, name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return found


def install() -> None:
    """Enable imports of the names in `MOVED`; a second call has no effect."""
    finder = next((found for found in sys.meta_path if isinstance(found, Finder)), None)
    if finder is None:
        finder = Finder()
        sys.meta_path.append(finder)
    for name in SHADOWED:
        sys.modules.setdefault(name, Moved(name, _spec(name, finder)))


def _warn(old: str, new: str) -> None:
    """Warn about the importing line; frames of the import system are skipped."""
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)
