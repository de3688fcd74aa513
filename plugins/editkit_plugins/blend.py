"""Between two pictures by unCLIP: what lies between what an image encoder says of them is decoded.

Ramesh et al. 2022, arXiv:2204.06125, section 3.2: z = slerp(z_a, z_b, at), along the sphere on which CLIP's embeddings
lie. `editkit interpolate` goes between the pictures' noises instead, with any model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from editkit.editing.between import between
from editkit.plugin import Notify, Picture, PictureSource
from editkit_plugins.seen import read_for_encoder
from editkit_plugins.vary import Embedded, Sight

if TYPE_CHECKING:
    from torch import Tensor


class Blend(Embedded):
    """A picture that says something between this one and another one: content and style of both (unCLIP).

    The size is the first one's. --at 0 is a variation of the first, --at 1 of the second.
    """

    name: ClassVar[str] = "blend"
    usage: ClassVar[tuple[str, ...]] = (
        "blend a.jpg --to b.jpg --model DIR --at 0.5",
        "blend a.jpg --to b.jpg --model DIR --at 0.25 --origin inverted",
        "inpaint photo.jpg --mask mask.png --model DIR with blend --to b.jpg --at 0.7",
    )

    example: ClassVar[Mapping[str, Any]] = {"to": np.full((8, 8, 3), 90, np.uint8)}

    to: PictureSource = Field(description="The other picture.")
    at: float = Field(0.5, ge=0.0, le=1.0, description="How far from the first to the other one.")

    def open(self, picture: Picture, notify: Notify) -> Picture:
        read_for_encoder(self.to, "blend: --to")
        return picture

    def target(self, own: Tensor, sight: Sight) -> Tensor:
        other = sight.pictures([read_for_encoder(self.to, "blend: --to")])
        return between(own, other.expand(len(own), -1), self.at)
