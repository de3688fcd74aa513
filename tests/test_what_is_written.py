"""An edit writes what was asked for and nothing else; a stranger's text has no say in it. No network."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit import edit
from editkit.cli import run
from editkit.common import trust
from editkit.editing import recipe
from editkit.errors import PictureError, RecipeError, UsageError
from editkit.pictures.files.provenance import Provenance, read_provenance
from editkit.pictures.picture import Picture
from editkit.plugin.params import outputs
from editkit.plugin.registry import list_installed
from editkit.plugins import Invert, Repair

FEW = ["--steps", "2", "--model", "pocket"]
FULL = "full.png"
"""An output that was there before."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save("x.png")
    Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save("y.jpg")
    mask = np.zeros((20, 24), np.uint8)
    mask[5:11, 6:14] = 255
    Image.fromarray(mask).save("m.png")
    Path(FULL).write_text("precious")
    Path("r.yaml").write_text("editkit: 2\nstages:\n- plugins:\n  - inpaint: {mask: m.png}\n")
    Path("in").mkdir()
    for name in ("a", "b"):
        Path("in", f"{name}.png").write_bytes(Path("x.png").read_bytes())
    return tmp_path


def tree(folder):
    """Every name below a folder with what it is: a file's mode, time and bytes, a link's goal."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        held = os.readlink(path) if path.is_symlink() else ""
        held = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else held
        found[path.relative_to(folder).as_posix()] = (state.st_mode, path.is_dir() or state.st_mtime_ns, held)
    return found


MASK = ["--mask", "m.png"]
EDITS = [
    (["inpaint", "x.png", *MASK], 0, {"x.inpaint.png"}),
    (["inpaint", "x.png", *MASK, "-o", "o.webp", "--quality", "80"], 0, {"o.webp"}),
    (["inpaint", "y.jpg", "--mask", "box:4,4,9,9", "-o", "o.jpg"], 0, {"o.jpg"}),
    (["inpaint", "x.png", *MASK, "-o", "new/"], 0, {"new", "new/x.png"}),
    (["inpaint", "x.png", *MASK, "-o", "-"], 0, set()),
    (["inpaint", "x.png", *MASK, "-o", "o.png", "--save-recipe", "s.yaml"], 0, {"o.png", "s.yaml"}),
    (["inpaint", "x.png", *MASK, "-o", "o.png", "--compare", "c.png"], 0, {"o.png", "c.png"}),
    (["inpaint", "x.png", *MASK, "-o", "o.png", "--trace", "t.html"], 0, {"o.png", "t.html"}),
    (["inpaint", "x.png", *MASK, "-o", "o.png", "--preview", "p.webp"], 0, {"o.png", "p.webp"}),
    (["inpaint", "x.png", *MASK, "-o", "o.png", "--candidates", "2", "--seed", "4"], 0,
     {"o.seed4.png", "o.seed5.png", "o.sheet.png"}),
    (["inpaint", "x.png", "y.jpg", "--mask", "box:4,4,9,9"], 0, {"x.inpaint.png", "y.inpaint.png"}),
    (["inpaint", "x.png", *MASK, "-o", FULL], 1, set()),
    (["inpaint", "x.png", *MASK, "-o", "o.png", "--compare", FULL], 1, set()),
    (["inpaint", "x.png", *MASK, "-o", "no/o.png"], 1, set()),
    (["inpaint", "x.png", "--mask", "missing.png", "-o", "o.png"], 2, set()),
    (["sdedit", "x.png", "-o", "o.png", "then", "upscale", "--scale", "2"], 0, {"o.png"}),
    (["repair", "x.png", "-o", "o.png", "--save-mask", "f.png"], 0, {"o.png", "f.png"}),
    (["repair", "x.png", "-o", "o.png", "--save-mask", FULL], 1, set()),
    (["invert", "x.png", "-o", "o.png", "--save-noise", "n.safetensors"], 0, {"o.png", "n.safetensors"}),
    (["run", "r.yaml", "x.png", "-o", "o.png"], 0, {"o.png"}),
    (["plan", "repair", "x.png", "--save-mask", "f.png"], 0, set()),
    (["mask", "x.png", "--add", "box:2,2,6,6", "-o", "k.png", "--show", "seen.png"], 0, {"k.png", "seen.png"}),
    (["hint", "x.png", "--control", "canny", "-o", "h.png"], 0, {"h.png"}),
    (["batch", "r.yaml", "in", "out"], 0, {"out", "out/a.png", "out/b.png", "out/editkit-batch.jsonl"}),
    (["grid", "--vary", "seed=1,2", "inpaint", "x.png", *MASK, "-o", "g.png"], 0, {"g.png"}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "new"), EDITS, ids=lambda value: None)
def test_an_edit_writes_what_was_asked_and_nothing_else(here, words, code, new, capfdbinary):
    before = tree(here)
    few = [] if words[0] in ("mask", "hint") else FEW
    at = words.index("then") if "then" in words else len(words)
    assert run([*words[:at], *few, *words[at:]]) == code or (code and run(words))
    after = tree(here)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == new


# ----------------------------------------------------------------------------------------- files that plugins write


def test_every_plugin_s_file_to_be_written_is_known():
    found = {f"{row.name}.{name}" for row in list_installed() for name in outputs(row.kind)}
    assert {"repair.save_mask", "invert.save_noise"} <= found
    for row in list_installed():
        for name in row.kind.model_fields:
            assert not name.startswith(("save", "write", "output")) or name in outputs(row.kind)


@pytest.mark.parametrize("values", ["repair: {save_mask: q.png}", "invert: {save_noise: /tmp/q.safetensors}"])
def test_no_recipe_names_a_file_to_be_written(values):
    with pytest.raises(RecipeError, match="which a recipe must not do; give --save-"):
        recipe.from_yaml(f"editkit: 2\nstages:\n- plugins:\n  - {values}\n")


def test_neither_recipe_nor_provenance_keeps_one(here):
    made = recipe.to_yaml(edit_of(Repair(save_mask="f.png", grow=2)))
    assert "save_mask" not in made
    assert "grow: 2" in made


def edit_of(plugin):
    from editkit.plugin.chain import Chain, Stage

    return Chain((Stage((plugin,)),))


def test_rerun_writes_its_result_alone_whatever_provenance_says(here):
    """What was made when provenance kept such names is made again, and a forged one writes nothing."""
    for plugin in ({"repair": {"save_mask": "stolen.png"}}, {"invert": {"save_noise": "stolen.safetensors"}}):
        made = {"editkit": 2, "stages": [{"plugins": [plugin], "options": {"steps": 1, "model": "pocket"}}]}
        Picture.read("x.png").write("f.png", provenance=Provenance(recipe=made, picture="x.png"), force=True)
        before = tree(here)
        assert run(["rerun", "f.png", "--force"]) == 0
        assert {k for k, v in tree(here).items() if v != before.get(k)} == {"f.rerun.png"}


def test_files_of_plugins_are_checked_with_the_others(here, capsys):
    for flag, name in (("repair", "--save-mask"), ("invert", "--save-noise")):
        assert run([flag, "x.png", name, "x.png", "-o", "o.png", "--force"]) == 2
        assert run([flag, "x.png", name, "./o.png", "-o", "o.png", "--force"]) == 2
        assert run([flag, "x.png", "y.jpg", name, "o", "-o", "out/"]) == 2
        assert run([flag, "x.png", name, "o", "-o", "q.png", "--candidates", "2"]) == 2
        assert run([flag, "x.png", name, "o", "-o", "q.png", "--watch"]) == 2
        assert run(["grid", "--vary", "seed=1,2", flag, "x.png", name, "o", "-o", "q.png"]) == 2
        assert run(["batch", "in", "out", "--", flag, name, "o"]) == 2
    assert not any(path.name in ("o", "o.png", "q.png", "out") for path in here.iterdir())
    assert "several" in capsys.readouterr().err


def test_noise_of_another_file_is_refused_in_one_line(here):
    import torch
    from safetensors.torch import save_file

    edit("x.png", Invert(save_noise="n.safetensors"), model="pocket", steps=1)
    from safetensors import safe_open

    with safe_open("n.safetensors", "pt") as file:
        told, x = json.loads(file.metadata()["editkit-noise"]), file.get_tensor("x")
    wrong = [
        ([], x), (5, x), ({}, x), (told | {"ratio": "a"}, x), (told | {"ratio": None}, x), (told | {"size": {}}, x),
        (told, x[..., :4]), (told, x * torch.nan), (told, torch.zeros(x.shape, dtype=torch.int32)),
        (told | {"version": "x" * 9999}, x),
    ]  # fmt: skip
    for meta, tensor in wrong:
        save_file({"x": tensor.contiguous()}, "w.safetensors", {"editkit-noise": json.dumps(meta)})
        with pytest.raises(UsageError, match="from_noise|from-noise") as raised:
            edit("x.png", Invert(from_noise="w.safetensors"), model="pocket", steps=1)
        assert len(str(raised.value)) < 400


# ------------------------------------------------------------------------------------------- names within other words


@pytest.mark.parametrize(
    "text",
    ["box:1,2,3,4+watermark:/a/b.png", "box:1,2,3,4-watermark:../b.png", "alpha&watermark:~/b.png", "a:b:/c.png",
     "watermark:C:\\b.png", "timm:resnet18:../b.safetensors", "../b.safetensors:0.7", "/b.safetensors:0.7"],
)  # fmt: skip
def test_a_file_named_within_other_words_lies_beside_the_picture(text):
    with pytest.raises(PictureError, match="lies elsewhere"):
        trust.check_provenance_paths("f.png", None, {"stages": [{"plugins": [{"inpaint": {"mask": text}}]}]})


@pytest.mark.parametrize("text", ["box:1,2,3,4+watermark:b.png", "lora.safetensors:0.7", "timm:resnet18:w.safetensors"])
def test_links_within_other_words_are_followed_no_further(here, text):
    Path("sub").mkdir()
    for name in ("b.png", "lora.safetensors", "w.safetensors"):
        Path("sub", name).symlink_to(here / FULL)
    with pytest.raises(PictureError, match="lies elsewhere"):
        trust.check_provenance_paths("sub/f.png", None, {"stages": [{"plugins": [{"inpaint": {"mask": text}}]}]})


@pytest.mark.parametrize(
    ("text", "kept"),
    [("box:1,2,3,4+watermark:/home/al/b.png", "box:1,2,3,4+watermark:b.png"),
     ("watermark:../../al/b.png&alpha", "watermark:b.png&alpha"),
     ("timm:resnet18:/home/al/w.safetensors", "timm:resnet18:w.safetensors"),
     ("a-b.png", "a-b.png"), ("polygon:1,2,3,4,5,6", "polygon:1,2,3,4,5,6")],
)  # fmt: skip
def test_provenance_cuts_folders_within_other_words(text, kept):
    assert Provenance.of({"mask": text}).recipe["mask"] == kept


def test_rerun_looks_beside_the_picture_and_not_where_the_user_is(here, capsys):
    """A file of that name in the present folder is another one, perhaps a private one."""
    for name in ("here", "there"):
        Path(name).mkdir()
    Path("there/x.png").write_bytes(Path("x.png").read_bytes())
    Path("here/m.png").write_bytes(Path("m.png").read_bytes())
    plugins = [{"inpaint": {"mask": "box:2,2,9,9-watermark:m.png"}}]
    made = {"editkit": 2, "stages": [{"plugins": plugins, "options": {"steps": 1}}]}
    Picture.read("x.png").write("there/f.png", provenance=Provenance(recipe=made, picture="x.png"))
    os.chdir("here")
    assert run(["rerun", "../there/f.png", "-o", "o.png"]) == 1
    assert "m.png" in capsys.readouterr().err
    assert not Path("o.png").exists()
    assert Path.cwd().name == "here"
    assert run(["rerun", "../there/f.png", "-o", "o.png", "--mask", "m.png"]) == 0
    assert Path("o.png").exists()
    assert read_provenance("o.png").picture == "x.png"


# --------------------------------------------------------------------------------- several pictures, patterns, watching


@pytest.mark.parametrize("words", [["x.png", "x.fixed.png"], ["x.fixed.png", "x.png"]])
def test_no_result_takes_the_place_of_a_picture_that_is_edited_too(here, words, capsys):
    Path("x.fixed.png").write_bytes(Path("x.png").read_bytes())
    assert run(["inpaint", *words, *MASK, "-o", "{stem}.fixed{suffix}", "--force"]) == 2
    assert "to be edited too" in capsys.readouterr().err
    assert Path("x.fixed.png").read_bytes() == Path("x.png").read_bytes()


@pytest.mark.parametrize(
    "pattern", ["{stem:>999999999}.png", "{stem.__class__}.png", "{0}.png", "{}.png", "{stem!q}.png"]
)
def test_patterns_are_names_and_nothing_else(here, pattern, capsys):
    assert run(["inpaint", "x.png", *MASK, "-o", pattern]) == 2
    assert run(["batch", "in", "out", "--mask", pattern, "--", "inpaint"]) == 2
    assert all(len(line) < 400 for line in capsys.readouterr().err.splitlines())


def test_what_is_watched_is_not_written(here, capsys):
    assert run(["inpaint", "x.png", *MASK, "--watch", "-o", "x.png", "--force"]) == 2
    assert run(["inpaint", "x.png", *MASK, "--watch", "-o", "m.png", "--force"]) == 2
    assert "is also an input" in capsys.readouterr().err


def test_a_watched_result_that_somebody_else_changed_is_left_alone(here, capsys, monkeypatch):
    """The hand that retouches a result is not overwritten by the next round."""
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 1:
            Path("o.png").write_text("retouched by hand")
            Path("m.png").touch()
            os.utime("m.png", (1, 1))
        if len(pauses) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("editkit.cli.watching.time.sleep", pause)
    assert run(["inpaint", "x.png", *MASK, "--watch", "-o", "o.png", *FEW]) == 0
    assert "changed by another program" in capsys.readouterr().err
    assert Path("o.png").read_text() == "retouched by hand"
