"""Models of the hub that editkit takes, for who asks which to fetch: data, and not a word more than is known of them.

Sizes are about those of the files that are fetched, in the format that is named. They and the licences were written
down without the hub at hand; where nothing could be compared with them, `checked` is empty and it is said. A model's
page on the hub is what counts.
"""

from __future__ import annotations

from typing import NamedTuple


class Suggested(NamedTuple):
    """One model of the hub: its id, what for, how much is fetched (GB), its licence; `checked`: against what size and
    licence were compared, empty where they are from memory.
    """

    name: str
    use: str
    gigabytes: float
    licence: str
    checked: str = ""


PEERS = "the lists of other editors"

SUGGESTED = (
    Suggested("stable-diffusion-v1-5/stable-diffusion-inpainting:fp16", "fill holes by a prompt", 2.1, "OpenRAIL-M"),
    Suggested("stable-diffusion-v1-5/stable-diffusion-v1-5:fp16", "redraw by a prompt; ControlNets", 2.1, "OpenRAIL-M"),
    Suggested("diffusers/stable-diffusion-xl-1.0-inpainting-0.1:fp16", "fill holes, 1024 px", 6.9, "OpenRAIL++-M"),
    Suggested("stabilityai/stable-diffusion-xl-base-1.0:fp16", "redraw by a prompt, 1024 px", 6.9, "OpenRAIL++-M"),
    Suggested("stabilityai/stable-diffusion-x4-upscaler:fp16", "enlarge by 4, with a prompt", 1.8, "OpenRAIL++-M"),
    Suggested("google/ddpm-celebahq-256", "faces, without a prompt", 0.5, "Apache-2.0"),
    Suggested("facebook/sam3", "masks by words (--mask-model); ask for access", 1.8, "SAM licence", "peers' lists"),
    Suggested(
        "facebook/sam2.1-hiera-small", "masks by points, and of boxes (--mask-model)", 0.2, "Apache-2.0", "peers' lists"
    ),
    Suggested("IDEA-Research/grounding-dino-tiny", "boxes by words (--mask-model)", 0.7, "Apache-2.0", "peers' lists"),
    Suggested("CIDAS/clipseg-rd64-refined", "coarse masks by words (--mask-model)", 0.6, "Apache-2.0"),
    Suggested("hustvl/vitmatte-small-composition-1k", "soft edges of masks (--mask-model)", 0.1, "Apache-2.0"),
)
