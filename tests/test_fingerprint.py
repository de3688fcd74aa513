"""The hash of a model's weights: one for one content, links into the hub's cache not read."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from editkit.diffusion.model import ModelInfo
from editkit.models.files import fingerprint as hashes
from editkit.models.files.fingerprint import _hash_weights, fingerprint
from editkit.models.patches.info import PATCHES


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
    blob = tmp_path / hashlib.sha256(plain.read_bytes()).hexdigest()
    blob.write_bytes(plain.read_bytes())
    linked = tmp_path / "linked" / "unet"
    linked.mkdir(parents=True)
    (linked / "model.safetensors").symlink_to(blob)
    assert _hash_weights(tmp_path / "linked") == fingerprint(info)


def test_a_large_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 1)
    folder(tmp_path / "model", 1.0)
    file = tmp_path / "model" / "unet" / "model.safetensors"
    first = hashes._hash(file)
    with monkeypatch.context() as patched:
        patched.setattr(hashes, "_read", lambda file: pytest.fail("read again"))
        assert hashes._hash(file) == first
    save_file({"w": torch.full((3,), 2.0)}, file)
    os.utime(file, ns=(1, 1))
    assert hashes._hash(file) == hashlib.sha256(file.read_bytes()).hexdigest() != first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 1)
    folder(tmp_path / "model", 1.0)
    assert len(hashes._hash(tmp_path / "model" / "unet" / "model.safetensors")) == 64


def test_models_without_weights_have_none(tmp_path):
    assert fingerprint(PATCHES) is None
    assert fingerprint(ModelInfo("a model of one's own", "exact")) is None
    (tmp_path / "empty").mkdir()
    assert fingerprint(ModelInfo(str(tmp_path / "empty"), "test")) is None
