"""Detectors from controlnet-aux: soft edges, depth, normals, poses, segments, line art.

controlnet-aux is imported, and weights are looked up, only when a detector is used. This module works around three of
its problems. Importing it takes seconds and warns about packages that are not needed. It downloads weights silently;
with --offline nothing is downloaded, and the error says which file is missing and where it belongs. Its results differ
in size from the input; `editkit.plugin.hints.detect` resizes them. The weights are PyTorch files, not safetensors;
torch reads them with `weights_only`, which runs no code from them.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from editkit.common import hub
from editkit.common.process import SILENCE
from editkit.plugin import Detect, Detector, ModelError, Pixels

ANNOTATORS = "lllyasviel/Annotators"


class Aux(Detector):
    """Base class of the detectors from controlnet-aux.

    `source` is the class in controlnet_aux, `files` are its weights in the hub repository `repo`, and `loading` holds
    arguments for its `from_pretrained`. `requires` lists packages that controlnet-aux does not install itself.
    `downloads`: the detector fetches its own weights.
    """

    source: ClassVar[str]
    repo: ClassVar[str] = ANNOTATORS
    files: ClassVar[tuple[str, ...]] = ()
    loading: ClassVar[Mapping[str, str]] = {}
    requires: ClassVar[tuple[str, ...]] = ()
    downloads: ClassVar[bool] = False

    resolution: int = Field(
        512, ge=64, le=4096, description="Shorter side at which the detector sees the picture, in pixels."
    )
    weights: str | None = Field(None, description="Folder with the weights; default: the hub's cache.")

    def settings(self) -> dict[str, Any]:
        """Return further keyword arguments for the detector's call."""
        return {}

    def ready(self, *, offline: bool = False) -> Detect:
        for package in ("controlnet_aux", *self.requires):
            if find_spec(package) is None:
                name = package.replace("_", "-")
                raise ModelError(f"hint {self.name} needs the package {name}: pip install {name}")
        if self.downloads and hub.local_only(offline):
            reason = "--offline is on" if offline else f"the hub cannot be reached ({hub.unreachable()})"
            raise ModelError(f"hint {self.name} fetches its weights by itself, and {reason}; use another one")
        folder = self._folder(offline)
        return partial(self._detect, _load_detector(self.source, folder, self.loading))

    def _detect(self, network: Any, pixels: Pixels) -> Pixels:
        given = {"detect_resolution": self.resolution, "output_type": "np", **self.settings()}
        if "image_resolution" in inspect.signature(network.__call__).parameters:
            given["image_resolution"] = max(64, min(pixels.shape[:2]))  # it rounds sides to multiples of 64
        with quiet():
            return np.asarray(network(pixels, **given))

    def _folder(self, offline: bool) -> str | None:
        """Return the folder that holds all of the detector's files; None if it has none.

        Raises:
            ModelError: files are missing. The message says which, and where they belong.
        """
        if not self.files:
            return None
        if self.weights is not None:
            missing = [f for f in self.files if not (Path(self.weights) / Path(f).name).is_file()]
            if missing:
                raise ModelError(f"hint {self.name}: {', '.join(missing)} (from {self.repo}) not in {self.weights}")
            return self.weights
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            paths = [hf_hub_download(self.repo, file, local_files_only=hub.local_only(offline)) for file in self.files]
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(
                f"hint {self.name} needs {', '.join(self.files)} from the hub's {self.repo}, not found in "
                f"{constants.HF_HUB_CACHE}; {hub.explain_failure(offline, error)}. Fetch it once where there is a "
                f"network (hf download {self.repo} {' '.join(self.files)}), or name a folder that has it: "
                f"{self.name}:weights=DIR"
            ) from None
        return str(Path(paths[0]).parent)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and output, and hide the command line from argument parsers.

    One thread at a time may enter: all of these are global to the process.
    """
    with (
        SILENCE,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        words = sys.argv
        sys.argv = words[:1]
        try:
            yield
        finally:
            sys.argv = words


def _load_detector(source: str, folder: str | None, given: Mapping[str, str]) -> Any:
    """Load the detector on the fastest device."""
    from editkit.common.device import pick_device
    from editkit.common.process import loading

    with loading(), quiet():
        import controlnet_aux

        kind = getattr(controlnet_aux, source)
        made = kind() if folder is None else kind.from_pretrained(folder, **given)
        return made.to(pick_device("auto")) if hasattr(made, "to") else made


class Softedge(Aux):
    """Soft edges by holistically nested edge detection (Xie & Tu 2015, arXiv:1504.06375)."""

    name: ClassVar[str] = "softedge"
    source: ClassVar[str] = "HEDdetector"
    files: ClassVar[tuple[str, ...]] = ("ControlNetHED.pth",)

    safe: bool = Field(False, description="Fewer grey levels, so that less of the picture hides in them.")

    def settings(self) -> dict[str, Any]:
        return {"safe": self.safe}


class Pidi(Aux):
    """Soft edges by pixel difference networks (Su et al. 2021, arXiv:2108.07009)."""

    name: ClassVar[str] = "pidi"
    source: ClassVar[str] = "PidiNetDetector"
    files: ClassVar[tuple[str, ...]] = ("table5_pidinet.pth",)

    safe: bool = Field(False, description="Fewer grey levels, so that less of the picture hides in them.")

    def settings(self) -> dict[str, Any]:
        return {"safe": self.safe}


class Teed(Aux):
    """Soft edges by a tiny network (Soria et al. 2023, arXiv:2308.06468)."""

    name: ClassVar[str] = "teed"
    source: ClassVar[str] = "TEEDdetector"
    repo: ClassVar[str] = "fal-ai/teed"
    files: ClassVar[tuple[str, ...]] = ("5_model.pth",)
    loading: ClassVar[Mapping[str, str]] = {"filename": "5_model.pth"}


class Anyline(Aux):
    """Lines of every kind: TEED's edges combined with line art."""

    name: ClassVar[str] = "anyline"
    source: ClassVar[str] = "AnylineDetector"
    repo: ClassVar[str] = "TheMistoAI/MistoLine"
    files: ClassVar[tuple[str, ...]] = ("Anyline/MTEED.pth",)
    loading: ClassVar[Mapping[str, str]] = {"filename": "MTEED.pth"}


class Depth(Aux):
    """Depth by MiDaS, near is bright (Ranftl et al. 2020, arXiv:1907.01341)."""

    name: ClassVar[str] = "depth"
    source: ClassVar[str] = "MidasDetector"
    files: ClassVar[tuple[str, ...]] = ("dpt_hybrid-midas-501f0c75.pt",)


class Zoe(Aux):
    """Depth by ZoeDepth, near is bright (Bhat et al. 2023, arXiv:2302.12288)."""

    name: ClassVar[str] = "zoe"
    source: ClassVar[str] = "ZoeDetector"
    files: ClassVar[tuple[str, ...]] = ("ZoeD_M12_N.pt",)


class Leres(Aux):
    """Depth by LeReS, near is bright (Yin et al. 2021, arXiv:2012.09365)."""

    name: ClassVar[str] = "leres"
    source: ClassVar[str] = "LeresDetector"
    files: ClassVar[tuple[str, ...]] = ("res101.pth", "latest_net_G.pth")


class Normal(Aux):
    """Surface normals (Bae et al. 2021, arXiv:2109.09881)."""

    name: ClassVar[str] = "normal"
    source: ClassVar[str] = "NormalBaeDetector"
    files: ClassVar[tuple[str, ...]] = ("scannet.pt",)


class Pose(Aux):
    """Bodies as coloured sticks (OpenPose, Cao et al. 2018, arXiv:1812.08008)."""

    name: ClassVar[str] = "pose"
    source: ClassVar[str] = "OpenposeDetector"
    files: ClassVar[tuple[str, ...]] = ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth")

    hands: bool = Field(False, description="Also detect hands.")
    face: bool = Field(False, description="Also detect faces.")

    def settings(self) -> dict[str, Any]:
        return {"include_hand": self.hands, "include_face": self.face}


class Dwpose(Aux):
    """Bodies, hands and faces as coloured sticks (Yang et al. 2023, arXiv:2307.15880)."""

    name: ClassVar[str] = "dwpose"
    source: ClassVar[str] = "DWposeDetector"
    requires: ClassVar[tuple[str, ...]] = ("mmcv", "mmdet", "mmpose")
    downloads: ClassVar[bool] = True


class Face(Aux):
    """Faces as coloured outlines (MediaPipe)."""

    name: ClassVar[str] = "face"
    source: ClassVar[str] = "MediapipeFaceDetector"
    requires: ClassVar[tuple[str, ...]] = ("mediapipe",)

    faces: int = Field(1, ge=1, le=100, description="Largest number of faces.")

    def settings(self) -> dict[str, Any]:
        return {"max_faces": self.faces}


class Segment(Aux):
    """Regions in random colours by Segment Anything (Kirillov et al. 2023, arXiv:2304.02643)."""

    name: ClassVar[str] = "segment"
    source: ClassVar[str] = "SamDetector"
    repo: ClassVar[str] = "ybelkada/segment-anything"
    files: ClassVar[tuple[str, ...]] = ("checkpoints/sam_vit_h_4b8939.pth",)


class LineartRealistic(Aux):
    """Line art by a network (Chan et al. 2022, arXiv:2203.12691)."""

    name: ClassVar[str] = "lineart_realistic"
    source: ClassVar[str] = "LineartDetector"
    files: ClassVar[tuple[str, ...]] = ("sk_model.pth", "sk_model2.pth")

    coarse: bool = Field(False, description="Fewer, thicker lines.")

    def settings(self) -> dict[str, Any]:
        return {"coarse": self.coarse}


class LineartAnime(Aux):
    """Line art in the style of anime, by a network."""

    name: ClassVar[str] = "lineart_anime"
    source: ClassVar[str] = "LineartAnimeDetector"
    files: ClassVar[tuple[str, ...]] = ("netG.pth",)


class LineartStandard(Aux):
    """Line art by a difference of Gaussians, as in controlnet-aux; needs no weights."""

    name: ClassVar[str] = "lineart_standard"
    source: ClassVar[str] = "LineartStandardDetector"


class Mlsd(Aux):
    """Straight lines (M-LSD, Gu et al. 2021, arXiv:2106.00186)."""

    name: ClassVar[str] = "mlsd"
    source: ClassVar[str] = "MLSDdetector"
    files: ClassVar[tuple[str, ...]] = ("mlsd_large_512_fp32.pth",)
