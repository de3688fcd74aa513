"""The plain upscaler: spandrel's networks, random weights; tiles equal the whole on a local one; what is refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from editkit import edit
from editkit.errors import ModelError
from editkit.models.leasing import Models
from editkit.pictures.picture import Picture
from editkit.plugins import SDEdit, Spandrel

pytest.importorskip("spandrel")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny x2 network of the SRVGG (Real-ESRGAN compact) kind."""
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(0)
    network = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


def picture(height: int = 30, width: int = 44) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_no_model_is_loaded_and_nothing_is_denoised(weights):
    models = Models(load=lambda *a, **k: pytest.fail("a model was loaded"))
    result = edit(picture(), Spandrel(weights=weights, scale=2), model="pocket", models=models)
    assert result.size == (88, 60)
    assert not np.array_equal(result.pixels, Picture(picture()).resized(88, 60).pixels)


def test_another_scale_is_the_networks_own_resized(weights):
    said = []
    result = edit(picture(), Spandrel(weights=weights, scale=3), notify=said.append)
    assert result.size == (132, 90)
    assert said[:1] == ["spandrel: the network enlarges 2 times; its result is resized to 3"]
    assert [line.split(" levels")[0] for line in said[1:]] == ["spandrel: consistency"]


def test_tiles_show_no_seam(weights):
    """The network sees four pixels to each side; tiles overlap by eight, and fade."""
    whole = edit(picture(70, 90), Spandrel(weights=weights, scale=2)).pixels.astype(int)
    tiled = edit(picture(70, 90), Spandrel(weights=weights, scale=2, tile=48)).pixels.astype(int)
    assert np.abs(whole - tiled).max() <= 1


def test_it_chains(weights, monkeypatch):
    from toy import Isotropic

    chain = Spandrel(weights=weights, scale=2) | SDEdit(strength=0.5)
    assert edit(picture(), chain, model=Isotropic(), steps=2).size == (88, 60)


def test_what_is_no_upscaler_is_refused(weights, tmp_path):
    with pytest.raises(ModelError, match="needs weights="):
        edit(picture(), Spandrel())
    with pytest.raises(ModelError, match="safetensors only"):
        edit(picture(), Spandrel(weights="x.pth"))
    with pytest.raises(ModelError, match="is not a file"):
        edit(picture(), Spandrel(weights=str(tmp_path / "x.safetensors")))
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, other)
    with pytest.raises(ModelError, match="is not an upscaler that spandrel knows"):
        edit(picture(), Spandrel(weights=str(other)))
