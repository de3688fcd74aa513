"""A transformer of its real size, with random weights: what `editkit plan` says of memory against what is measured.

    python benchmarks/real_size.py --folder /tmp/klein --side 512

FLUX.2 klein 4B by its published configuration: a folder is written whose files of weights have their real headers and
sizes, and nothing in them (sparse files: they take no room on the disk). The estimate is `editkit plan`'s, from these
headers. Then a process of its own loads transformer and VAE as every edit does, in bf16, fills them with random numbers
and takes one step at --side pixels, beside a random text of 512 tokens, and decodes it. Measured is the most memory
that process held, without what it held before it loaded. Needs about 10 GB of free memory, and some minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

KLEIN = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
    "guidance_embeds": False,
}  # fmt: skip
QWEN3 = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
}  # fmt: skip
"""Of the language model; not loaded here."""


def write(folder: Path) -> None:
    """The folder as diffusers lays it, of files without contents."""
    import torch
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.device("meta"):
        parts: dict[str, Any] = {
            "transformer": Flux2Transformer2DModel(**KLEIN), "vae": AutoencoderKLFlux2(),
            "text_encoder": Qwen3ForCausalLM(Qwen3Config(**QWEN3)),
        }  # fmt: skip
    index = {"_class_name": "Flux2KleinPipeline", "is_distilled": True}
    for name, network in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        index[name] = ["transformers" if name == "text_encoder" else "diffusers", type(network).__name__]
        network.save_config(folder / name) if name != "text_encoder" else network.config.save_pretrained(folder / name)
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        own = {key: tensor for key, tensor in network.state_dict().items() if key != "lm_head.weight"}  # tied
        hollow(folder / name / f"{stem}.safetensors", own)
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    index |= {
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def hollow(file: Path, tensors: dict[str, Any]) -> None:
    """A .safetensors file in bf16 whose numbers are a hole in the file: zeros."""
    header, at = {}, 0
    for key, tensor in tensors.items():
        kind, size = ("BF16", 2) if tensor.is_floating_point() else ("I64", 8)
        end = at + size * tensor.numel()
        header[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    words = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(words).to_bytes(8, "little") + words)
        out.truncate(8 + len(words) + at)


def filled(network: Any) -> Any:
    """`network` with random numbers in its matrices, and ones and zeros as they were in what is smaller."""
    import torch

    block = torch.randn(1 << 22).to(torch.bfloat16)
    with torch.no_grad():
        for p in network.parameters():
            deviation = p[0].numel() ** -0.5 if p.ndim > 1 else 0.1
            if not p.is_contiguous():  # a convolution, channels last
                p.normal_(0.0, deviation)
                continue
            for part in p.view(-1).split(len(block)):
                part.copy_(block[: len(part)] * deviation)
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(1.0)
    return network


def most() -> int:
    """Bytes that this process held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(folder: Path, side: int) -> None:
    """Says, as JSON, what was held before and at most, and whether what came is finite."""
    import diffusers  # noqa: F401 - what is imported is no part of the model
    import torch
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    from editkit.diffusion.conditioning import Conditioning, Prompt
    from editkit.models import describe
    from editkit.models.files.loading import find_layout, load_network
    from editkit.models.latent.flux2 import Empirical, Flux2
    from editkit.models.schedules import make_flow

    layout, cpu = find_layout(str(folder), offline=True), torch.device("cpu")
    with torch.device("meta"):
        Flux2Transformer2DModel(**KLEIN)
    before = most()
    transformer = filled(load_network(layout, "transformer", Flux2Transformer2DModel, torch.bfloat16, cpu))
    vae = filled(load_network(layout, "vae", AutoencoderKLFlux2, torch.bfloat16, cpu))
    loaded = most()
    schedule = make_flow(layout.config("scheduler"), patch=1, mu=Empirical())
    model = Flux2(describe(str(folder), offline=True), transformer, vae, None, None, schedule)
    prompt = Prompt(torch.randn(1, 512, KLEIN["joint_attention_dim"]))
    x = torch.randn(1, *model.shape(side, side))
    with torch.inference_mode():
        (prediction,) = model(x, schedule.levels(1)[1], [Conditioning(prompt=prompt)])
        stepped = most()
        image = model.decode(prediction.x0)
    finite = bool(torch.isfinite(prediction.x0).all() and torch.isfinite(image).all())
    said = {"before": before, "loaded": loaded - before, "stepped": stepped - before, "decoded": most() - before}
    print(json.dumps({**said, "finite": finite}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the hollow folder is written")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--measure", action="store_true", help="this is the process that is measured")
    given = parser.parse_args()
    if given.measure:
        measure(given.folder, given.side)
        return
    from editkit.diffusion.model import Pass
    from editkit.models.needs import needs
    from editkit.pictures.boxes import Box

    write(given.folder)
    found = needs(str(given.folder), [Pass(Box(0, 0, given.side, given.side), given.side, given.side, steps=1)], 2)
    assert found is not None
    command = [sys.executable, __file__, "--folder", str(given.folder), "--side", str(given.side), "--measure"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    weights = found.network + found.vae
    pairs = {
        "weights": (weights, measured["loaded"]), "with a step": (weights + found.steps, measured["stepped"]),
        "with a step and decoding": (weights + found.working, measured["decoded"]),
    }  # fmt: skip
    print(f"FLUX.2 klein 4B, random weights, bf16, {given.side} pixels, finite: {measured['finite']}")
    print("| | estimate, GB | measured, GB | off |")
    print("|---|---|---|---|")
    for what, (estimate, held) in pairs.items():
        print(f"| {what} | {estimate / 1e9:.2f} | {held / 1e9:.2f} | {100 * (estimate / held - 1):+.1f} % |")


if __name__ == "__main__":
    main()
