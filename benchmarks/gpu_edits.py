"""The sections of gpu.py that take their time: whole edits against diffusers' pipelines, `patches`, hooks.

Networks are made on the device with random weights, and both sides get the very same ones; that they are random
matters neither to time nor to memory. An edit begins with a picture and a mask in memory and ends with the picture that
came of it: encoding, text, every step, decoding; loading is not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from gpu import Bench, Jobs, Row

PROMPT, STEPS = "a red door in a brick wall", 20


@dataclass
class Sides:
    """The same networks twice: in diffusers' pipeline, and as editkit uses them."""

    pipe: Any
    model: Any
    size: int
    steps: int
    device: str

    def scene(self) -> tuple[Any, Any]:
        """A photograph and a mask of 15 % of it, as PIL images."""
        from diffusers_cpu import ROOT
        from PIL import Image

        photo = Image.open(ROOT / "assets" / "photos" / "meadow.jpg").convert("RGB")
        side = min(photo.size)
        mask = np.zeros((self.size, self.size), np.uint8)
        hole = round(self.size * 0.15**0.5)
        mask[self.size // 3 : self.size // 3 + hole, self.size // 4 : self.size // 4 + hole] = 255
        return photo.crop((0, 0, side, side)).resize((self.size, self.size)), Image.fromarray(mask)

    def theirs(self) -> Any:
        import torch

        photo, mask = self.scene()
        return self.pipe(
            prompt=PROMPT, image=photo, mask_image=mask, num_inference_steps=self.steps, width=self.size,
            height=self.size, strength=1.0, generator=torch.Generator().manual_seed(0),
        ).images[0]  # fmt: skip

    def ours(self, canvas: str) -> Any:
        from editkit import edit
        from editkit.plugins import Inpaint

        photo, mask = self.scene()
        return edit(
            photo, Inpaint(mask=mask), model=self.model, prompt=PROMPT, steps=self.steps, sampler="ddim", canvas=canvas,
            device=self.device, seed=0, offline=True,
        )  # fmt: skip


def sd(bench: Bench) -> Sides:
    """Stable Diffusion 1.5's inpainting networks."""
    import diffusers
    import tiny_latent as tiny
    import torch

    from editkit.models.fast.blocks import replace_blocks
    from editkit.models.files.layout import Layout
    from editkit.models.latent import unet as adapter
    from editkit.models.schedules import make_schedule

    scheduler = diffusers.DDIMScheduler.from_config(tiny.SD)
    with torch.device(bench.device):
        if bench.tiny:
            parts = {"unet": tiny.unet(in_channels=9), "vae": tiny.vae(), "text_encoder": tiny.text_encoder()}
        else:
            parts = {
                "unet": diffusers.UNet2DConditionModel(sample_size=64, in_channels=9, cross_attention_dim=768),
                "vae": _vae(512),
                "text_encoder": _text(768, 12),
            }
    pipe = diffusers.StableDiffusionInpaintPipeline(
        **parts, tokenizer=tiny.tokenizer(), scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe = _ready(bench, pipe)
    layout = Layout("sd", _configured(bench, "sd", pipe))
    model = adapter.LatentUNet(
        adapter.describe(layout), replace_blocks(copy.deepcopy(pipe.unet)), pipe.vae, pipe.tokenizer, pipe.text_encoder,
        make_schedule(layout.config("scheduler")), layout.config("scheduler"),
    )  # fmt: skip
    return Sides(pipe, model, 64 if bench.tiny else 1024, 3 if bench.tiny else STEPS, bench.device)


def xl(bench: Bench) -> Sides:
    """Stable Diffusion XL's networks."""
    import diffusers
    import same_bits_models
    import tiny_latent as tiny
    import torch

    from editkit.models.fast.blocks import replace_blocks
    from editkit.models.files.layout import Layout
    from editkit.models.latent import xl as adapter
    from editkit.models.schedules import make_schedule

    with torch.device(bench.device):
        if bench.tiny:
            unet, vae = same_bits_models.unet_xl(), tiny.vae(force_upcast=False)
            texts = tiny.text_encoder(), tiny.text_encoder(projected=True)
        else:
            unet = diffusers.UNet2DConditionModel(
                sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            )  # fmt: skip
            vae, texts = (
                _vae(1024, scaling_factor=0.13025, force_upcast=False),
                (_text(768, 12), _text(1280, 32, projected=True)),
            )
    pipe = diffusers.StableDiffusionXLInpaintPipeline(
        unet=unet, vae=vae, text_encoder=texts[0], text_encoder_2=texts[1], tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer(), scheduler=diffusers.DDIMScheduler.from_config(tiny.SD), add_watermarker=False,
    )  # fmt: skip
    pipe = _ready(bench, pipe)
    layout = Layout("xl", _configured(bench, "xl", pipe))
    readers = (
        adapter.Reader(pipe.tokenizer, pipe.text_encoder),
        adapter.Reader(pipe.tokenizer_2, pipe.text_encoder_2),
    )
    model = adapter.LatentXL(
        adapter.describe(layout), replace_blocks(copy.deepcopy(pipe.unet)), pipe.vae, readers,
        make_schedule(layout.config("scheduler")), layout.config("scheduler"), zeros=True, scored=False,
    )  # fmt: skip
    return Sides(pipe, model, 64 if bench.tiny else 1024, 3 if bench.tiny else STEPS, bench.device)


def _vae(size: int, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=size,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **more,
    )  # fmt: skip


def _text(width: int, layers: int, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, projection_dim=width, bos_token_id=49406, eos_token_id=49407,
        pad_token_id=49407,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _ready(bench: Bench, pipe: Any) -> Any:
    """In bf16 on the device (tiny: fp32), quiet."""
    import torch

    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(bench.device, torch.float32 if bench.tiny else torch.bfloat16)


def _configured(bench: Bench, name: str, pipe: Any) -> Any:
    """A folder with the pipeline's configurations and no weights: what editkit reads to describe a model."""
    folder = bench.work / f"configured-{name}"
    pipe.save_config(folder)
    for part, network in pipe.components.items():
        if hasattr(network, "save_config"):
            network.save_config(folder / part)
        elif hasattr(network, "config"):
            network.config.save_pretrained(folder / part)
        elif network is not None:
            network.save_pretrained(folder / part)
    return folder


Kinds = dict[str, Callable[[Bench], Sides]]
KINDS: Kinds = {"SD 1.5 inpainting": sd, "SDXL": xl}


def _alternating(bench: Bench, jobs: dict[str, Callable[[], object]], repeats: int) -> Row:
    """Median seconds of each, one after the other in turn, and the GPU memory that each needs beyond the weights."""
    import statistics

    row: Row = {}
    for name, job in jobs.items():  # the first one of each chooses kernels, and is looked at for memory
        row[f"{name}_first_s"] = bench.seconds(
            lambda job=job, name=name: row.update({f"{name}_GiB": bench.memory(job)})
        )
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            times[name].append(bench.seconds(job))
    row |= {f"{name}_s": statistics.median(found) for name, found in times.items()}
    return row


def against(bench: Bench, sides: Sides, repeats: int) -> Row:
    """editkit on the full frame and on a crop, and diffusers."""
    row = _alternating(
        bench, {"diffusers": sides.theirs, "full": partial(sides.ours, "full"), "crop": partial(sides.ours, "crop")},
        repeats,
    )  # fmt: skip
    return row | {"full_ratio": row["full_s"] / row["diffusers_s"], "crop_times": row["diffusers_s"] / row["crop_s"]}


def _each(bench: Bench, how: Callable[[Sides], Row], names: tuple[str, ...] = tuple(KINDS)) -> Jobs:
    """`how` for each kind of model, made before it and given back after it."""
    import gc

    import torch

    for name in names:
        made: list[Sides] = []

        def make(name: str = name, made: list[Sides] = made) -> Row:
            made.append(KINDS[name](bench))
            return {"weights_G": sum(p.numel() for p in made[0].pipe.unet.parameters()) / 1e9}

        yield f"{name}: made", make
        if made:
            yield name, lambda made=made: how(made[0])
        made.clear()
        gc.collect()
        if bench.cuda:
            torch.cuda.empty_cache()


def edits(bench: Bench) -> Jobs:
    yield from _each(bench, lambda sides: against(bench, sides, 1 if bench.tiny else 3))


def compiled(bench: Bench) -> Jobs:
    """Full frames, since a crop has another size and would be compiled again."""

    def both(sides: Sides) -> Row:
        if not bench.tiny:  # a test has no minute for it: there the same is called as it is
            sides.pipe.unet.compile()
            sides.model.unet.compile()
        found = _alternating(bench, {"diffusers": sides.theirs, "full": partial(sides.ours, "full")}, 2)
        return found | {"full_ratio": found["full_s"] / found["diffusers_s"]}

    yield from _each(bench, both)


def offload(bench: Bench) -> Jobs:
    """Networks move to the GPU for as long as each is used."""
    import torch

    from editkit.models.setup import Setup, prepare_model

    def both(sides: Sides) -> Row:
        device = torch.device(bench.device)
        if bench.cuda:  # there is nothing to move without one
            sides.pipe.to("cpu")
            sides.model.unet.to("cpu")
            sides.pipe.enable_model_cpu_offload(device=device)
            theirs = _alternating(bench, {"diffusers": sides.theirs}, 1)
            sides.pipe.remove_all_hooks()
            sides.pipe.to("cpu")
            sides.model = prepare_model(sides.model, Setup(offload="model"), device, torch.bfloat16, True)
        else:
            theirs = _alternating(bench, {"diffusers": sides.theirs}, 1)
        return theirs | _alternating(bench, {"full": partial(sides.ours, "full")}, 1)

    yield from _each(bench, both, ("SDXL",))


def patches(bench: Bench) -> Jobs:
    """A hole of 15 %, on the device and on the processor."""
    from editkit import edit
    from editkit.plugins import Inpaint

    for size in (64,) if bench.tiny else (512, 1024):
        photo, mask = Sides(None, None, size, 0, bench.device).scene()
        results: dict[str, np.ndarray] = {}

        def one(device: str, photo: Any = photo, mask: Any = mask, results: Any = results) -> None:
            results[device] = edit(photo, Inpaint(mask=mask), model="patches", device=device, seed=0).pixels

        def both(one: Callable[[str], None] = one, results: Any = results) -> Row:
            row = _alternating(bench, {"device": partial(one, bench.device), "cpu": partial(one, "cpu")}, 1)
            apart = np.abs(results[bench.device].astype(int) - results["cpu"].astype(int))
            return row | {"cpu_times": row["cpu_s"] / row["device_s"], "share_that_differs": float((apart > 1).mean())}

        yield f"{size} px", both


def hooks(bench: Bench) -> Jobs:
    """A network that takes about 20 ms a call: a bare loop, the engine, and the engine with three idle plugins."""
    import overhead
    import torch

    from editkit import sample

    steps, shape = (4, (1, 3, 32, 32)) if bench.tiny else (20, (1, 3, 512, 512))

    class Slow(overhead.Network):
        """Asked `times` times for one answer."""

        times: ClassVar[int] = 1

        def __call__(self, x_t: Any, level: Any, conds: Any) -> Any:
            for _ in range(self.times - 1):
                self.net(x_t)
            return super().__call__(x_t, level, conds)

    def bare(model: Slow) -> Any:
        levels = model.schedule.levels(steps)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(bench.device)
        with torch.no_grad():
            for t, s in zip(levels[:0:-1], levels[-2::-1], strict=True):
                (pred,) = model(x, t, [None])
                x = s.alpha * pred.x0 + s.sigma * pred.eps
        return x

    def both() -> Row:
        model = Slow()
        model.net.to(bench.device)
        once = bench.seconds(lambda: bare(model), 3) / steps
        if not bench.tiny:
            Slow.times = max(1, round(0.020 / once))
        run = partial(sample, model, shape=shape, sampler="ddim", steps=steps, device=bench.device)
        idle = [overhead.Idle(), overhead.Idle(), overhead.Idle()]
        found = _alternating(bench, {"bare": lambda: bare(model), "engine": run, "idle": lambda: run(idle)}, 5)
        each = {name: 1e3 * found[f"{name}_s"] / steps for name in ("bare", "engine", "idle")}
        row: Row = {f"{name}_step_ms": value for name, value in each.items()}
        return row | {"engine_ratio": each["engine"] / each["bare"], "idle_ratio": each["idle"] / each["bare"]}

    yield f"{steps} steps", both
