"""The hash of a model's weights: one for one content, links into the hub's cache not read."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from editkit.models import PATCHES
from editkit.models.base import ModelInfo
from editkit.models.fingerprint import _of, fingerprint


def folder(path: Path, value: float) -> ModelInfo:
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "X"}))
    save_file({"w": torch.full((3,), value)}, path / "unet" / "model.safetensors")
    return ModelInfo(str(path), "test")


def test_same_weights_same_hash_others_another(tmp_path):
    a, b, c = (folder(tmp_path / name, value) for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)))
    assert fingerprint(a) == fingerprint(b)
    assert fingerprint(a) != fingerprint(c)
    assert len(fingerprint(a)) == 64


def test_a_link_into_the_hubs_cache_is_its_own_hash(tmp_path):
    info = folder(tmp_path / "plain", 1.0)
    plain = tmp_path / "plain" / "unet" / "model.safetensors"
    import hashlib

    blob = tmp_path / hashlib.sha256(plain.read_bytes()).hexdigest()
    blob.write_bytes(plain.read_bytes())
    linked = tmp_path / "linked" / "unet"
    linked.mkdir(parents=True)
    (linked / "model.safetensors").symlink_to(blob)
    assert _of(tmp_path / "linked") == fingerprint(info)


def test_models_without_weights_have_none(tmp_path):
    assert fingerprint(PATCHES) is None
    assert fingerprint(ModelInfo("a model of one's own", "exact")) is None
    (tmp_path / "empty").mkdir()
    assert fingerprint(ModelInfo(str(tmp_path / "empty"), "test")) is None
