"""The public interface for authors of plugins, hints, samplers, models and masks.

The names in `__all__` stay importable from here, wherever they are defined. Docs and `editkit new-plugin` start with::

    from editkit.plugin import Hooks, Plugin, Run, Step

Names are imported on first use, so importing this module is cheap. editkit's own modules do not use it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editkit.common.notify import Notify as Notify
    from editkit.common.notify import silent as silent
    from editkit.diffusion.capability import Wraps as Wraps
    from editkit.diffusion.capability import capability as capability
    from editkit.diffusion.conditioning import Conditioning as Conditioning
    from editkit.diffusion.conditioning import Prompt as Prompt
    from editkit.diffusion.conditioning import Reference as Reference
    from editkit.diffusion.control import Control as Control
    from editkit.diffusion.control import Given as Given
    from editkit.diffusion.control import Residuals as Residuals
    from editkit.diffusion.convention import Convention as Convention
    from editkit.diffusion.model import CachesSteps as CachesSteps
    from editkit.diffusion.model import Example as Example
    from editkit.diffusion.model import FoldsGuidance as FoldsGuidance
    from editkit.diffusion.model import KeepsSteps as KeepsSteps
    from editkit.diffusion.model import Model as Model
    from editkit.diffusion.model import ModelInfo as ModelInfo
    from editkit.diffusion.model import Pass as Pass
    from editkit.diffusion.model import PixelSpace as PixelSpace
    from editkit.diffusion.model import ReadsText as ReadsText
    from editkit.diffusion.model import ReadsWeights as ReadsWeights
    from editkit.diffusion.model import SeesPictures as SeesPictures
    from editkit.diffusion.model import TakesExamples as TakesExamples
    from editkit.diffusion.model import TakesReferences as TakesReferences
    from editkit.diffusion.noise import Noise as Noise
    from editkit.diffusion.noise import Stream as Stream
    from editkit.diffusion.plan import Move as Move
    from editkit.diffusion.plan import Plan as Plan
    from editkit.diffusion.prediction import Prediction as Prediction
    from editkit.diffusion.prediction import PredictionType as PredictionType
    from editkit.diffusion.prediction import convert as convert
    from editkit.diffusion.samplers import Sampler as Sampler
    from editkit.diffusion.samplers import WrappedSampler as WrappedSampler
    from editkit.diffusion.samplers import make_sampler as make_sampler
    from editkit.diffusion.schedule import Cosine as Cosine
    from editkit.diffusion.schedule import Grid as Grid
    from editkit.diffusion.schedule import Level as Level
    from editkit.diffusion.schedule import Levels as Levels
    from editkit.diffusion.schedule import Schedule as Schedule
    from editkit.diffusion.schedule import Spacing as Spacing
    from editkit.errors import ChainError as ChainError
    from editkit.errors import EditkitError as EditkitError
    from editkit.errors import HookError as HookError
    from editkit.errors import ModelError as ModelError
    from editkit.errors import ParameterError as ParameterError
    from editkit.errors import PictureError as PictureError
    from editkit.errors import PluginError as PluginError
    from editkit.errors import UsageError as UsageError
    from editkit.pictures.files.metadata import Metadata as Metadata
    from editkit.pictures.masks import read_mask as read_mask
    from editkit.pictures.picture import Fill as Fill
    from editkit.pictures.picture import Picture as Picture
    from editkit.pictures.raster import Pixels as Pixels
    from editkit.pictures.raster import Raster as Raster
    from editkit.pictures.raster import at_depth as at_depth
    from editkit.pictures.raster import largest as largest
    from editkit.pictures.resizing import pad as pad
    from editkit.pictures.resizing import resize as resize
    from editkit.pictures.resizing import resize_mask as resize_mask
    from editkit.pictures.shapes import Mask as Mask
    from editkit.pictures.tensors import from_unit as from_unit
    from editkit.pictures.tensors import to_unit as to_unit
    from editkit.plugin.chain import Chain as Chain
    from editkit.plugin.chain import Edits as Edits
    from editkit.plugin.chain import Stage as Stage
    from editkit.plugin.declaration import Declaration as Declaration
    from editkit.plugin.guidance import Guidance as Guidance
    from editkit.plugin.guidance import GuidanceHooks as GuidanceHooks
    from editkit.plugin.hints import Detect as Detect
    from editkit.plugin.hints import Detector as Detector
    from editkit.plugin.options import Options as Options
    from editkit.plugin.params import AreaSource as AreaSource
    from editkit.plugin.params import Code as Code
    from editkit.plugin.params import MaskSource as MaskSource
    from editkit.plugin.params import Metavar as Metavar
    from editkit.plugin.params import Output as Output
    from editkit.plugin.params import Param as Param
    from editkit.plugin.params import PictureSource as PictureSource
    from editkit.plugin.params import Weights as Weights
    from editkit.plugin.protocol import API as API
    from editkit.plugin.protocol import CONDITIONS as CONDITIONS
    from editkit.plugin.protocol import DECLARED as DECLARED
    from editkit.plugin.protocol import HOOKS as HOOKS
    from editkit.plugin.protocol import Figures as Figures
    from editkit.plugin.protocol import Hooks as Hooks
    from editkit.plugin.protocol import Plugin as Plugin
    from editkit.plugin.protocol import Slot as Slot
    from editkit.plugin.protocol import Through as Through
    from editkit.plugin.protocol import called as called
    from editkit.plugin.protocol import plugins_of as plugins_of
    from editkit.plugin.sections import Section as Section
    from editkit.plugin.step import Ask as Ask
    from editkit.plugin.step import Handed as Handed
    from editkit.plugin.step import Inputs as Inputs
    from editkit.plugin.step import Lends as Lends
    from editkit.plugin.step import Opening as Opening
    from editkit.plugin.step import Run as Run
    from editkit.plugin.step import Step as Step

_HOMES = {
    "API": "plugin.protocol", "AreaSource": "plugin.params", "Ask": "plugin.step", "CONDITIONS": "plugin.protocol",
    "Chain": "plugin.chain",
    "ChainError": "errors", "Code": "plugin.params", "Conditioning": "diffusion.conditioning",
    "Control": "diffusion.control", "Convention": "diffusion.convention", "Cosine": "diffusion.schedule",
    "DECLARED": "plugin.protocol", "Declaration": "plugin.declaration", "Detect": "plugin.hints",
    "Detector": "plugin.hints", "EditkitError": "errors", "Edits": "plugin.chain", "Example": "diffusion.model",
    "Figures": "plugin.protocol", "Fill": "pictures.picture", "Given": "diffusion.control",
    "Grid": "diffusion.schedule", "Guidance": "plugin.guidance", "GuidanceHooks": "plugin.guidance",
    "HOOKS": "plugin.protocol", "Handed": "plugin.step", "HookError": "errors", "Hooks": "plugin.protocol",
    "Inputs": "plugin.step", "Lends": "plugin.step", "Level": "diffusion.schedule", "Levels": "diffusion.schedule",
    "Mask": "pictures.shapes", "MaskSource": "plugin.params", "Metadata": "pictures.files.metadata",
    "Metavar": "plugin.params", "Model": "diffusion.model", "ModelError": "errors", "ModelInfo": "diffusion.model",
    "Move": "diffusion.plan", "Noise": "diffusion.noise", "Notify": "common.notify", "Opening": "plugin.step",
    "Options": "plugin.options", "Output": "plugin.params", "Param": "plugin.params", "ParameterError": "errors",
    "Pass": "diffusion.model",
    "Picture": "pictures.picture", "PictureError": "errors", "PictureSource": "plugin.params",
    "PixelSpace": "diffusion.model", "Pixels": "pictures.raster", "Plan": "diffusion.plan", "Plugin": "plugin.protocol",
    "PluginError": "errors", "Prediction": "diffusion.prediction", "PredictionType": "diffusion.prediction",
    "Prompt": "diffusion.conditioning", "Raster": "pictures.raster", "ReadsText": "diffusion.model",
    "ReadsWeights": "diffusion.model", "Reference": "diffusion.conditioning",
    "SeesPictures": "diffusion.model", "TakesReferences": "diffusion.model", "CachesSteps": "diffusion.model",
    "KeepsSteps": "diffusion.model", "FoldsGuidance": "diffusion.model",
    "Residuals": "diffusion.control", "Run": "plugin.step",
    "Sampler": "diffusion.samplers", "Schedule": "diffusion.schedule", "Section": "plugin.sections",
    "Slot": "plugin.protocol", "Spacing": "diffusion.schedule", "Stage": "plugin.chain", "Step": "plugin.step",
    "Stream": "diffusion.noise", "TakesExamples": "diffusion.model", "Through": "plugin.protocol",
    "UsageError": "errors", "Weights": "plugin.params", "WrappedSampler": "diffusion.samplers",
    "Wraps": "diffusion.capability", "at_depth": "pictures.raster", "called": "plugin.protocol",
    "capability": "diffusion.capability", "convert": "diffusion.prediction", "from_unit": "pictures.tensors",
    "largest": "pictures.raster", "make_sampler": "diffusion.samplers", "pad": "pictures.resizing",
    "plugins_of": "plugin.protocol", "read_mask": "pictures.masks", "resize": "pictures.resizing",
    "resize_mask": "pictures.resizing", "silent": "common.notify", "to_unit": "pictures.tensors",
}  # fmt: skip

__all__ = [*_HOMES]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name in _HOMES:
        return getattr(import_module(f"editkit.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'editkit.plugin' has no attribute {name!r}")
