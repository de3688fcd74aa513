"""Files that a recipe names: seen from its own folder, and which of them it may name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.cli import run
from editkit.editing import recipe
from editkit.errors import RecipeError
from editkit.plugin.chain import Chain
from editkit.plugins import Colorize, Inpaint

POCKET = ["--steps", "2", "--model", "pocket"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """`job` is a stranger's folder; `private.png` lies beside it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder in ("job/in", "job/sd", "sd", "photos"):
        Path(folder).mkdir(parents=True)
    for name in ("private.png", "a.png", "photos/b.png", "job/logo.png"):
        Image.fromarray(random.integers(0, 256, (12, 14, 3), dtype=np.uint8)).save(name)
    mask = np.zeros((12, 14), np.uint8)
    mask[3:7, 4:9] = 255
    for name in ("mask.png", "job/m.png", "job/in/m.png", "photos/m.png"):
        Image.fromarray(mask).save(name)
    Path("job/link.png").symlink_to(tmp_path / "mask.png")
    Path("job/linked").symlink_to(tmp_path)
    Path("job/same.png").symlink_to("m.png")
    return tmp_path


def asking(here, options=None, name="job/r.yaml", **plugin):
    stage = {"plugins": [{"inpaint": {"mask": "m.png", **plugin}}], **({"options": options} if options else {})}
    Path(name).write_text(json.dumps({"editkit": 2, "stages": [stage]}).replace("{here}", str(here)))
    return name


ELSEWHERE = [
    {"mask": "{here}/mask.png"},
    {"mask": "../mask.png"},
    {"mask": "in/../../mask.png"},
    {"mask": "link.png"},
    {"mask": "linked/mask.png"},
    {"mask": ["m.png", "../mask.png"]},
    {"mask": "box:1,1,4,4+watermark:{here}/private.png"},
    {"mask": "box:1,1,4,4-watermark:../private.png"},
    {"mask": "watermark:private.png"},
    {"from": ["{here}/private.png"]},
    {"from": ["../private.png"]},
    {"not_from": "../mask.png"},
]


@pytest.mark.parametrize("plugin", ELSEWHERE, ids=json.dumps)
def test_a_recipe_names_nothing_elsewhere(here, capsys, plugin):
    name = asking(here, **plugin)
    for words in (["run", name, "a.png", "-o", "o.png"], ["batch", name, "photos", "out"]):
        assert run([*words, *POCKET]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith("error: job/r.yaml: names ")
        assert "add --anywhere if you trust who wrote it" in said
    with pytest.raises(RecipeError, match="add --anywhere"):
        recipe.read(name)
    assert recipe.read(name, anywhere=True)
    assert not Path("o.png").exists()
    assert not Path("out").exists()


@pytest.mark.parametrize("plugin", [{}, {"mask": "in/m.png"}, {"mask": "same.png"}, {"mask": "{here}/job/m.png"},
                                    {"mask": "box:10%,10%,50%,50%"}, {"mask": "box:1,1,4,4+watermark:logo.png"},
                                    {"mask": "{here}/photos/m.png"}], ids=json.dumps)  # fmt: skip
def test_what_lies_with_it_or_where_the_command_points_may_be_named(here, plugin):
    chain = recipe.read(asking(here, **plugin), places=["photos"])
    assert "watermark" not in str(plugin) or chain.stages[0].plugins[0].mask.endswith("watermark:job/logo.png")
    if "watermark" not in str(plugin):
        assert run(["batch", "job/r.yaml", "photos", "out", *POCKET]) == 0


def test_the_person_at_the_machine_may_allow_every_place(here):
    name = asking(here, mask="../mask.png")
    assert run(["run", name, "a.png", "-o", "o.png", "--anywhere", *POCKET]) == 0
    assert run(["batch", name, "photos", "out", "--anywhere", *POCKET]) == 0


@pytest.mark.parametrize("value", ["{here}/sd", "../sd"])
def test_networks_may_lie_elsewhere_which_is_said(here, capsys, value):
    name = asking(here, {"model": value, "seed": 3})
    run(["run", name, "a.png", "-o", "o.png", "--steps", "2", "--model", "pocket"])
    assert "the recipe loads " in capsys.readouterr().err
    asking(here, {"model": "sd"})
    assert recipe.read(name).stages[0].options.model == "job/sd"


@pytest.mark.parametrize("name", ["pocket", "owner/model", "sd.safetensors", "timm:resnet18"])
def test_names_that_are_no_files_there_stay(here, name):
    Path("job/pocket").mkdir()
    assert recipe.read(asking(here, {"model": name})).stages[0].options.model == name


def test_a_recipe_of_ones_own_runs_from_every_folder(here, monkeypatch, capsys):
    """Masks beside it, and networks wherever they are."""
    chain = Chain.of(Inpaint(mask=("job/m.png", "watermark:job/logo.png"))).using(model="sd", lora=("./sd:0.5",))
    text = recipe.to_yaml(chain, Path("job/in"))
    for line in ("- ../m.png", "- watermark:../logo.png", "model: ../../sd", "- ../../sd:0.5"):
        assert line in text
    Path("job/r.yaml").write_text(recipe.to_yaml(chain, Path("job")))
    monkeypatch.chdir("photos")
    read = recipe.read("../job/r.yaml")
    assert read.stages[0].plugins[0].mask == ("../job/m.png", "watermark:../job/logo.png")
    options = read.stages[0].options
    assert (options.model, options.lora) == ("../job/../sd", ("../job/../sd:0.5",))
    monkeypatch.chdir(here)
    assert run(["plan", "inpaint", "a.png", "--mask", "job/m.png", "--save-recipe", "photos/r.yaml"]) == 0
    assert "photos/r.yaml names job/m.png, which lies out of its folder: editkit run" in capsys.readouterr().err


def test_what_is_no_file_is_not_taken_for_one(here):
    """A point's colour, a ControlNet's kind, a picture in words."""
    chain = Chain.of(Colorize(color_at=("3,4,#ff0000",)))
    assert recipe.from_yaml(recipe.to_yaml(chain, Path("job")), base=Path("job")).stages == chain.stages
    Path("job/canny").mkdir()
    data = {"controlnet": {"control": "canny", "mode": "canny"}}
    made = recipe.from_mapping({"editkit": 2, "stages": [{"plugins": [data]}]}, base=Path("job"))
    assert (made.stages[0].plugins[0].control, made.stages[0].plugins[0].mode) == ("canny", "canny")
