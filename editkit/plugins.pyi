"""What editors and type checkers see of `editkit.plugins`: the declarations that come with editkit, by class.

Made by `docs/make_reference.py`; do not edit by hand. A stranger's are there as well, as `Any`; import one from its own
package to have its options completed.
"""

from typing import Any

from editkit_plugins.blend import Blend as Blend
from editkit_plugins.cache import Cache as Cache
from editkit_plugins.cfg import Cfg as Cfg
from editkit_plugins.classifier import Classifier as Classifier
from editkit_plugins.clip import Clip as Clip
from editkit_plugins.colorize import Colorize as Colorize
from editkit_plugins.controlnet import ControlNet as ControlNet
from editkit_plugins.denoise import Denoise as Denoise
from editkit_plugins.edit import Edit as Edit
from editkit_plugins.guide import Guide as Guide
from editkit_plugins.image_prompt import ImagePrompt as ImagePrompt
from editkit_plugins.inpaint import Inpaint as Inpaint
from editkit_plugins.invert import Invert as Invert
from editkit_plugins.keep import Keep as Keep
from editkit_plugins.layers import Layers as Layers
from editkit_plugins.only_changes import OnlyChanges as OnlyChanges
from editkit_plugins.prompt import PromptText as PromptText
from editkit_plugins.purify import Purify as Purify
from editkit_plugins.remove import Remove as Remove
from editkit_plugins.repair import Repair as Repair
from editkit_plugins.restore import Restore as Restore
from editkit_plugins.sdedit import SDEdit as SDEdit
from editkit_plugins.spandrel import Spandrel as Spandrel
from editkit_plugins.texture import Texture as Texture
from editkit_plugins.threshold import Threshold as Threshold
from editkit_plugins.translate import Translate as Translate
from editkit_plugins.uncrop import Uncrop as Uncrop
from editkit_plugins.upscale import Upscale as Upscale
from editkit_plugins.vary import Vary as Vary

def __getattr__(name: str) -> Any: ...
