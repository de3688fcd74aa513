"""Which large libraries a command imports: each costs a second or more before anything is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from editkit.models.files.skeleton import meta_skeleton

NEVER = {
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "scipy",
    "openvino",
}
"""What an edit by a model that comes with editkit has no use for."""

RUN = "import sys; from editkit.cli import run; code = run(sys.argv[1:]); print(*sys.modules); sys.exit(code)"


def imported(folder: Path, *words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("model", ["patches", "pocket"])
def test_an_edit_by_an_embedded_model_imports_torch_and_no_library_beside_it(tmp_path: Path, model: str) -> None:
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").resize((96, 80)).save(tmp_path / "p.png")
    found = imported(
        tmp_path, "inpaint", "p.png", "--mask", "box:20,20,40,40", "-o", "o.png", "--model", model, "--steps", "2"
    )
    assert "torch" in found
    assert not NEVER & found


def test_a_network_is_made_without_values_and_what_is_made_then_is_not() -> None:
    with meta_skeleton():
        made = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.LSTM(4, 4))
        nn.init.trunc_normal_(tensor=made[1].weight)
        real = nn.init.normal_(torch.empty(1000, device="cpu"))
    assert all(tensor.is_meta for tensor in made.state_dict().values())
    assert 0.8 < float(real.std()) < 1.2
    assert not nn.Linear(3, 3).weight.is_meta


def test_a_network_without_values_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    with meta_skeleton():
        nn.Embedding(3, 4)
    assert torch.equal(torch.get_rng_state(), before)
