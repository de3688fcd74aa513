"""CLIP guidance: its parts on a small trained open_clip model (tests/weights/shapes), and what its user gets wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import Isotropic

from editkit import edit, sample
from editkit.errors import ModelError, ParameterError, UsageError
from editkit.models import describe, load
from editkit.models.clip import load_clip
from editkit.pictures.picture import Picture
from editkit.plugins import Clip, Inpaint, SDEdit

SHAPES = Path(__file__).parent / "weights" / "shapes"
CLIP, NOISY, PRIOR = (str(SHAPES / name) for name in ("clip", "clip-noisy", "prior"))
CPU = torch.device("cpu")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture(scope="module")
def prior():
    return load(describe(PRIOR), CPU, torch.float32)


@pytest.fixture
def picture():
    return Picture(np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def test_the_committed_model_knows_its_captions():
    from shapes import CAPTIONS, drawn

    clip = load_clip(CLIP, CPU)
    x, y = drawn(120, torch.Generator().manual_seed(11))
    nearest = (clip.images(x) @ clip.texts(CAPTIONS, CPU).T).argmax(1)
    assert float((nearest == y).float().mean()) > 0.95


def test_the_measure_without_a_network_knows_what_was_drawn():
    from shapes import CAPTIONS, drawn, recognised_all

    x, y = drawn(120, torch.Generator().manual_seed(12))
    assert sum(found == CAPTIONS[k] for found, k in zip(recognised_all(x), y.tolist(), strict=True)) >= 118


def test_guidance_towards_a_caption_makes_what_it_says(prior):
    """Twelve samples, three captions: without guidance one in twelve would be right. The benchmark has the figures."""
    from shapes import recognised_all

    right = colour = 0
    for k, caption in enumerate(("a red circle", "a blue square", "a green triangle")):
        wish = Clip(text=caption, scale=60.0, clip_model=CLIP, cuts=0)
        x = sample(prior, wish, shape=(4, 3, 16, 16), sampler="ddpm", steps=25, spacing="leading", seed=k)
        found = recognised_all(x)
        right += sum(name == caption for name in found)
        colour += sum(name.split()[1:2] == caption.split()[1:2] for name in found)
    assert right >= 9
    assert colour >= 9


def test_cuts_come_from_the_plugins_own_stream_and_the_global_one_is_left_alone(picture):
    def made(seed=1):
        wish = Clip(text="a red circle", clip_model=CLIP, cuts=3, chunk=2)
        return edit(picture, SDEdit(strength=1.0) & wish, model=Isotropic(), steps=3, seed=seed).pixels

    state = torch.random.get_rng_state()
    one = made()
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert np.array_equal(one, made())
    assert not np.array_equal(one, made(seed=2))


def test_chunks_change_nothing_and_cuts_are_averaged(picture):
    def made(chunk):
        wish = Clip(text="a red circle", clip_model=CLIP, cuts=6, chunk=chunk)
        return edit(picture, SDEdit(strength=1.0) & wish, model=Isotropic(), steps=2).pixels.astype(int)

    assert np.abs(made(1) - made(6)).max() <= 1


def test_memory_does_not_grow_with_the_number_of_cut_outs(picture, monkeypatch):
    """The graph keeps no more for 64 cut-outs than for 8, and CLIP sees one chunk at a time."""
    from editkit.models.clip import Clip as Loaded

    seen, real = [], Loaded.images
    monkeypatch.setattr(Loaded, "images", lambda self, images: seen.append(len(images)) or real(self, images))

    def kept(cuts):
        held = {}

        def pack(tensor):
            held[tensor.data_ptr()] = tensor  # each chunk refers to the same picture; held, no other takes its address
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            wish = Clip(text="a red circle", clip_model=CLIP, cuts=cuts, chunk=4)
            edit(picture, SDEdit(strength=1.0) & wish, model=Isotropic(), steps=2)
        return sum(tensor.numel() for tensor in held.values())

    few, many = kept(8), kept(64)
    assert many == few  # activations kept for every cut-out would be 8 times as many
    assert max(seen) == 4


def test_weights_negative_ones_and_pictures_are_wishes(picture):
    from shapes import picture as drawing

    clip = load_clip(CLIP, CPU)

    def near(**wish):
        made = edit(picture, SDEdit(strength=1.0) & Clip(clip_model=CLIP, cuts=0, scale=300.0, **wish),
                    model=Isotropic(), steps=12)  # fmt: skip
        x = torch.from_numpy(made.pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1.0
        return float((clip.images(x.float()) @ clip.texts(["a red circle"], CPU).T)[0, 0])

    wanted, against = near(text=("a red circle",)), near(text=("a red circle:-1",))
    assert wanted > 0.5 > 0.0 > against
    assert near(image=drawing("a red circle", 8, 8, 5)) > against + 0.3
    assert against < near(text=("a red circle:0.5", "a blue square:0.5")) < wanted + 1e-3


def test_clip_inpaint_and_region_act_together(picture):
    wish = Clip(text="a red circle", clip_model=CLIP, cuts=2, view="region", every=2)
    result = edit(picture, Inpaint(mask="box:4,4,12,12") & wish, model=Isotropic(), steps=4)
    kept = np.ones((16, 16), bool)
    kept[4:12, 4:12] = False
    assert np.array_equal(result.pixels[kept], picture.pixels[kept])


def test_where_each_kind_of_model_is_asked():
    assert Clip(text="x", clip_model=CLIP).through() == "network"
    assert Clip(text="x", clip_model=CLIP, gradient="x0").through() == "x0"
    assert Clip(text="x", clip_model=NOISY).through() == "x_t"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "there is no target: give --text, or --image"),
        ({"text": ("",)}, "a text is needed"),
        ({"text": (" :2",)}, "a text is needed"),
        ({"text": ("a:0",)}, "every weight is 0"),
    ],
)
def test_an_empty_wish_is_refused(wish, message):
    with pytest.raises(ParameterError, match=message):
        Clip(**wish)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ViT-B-33:openai", "open_clip has no model called 'ViT-B-33', .* near ones: .*ViT-B-32"),
        ("ViT-B-32:laion9b", "weights of ViT-B-32 are .*laion2b_s34b_b79k.*; write ViT-B-32:TAG"),
        ("ViT-B-32", "weights of ViT-B-32 are .*openai"),
        ("no/where", "there is no such folder"),
        (str(SHAPES), "open_clip_config.json and open_clip_model.safetensors are needed"),
    ],
)
def test_a_model_that_is_not_there_says_which_are(source, message):
    with pytest.raises(ModelError, match=message):
        load_clip(source, CPU, offline=True)


def test_weights_that_are_not_here_are_told_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="--offline is on, so the hub was not asked; give a folder"):
        load_clip("ViT-B-32:laion2b_s34b_b79k", CPU, offline=True)


def test_a_model_that_does_not_fit_says_why(picture):
    large = Picture(np.zeros((24, 24, 3), np.uint8))
    for wish, source, message in (
        (Clip(text="a", clip_model=NOISY), large, "noise cannot be resized"),
        (Clip(text="a", clip_model=NOISY, gradient="network"), picture, "is noise-aware, so it sees x_t"),
        (Clip(text="a", clip_model=CLIP, gradient="x_t"), picture, "not noise-aware, so it cannot see x_t"),
    ):
        with pytest.raises((ModelError, UsageError), match=message):
            edit(source, SDEdit(strength=1.0) & wish, model=Isotropic(), steps=2)
