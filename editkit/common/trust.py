"""Limit what untrusted files may name.

A model folder only determines the shapes of its networks. It may not choose modules to import, classes beyond a known
list, files outside the folder, or options of a library. A picture's provenance may only name files beside the picture.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from editkit.common.named import candidate_names, file_strings, has_escaping_path
from editkit.errors import ModelError, PictureError

TOKENIZERS = (
    "CLIPTokenizer",
    "CLIPTokenizerFast",
    "T5Tokenizer",
    "T5TokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
)
"""Tokenizers of transformers that only read files. Its Auto classes may run a folder's own code."""
READERS = (*TOKENIZERS, "Qwen2VLProcessor", "Qwen2_5_VLProcessor", "PixtralProcessor")
"""Tokenizers, and processors of texts and pictures for vision language models."""
CLIP_TOKENIZERS = (
    *TOKENIZERS, "BertTokenizer", "BertTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast", "NllbTokenizer",
    "NllbTokenizerFast", "RobertaTokenizer", "RobertaTokenizerFast", "SiglipTokenizer", "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
)  # fmt: skip
"""Tokenizers of open_clip's models."""
_LIBRARIES = ("diffusers", "transformers")

_TOWER = {
    "layers", "width", "mlp_ratio", "ls_init_value", "final_ln_after_pool", "pool_type", "output_tokens", "act_kwargs",
    "norm_kwargs", "block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn",
    "scale_fc",
}  # fmt: skip
_CLIP: dict[str, set[str]] = {
    "": {
        "embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text", "init_logit_scale",
        "init_logit_bias", "nonscalar_logit_scale",
    },
    "vision_cfg": _TOWER | {
        "head_width", "patch_size", "image_size", "patch_dropout", "attentional_pool", "attn_pooler_queries",
        "attn_pooler_heads", "no_ln_pre", "pos_embed_type", "timm_model_name", "timm_model_pretrained", "timm_pool",
        "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
    },
    "text_cfg": _TOWER | {
        "context_length", "vocab_size", "heads", "embed_cls", "pad_id", "eos_id", "no_causal_mask", "proj_bias",
        "proj_type", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs",
    },
    "tokenizer_kwargs": {"clean", "strip_sep_token", "language"},
}  # fmt: skip
"""Keys of open_clip's configurations that describe a network or the cleaning of text. Others name code or models on the
hub, such as hf_model_name.
"""
_CLIP["multimodal_cfg"] = _CLIP["text_cfg"] | {"dim_head", "n_queries", "attn_pooler_heads"}


def check_component(name: str, part: str, listed: Any, classes: Collection[str]) -> str:
    """Return the class that model_index.json names for `part` of the model called `name`: one of `classes`, where `*`
    at the end matches any suffix.

    Raises:
        ModelError: it is another class, of another library, or not a pair of strings.
    """
    if not (isinstance(listed, list) and len(listed) == 2 and all(isinstance(word, str) for word in listed)):
        raise ModelError(
            f"model {name}: model_index.json has {str(listed)[:80]!r} for {part}; a library and a class are needed"
        )
    library, kind = listed
    known = any(kind == word or (word[-1:] == "*" and kind.startswith(word[:-1])) for word in classes)
    if library not in _LIBRARIES or not known:
        raise ModelError(
            f"model {name}: {part} is a {library[:80]}.{kind[:80]}; known are {', '.join(classes)} of "
            f"{' and '.join(_LIBRARIES)}, since other classes can run code"
        )
    return str(kind)


def check_sibling_name(name: str, file: str, word: Any, ending: str) -> str:
    """Check `word`, which `file` of the model called `name` gives as the name of a file beside it.

    Raises:
        ModelError: it contains a folder, has another suffix, or is not a string.
    """
    if not isinstance(word, str) or not word.endswith(ending) or re.search(r"[/\\\x00]", word) or word.startswith("."):
        raise ModelError(
            f"model {name}: {file} lists {str(word)[:80]!r}; the name of a {ending} file beside it, without folders, "
            f"is needed"
        )
    return word


_CHOOSES_CODE = re.compile(r"auto_map|.*implementation(_internal)?|quantization_config|compression_config|use_kernels|"
                           r"kernel_config|custom_pipelines?|trust_remote_code|megatron_\w+")  # fmt: skip
"""Keys with which transformers, diffusers and peft select code, partly from the hub."""


_PACKING = {
    "bitsandbytes": {
        "load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit", "llm_int8_threshold",
        "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight",
        "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage",
    },
    "torchao": {"quant_type", "modules_to_not_convert"},
}  # fmt: skip
"""Libraries that may load quantised weights, and the allowed settings of each."""


def _is_plain_quantization(config: Any) -> bool:
    """Whether a `quantization_config` names one of those libraries, with only numbers and plain names: torchao creates
    an object of one of its own classes by name.
    """
    known = _PACKING.get(str(config.get("quant_method"))) if isinstance(config, Mapping) else None
    if known is None or not config.keys() <= known | {"quant_method"}:
        return False
    left: list[Any] = [config]
    while left:
        match left.pop():
            case Mapping() as inner:
                left += [*inner, *inner.values()]
            case list() as several:
                left += several
            case str() as word if not re.fullmatch(r"\w[\w.]*|", word) or word.startswith("__"):
                return False
    return True


def check_network_config(name: str, file: str, config: Mapping[str, Any]) -> None:
    """Refuse a configuration of a network, a scheduler or an adapter that selects code.

    Raises:
        ModelError: a key, at any depth, selects code.
    """
    left: list[Any] = [{k: v for k, v in config.items() if k != "quantization_config" or not _is_plain_quantization(v)}]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            for key in value:
                if value[key] is not None and _CHOOSES_CODE.fullmatch(str(key).rpartition(".")[2]):
                    raise ModelError(
                        f"model {name}: {file} has {str(key)[:80]!r}, which can choose code; take it out of the file "
                        f"if you trust the model"
                    )
            left += value.values()
        elif isinstance(value, list):
            left += value


def check_clip_config(source: str, config: Any, tokenizer: Any) -> Mapping[str, Any]:
    """Check open_clip_config.json before open_clip reads it; `tokenizer` is tokenizer_config.json, or None.

    Raises:
        ModelError: it has an unknown key, or names a hub model or an unknown tokenizer class.
    """
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise ModelError(f"clip: {source}: its configuration has no model_cfg")
    _check_keys(source, "", model)
    for group in ("vision_cfg", "text_cfg"):
        if not isinstance(model.get(group), dict):
            raise ModelError(f"clip: {source}: its configuration has no {group}")
    for group in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        _check_keys(source, group, model.get(group, {}))
    if model["vision_cfg"].get("timm_model_pretrained"):
        raise ModelError(f"clip: {source}: timm_model_pretrained asks the hub for other weights; set it to false")
    timm = model["vision_cfg"].get("timm_model_name", "")
    if timm is not None and not (isinstance(timm, str) and re.fullmatch(r"[\w.]*", timm)):
        raise ModelError(f"clip: {source}: timm_model_name is {str(timm)[:80]!r}; a plain name is needed, not a place")
    named = tokenizer.get("tokenizer_class", TOKENIZERS[0]) if isinstance(tokenizer, dict) else TOKENIZERS[0]
    if named not in CLIP_TOKENIZERS or (tokenizer is not None and not isinstance(tokenizer, dict)):
        raise ModelError(
            f"clip: {source}: its tokenizer is a {str(named)[:80]!r}; known are {', '.join(CLIP_TOKENIZERS)}"
        )
    return config  # type: ignore[no-any-return]  # a dictionary, as checked above


def _check_keys(source: str, group: str, given: Any) -> None:
    if not isinstance(given, dict):
        raise ModelError(f"clip: {source}: {group} is {str(given)[:80]!r}; keys and values are needed")
    for key, value in given.items():
        where = f"{group}.{key}" if group else key
        if key not in _CLIP[group]:
            raise ModelError(
                f"clip: {source}: its configuration has {where[:80]!r}, which is not known and may run code or ask the "
                f"hub; known are {', '.join(sorted(_CLIP[group]))}"
            )
        if key == "tokenizer_kwargs":
            _check_keys(source, key, value or {})
        elif not (key.endswith("_cfg") or _is_plain_value(value, key.endswith("_kwargs"))):
            raise ModelError(f"clip: {source}: {where} is {str(value)[:80]!r}; a number, a word or a list is needed")


def _is_plain_value(value: Any, keyed: bool) -> bool:
    if isinstance(value, dict):
        return keyed and all(_is_plain_value(inner, False) for inner in value.values())
    if isinstance(value, list):
        return all(isinstance(inner, (bool, int, float)) for inner in value)
    return value is None or isinstance(value, (bool, int, float, str))


_ASKS_THE_HUB = ("backbone", "use_timm_backbone", "use_pretrained_backbone")
"""Keys that make a network fetch a part of itself."""


def check_transformers_config(source: str, file: str, config: Any, kinds: Collection[str]) -> str:
    """Check the configuration of a transformers folder before transformers reads it, and return its `model_type`.

    `source` is the folder and `file` the name of the configuration.

    Raises:
        ModelError: `model_type` is not in `kinds`, or a key, at any depth, names code or a part to fetch.
    """
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ModelError(f"{source}: its {file} says it is a {str(kind)[:80]!r}; known are {', '.join(sorted(kinds))}")
    check_no_code(source, file, config)
    return kind


def check_no_code(source: str, file: str, config: Any) -> None:
    """Refuse a configuration that names code or a part to fetch.

    Raises:
        ModelError: a key, at any depth, does.
    """
    if isinstance(config, dict):
        for key, value in config.items():
            if value and _CHOOSES_CODE.fullmatch(str(key).rpartition(".")[2]) and value not in OWN_ATTENTION:
                raise ModelError(f"{source}: its {file} has {key!r}, which would run code from the folder: refused")
            if key in _ASKS_THE_HUB and value:
                raise ModelError(f"{source}: its {file} has {key!r}, which would fetch a part of the network: refused")
            check_no_code(source, file, value)
    elif isinstance(config, list):
        for value in config:
            check_no_code(source, file, value)


OWN_ATTENTION = ("eager", "sdpa")
"""Attention implementations in transformers itself; others may be code from a repository."""

_SIDES = ("size", "crop_size", "pad_size", "mask_size", "height", "width", "shortest_edge", "min_pixels")
"""Keys that set the size to which a picture is resized before a network sees it. Upper limits are not among them."""

MOST_SIDE = 4096
"""Maximum side in pixels. Networks use 224 to 1,333; Qwen's `shortest_edge` is an area of 3,136 pixels."""


def check_preprocessor_config(source: str, file: str, config: Any) -> None:
    """Refuse a preprocessor's configuration that would enlarge every picture beyond the input size of any network.

    Raises:
        ModelError: a size exceeds `MOST_SIDE`, or its square for `min_pixels`.
    """
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, inner) for inner in value]
        elif isinstance(value, int | float) and key in _SIDES:
            most = MOST_SIDE**2 if key == "min_pixels" else MOST_SIDE
            if not value <= most:
                raise ModelError(f"{source}: its {file} says {key} = {value:g}; {most} is the most that is taken")


def check_provenance_paths(picture: str, name: str | None, recipe: Mapping[str, Any]) -> None:
    """Refuse provenance of the file `picture` that names files outside its folder and the folders below.

    Provenance can be forged, and the files that it names would be read and copied into a result. `name` is the picture
    it claims as its source.

    Raises:
        PictureError: it names such a file; the message says what to do instead.
    """
    folder = Path(picture).parent
    how = "rerun reads only what lies beside the picture; read it (editkit show --recipe), then use editkit run"
    if name is not None and (re.search(r"[/\\\x00]", name) or name in ("", ".", "..")):
        raise PictureError(f"{picture}: says it was made from {name[:80]!r}; give the picture with --picture")
    for text in [] if name is None else [name]:
        if not _is_inside(folder, text):
            raise PictureError(f"{picture}: {text[:80]!r} is a link out of its folder; give it with --picture")
    for text in file_strings(recipe):
        if has_escaping_path(text) or not all(_is_inside(folder, part) for part in candidate_names(text)):
            raise PictureError(f"{picture}: its recipe names {text[:80]!r}, which lies elsewhere; {how}")


def _is_inside(folder: Path, text: str) -> bool:
    """Return whether `text` names no file, or one in or below `folder` after resolving all links."""
    try:
        path = folder / text
        return not path.exists() or path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that is too long, a loop of links
        return True
