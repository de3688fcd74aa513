"""A tiny decoder shows the estimates, and no result is made by it: random weights, so plumbing is what is shown."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_latent
import torch
from safetensors.torch import save_file

from editkit import edit
from editkit.editing.recipe import to_mapping
from editkit.errors import EditkitError, ModelError, RecipeError, UsageError
from editkit.plugin import Chain
from editkit.plugins import SDEdit

PHOTO = np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8)


def decoder(channels: int = 4, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return diffusers.AutoencoderTiny(latent_channels=channels).eval()


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd"
    return tiny_latent.save_sd(folder, diffusers.DDIMScheduler.from_config(tiny_latent.SD))


def made(model: Path, **options: Any) -> tuple[np.ndarray, list[torch.Tensor], list[torch.Tensor]]:
    """(the result, its previews, the estimates they are of)."""
    shown: list[torch.Tensor] = []
    of: list[torch.Tensor] = []

    def watch(update: Any) -> None:
        seen = update.preview()
        assert seen is not None
        shown.append(seen)
        of.append(update.state.x0)

    how = {"prompt": "x", "steps": 2, "device": "cpu", "offline": True}
    found = edit(PHOTO, SDEdit(strength=1.0), model=str(model), progress=watch, **{**how, **options})
    return np.asarray(found.pixels), shown, of


@pytest.mark.parametrize("as_file", [False, True])
def test_it_shows_and_the_result_is_the_same(sd: Path, tmp_path: Path, as_file: bool) -> None:
    tiny = decoder()
    if as_file:
        save_file(tiny.state_dict(), tmp_path / "taesd.safetensors")
    else:
        tiny.save_pretrained(tmp_path / "taesd.safetensors")
    plain, own, _ = made(sd)
    found, shown, of = made(sd, preview_decoder=str(tmp_path / "taesd.safetensors"))
    assert np.array_equal(found, plain)
    for seen, x0 in zip(shown, of, strict=True):
        with torch.no_grad():
            expected = tiny.decode(x0).sample.clamp(-1, 1)
        assert torch.allclose(seen, expected, atol=1e-5)
    assert not torch.allclose(shown[0], own[0], atol=1e-2)


def test_one_that_lies_in_the_folder_is_taken_where_it_fits(sd: Path, tmp_path: Path) -> None:
    plain, own, _ = made(sd)
    with_one, other = (Path(shutil.copytree(sd, tmp_path / name)) for name in ("a", "b"))
    decoder().save_pretrained(with_one / "taesd")
    decoder(16).save_pretrained(other / "taesd")
    found, shown, _ = made(with_one)
    assert np.array_equal(found, plain)
    assert not torch.allclose(shown[0], own[0], atol=1e-2)
    assert torch.equal(made(other)[1][0], own[0]), "of other latents: the model's own decoder shows"


def test_what_is_none_is_refused(sd: Path, tmp_path: Path) -> None:
    def refused(path: Path, match: str, kind: type[EditkitError] = ModelError) -> None:
        with pytest.raises(kind, match=match):
            made(sd, preview_decoder=str(path))

    refused(tmp_path / "none", "no such folder or file", UsageError)
    (tmp_path / "x.pth").write_bytes(b"")
    refused(tmp_path / "x.pth", "is a pickle")
    refused(sd / "vae", "is a AutoencoderKL; it must be an AutoencoderTiny")
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "has no decoder.layers.0.weight")
    decoder(16).save_pretrained(tmp_path / "taef1")
    refused(tmp_path / "taef1", "reads latents of 16 channels, but those of .* have 4; leave it out")


def test_no_recipe_names_it() -> None:
    chain = Chain.of(SDEdit()).using(preview_decoder="taesd", seed=3)
    assert to_mapping(chain)["stages"][0]["options"] == {"seed": 3}
    from editkit.editing.recipe import from_mapping

    with pytest.raises(RecipeError, match="preview_decoder"):
        from_mapping({"editkit": 2, "stages": [{"plugins": ["sdedit"], "options": {"preview_decoder": "x"}}]})
