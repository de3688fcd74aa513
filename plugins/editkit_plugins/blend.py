"""Blending of two pictures by unCLIP: decode an image embedding between the embeddings of both.

Ramesh et al. 2022, arXiv:2204.06125, section 3.2: z = slerp(z_a, z_b, at), on the sphere of CLIP's embeddings.
`editkit interpolate` interpolates between the pictures' noises instead, with any model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from editkit.editing.between import between
from editkit.plugin import Notify, Picture, PictureSource
from editkit_plugins.seen import read_for_encoder
from editkit_plugins.vary import ClipEncoders, Embedded

if TYPE_CHECKING:
    from torch import Tensor


class Blend(Embedded):
    """Blend the content and style of this picture and another one (unCLIP).

    The result has the size of the first picture. --at 0 is a variation of the first picture, --at 1 of the second.
    """

    name: ClassVar[str] = "blend"
    usage: ClassVar[tuple[str, ...]] = (
        "blend a.jpg --to b.jpg --model DIR --at 0.5",
        "blend a.jpg --to b.jpg --model DIR --at 0.25 --origin inverted",
        "inpaint photo.jpg --mask mask.png --model DIR with blend --to b.jpg --at 0.7",
    )

    example: ClassVar[Mapping[str, Any]] = {"to": np.full((8, 8, 3), 90, np.uint8)}

    to: PictureSource = Field(description="The other picture.")
    at: float = Field(0.5, ge=0.0, le=1.0, description="Position between the two: 0 is the first picture, 1 the other.")

    def open(self, picture: Picture, notify: Notify) -> Picture:
        read_for_encoder(self.to, "blend: --to")
        return picture

    def target(self, own: Tensor, sight: ClipEncoders) -> Tensor:
        other = sight.pictures([read_for_encoder(self.to, "blend: --to")])
        return between(own, other.expand(len(own), -1), self.at)
