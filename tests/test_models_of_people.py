"""Models as people have them: pointers and pages in place of weights, other schedulers, files that are no LoRA, sizes
that no weights have, no home. Random weights; no network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from tiny_latent import SD, save_sd

from editkit import edit
from editkit.cli import run
from editkit.common import places
from editkit.errors import EditkitError, ModelError
from editkit.models import describe, load
from editkit.models.files.layout import suggest_folder
from editkit.models.files.weights import check_sizes, read_stored
from editkit.models.schedules import MOST_LEVELS, default_sampler, make_schedule
from editkit.models.setup import Setup
from editkit.plugins import SDEdit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd(tmp_path_factory.mktemp("whole"), DDIMScheduler(**SD))


@pytest.fixture
def sd(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "sd"))


def loaded(folder, **setup):
    return load(describe(str(folder), offline=True), CPU, torch.float32, offline=True, setup=Setup(**setup))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"7" * 64 + b"\nsize 3438167540\n"
MISTAKEN = [
    (POINTER, "Git LFS pointer.*git lfs pull"),
    (b"<!doctype html><html><title>Sign in</title></html>", "web page"),
    (b"\xef\xbb\xbf\n <html>", "web page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    (b"", "empty"),
    (b"hello", "damaged or not a safetensors"),
]


@pytest.mark.parametrize(("content", "what"), MISTAKEN)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_something_else_are_called_so(sd, part, content, what):
    for file in (sd / part).glob("*.safetensors"):
        file.write_bytes(content)
    with pytest.raises(ModelError, match=what) as told:
        loaded(sd)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("content", "what"), MISTAKEN[:5])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_configurations_that_are_something_else_are_called_so(sd, file, content, what):
    (sd / file).write_bytes(content)
    with pytest.raises(ModelError, match=what):
        loaded(sd)


@pytest.mark.parametrize(("content", "what"), MISTAKEN)
def test_a_lora_that_is_something_else_is_called_so(sd, tmp_path, content, what):
    (tmp_path / "style.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=f"--lora style.safetensors.*{what}"):
        loaded(sd, lora=(str(tmp_path / "style.safetensors"),))


@pytest.mark.parametrize(
    ("end", "what"),
    [
        ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("lora_mid.weight", "Tucker"), ("oft_blocks", "OFT"),
        ("diff", "differences"), ("on_input", "IA3"),
    ],
)  # fmt: skip
def test_what_is_no_lora_is_refused_by_its_name(sd, tmp_path, end, what):
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.{end}": torch.zeros(4, 4), f"{stem}.alpha": torch.tensor(4.0)}
    if "mid" in end:
        tensors |= {f"{stem}.lora_up.weight": torch.zeros(4, 4), f"{stem}.lora_down.weight": torch.zeros(4, 4)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=f"is an? .*{what}|is whole .*{what}"):
        loaded(sd, lora=(str(tmp_path / "x.safetensors"),))


@pytest.mark.parametrize("name", ["UP.SAFETENSORS", "my lora v1.0 (final).safetensors", "a.b.SafeTensors"])
def test_a_lora_is_one_whatever_its_capitals_and_dots(sd, tmp_path, name):
    unet = load_file(sd / "unet" / "diffusion_pytorch_model.safetensors")
    key = next(key for key in unet if key.endswith("attn1.to_q.weight"))
    stem, (rows, columns) = "lora_unet_" + key.removesuffix(".weight").replace(".", "_"), unet[key].shape
    draw = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)
    save_file(
        {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(2.0)},
        tmp_path / name,
    )
    seen = []
    for word in (None, str(tmp_path / name), f"{tmp_path / name}:0"):
        picture = np.full((32, 32, 3), 90, np.uint8)
        given = {} if word is None else {"lora": (word,)}
        made = edit(picture, SDEdit(strength=0.9), model=str(sd), steps=2, offline=True, prompt="a", **given)
        seen.append(np.asarray(made))
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


@pytest.mark.parametrize("more", [0, 3])
def test_a_lora_that_fits_in_part_is_told(sd, tmp_path, more):
    unet = load_file(sd / "unet" / "diffusion_pytorch_model.safetensors")
    key = next(key for key in unet if key.endswith("attn1.to_q.weight"))
    stem, (rows, columns) = "lora_unet_" + key.removesuffix(".weight").replace(".", "_"), unet[key].shape
    tensors = {}
    for name in [stem, *(stem.replace("blocks_0", f"blocks_{7 + k}").replace("blocks_1", f"blocks_{7 + k}")
                         for k in range(more))]:  # fmt: skip
        tensors |= {f"{name}.lora_down.weight": torch.ones(2, columns), f"{name}.lora_up.weight": torch.ones(rows, 2)}
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "half.safetensors")
    said = " ".join(loaded(sd, lora=(str(tmp_path / "half.safetensors"),)).chosen)
    assert ("fits model" in said) is bool(more)
    assert not more or f"{more} of its {more + 1} layers" in said


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "KDPM2DiscreteScheduler", "SomebodysOwnScheduler"])
def test_a_scheduler_that_is_not_here_gives_its_table(sd, name):
    file = sd / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "_class_name": name}))
    table = make_schedule({**config, "_class_name": name})
    assert table == make_schedule(config) or np.array_equal(table.alphas_cumprod, make_schedule(config).alphas_cumprod)
    picture = np.full((32, 32, 3), 90, np.uint8)
    for given in ({}, {"sampler": "ddim"}):
        edit(picture, SDEdit(strength=0.5), model=str(sd), steps=2, offline=True, prompt="a", **given)


@pytest.mark.parametrize("config", [{"_class_name": "EDMEulerScheduler", "sigma_min": 0.002}, {"_class_name": "X"}])
def test_a_scheduler_of_another_kind_of_table_is_refused(config):
    with pytest.raises(ModelError, match="is not known"):
        default_sampler(config)


@pytest.mark.parametrize("times", [0, -5, MOST_LEVELS + 1, 10**9, "x", 5.5, None])
def test_levels_of_a_training_are_bounded(times):
    with pytest.raises(ModelError, match="num_train_timesteps"):
        make_schedule({"beta_start": 0.1, "num_train_timesteps": times})


NONSENSE = [
    ("unet/config.json", {"layers_per_block": 10_000_000}),
    ("unet/config.json", {"transformer_layers_per_block": [10_000_000]}),
    ("unet/config.json", {"block_out_channels": [10_000_000, 32]}),
    ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 100_000}),
    ("vae/config.json", {"layers_per_block": 10_000_000}),
    ("text_encoder/config.json", {"num_hidden_layers": 10_000_000}),
    ("text_encoder/config.json", {"max_position_embeddings": 1_000_000_000}),
    ("text_encoder/config.json", {"num_attention_heads": 0}),
    ("text_encoder/config.json", {"hidden_act": 5}),
    ("unet/config.json", {"act_fn": 7}),
    ("unet/config.json", {"norm_num_groups": 0}),
    ("unet/config.json", {"in_channels": "x"}),
    ("unet/config.json", {"block_out_channels": [32, -1]}),
    ("vae/config.json", {"latent_channels": [1]}),
    ("scheduler/scheduler_config.json", {"steps_offset": "x"}),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 1_000_000_000}),
]


@pytest.mark.parametrize(("file", "change"), NONSENSE)
def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_is_built(sd, file, change):
    config = json.loads((sd / file).read_text())
    (sd / file).write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError) as told:
        loaded(sd)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600


def test_what_is_there_is_within_the_bounds(whole):
    for part in ("unet", "vae", "text_encoder"):
        file = next((whole / part).glob("*.safetensors"))
        check_sizes("m", part, json.loads((whole / part / "config.json").read_text()), read_stored("m", file))


@pytest.fixture
def homeless(monkeypatch):
    """A user id without a name and without HOME, as services and containers have."""
    import pwd

    def nobody(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RuntimeError):
        Path.home()


def test_without_a_home_everything_works_and_nothing_is_kept(homeless, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert places.expand_path("~/x") == Path("~/x")
    for words in (["models"], ["plugins"], ["doctor"], ["config"], ["models", "info", "pocket"]):
        assert run(words) == 0, words
    assert "should not happen" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    for words in (["sdedit", "x.png", "--model", "~/nothing"], ["sdedit", "x.png", "--lora", "~/a.safetensors"]):
        assert run(words) in (1, 2)
        assert "should not happen" not in capsys.readouterr().err


def test_settings_of_another_user_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)

    def denied(self, *given, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    from editkit.cli import settings

    assert settings.read().values == {}


# ------------------------------------------------------------------------------------------ folders that are near


def test_a_folder_that_holds_no_model_says_which_is_near(whole, tmp_path):
    cached = tmp_path / "hub" / "models--o--n"
    revision = cached / "snapshots" / ("a" * 40)
    shutil.copytree(whole, revision)
    (cached / "refs").mkdir()
    for folder in (cached, cached / "snapshots", tmp_path / "hub"):
        with pytest.raises(ModelError, match=f"give {revision} .the hub's cache"):
            describe(str(folder), offline=True)
    assert describe(str(revision), offline=True).takes >= {"prompt"}
    beside = tmp_path / "beside" / "sd"
    shutil.copytree(whole, beside)
    with pytest.raises(ModelError, match=f"give {beside}$"):
        describe(str(beside.parent), offline=True)
    with pytest.raises(ModelError, match=f"is part of the model {beside}"):
        describe(str(beside / "unet"), offline=True)
    (tmp_path / "empty").mkdir()
    assert suggest_folder(tmp_path / "empty") == ""


def changed(folder, file, **keys):
    place = folder / file
    place.write_text(json.dumps({**json.loads(place.read_text()), **keys}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: (m / "tokenizer" / "tokenizer_config.json").write_bytes(POINTER),
            "tokenizer_config.json is a Git LFS",
        ),
        (lambda m: changed(m, "tokenizer/tokenizer_config.json", model_max_length=10**18), "texts of 1e.18 tokens"),
        (lambda m: shutil.rmtree(m / "tokenizer"), "texts of 1e.30 tokens|cannot be loaded"),
        (lambda m: changed(m, "vae/config.json", scaling_factor=0), "scaling_factor 0"),
        (lambda m: changed(m, "vae/config.json", scaling_factor="inf"), "scaling_factor inf"),
        (lambda m: changed(m, "vae/config.json", scaling_factor=float("nan")), "scaling_factor nan"),
        (lambda m: changed(m, "scheduler/scheduler_config.json", trained_betas=[2.0] * 1000), "betas lie beyond"),
        (lambda m: changed(m, "scheduler/scheduler_config.json", beta_end=float("nan")), "betas lie beyond"),
    ],
)
def test_numbers_and_files_that_make_no_model_are_named(sd, change, said):
    change(sd)
    picture = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(EditkitError, match=said):
        edit(picture, SDEdit(strength=1.0), model=str(sd), prompt="a cat", steps=1, offline=True)


def test_a_hubs_cache_in_a_home_that_is_not_there_holds_no_models(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~nobody-of-this-name/hub")  # ~ of a user without a home
    assert run(["models"]) == 0
