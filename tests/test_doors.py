"""Samplers, models, mask words and batch engines from a stranger's package: 0 files of ours are touched."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_door import editkit

from editkit import edit
from editkit.batch import engines
from editkit.cli import run
from editkit.cli.contract_kinds import CONTRACTS
from editkit.diffusion import samplers
from editkit.editing import contract
from editkit.errors import ModelError, PluginError, UsageError
from editkit.models import describe, load
from editkit.models import families as folder
from editkit.pictures import shapes
from editkit.pictures.picture import Picture
from editkit.plugin import hints, registry
from editkit.plugins import Inpaint, SDEdit

STRANGER = '''
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.samplers import OneCall
from editkit.diffusion.schedule import Cosine
from editkit.pictures.shapes import Shape, ShapeError
from editkit.batch.engines import EngineKind


@dataclass(frozen=True)
class Lazy(OneCall):
    """x_s = alpha_s x0 + share sigma_s eps."""

    name: ClassVar[str] = "lazy"
    share: float = 1.0

    def step(self, x_t, t, s, predict, normal, memory):
        pred = predict(x_t, t)
        return s.alpha * pred.x0 + self.share * s.sigma * pred.eps, None


class Flat(PixelSpace):
    """x0 ~ N(0, s^2): grey pictures."""

    info = ModelInfo("flat", "a stranger's", sampler="lazy", steps=3)
    schedule = Cosine()
    clip = None

    def __call__(self, x_t, level, conds):
        s2 = self.data_std**2
        x0 = s2 * level.alpha / (s2 * level.alpha**2 + level.sigma**2) * x_t
        return (Prediction(x0, (x_t - level.alpha * x0) / level.sigma),) * len(conds)

    def attach(self, picture, mask):
        return self


class Named:
    """A model of flat pictures."""

    def info(self):
        return Flat.info

    def make(self, info, device, dtype):
        return Flat()

    def weights(self):
        return None


NAMED = Named()


class Family:
    """Folders with a file called flat.txt."""

    KNOWN = "flat folders"

    def matches(self, layout):
        return (layout.path / "flat.txt").is_file()

    def describe(self, layout):
        return ModelInfo(layout.name, self.KNOWN, sampler="lazy", steps=3)

    def load(self, layout, info, device, dtype):
        made = Flat()
        made.info = info
        return made


FAMILY = Family()


def _circle(picture, values):
    try:
        x, y, r = map(float, values.split(","))
    except ValueError:
        raise ShapeError(f"circle:{values}: write circle:x,y,r") from None
    rows, columns = np.mgrid[: picture.height, : picture.width] + 0.5
    return ((columns - x) ** 2 + (rows - y) ** 2 <= r * r).astype(np.float32)


CIRCLE = Shape("circle", "circle:x,y,r", _circle, "A circle.", "20,20,9")


def _backwards(argument, workers):
    def engine(function, items):
        for item in reversed(items):
            yield function(item)

    return engine


BACKWARDS = EngineKind("backwards", "The last picture first.", _backwards)
'''
ENTRIES = {
    "editkit.samplers": "lazy = stranger:Lazy",
    "editkit.models": "flat = stranger:NAMED\nflatfolder = stranger:FAMILY",
    "editkit.masks": "circle = stranger:CIRCLE",
    "editkit.engines": "backwards = stranger:BACKWARDS",
}


def installed(folder: Path, code: str = STRANGER, entries: dict[str, str] = ENTRIES, name: str = "stranger") -> None:
    """A package with the metadata an installer would write."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(f"[{group}]\n{lines}\n" for group, lines in entries.items()))


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    installed(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("stranger", None)


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(path)
    return path


def test_a_strangers_sampler_model_and_mask_make_an_edit(stranger, photo):
    done = editkit(
        stranger, "inpaint", "photo.png", "--mask", "circle:20,20,9+box:0,0,4,4", "--model", "flat", "--sampler",
        "lazy:share=0.5", "-o", "out.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = (np.asarray(Image.open(stranger / name)) for name in ("photo.png", "out.png"))
    changed = (before != after).any(2)
    assert changed[20, 20]
    assert changed[2, 2]
    assert not changed[:, 32:].any()


def test_a_strangers_model_is_known_by_name_and_its_family_by_folder(stranger, photo, tmp_path):
    assert describe("flat").family == "a stranger's"
    theirs = tmp_path / "their-model"
    theirs.mkdir()
    (theirs / "flat.txt").write_text("")
    assert describe(str(theirs)).family == "flat folders"
    made = edit(Picture.read(photo), SDEdit(strength=0.5), model=str(theirs), steps=3)
    assert made.size == (44, 40)


def test_a_strangers_sampler_walks_every_model(stranger):
    exact = contract.ExactModel()
    made = edit(Picture(np.full((8, 8, 3), 128, np.uint8)), SDEdit(), model=exact, sampler="lazy:share=1", steps=4)
    as_ddim = edit(Picture(np.full((8, 8, 3), 128, np.uint8)), SDEdit(), model=exact, sampler="ddim", steps=4)
    assert np.array_equal(made.pixels, as_ddim.pixels)  # with a share of 1 it is ddim
    with pytest.raises(UsageError, match="sampler lazy has no parameter"):
        samplers.make_sampler("lazy:speed=1")


def test_a_strangers_engine_does_a_batch(stranger, photo):
    (stranger / "in").mkdir()
    for k in range(3):
        Image.open(photo).save(stranger / "in" / f"{k}.png")
    (stranger / "r.yaml").write_text(
        "editkit: 1\nstages:\n- plugins: [{inpaint: {mask: 'circle:20,20,9'}}]\n  options: {model: flat}\n"
    )
    done = editkit(stranger, "batch", "r.yaml", "in", "out", "--engine", "backwards", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made"] == 3
    assert sorted(path.name for path in (stranger / "out").glob("*.png")) == ["0.png", "1.png", "2.png"]
    wrong = editkit(stranger, "batch", "r.yaml", "in", "out2", "--engine", "rya")
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert not (stranger / "out2").exists()


def test_everything_installed_is_listed_by_kind(stranger):
    shown = editkit(stranger, "plugins")
    assert shown.returncode == 0, shown.stderr
    for word in ("lazy", "flatfolder", "circle:x,y,r", "The last picture first.", "inpaint", "canny", "dpm++2m"):
        assert word in shown.stdout, word
    one = editkit(stranger, "plugins", "circle")
    assert "mask circle (from stranger)" in one.stdout


@pytest.mark.parametrize("name", ["lazy", "flat", "flatfolder", "circle", "backwards"])
def test_a_stranger_keeps_the_contract_of_its_kind(stranger, name, capsys):
    assert run(["plugins", "check", name]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, (names, _) in CONTRACTS.items() for n in names()])
def test_every_built_in_keeps_the_contract_of_its_kind(kind, name):
    broken = [v for v in contract.verdicts(name, CONTRACTS[kind][1]) if v.kept is False]
    assert not broken, broken


BROKEN = {
    "editkit.samplers": "lazy = broken:NOTHING",
    "editkit.models": "flat = broken:NOTHING",
    "editkit.masks": "circle = broken:OLD",
    "editkit.engines": "backwards = no_such_module:THING",
}


def test_what_is_broken_is_listed_with_its_reason_and_stops_nobody(tmp_path, photo):
    code = "NOTHING = object()\nfrom editkit.pictures.shapes import BOX\nfrom dataclasses import replace\n"
    code += "OLD = replace(BOX, name='circle', api=9)\n"
    installed(tmp_path, code, BROKEN, "broken")
    shown = editkit(tmp_path, "plugins")
    assert shown.returncode == 0, shown.stderr
    said = " ".join(shown.stdout.split())
    assert said.count("BROKEN") == 4
    assert "lacks name, grid, reversible, calls, step" in said
    assert "version 9 of the mask protocol, this is 1" in said
    done = editkit(tmp_path, "inpaint", "photo.png", "--mask", "box:4,4,12,12", "--model", "pocket", "--steps", "2")
    assert done.returncode == 0, done.stderr
    for words in (["--sampler", "lazy"], ["--model", "flat"], ["--mask", "circle:1,1,1"]):
        used = editkit(tmp_path, "inpaint", "photo.png", "--mask", "box:4,4,12,12", *words, "--force")
        assert used.returncode == 1, words
        assert len(used.stderr.strip().splitlines()) == 1, used.stderr


DOORS = {
    "editkit.plugins": (registry.list_installed, "sdedit", "Mirror"),
    "editkit.samplers": (samplers.list_installed, "ddim", "Lazy"),
    "editkit.models": (folder.list_installed, "pocket", "NAMED"),
    "editkit.masks": (shapes.list_installed, "box", "CIRCLE"),
    "editkit.engines": (engines.list_installed, "ray", "BACKWARDS"),
    "editkit.hints": (hints.list_installed, "canny", "Grey"),
}
FAULTY = '''
from stranger import *
from editkit import Hooks, Plugin
from editkit.plugin.hints import Detector

class Mirror(Plugin):
    """Mirrors."""
    name = "mine"
    api = 9
    def hooks(self):
        return Hooks

class Grey(Detector):
    """Grey."""
    name = "mine"
    api = 9

NOTHING = object()
for made in (Lazy, NAMED, BACKWARDS, CIRCLE):
    setattr(made, "api", 9) if made in (Lazy, NAMED) else object.__setattr__(made, "api", 9)
'''


@pytest.mark.parametrize("group", DOORS)
def test_every_fault_at_every_door_is_a_reason_and_stops_nobody(group, stranger):
    """It cannot be imported, is of another type, of another version of the protocol, or its name is taken."""
    listed, taken, made = DOORS[group]
    before = {row.name: row.broken for row in listed()}
    lines = [
        "gone = no_such_module:THING",
        "other = faulty_package:NOTHING",
        f"mine = faulty_package:{made}",
        f"{taken} = faulty_package:{made}",
    ]
    installed(stranger, FAULTY, {group: "\n".join(lines)}, "faulty_package")
    found = {row.name: row.broken for row in listed()}
    assert "No module named 'no_such_module'" in found["gone"]
    assert " other: " in found["other"]
    assert "was written for version 9" in found["mine"]
    assert f"{taken}: editkit and faulty_package both have one of that name" in found[taken]
    others = set(before) - {taken}
    assert others
    assert {name: found[name] for name in others} == {name: before[name] for name in others}
    sys.modules.pop("faulty_package", None)


def test_two_that_claim_one_name_or_one_folder_are_named(tmp_path, monkeypatch):
    installed(tmp_path)
    second = {"editkit.models": "other = second:FAMILY", "editkit.samplers": "ddim = second:Lazy"}
    installed(tmp_path, STRANGER, second, "second")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "flat.txt").write_text("")
    with pytest.raises(ModelError, match="flatfolder and other both claim"):
        describe(str(tmp_path / "m"))
    with pytest.raises(PluginError, match="sampler ddim: editkit and second both have one of that name"):
        samplers.load("ddim")
    for name in ("stranger", "second"):
        sys.modules.pop(name, None)


def test_a_word_that_draws_no_mask_is_named(monkeypatch, tmp_path):
    code = "import numpy as np\nfrom editkit.pictures.shapes import Shape\n"
    code += "BAD = Shape('bad', 'bad', lambda picture, values: np.ones((3, 3)), 'Bad.')\n"
    installed(tmp_path, code, {"editkit.masks": "bad = badmask:BAD"}, "badmask")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match="mask bad: drew something that is not a mask"):
        edit(Picture(np.zeros((9, 9, 3), np.uint8)), Inpaint(mask="bad"), model=contract.ExactModel())
    sys.modules.pop("badmask", None)


def test_words_may_be_longer_than_a_files_name():
    corners = ",".join(f"{10 + k % 7},{10 + k // 7}" for k in range(120))
    assert shapes.is_words(f"polygon:{corners}")
    mask = shapes.from_words(f"polygon:{corners}", Picture(np.zeros((40, 40, 3), np.uint8)))
    assert mask.shape == (40, 40)


def test_the_built_ins_go_the_same_way():
    assert set(samplers.SAMPLERS.names()) >= {"ddpm", "ddim", "euler", "heun", "dpm++2m", "unipc", "lcm"}
    groups = (samplers, shapes, engines, folder)
    assert all(row.broken is None for group in groups for row in group.list_installed())
    assert load(describe("patches"), torch.device("cpu"), torch.float32).info == describe("patches")
