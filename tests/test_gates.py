"""Every place that hands a stranger's file or configuration to a library, and what it lets through. No network.

The source is walked for calls that read, build or import by what a file says. A call that is not in `GATES` fails here:
whoever adds one says what may get through it, and tests that.
"""

import ast
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from tiny_latent import SD, save_sd

from editkit.common import trust
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.files.layout import Layout
from editkit.models.lora import _load_lora
from editkit.models.setup import Setup

ROOT = Path(__file__).parent.parent
ANY_OWNER = {
    "from_pretrained", "from_config", "from_single_file", "create_model", "get_model", "get_tokenizer", "exec",
    "load_lora_weights", "load_from_file", "load_file", "safe_open", "import_module", "snapshot_download", "__import__",
    "GGUFReader", "load_gguf_checkpoint",
    "hf_hub_download", "fetch_diffusers_config", "frombuffer", "Popen", "system", "literal_eval", "from_file",
}  # fmt: skip
OF_OWNER = {
    "loads": {"json", "pickle", "marshal", "tomllib"}, "load": {"yaml", "torch", "pickle", "np", "json", "joblib"},
    "compose": {"yaml"}, "run": {"subprocess"}, "compile": {"builtins"},
}  # fmt: skip
BY_NAME = ("transformers", "diffusers", "controlnet_aux", "import_module(")
"""A class that is looked up in a library by a name, with `getattr`."""

OWN = "a name that stands in editkit's own source"
WEIGHTS = "tensors; safetensors holds nothing else, and shapes are compared before they are used"
TEXT = "plain JSON, whose values are checked where they are used"
GATES = {
    "editkit/__init__.py:__getattr__": OWN,
    "editkit/plugin/__init__.py:__getattr__": OWN,
    "editkit/cli/__init__.py:commands.typer_app.load": OWN,
    "editkit/cli/completion.py:_command_completions": OWN,
    "editkit/common/moved.py:Finder.exec_module": OWN,
    "editkit/common/moved.py:forward.found": OWN,
    "editkit/pictures/files/reading.py:_register_heif": OWN,
    "editkit/pictures/files/decoding.py:_by_opencv": "bytes of a PNG or TIFF that Pillow has opened already",
    "editkit/batch/catalog.py:Catalog.done": "our own temporary database of this run",
    "editkit/batch/catalog.py:Items._item": "our own temporary database of this run",
    "editkit/batch/delivery.py:done_of": "a marker of known keys; its names are compared with the batch's own",
    "editkit/batch/lease.py:_parse_lease": "a lease of known keys and types",
    "editkit/batch/ledger.py:Ledger._records": "lines of known keys; names are compared with the batch's own",
    "editkit/cli/rates.py:_read": "pairs of positive numbers; anything else is left out (tests/test_plan_command.py)",
    "editkit/batch/manifest.py:_read": "rows of texts and numbers, checked as options; none names a file to write",
    "editkit/batch/metrics.py:_load_state": "tensors; torch reads weights_only",
    "editkit/batch/on_ray.py:_rows": "what this driver packed for its own workers",
    "editkit/batch/on_ray.py:_stream_results": "what this driver's own workers packed",
    "editkit/batch/sheet.py:_as_parquet": "our own lines of results",
    "editkit/cli/studio/notations.py:_eval_literal": "a literal of the call that is pasted: text, numbers, lists",
    "editkit/editing/workplace.py:_read_facts": "our own facts of a frame",
    "editkit/editing/workplace.py:_read_picture": "our own PNG of a frame",
    "editkit/models/latent/flux.py:Flux.pipeline": "a class of diffusers that our source names",
    "plugins/editkit_plugins/masks/networks.py:_read_json": TEXT,
    "plugins/editkit_plugins/masks/networks.py:_load": "classes that our source names; safetensors, no code, no hub",
    "editkit/batch/journal.py:_read": "lines of known keys and types; paths are compared with the batch's own",
    "editkit/cli/settings.py:read": "the user's own file: known options, checked as if they were typed",
    "editkit/editing/contract.py:light": "this Python, which imports a module that is installed",
    "editkit/editing/fast.py:_description": "a header of text, in which words are looked for",
    "editkit/editing/recipe.py:from_yaml": "YAML without aliases and tags, at most 20,000 values, known keys",
    "editkit/plugin/summaries.py:_read_cache": "the user's own cache: lines of text about plugins",
    "editkit/models/classifiers/__init__.py:is_noisy": "whether a key is there",
    "editkit/models/clip.py:is_noisy": "whether a key is there",
    "editkit/models/classifiers/loading.py:_build_empty": "names in torchvision's and timm's lists; a class count",
    "editkit/models/classifiers/loading.py:_load_tensors": WEIGHTS,
    "editkit/models/clip.py:_fetch_weights": "a place in open_clip's own list",
    "editkit/models/clip.py:_from_folder": "keys in trust._CLIP, tokenizers in trust.CLIP_TOKENIZERS, no code, no hub",
    "editkit/models/clip.py:_from_list": "names in open_clip's own list, no code",
    "editkit/models/clip.py:_read_json": "to trust.check_clip_config",
    "editkit/models/files/layout.py:Layout.json": "a JSON object without keys that choose code",
    "editkit/models/files/loading.py:_from_hub.fetch": "the user's own word; JSON, text and safetensors, no pickles",
    "editkit/models/files/loading.py:load_network": "a class that our source names; sizes that the file's tensors have",
    "editkit/models/files/loading.py:_fill_skeleton": "the configuration that load_network made a network of",
    "editkit/models/files/loading.py:load_text_encoder": "CLIPText* and T5Encoder*, tokenizers in trust.TOKENIZERS",
    "editkit/models/files/overlay.py:_open_gguf": "a header; names, shapes and kinds of tensors, which are compared",
    "editkit/models/files/overlay.py:_read_packed": "tensors of kinds that diffusers unpacks; shapes are compared",
    "editkit/models/files/overlay.py:unpacking_network": "our own class; a configuration looked through",
    "editkit/models/files/quantised.py:dequantise_4bit": "numbers, which are compared with what is stored",
    "editkit/models/fast/converted.py:PlainRebuild.__call__": "the configuration of a network that is loaded",
    "editkit/models/files/quantised.py:load": "our own class; torchao or bitsandbytes, told numbers and names",
    "editkit/models/files/single_file.py:load_component": "a pipeline of diffusers, one component of a known class",
    "editkit/models/files/single_file.py:find_configuration": "shapes of tensors; gives a name in diffusers' own list",
    "editkit/models/files/weights.py:_shards": "names of .safetensors files without folders",
    "editkit/models/files/weights.py:read": "a safetensors header that safe_open has read already",
    "editkit/models/files/weights.py:read_stored": WEIGHTS,
    "editkit/models/latent/controls.py:beside_transformer": "the configuration of a network that is loaded",
    "editkit/models/latent/space.py:in_float32": "the configuration of a network that is loaded",
    "editkit/models/denoiser/model.py:load": "safetensors; sizes that its tensors have (test_denoiser.py)",
    "editkit/models/prompts/vision.py:_load_preprocessor": "a class of our source; JSON without keys that choose code",
    "editkit/models/prompts/vision.py:load_image_encoder": "kinds of image encoders in vision.KINDS",
    "editkit/models/prompts/vision.py:load_tower": "kinds in vision.KINDS; safetensors; sizes that its tensors have",
    "editkit/models/prompts/words.py:load_words": "tokenizers in trust.TOKENIZERS, no code, no hub",
    "editkit/models/schedules.py:make_schedule": "numbers for DDPMScheduler, bounded in their count",
    "editkit/models/lora.py:_check_words": "names and numbers that are no regular expressions",
    "editkit/models/lora.py:_load_lora": "what _check_kind and _check_words let through",
    "editkit/training/checkpoint.py:load_checkpoint": "tensors, and settings of known keys and types",
    "editkit/training/checkpoint.py:read_metadata": TEXT,
    "editkit/training/distill.py:DistillLesson.export": TEXT,
    "editkit/training/network.py:load": WEIGHTS,
    "editkit/training/pictures.py:_read_facts": TEXT,
    "editkit/training/settings.py:architecture_of": TEXT,
    "plugins/editkit_plugins/guide.py:_import_loss": "code, with --allow-code alone",
    "plugins/editkit_plugins/hints/annotators.py:Aux._folder": "repositories that our source names",
    "plugins/editkit_plugins/hints/annotators.py:_load_detector": "classes of our source; torch reads weights_only",
    "plugins/editkit_plugins/noise_files.py:read_learned": "tensors of the text's shape, and JSON that is compared",
    "plugins/editkit_plugins/noise_files.py:load_noise": "one tensor of the run's shape, and JSON that is compared",
    "plugins/editkit_plugins/spandrel.py:_load_upscaler": "a .safetensors file; spandrel knows them by their tensors",
}
"""Place -> what it lets through."""


def gates(text):
    """(place, call) of every gate in a module's source."""

    def within(node, where):
        for child in ast.iter_child_nodes(node):
            inner = [*where, child.name] if isinstance(child, ast.FunctionDef | ast.ClassDef) else where
            if isinstance(child, ast.Call) and opens(child):
                yield ".".join(where), ast.unparse(child.func)
            yield from within(child, inner)

    return list(within(ast.parse(text), []))


def opens(call):
    """Whether a call hands something of a file to a library."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else None
    if name == "getattr":
        constant = len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
        return not constant and ast.unparse(call.args[0]).startswith(BY_NAME)
    return name in ANY_OWNER or owner in OF_OWNER.get(name, ()) or (owner is None and name in ("exec", "eval"))


def test_every_gate_is_known_and_says_what_it_lets_through():
    found = set()
    for room in ("editkit", "plugins/editkit_plugins"):
        for file in sorted((ROOT / room).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            found |= {f"{name}:{place}" for place, _ in gates(file.read_text(encoding="utf-8"))}
    assert found - GATES.keys() == set(), "a new gate: say in GATES what it lets through, and test that"
    assert GATES.keys() - found == set(), "a gate that is no more"
    assert all(len(told) > 10 for told in GATES.values())


@pytest.mark.parametrize(
    "text",
    ["import torch\ntorch.load('x')", "def f():\n  return pickle.loads(b'')", "yaml.load(x)", "exec('x')", "eval('x')",
     "getattr(transformers, config['class'])", "x.from_pretrained(y)", "subprocess.run(['gs'])", "__import__(name)"],
)  # fmt: skip
def test_a_gate_is_seen(text):
    assert gates(text)


OF_OUR_OWN = {
    ("contract.py", "light"), ("metrics.py", "_load_state"), ("on_ray.py", "_rows"), ("on_ray.py", "_stream_results"),
}  # fmt: skip
"""A Python of ours; tensors read by `weights_only`; what a driver and its own workers say to each other."""


def test_weights_of_metrics_are_read_without_code():
    source = (ROOT / "editkit/batch/metrics.py").read_text(encoding="utf-8")
    assert source.count("torch.load(") == source.count("weights_only=True")


def test_no_source_reads_pickles_or_starts_programs():
    for room in ("editkit", "plugins/editkit_plugins"):
        for file in (ROOT / room).rglob("*.py"):
            found = gates(file.read_text(encoding="utf-8"))
            calls = {call for place, call in found if (file.name, place) not in OF_OUR_OWN}
            bad = {"torch.load", "pickle.load", "pickle.loads", "marshal.loads", "exec", "eval", "os.system",
                   "subprocess.run", "subprocess.Popen", "np.load", "joblib.load"}  # fmt: skip
            assert not calls & bad, file


# ---------------------------------------------------------------------------------------- keys that choose code

CHOOSE = {
    "auto_map": {"AutoModel": "evil.Model"}, "_attn_implementation": "a/kernel", "attn_implementation": "a/kernel",
    "_attn_implementation_internal": "a/kernel", "experts_implementation": "a/b", "quantization_config": {"a": 1},
    "compression_config": {}, "use_kernels": True, "kernel_config": {"a": "b"}, "custom_pipeline": "a/b",
    "custom_pipelines": {}, "trust_remote_code": True, "megatron_core": "os", "megatron_config": {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize("key", CHOOSE)
@pytest.mark.parametrize("deep", [lambda v: v, lambda v: {"text_config": v}, lambda v: {"a": [1, [v]]}])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", ""])
def test_no_file_of_a_folder_chooses_code(tmp_path, key, deep, part):
    (tmp_path / part).mkdir(exist_ok=True)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (tmp_path / part / name).write_text(json.dumps(deep({key: CHOOSE[key], "sample_size": 8})))
    with pytest.raises(ModelError, match=f"{name} has '{key}'"):
        Layout("m", tmp_path).config(part)
    (tmp_path / "model_index.json").write_text(json.dumps(deep({key: CHOOSE[key]})))
    with pytest.raises(ModelError, match="model_index"):
        _ = Layout("m", tmp_path).index


def test_numbers_and_names_of_networks_choose_none():
    plain = {
        "kernel_size": 3,
        "conv_in_kernel": 3,
        "attention_type": "default",
        "auto_map": None,
        "_name_or_path": "a/b",
    }
    trust.check_network_config("m", "config.json", {**plain, "x": [plain, [plain]]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("whole"), DDIMScheduler(**SD))


@pytest.fixture
def sd(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "sd"))


def loaded(folder, **setup):
    return load(
        describe(str(folder), offline=True), torch.device("cpu"), torch.float32, offline=True, setup=Setup(**setup)
    )


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_that_chooses_code_loads_nothing(sd, part, monkeypatch):
    import transformers

    config = json.loads((sd / part / "config.json").read_text())
    (sd / part / "config.json").write_text(json.dumps({**config, "_attn_implementation": "a/kernel"}))
    made = []
    monkeypatch.setattr(transformers.CLIPTextModel, "from_pretrained", lambda *a, **k: made.append(a))
    with pytest.raises(ModelError, match="can choose code"):
        loaded(sd)
    assert part != "text_encoder" or not made


def test_transformers_is_told_to_run_nothing_and_to_stay_here(sd, monkeypatch):
    from transformers import CLIPTextModel, CLIPTokenizer

    told = []
    for kind in (CLIPTokenizer, CLIPTextModel):
        real = kind.from_pretrained.__func__
        seen = classmethod(lambda cls, *a, _real=real, **k: told.append(k) or _real(cls, *a, **k))
        monkeypatch.setattr(kind, "from_pretrained", seen)
    loaded(sd)
    assert len(told) == 2
    assert all(k["trust_remote_code"] is False and k["local_files_only"] is True for k in told)
    assert told[1]["use_safetensors"] is True


@pytest.mark.parametrize("key", ["timm_model_pretrained", "timm_model_name"])
def test_a_clip_folder_asks_for_no_weights_elsewhere(key):
    value = {"timm_model_pretrained": True, "timm_model_name": "hf-hub:a/b"}[key]
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {key: value}, "text_cfg": {}}}
    with pytest.raises(ModelError, match=key):
        trust.check_clip_config("c", config, None)
    config["model_cfg"]["vision_cfg"] = {"timm_model_pretrained": False}
    assert trust.check_clip_config("c", config, None) is config


# ---------------------------------------------------------------------------------------------------------- LoRA

LAYER = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
GOOD = {f"{LAYER}.lora_A.weight": torch.zeros(2, 64), f"{LAYER}.lora_B.weight": torch.zeros(64, 2)}
FOREVER = r"([a-z_.0-9]+)+!"
"""As a regular expression over a layer's name it takes longer than the universe."""


def lora_metadata(**values):
    return {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in values.items()})}


PLAIN = {"r": 2, "lora_alpha": 2, "target_modules": ["to_q"]}
PATTERNS = [
    (GOOD, lora_metadata(**{**PLAIN, "target_modules": FOREVER})),
    (GOOD, lora_metadata(**{**PLAIN, "target_modules": ["to_q", FOREVER]})),
    (GOOD, lora_metadata(**PLAIN, rank_pattern={FOREVER: 4})),
    (GOOD, lora_metadata(**PLAIN, alpha_pattern={FOREVER: 4})),
    (GOOD, lora_metadata(**PLAIN, exclude_modules=FOREVER)),
    (GOOD, lora_metadata(**PLAIN, layers_to_transform=[0], layers_pattern=FOREVER)),
    ({**GOOD, f"unet.{FOREVER}.lora_A.weight": torch.zeros(4, 64)}, None),
    (GOOD, lora_metadata(**PLAIN, megatron_core="antigravity", megatron_config={"a": 1})),
    (GOOD, {"lora_adapter_metadata": "[" * 100_000}),
    (GOOD, {"lora_adapter_metadata": "[]"}),
    (GOOD, {"lora_adapter_metadata": "{"}),
]


@pytest.mark.parametrize(("tensors", "metadata"), PATTERNS, ids=range(len(PATTERNS)))
def test_a_lora_names_layers_and_no_patterns(tmp_path, tensors, metadata):
    """Never handed to peft, so that nothing of it need be timed."""
    save_file(tensors, tmp_path / "l.safetensors", metadata)
    pipe = SimpleNamespace(load_lora_weights=lambda *a, **k: pytest.fail("handed on"))
    with pytest.raises(ModelError, match="--lora l.safetensors|l.safetensors: lora_adapter") as raised:
        _load_lora(pipe, "lora0", "m", str(tmp_path / "l.safetensors"))
    assert len(str(raised.value)) < 400


def test_a_lora_whose_metadata_is_plain_is_read(sd, tmp_path):
    save_file(GOOD, tmp_path / "l.safetensors", lora_metadata(**PLAIN, rank_pattern={"attn1.to_q": 2}, revision=None))
    loaded(sd, lora=(str(tmp_path / "l.safetensors"),))


# ------------------------------------------------------------------------------ what a file is in place of weights


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"version https://git-lfs.github.com/spec/v1\noid sha256:7\n", "Git LFS pointer"), (b" <html>", "web page"),
     (b"", "empty")],
)  # fmt: skip
def test_clip_and_spandrel_say_what_a_file_is(tmp_path, content, what):
    pytest.importorskip("open_clip")
    pytest.importorskip("spandrel")
    from editkit.models.clip import load_clip
    from editkit_plugins.spandrel import _load_upscaler

    tower = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
    words = {"context_length": 16, "vocab_size": 200, "width": 32, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": tower, "text_cfg": words}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(content)
    (tmp_path / "up.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=f"open_clip_model.safetensors is .*{what}|is empty"):
        load_clip(str(tmp_path), torch.device("cpu"), offline=True)
    (tmp_path / "open_clip_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=f"open_clip_config.json is .*{what}|is empty"):
        load_clip(str(tmp_path), torch.device("cpu"), offline=True)
    with pytest.raises(ModelError, match=what):
        _load_upscaler(str(tmp_path / "up.safetensors"), torch.device("cpu"))
