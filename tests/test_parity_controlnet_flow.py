"""ControlNets of FLUX.1, Qwen-Image and Z-Image against their diffusers pipelines, step for step.

Where these draw from another generator than the one that they are given, or before what they look at, the tests say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import test_parity_flux as flux
import test_parity_qwen as qwen
import test_parity_zimage as zimage
import tiny_flow as tiny
import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.control import ControlInputs
from editkit.diffusion.windows import Windowed
from editkit.errors import ModelError, UsageError
from editkit.models import describe, load
from editkit.models.files.loading import find_layout, load_network
from editkit.models.latent import controls
from editkit.models.latent import flux as of_flux1
from editkit.plugins import Cfg, ControlNet, Inpaint, SDEdit

PROMPT, BOUND, SEEN = tiny.PROMPT, 1e-5, 1e-2
HOLE = (13, 21, 43, 52)
NETWORKS: dict[str, Any] = {
    "flux": tiny.flux_controlnet, "union": lambda: tiny.flux_controlnet(3),
    "xlabs": lambda: tiny.flux_controlnet(xlabs=True), "qwen": tiny.qwen_controlnet,
    "qwen-inpaint": lambda: tiny.qwen_controlnet(4), "z-image": tiny.zimage_controlnet,
    "z-image-inpaint": lambda: tiny.zimage_controlnet(33, "control_noise_refiner"),
    "z-image-layers": lambda: tiny.zimage_controlnet(33, "control_layers"),
}  # fmt: skip


def pipe(family: str) -> Any:
    match family:
        case "flux":
            return flux.pipe("dev")
        case "qwen":
            return qwen.pipe("text")
        case _:
            return zimage.pipe()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ControlNets by their names, the models behind "models", and a hint."""
    path = tmp_path_factory.mktemp("controlnets")
    for name, made in NETWORKS.items():
        made().save_pretrained(path / name)
    for family in ("flux", "qwen", "z-image"):
        pipe(family).save_pretrained(path / "models" / family)
    tiny.picture(seed=9).save(path / "hint.png")
    return path


@pytest.fixture(scope="module")
def models(place: Path) -> dict[str, Any]:
    def loaded(family: str) -> Any:
        return tiny.plain(load(describe(str(place / "models" / family)), torch.device("cpu"), torch.float32))

    return {family: loaded(family) for family in ("flux", "qwen", "z-image")}


def steering(place: Path, name: str, **more: Any) -> ControlNet:
    return ControlNet(control=str(place / "hint.png"), controlnet=str(place / name), **more)


def packed(states: Sequence[Tensor]) -> list[Tensor]:
    return [controls.packed(x) for x in states]


def of_flux(kind: Any, network: str, steps: int = 4, **given: Any) -> list[Tensor]:
    made = flux.pipe("dev")
    taken = {name: part for name, part in made.components.items() if part is not None}
    own = kind(**taken, controlnet=NETWORKS[network]())
    size = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": steps, "guidance_scale": 3.5}
    return tiny.states(own, control_image=tiny.picture(seed=9), **{**size, **given})


def test_flux_and_the_mistakes_that_would_be_seen(
    models: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["flux"]
    expected = of_flux(diffusers.FluxControlNetPipeline, "flux", controlnet_conditioning_scale=0.7)
    found = packed(tiny.walked(model, [steering(place, "flux", scale=0.7)]))
    assert tiny.distance(found, expected) <= BOUND
    for mistake in ([], [steering(place, "flux")]):
        assert tiny.distance(packed(tiny.walked(model, mistake)), expected) > SEEN, "none, or at another scale"
    with monkeypatch.context() as m:
        m.setattr(controls, "grid_ids", lambda size, *rest: flux.flux_ids(size))
        found = packed(tiny.walked(model, [steering(place, "flux", scale=0.7)]))
        assert tiny.distance(found, expected) > SEEN, "rows and columns exchanged"
    with monkeypatch.context() as m:
        m.setattr(type(model), "normalised", lambda self, latent: latent)
        found = packed(tiny.walked(model, [steering(place, "flux", scale=0.7)]))
        assert tiny.distance(found, expected) > SEEN, "a hint that is not normalised"


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.3, 0.8)])
def test_flux_in_a_window_of_steps(models: dict[str, Any], place: Path, window: tuple[float, float]) -> None:
    start, stop = window
    more = {"control_guidance_start": start, "control_guidance_end": stop}
    expected = of_flux(diffusers.FluxControlNetPipeline, "flux", 5, controlnet_conditioning_scale=1.0, **more)
    found = packed(tiny.walked(models["flux"], [steering(place, "flux", start=start, stop=stop)], steps=5))
    assert tiny.distance(found, expected) <= BOUND


def test_a_union_is_told_what_the_hint_is(models: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is one token beside the text's: of 512 it moves little, so here these are 12."""
    monkeypatch.setattr(of_flux1, "T5_LENGTH", 12)
    given = {"control_mode": 2, "controlnet_conditioning_scale": 1.0, "max_sequence_length": 12}
    expected = of_flux(diffusers.FluxControlNetPipeline, "union", **given)
    found = packed(tiny.walked(models["flux"], [steering(place, "union", mode="depth")]))
    assert tiny.distance(found, expected) <= BOUND
    other = packed(tiny.walked(models["flux"], [steering(place, "union", mode=0)]))
    assert tiny.distance(other, expected) > SEEN, "another kind"
    with pytest.raises(UsageError, match="takes hints of several kinds; say which with .*mode.*: canny, tile, depth"):
        tiny.walked(models["flux"], [steering(place, "union")])
    with pytest.raises(UsageError, match="mode=? pose is number 4; .* has 3, from 0"):
        tiny.walked(models["flux"], [steering(place, "union", mode="pose")])


def test_the_detector_says_what_a_union_is_shown(models: dict[str, Any], place: Path) -> None:
    said: list[str] = []
    known = {"known": tiny.tensor(tiny.picture()), "notify": said.append}
    by_detector = ControlNet(control="tile:factor=1", controlnet=str(place / "union"))
    found = tiny.walked(models["flux"], [by_detector], **known)
    assert any(line.endswith("takes hints of several kinds; this one is passed as tile") for line in said), said
    tiny.picture().save(place / "same.png")
    same = ControlNet(control=str(place / "same.png"), controlnet=str(place / "union"), mode=1)
    assert tiny.distance(tiny.walked(models["flux"], [same], **known), found) == 0.0
    said.clear()
    tiny.walked(models["flux"], [steering(place, "flux", mode="canny")], notify=said.append)
    assert any("mode: without effect" in line for line in said), said


def test_xlabs_form_sees_the_picture_itself_and_its_blocks_take_turns(models: dict[str, Any], place: Path) -> None:
    expected = of_flux(diffusers.FluxControlNetPipeline, "xlabs", controlnet_conditioning_scale=0.7)
    found = packed(tiny.walked(models["flux"], [steering(place, "xlabs", scale=0.7)]))
    assert tiny.distance(found, expected) <= BOUND
    a, b, c = (torch.full((1,), float(k)) for k in range(3))
    assert [float(x) for x in controls.alternate_over_blocks([a, b], 5) if x is not None] == [0, 1, 0, 1, 0]
    assert [float(x) for x in controls.spread_over_blocks([a, b], 5) if x is not None] == [0, 0, 0, 1, 1]
    assert [float(x) for x in controls.spread_over_blocks([a, b, c], 3) if x is not None] == [0, 1, 2]
    assert controls.spread_over_blocks(None, 2) == controls.alternate_over_blocks(None, 2) == [None, None]


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_flux_redraws_and_inpaints(models: dict[str, Any], place: Path, strength: float) -> None:
    image, hole = tiny.picture(), tiny.mask(HOLE)
    given = {"image": image, "strength": strength, "controlnet_conditioning_scale": 0.7}
    expected = of_flux(diffusers.FluxControlNetImg2ImgPipeline, "flux", 5, **given)
    plugins = [steering(place, "flux", scale=0.7), SDEdit(strength=strength)]
    known = {"known": tiny.tensor(image), "steps": 5}
    assert tiny.distance(packed(tiny.walked(models["flux"], plugins, **known)), expected) <= BOUND
    expected = of_flux(diffusers.FluxControlNetInpaintPipeline, "flux", 5, mask_image=hole, **given)
    found = tiny.walked(models["flux"], [*plugins, Inpaint()], mask=tiny.tensor(hole), **known)
    assert tiny.distance(packed(found), expected) <= BOUND


def test_one_call_serves_both_branches_of_flux(models: dict[str, Any], place: Path) -> None:
    """With the wanted text, as the pipeline does; in guess mode the unwanted branch is not steered."""
    given = {"negative_prompt": "blurry", "true_cfg_scale": 3.0, "controlnet_conditioning_scale": 0.7}
    expected = of_flux(diffusers.FluxControlNetPipeline, "flux", **given)
    cfg, options = Cfg(true_scale=3.0), {"negative": "blurry"}
    found = packed(tiny.walked(models["flux"], [cfg, steering(place, "flux", scale=0.7)], **options))
    assert tiny.distance(found, expected) <= BOUND
    guessed = packed(tiny.walked(models["flux"], [cfg, steering(place, "flux", scale=0.7, guess=True)], **options))
    assert tiny.distance(guessed, expected) > SEEN


def test_two_controlnets_add(models: dict[str, Any], place: Path) -> None:
    """In any order, however many blocks each of them steers."""
    model, one, two = models["z-image"], steering(place, "z-image"), steering(place, "z-image-layers")
    found = [tiny.walked(model, plugins) for plugins in ([one, two], [two, one], [one])]
    assert tiny.distance(found[0], found[1]) == 0.0
    assert tiny.distance(found[0], found[2]) > SEEN


def of_qwen(kind: Any, network: str, steps: int = 4, **given: Any) -> list[Tensor]:
    made = kind(**qwen.pipe("text").components, controlnet=NETWORKS[network]())
    size = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": steps, "true_cfg_scale": 4.0}
    return tiny.states(made, **{"negative_prompt": qwen.NEGATIVE, **size, **given})


def test_qwen_and_the_mistakes_that_would_be_seen(
    models: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = models["qwen"], {"negative": qwen.NEGATIVE}
    given = {"control_image": tiny.picture(seed=9), "controlnet_conditioning_scale": 0.7}
    expected = of_qwen(diffusers.QwenImageControlNetPipeline, "qwen", **given)
    found = tiny.walked(model, [steering(place, "qwen", scale=0.7)], **options)
    assert tiny.distance(packed(found), expected) <= BOUND
    assert tiny.distance(packed(tiny.walked(model, **options)), expected) > SEEN, "no hint"
    with monkeypatch.context() as m:
        m.setattr(type(model), "control_words", lambda self, conds: controls_of_their_own(conds))
        found = tiny.walked(model, [steering(place, "qwen", scale=0.7)], **options)
        assert tiny.distance(packed(found), expected) > SEEN, "each branch with its own text"


def controls_of_their_own(conds: Sequence[Any]) -> Sequence[Any]:
    from editkit.diffusion.conditioning import with_own_words

    return with_own_words(conds)


def test_qwen_inpaints_by_a_controlnet(models: dict[str, Any], place: Path) -> None:
    """The pipeline draws the masked picture from torch's global generator, which nobody can repeat: here its mode."""
    image, hole = tiny.picture(), tiny.mask(HOLE)
    image.save(place / "photo.png")
    vae = copy(tiny.qwen_vae())
    vae.encode = lambda x: replace_sample(tiny.qwen_vae().encode(x))
    made = diffusers.QwenImageControlNetInpaintPipeline(
        **{**qwen.pipe("text").components, "vae": vae}, controlnet=NETWORKS["qwen-inpaint"]()
    )
    given = {"control_image": image, "control_mask": hole, "controlnet_conditioning_scale": 1.0}
    size = {"height": 64, "width": 64, "num_inference_steps": 4, "true_cfg_scale": 4.0}
    expected = tiny.states(made, prompt=PROMPT, negative_prompt=qwen.NEGATIVE, **size, **given)
    plugin = ControlNet(control=str(place / "photo.png"), controlnet=str(place / "qwen-inpaint"))
    known = {"known": tiny.tensor(image), "mask": tiny.tensor(hole), "negative": qwen.NEGATIVE}
    assert tiny.distance(packed(tiny.walked(models["qwen"], [plugin], **known)), expected) <= BOUND
    known["mask"] = 1 - known["mask"]
    assert tiny.distance(packed(tiny.walked(models["qwen"], [plugin], **known)), expected) > SEEN, "another hole"


def replace_sample(made: Any) -> Any:
    made.latent_dist.sample = made.latent_dist.mode
    return made


def of_zimage(kind: Any, network: str, guidance: float = 0.0, **given: Any) -> list[Tensor]:
    controlnet = NETWORKS[network].__wrapped__() if hasattr(NETWORKS[network], "__wrapped__") else NETWORKS[network]()
    made = kind(**zimage.pipe().components, controlnet=controlnet)
    size = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": guidance}
    return tiny.states(made, control_image=tiny.picture(seed=9), **{**size, **given})


@pytest.mark.parametrize("guidance", [0.0, 4.0])
@pytest.mark.parametrize("network", ["z-image", "z-image-inpaint"])
def test_zimage(models: dict[str, Any], place: Path, network: str, guidance: float) -> None:
    """One for inpainting that is shown no picture is shown zeros."""
    kind = diffusers.ZImageControlNetPipeline
    negative = "blurry and far too dark to be seen by anybody who looks at it"
    given = {"negative_prompt": negative, "controlnet_conditioning_scale": 0.75}
    expected = of_zimage(kind, network, guidance, **given)
    options = {"guidance_scale": guidance + 1.0, "negative": negative}
    found = tiny.walked(models["z-image"], [steering(place, network, scale=0.75)], **options)
    assert tiny.distance(found, expected) <= BOUND
    assert tiny.distance(tiny.walked(models["z-image"], **options), expected) > SEEN, "no hint"


@pytest.mark.parametrize("network", ["z-image-inpaint", "z-image-layers"])
def test_zimage_inpaints_by_a_controlnet(models: dict[str, Any], place: Path, network: str) -> None:
    """The network is shown the mask and the masked picture; the pipeline puts nothing back."""
    image, hole = tiny.picture(), tiny.mask(HOLE)
    given = {"image": image, "mask_image": hole, "controlnet_conditioning_scale": 0.75}
    expected = of_zimage(diffusers.ZImageControlNetInpaintPipeline, network, **given)
    known = {"known": tiny.tensor(image), "mask": tiny.tensor(hole)}
    plugin = steering(place, network, scale=0.75)
    assert tiny.distance(tiny.walked(models["z-image"], [plugin], **known), expected) <= BOUND
    known["mask"] = 1 - known["mask"]
    assert tiny.distance(tiny.walked(models["z-image"], [plugin], **known), expected) > SEEN, "another hole"


@pytest.mark.parametrize("name", ["flux", "xlabs", "qwen-inpaint", "z-image-inpaint"])
def test_by_windows_a_hint_is_cut_with_the_state(models: dict[str, Any], place: Path, name: str) -> None:
    """Two windows of a state that is twice the same one say twice the same."""
    model = models["flux" if name == "xlabs" else name.removesuffix("-inpaint")]
    hint, level = torch.rand(1, 3, 64, 128), model.schedule.levels(2)[1]
    shown = ControlInputs(hint, hint, torch.ones_like(hint[:, :1]), torch.ones(1, 1, 8, 16))
    network = load_network(
        find_layout(str(place / name), offline=True), "", type(NETWORKS[name]()), torch.float32, torch.device("cpu")
    )
    control = model.steered(network, shown, 1.0, False, None)
    first = control.hint[..., : control.hint.shape[-1] // 2]  # a VAE sees the border
    control = replace(control, hint=torch.cat([first, first], -1))
    x = torch.randn(1, 16, 8, 8)
    wide = Windowed(model, window=8, overlap=0)
    (whole,) = wide(torch.cat([x, x], -1), level, [Conditioning(control=(control,))])
    assert float((whole.x0[..., :8] - whole.x0[..., 8:]).abs().max()) <= 1e-3
    (plain,) = wide(torch.cat([x, x], -1), level, [Conditioning()])
    assert float((whole.x0 - plain.x0).abs().max()) > 1e-2


@pytest.mark.parametrize("family", ["flux", "qwen", "z-image"])
def test_by_windows_every_item_is_told_its_own(models: dict[str, Any], place: Path, family: str) -> None:
    """Two states at once, what they are told being of one item or of two, are what each of them is alone."""
    model = models[family]
    one, two = (model.encode_text(text)[0] for text in ("a red door", "a old hats"))
    assert one.embeds.shape == two.embeds.shape, "words as long as one another"
    pooled = None if one.pooled is None else torch.cat([one.pooled, two.pooled])
    both = replace(one, embeds=torch.cat([one.embeds, two.embeds]), pooled=pooled)
    hint = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(3))
    shown, level = ControlInputs(hint), model.schedule.levels(2)[1]
    network = load_network(
        find_layout(str(place / family), offline=True), "", type(NETWORKS[family]()), torch.float32, torch.device("cpu")
    )
    control = (model.steered(network, shown, 1.0, False, None),)
    x = torch.randn(2, 16, 8, 16, generator=torch.Generator().manual_seed(4))
    wide = Windowed(model, window=8, overlap=2)
    for prompt, alone in ((one, (one, one)), (both, (one, two))):
        (found,) = wide(x, level, [Conditioning(prompt=prompt, control=control)])
        for k, own in enumerate(alone):
            (expected,) = wide(x[k : k + 1], level, [Conditioning(prompt=own, control=control)])
            off = float((found.x0[k] - expected.x0[0]).abs().max())
            assert off <= 1e-4 * max(1.0, float(expected.x0.abs().max()))


def test_another_familys_controlnet_is_refused_with_both(models: dict[str, Any], place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"controlnet: .*is a QwenImageControlNetModel; .* needs a FluxControlNet"):
        tiny.walked(models["flux"], [steering(place, "qwen")])
    with pytest.raises(ModelError, match="is a FluxControlNetModel; .* needs a ZImageControlNetModel"):
        tiny.walked(models["z-image"], [steering(place, "flux")])
    wide = diffusers.FluxControlNetModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=3, joint_attention_dim=24,
        pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    wide.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="was made for another model: it has width 48; .* has width 32; choose"):
        tiny.walked(models["flux"], [ControlNet(control=str(place / "hint.png"), controlnet=str(tmp_path))])
    diffusers.ZImageControlNetModel(
        control_layers_places=[0], control_in_dim=20, dim=32, n_refiner_layers=1, n_heads=2, n_kv_heads=2
    ).save_pretrained(tmp_path / "z")
    with pytest.raises(ModelError, match="has 20 hint channels; supported are 16 and 33"):
        tiny.walked(models["z-image"], [ControlNet(control=str(place / "hint.png"), controlnet=str(tmp_path / "z"))])
