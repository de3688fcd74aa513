"""What fits where, before weights load: from the headers of a tiny folder, and of sizes made up."""

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import tiny_flow as tiny
import torch
from test_parity_flux2 import parts

from editkit.batch.sizes import memory_of
from editkit.cli import run
from editkit.diffusion.model import Pass
from editkit.models import describe
from editkit.models.memory import DECODER, DENOISER
from editkit.models.needs import CARDS, Needs, bytes_of, gpu_cards, lines, needs
from editkit.pictures.boxes import Box
from editkit.plugin.chain import Chain
from editkit.plugins import SDEdit

GB = 1_000_000_000


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "klein"
    diffusers.Flux2KleinPipeline(**parts(), is_distilled=True).save_pretrained(path)
    tiny.picture(48, 32).save(path.parent / "photo.png")
    return path


def at(width: int, height: int, window: int | None = None) -> Pass:
    return Pass(Box(0, 0, width, height), height, width, 4, window=window)


@pytest.mark.parametrize("itemsize", [2, 4])
def test_it_counts_the_numbers_that_the_networks_have(klein: Path, itemsize: int) -> None:
    """Buffers are kept in the files too, so they count; whole numbers stay as they are."""
    made = parts()

    def count(name: str) -> int:
        tensors = made[name].state_dict().values()
        return sum(t.numel() * (itemsize if t.is_floating_point() else t.element_size()) for t in tensors)

    found = needs(str(klein), [at(64, 32), at(128, 64, window=64)], itemsize)
    assert found is not None
    assert found.network == count("transformer")
    assert found.vae == count("vae")
    tied = made["text_encoder"].lm_head.weight.numel()  # tied: saved once
    assert found.readers == count("text_encoder") - itemsize * tied
    assert found.steps == 64 * 64 * DENOISER[itemsize]
    assert found.decoding == 128 * 64 * DECODER[itemsize]


def test_of_what_comes_with_editkit_or_is_not_here_nothing_is_said(tmp_path: Path) -> None:
    assert needs("pocket", [at(64, 64)], 2) is None
    assert needs("nobody/nothing", [at(64, 64)], 2) is None
    assert needs(str(tmp_path), [at(64, 64)], 2) is None


def test_the_fastest_way_that_fits_is_named() -> None:
    """klein 4B in bf16: 8 GB of network, 8 of text encoder."""
    found = Needs(network=8 * GB, readers=8 * GB, vae=GB // 5, steps=GB, decoding=GB)
    assert dict(gpu_cards(found)) == {
        8: "--offload group", 12: "as it is, text encoders read from disk",
        16: "as it is, text encoders read from disk", 24: "as it is", 48: "as it is", 80: "as it is",
    }  # fmt: skip
    assert found.how(9.1 * GB) == "--offload model"
    assert found.how(1.9 * GB) is None
    needed = [size for _, size in found.ways()]
    assert needed == sorted(needed, reverse=True)


def test_nothing_fits_less_where_there_is_more() -> None:
    found = Needs(network=64 * GB, readers=48 * GB, vae=GB, steps=2 * GB, decoding=4 * GB)
    order = [way for way, _ in found.ways()]
    places = [len(order) if way is None else order.index(way) for _, way in gpu_cards(found)]
    assert places == sorted(places, reverse=True)
    assert len(places) == len(CARDS)


def test_it_is_said_in_four_lines() -> None:
    found = Needs(network=8 * GB, readers=8 * GB, vae=GB // 5, steps=GB, decoding=GB)
    memory, gpu, packed, cpu = lines(found, bytes_of("auto"))
    assert memory == (
        "memory, 2 bytes per number: network 8.0 GB, text encoders 8.0 GB, VAE 0.2 GB, while it works about 1.0 GB"
    )
    assert gpu == (
        "GPU of 8 GB: --offload group; 12, 16 GB: as it is, text encoders read from disk; 24, 48, 80 GB: as it is"
    )
    assert packed == (
        "with a GGUF of its network in 4 bits (--transformer FILE), about 2.2 GB: GPU of 8, 12 GB: as it is, text "
        "encoders read from disk; 16, 24, 48, 80 GB: as it is"
    )
    assert cpu.startswith("CPU, ")
    four = found.in_four_bits(2)
    assert four.network == 2_250_000_000
    memory, gpu, cpu = lines(four, 2)
    assert memory.startswith("memory, 2 bytes per number, the network packed: network 2.2 GB")


def test_what_fits_as_it_is_needs_no_packing() -> None:
    assert len(lines(Needs(GB, GB, GB // 5, GB, GB), 2)) == 3


def test_plan_says_it(klein: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "edit", str(klein.parent / "photo.png"), "--model", str(klein), "--prompt", "x", "--dtype", "fp32"]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "memory, 4 bytes per number: network" in shown
    assert "GPU of 8, 12, 16, 24, 48, 80 GB: as it is" in shown
    assert run([*words, "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["memory"]["gpus"]["8"] == "as it is"
    assert run(["plan", "sdedit", str(klein.parent / "photo.png"), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["memory"] is None


def test_it_needs_no_torch(klein: Path) -> None:
    words = ["plan", "edit", str(klein.parent / "photo.png"), "--model", str(klein), "--prompt", "x"]
    code = f"import sys; from editkit.cli import run; sys.exit(run({words!r}) or ('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_headers_are_read_whatever_the_numbers(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from editkit.models.files.weights import shapes

    tensors = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7, dtype=torch.float8_e4m3fn)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert dict(shapes("x", tmp_path / "x.safetensors")) == {"a": (3, 5), "b": (7,)}


def test_a_worker_needs_the_models_of_all_stages_once(klein: Path) -> None:
    """Weights of each model once, and the most that one of them needs while it works; nothing for embedded ones."""
    model = str(klein)
    side = describe(model).window or 512
    found = needs(model, [at(side, side)], 4)
    assert found is not None
    alone = Chain.of(SDEdit()).using(model=model, dtype="fp32")
    assert memory_of(alone) == found.network + found.readers + found.vae + found.working
    assert memory_of(alone | alone) == memory_of(alone)
    assert memory_of(Chain.of(SDEdit()).using(model="pocket")) == 0
