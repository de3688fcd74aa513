"""The list of same_bits.py: what is made, in the words of the command line. The pictures are in same_bits_models.py.

A line's name is a key of the record: what is changed here needs a new name, or a new record.
"""

from __future__ import annotations

from typing import Any

COMMON = "--device cpu --dtype fp32 --offline --quiet --force"
SAMPLERS = (
    "ddpm", "ddpm:variance=large", "ddim", "ddim:eta=1", "euler", "euler-ancestral", "heun", "dpm++2m", "dpm++2m-sde",
    "unipc",
)  # fmt: skip
SHAPES = "--clip-model ./models/shapes"
LABEL = "classifier --label 1 --classifier ./models/timm"
STEER = "controlnet --controlnet ./models"

EDITS: dict[str, tuple[str, str]] = {
    "patches": ("--steps 6", f"""
        box: inpaint photo.png --mask box:20,14,44,34
        usual steps: inpaint photo.png --mask ellipse:26,18,44,36 --steps 22
        feather: inpaint photo.png --mask ellipse:18,10,48,42 --feather 5 --seed 3
        color: inpaint flat.png --mask color:#c83c28~30 --grow 1
        strokes: inpaint photo.png --mask strokes.png
        soft mask: inpaint photo.png --mask soft.png
        grown: inpaint photo.png --mask box:24,14,40,30 --grow 4 --feather 3
        inverted: inpaint photo.png --mask box:10%,10%,85%,90% --invert-mask
        words: inpaint photo.png --mask border:5+polygon:20,10,50,16,30,44-box:28,18,34,26
        alpha: inpaint clear.png --mask alpha
        transparent: inpaint clear.png --mask box:4,4,20,20
        grey: inpaint grey.png --mask box:20,14,44,34
        deep: inpaint deep.png --mask box:20,14,44,34
        deep feather: inpaint deep.png --mask ellipse:20,14,44,34 --feather 4 then sdedit --strength 0.4
        turned: inpaint turned.jpg --mask box:14,20,34,44
        wide: inpaint wide.png --mask ellipse:70,60,150,120 --steps 22
        wide deep: inpaint wide.png --mask ellipse:30,30,190,140
        wide strokes: inpaint wide.png --mask polygon:5,5,215,150,5,9
        soft grown: inpaint photo.png --mask soft.png --grow 3
        two holes: inpaint photo.png --mask box:4,4,14,14+box:56,40,68,52
        remove: remove photo.png --mask ellipse:24,14,44,34
        fill noise: inpaint photo.png --mask box:16,10,50,40 --fill noise
        fill mean: inpaint photo.png --mask box:16,10,50,40 --fill mean
        fill original: inpaint photo.png --mask box:16,10,50,40 --fill original with sdedit --strength 0.7
        from: inpaint photo.png --mask box:20,14,44,34 --from other.png --from small.png
        tries: inpaint photo.png --mask box:16,10,50,40 --tries 3 --fill noise --seed 1
        mean: inpaint photo.png --mask box:20,14,44,34 --estimate mean --samples 2
        canvas full: inpaint large.png --mask box:20,14,44,34 --canvas full
        canvas crop: inpaint large.png --mask box:20,14,44,34 --canvas crop
        repaint: inpaint photo.png --mask box:24,16,40,30 --method repaint --jump 2 --repeats 2
        noise diffusers: inpaint photo.png --mask box:20,14,44,34 --noise diffusers
        ddpm: inpaint photo.png --mask box:20,14,44,34 --sampler ddpm
        heun: inpaint photo.png --mask box:20,14,44,34 --sampler heun
        euler-ancestral: inpaint photo.png --mask box:20,14,44,34 --sampler euler-ancestral
        dpm++2m: inpaint photo.png --mask box:20,14,44,34 --sampler dpm++2m
        uncrop: uncrop small.png --left 10 --bottom 6
        uncrop transparent: uncrop clear.png --top 8
        aspect: uncrop small.png --aspect 2:1 --overlap 0 --from other.png
        texture: texture other.png --size 80x48
        large texture: texture other.png --size 160x120
        deep texture: texture deep.png --size 64x64
        with guide: inpaint photo.png --mask box:20,14,44,34 with guide --loss color --color #a05030 --weight 2000
        with classifier: inpaint photo.png --mask box:24,16,40,32 with {LABEL} --scale 40 --gradient x0
        with clip: inpaint photo.png --mask box:24,16,40,32 with clip --text "a red circle" --cuts 2 {SHAPES}/clip
        then: inpaint photo.png --mask box:24,16,40,32 then sdedit --strength 0.5 then upscale --scale 1.5 --steps 3
        sdedit: sdedit photo.png --strength 0.7
        upscale: upscale small.png --scale 2
        upscale ddrm: upscale small.png --scale 3 --method ddrm --sigma 4 --kernel average
        gaussian: restore photo.png --degradation gaussian:1.5
        average: restore small.png --degradation average:2
        bicubic: restore small.png --degradation bicubic:1.5 --strength 0.6
    """),
    "pocket": ("--model pocket --steps 4", f"""
        box: inpaint deep.png --mask box:20,14,44,34
        usual steps: inpaint deep.png --mask box:20,14,44,34 --steps 8 --seed 5
        ddpm: inpaint deep.png --mask box:20,14,44,34 --sampler ddpm
        euler: inpaint deep.png --mask box:20,14,44,34 --sampler euler
        dpm++2m-sde: inpaint deep.png --mask box:20,14,44,34 --sampler dpm++2m-sde
        unipc: inpaint deep.png --mask box:20,14,44,34 --sampler unipc
        large hole: inpaint large.png --mask box:6,6,104,82
        wide: inpaint wide.png --mask box:20,20,200,140+box:208,150,216,158
        wide strokes: inpaint wide.png --mask polygon:5,5,215,150,5,9
        full mask: inpaint small.png --mask box:0,0,24,20 --model auto
        mean: inpaint deep.png --mask box:20,14,44,34 --estimate mean --samples 2
        uncrop: uncrop small.png --right 20 --top 9
        sdedit: sdedit deep.png --strength 0.5
        threshold: sdedit deep.png --strength 0.8 with threshold --percentile 0.9 --largest 2
        colorize: colorize grey.png
        colorize ddnm: colorize grey.png --method ddnm --model auto
        colorize unheld: colorize grey.png --no-project
        denoise: denoise noisy.png --model auto
        denoise sampled: denoise noisy.png --sigma 20 --sampled
        denoise views: denoise noisy.png --sigma 12 --views 3
        purify: purify deep.png --sigma 40
        upscale: upscale small.png --scale 2
        upscale unheld: upscale small.png --scale 1.7 --method conditioned --no-project --estimate mean --samples 2
        upscale deep: upscale deep.png --scale 1.5
        upscale dps: upscale small.png --scale 2 --method dps --zeta 0.5
        upscale pigdm: upscale small.png --scale 2 --method pigdm
        noise: restore noisy.png --degradation noise --sigma 20
        ddnm: restore deep.png --degradation mask --mask strokes.png --method ddnm
        ddnm+: restore noisy.png --degradation gaussian:1 --sigma 10 --method ddnm
        ddrm: restore noisy.png --degradation gaussian:1 --sigma 10 --method ddrm --eta 0.7 --eta-b 0.9
        diffpir: restore noisy.png --degradation average:2 --sigma 3 --method diffpir --lam 5
        dps: restore noisy.png --degradation motion:7,30 --method dps --taper
        pigdm: restore noisy.png --degradation bicubic:2 --sigma 5 --method pigdm
        jpeg: restore photo.png --degradation jpeg:20
        jpeg dps: restore photo.png --degradation jpeg:20 --method dps
        quantise: restore photo.png --degradation quantise:6
        lost colour: restore photo.png --degradation grey
        kernel: restore photo.png --degradation kernel:kernel.png --strength 0.5
        motion: restore deep.png --degradation motion:5,0
        canny: inpaint deep.png --mask box:20,14,44,34 with controlnet --control canny:low=50,high=120
        hint file: sdedit deep.png with controlnet --control hint.png --scale 0.7 --stop 0.6
        palette: guide deep.png --loss palette --palette #102030,#c0a060 --weight 500
        reference: guide deep.png --loss reference --reference other.png --gradient x0 --limit 0.05
        symmetry: sdedit deep.png with guide --loss symmetry --symmetry turned --mask box:20,14,44,34 --normalize 0.1
        smooth: sdedit deep.png with guide --loss smooth --every 2 --profile 0:0,0.5:1,1:0.2
        sharpness: inpaint deep.png --mask box:20,14,44,34 with guide --loss sharpness --view region --start 0.25
        features: sdedit deep.png with guide --loss features --reference other.png --network ./models/timm
        with classifier: sdedit deep.png with {LABEL} --scale 40
        with clip: inpaint deep.png --mask box:20,14,44,34 with clip --text "a red circle" {SHAPES}/clip --cuts 3
        two guides: sdedit deep.png with guide --brightness 0.8 with clip --image other.png {SHAPES}/clip --cuts 0
    """),
    "shapes": ("--model ./models/shapes/prior --steps 6 --sampler ddpm", f"""
        noise-aware clip: sdedit tiny.png --strength 1 --spacing leading --steps 25 with clip \
            --text "a blue square" {SHAPES}/clip-noisy
        clip cosine: sdedit tiny.png --strength 1 with clip --text "a blue square:2" --distance cosine {SHAPES}/clip
        noise-aware classifier: sdedit tiny.png with classifier --label b --classifier ./models/noisy --scale 3
    """),
    "pixel": ("--model ./models/pixel --steps 4", "".join(f"""
        {name}: sdedit deep.png --strength 0.8 --canvas full --sampler {name}""" for name in (*SAMPLERS, "lcm")) + """
        trailing: sdedit deep.png --strength 0.8 --canvas full --sampler ddim --spacing trailing
        repaint: inpaint deep.png --mask box:20,14,44,34 --method repaint --jump 1 --repeats 2
        repaint-diffusers: inpaint deep.png --mask box:20,14,44,34 --method repaint-diffusers --jump 2 --repeats 2 \
            --noise diffusers --spacing leading --sampler ddim --canvas full --steps 8
        repaint noise diffusers: inpaint deep.png --mask box:20,14,44,34 --method repaint --jump 2 --repeats 3 \
            --noise diffusers --steps 6 --canvas full
        windows: sdedit large.png --strength 0.6
        threshold: sdedit deep.png with threshold
        known noise: inpaint deep.png --mask box:20,14,44,34 --known-noise fixed --feather 4
        guide network: inpaint deep.png --mask box:20,14,44,34 with guide --brightness 0.9 --gradient network
        ddnm: restore deep.png --degradation average:2 --method ddnm --sampler ddim:eta=1
        dps: restore deep.png --degradation gaussian:1 --method dps
        one channel: sdedit deep.png --model ./models/mono --canvas full --steps 7
        learned variance: sdedit deep.png --model ./models/learned --canvas full --sampler ddpm
        score: sdedit deep.png --model ./models/score --canvas full --sampler euler
    """),
    "sd": ("--model ./models/sd --steps 4 --prompt 'a red door in a brick wall'", "".join(f"""
        {name}: inpaint deep.png --mask box:20,14,44,34 --sampler {name}""" for name in (*SAMPLERS, "lcm")) + f"""
        sdedit: sdedit deep.png --strength 0.6 --negative blurry --guidance-scale 5
        rescale: sdedit deep.png --steps 8 with cfg --scale 6 --rescale 0.7 --start 0.2 --stop 0.9
        no guidance: sdedit deep.png --guidance-scale 1
        weights: sdedit deep.png --prompt "a (red)1.4 door++ and sky-" with prompt --weights
        long prompt: sdedit deep.png --prompt "{"a red door in a brick wall under an old lamp " * 10}"
        fill smooth: inpaint deep.png --mask box:20,14,44,34 --fill smooth with sdedit --strength 0.7
        fill mean: inpaint deep.png --mask box:20,14,44,34 --fill mean with sdedit --strength 0.7
        fill noise: inpaint deep.png --mask box:20,14,44,34 --fill noise with sdedit --strength 0.7
        windows: inpaint large.png --mask box:4,4,108,84
        windows control: sdedit large.png with {STEER}/control0 --control canny
        wide: inpaint wide.png --mask box:20,20,200,140+box:208,150,216,158
        canvas full: inpaint photo.png --mask box:20,14,44,34 --canvas full --feather 3
        crop padding: inpaint large.png --mask ellipse:20,14,44,34 --crop-padding 8
        tries: inpaint large.png --mask box:4,4,108,84 --tries 3 --seed 1
        mean: sdedit deep.png --estimate mean --samples 2 --seed 9
        repaint: inpaint deep.png --mask box:20,14,44,34 --method repaint --jump 2 --repeats 2
        noise diffusers: inpaint deep.png --mask box:20,14,44,34 --noise diffusers --canvas full
        noise diffusers strength: inpaint deep.png --mask soft.png --noise diffusers with sdedit --strength 0.75
        noise diffusers repaint: inpaint deep.png --mask box:20,14,44,34 --method repaint --jump 1 --repeats 2 \
            --noise diffusers --sampler ddpm
        karras: sdedit deep.png --model ./models/karras
        v prediction: inpaint deep.png --mask box:20,14,44,34 --model ./models/v --spacing linspace --sampler euler
        lcm model: sdedit deep.png --model ./models/lcm --guidance-scale 4
        lora: sdedit deep.png --lora ./models/a.safetensors:0.8 --lora ./models/b.safetensors:-0.5
        bf16: sdedit photo.png --dtype bf16
        then: inpaint deep.png --mask box:20,14,44,34 then upscale --scale 1.5 --model pocket
        dps: restore deep.png --degradation gaussian:1.5
        upscale: upscale small.png --scale 2
        linear decoder: sdedit deep.png with clip --text "a red circle" {SHAPES}/clip --decoder linear --cuts 2
        checkpoint: sdedit deep.png with guide --loss color --checkpoint
        control: inpaint deep.png --mask box:20,14,44,34 with {STEER}/control0 --control lineart --start 0.2
        guess: sdedit deep.png with {STEER}/control0 --control hint.png --guess --scale 0.8
        two hints: sdedit deep.png with {STEER}/control0 --control canny with {STEER}/control1 --control hint.png
        control diffusers: inpaint deep.png --mask box:20,14,44,34 --noise diffusers with {STEER}/control1 \
            --control tile:factor=2
        uncrop: uncrop small.png --left 30 --top 20
        nine: inpaint deep.png --mask box:20,14,44,34 --model ./models/sd9
        nine diffusers: inpaint deep.png --mask box:20,14,44,34 --model ./models/sd9 --noise diffusers --canvas full
        nine sdedit: sdedit deep.png --model ./models/sd9
        nine control: inpaint deep.png --mask strokes.png --model ./models/sd9 with {STEER}/control0 --control scribble
        nine windows: inpaint large.png --mask box:4,4,108,84 --model ./models/sd9 --sampler dpm++2m
        xl: inpaint deep.png --mask box:20,14,44,34 --model ./models/xl
        xl sdedit: sdedit deep.png --model ./models/xl --negative blurry --noise diffusers
        xl refiner: sdedit deep.png --strength 1 --model ./models/xl --refiner ./models/refiner:0.5
        xl weights: sdedit deep.png --model ./models/xl --prompt "a (red)1.4 door++" with prompt --weights
        xl lora: sdedit deep.png --model ./models/xl --lora ./models/xl.safetensors
        xl control: sdedit deep.png --model ./models/xl with {STEER}/controlxl --control canny
        sd3: inpaint deep.png --mask box:20,14,44,34 --model ./models/sd3
        sd3 ddim: sdedit deep.png --model ./models/sd3 --sampler ddim --negative blurry --noise diffusers
        upscaler: upscale small.png --scale 4 --model ./models/upscaler
        upscaler unheld: upscale small.png --scale 2.5 --model ./models/upscaler --no-project --noise-level 60
    """),
    "plain": ("--steps 3", """
        spandrel: spandrel small.png --weights ./models/esrgan.safetensors --scale 2
        spandrel tiles: spandrel large.png --weights ./models/esrgan.safetensors --scale 1.5 --tile 48
        spandrel then: spandrel small.png --weights ./models/esrgan.safetensors --scale 2 then sdedit --model pocket
    """),
}  # fmt: skip
"""Block: (what stands first on each of its lines, lines `name: words`)."""

BATCH = "inpaint photo.png --mask box:8,8,18,16 --steps 4 with guide --brightness 0.7"
SEVERAL: dict[str, tuple[str, ...]] = {
    "batch": (f"{BATCH} --save-recipe OUT.yaml -o OUT.png {COMMON}", "batch OUT.yaml three OUT --quiet"),
    "batch masks": (
        f"inpaint photo.png --mask strokes.png --steps 3 --save-recipe OUT.yaml -o OUT.png {COMMON}",
        "batch OUT.yaml three OUT --mask {stem}.png --masks masks --anywhere --seed 4 --quiet",
    ),
    "run": (
        f"{BATCH} then sdedit --strength 0.5 --save-recipe OUT.yaml -o OUT.png {COMMON}",
        "run OUT.yaml large.png -o OUT.run.png --seed 2 --quiet",
        "rerun OUT.png --picture photo.png -o OUT.rerun.png",
    ),
    "grid": (
        "grid --vary inpaint.feather=0,4 --vary seed=1,2 --cells OUT inpaint photo.png --mask box:20,14,44,34 "
        f"--steps 3 -o OUT.png {COMMON}",
    ),
    "candidates": (f"inpaint photo.png --mask box:20,14,44,34 --steps 3 --candidates 2 -o OUT.png {COMMON}",),
    "compare": (f"inpaint photo.png --mask soft.png --steps 3 --compare OUT.sheet.png -o OUT.png {COMMON}",),
    "formats": tuple(
        f"inpaint {name}.png --mask box:20,14,44,34 --steps 2 -o OUT.{name}.{ending} {COMMON}"
        for name, ending in [("photo", "jpg"), ("photo", "webp"), ("clear", "webp"), ("deep", "tif"), ("deep", "png")]
    ),
    # no --trace: its sheet and page show seconds
    "seen": (f"sdedit photo.png --model pocket --steps 4 --preview OUT -o OUT.png {COMMON}",),
    "mask": ("mask photo.png --box 5,5,40,30 --minus ellipse:9,9,30,28 --grow 3 --feather 4 -o OUT.png --force",),
    **{
        f"hint {name}": (f"hint photo.png --control {name} -o OUT.png --force",)
        for name in (
            "canny", "lineart", "lineart_standard", "scribble", "tile", "luma", "blur:sigma=3", "palette:cell=8",
            "shuffle:grain=9",
        )
    },
}  # fmt: skip
"""Commands that make several pictures, or belong together. OUT is where results go: OUT.png, OUT.*.png and OUT/."""

TRAIN = "--batch 2 --dtype fp32 --images three --heldout held.txt --threads 1 --output OUT"
SEVERAL |= {
    "train": (
        f"train prior {TRAIN}/prior --steps 3 --channels 32,32 --window 16",
        f"train controlnet {TRAIN}/controlnet --steps 2 --base OUT/prior/export",
        f"train distill {TRAIN}/distill --steps 2 --base OUT/prior/export",
        "train report --images three --heldout held.txt --output OUT --model OUT/prior/export --steps 2 --samples 1",
        "train classifier --images labels --output OUT/noisy --size 16 --steps 4 --width 8 --stages 2 --model patches",
        "train classifier --images labels --output OUT/clean --size 16 --steps 4 --width 8 --stages 2 --batch 3 --flip",
    ),
}

REPAINT = {"method": "repaint", "jump": 3, "repeats": 2}
SAMPLES: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    **{name: (None, {"sampler": name, "steps": 12}) for name in SAMPLERS},
    "replace": ({}, {"steps": 12, "seed": 1}),
    "replace dpm++2m": ({}, {"steps": 8, "sampler": "dpm++2m", "spacing": "trailing"}),
    "repaint": (REPAINT, {"steps": 12}),
    "repaint ddim": (REPAINT, {"steps": 12, "sampler": "ddim", "spacing": "leading"}),
    "repaint fixed": ({**REPAINT, "known_noise": "fixed"}, {"steps": 12, "sampler": "euler-ancestral"}),
    "repaint diffusers": (REPAINT, {"steps": 12, "noise": "diffusers"}),
    "repaint-diffusers": ({**REPAINT, "method": "repaint-diffusers"}, {"steps": 12, "noise": "diffusers"}),
}
"""`editkit.sample` on a Gaussian: (what Inpaint is given, None: no plugin; options)."""
