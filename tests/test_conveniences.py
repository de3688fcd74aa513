"""What people bring along from other tools: several pictures, patterns, masks that meet, copies, sizes in words."""

from __future__ import annotations

import inspect
import pkgutil
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from PIL import Image
from rich.text import Text

from editkit import cli
from editkit.cli import run
from editkit.editing import recipe
from editkit.errors import PictureError
from editkit.pictures.files.provenance import read_provenance
from editkit.pictures.masks import load, read_mask
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words
from editkit.plugins import Inpaint

MASK = "box:8,8,16,16"
RNG = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two photographs, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        smooth = Image.fromarray(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((40, 32))
        smooth.save(tmp_path / name)
    return tmp_path


def edit(*words: str) -> int:
    return run(["inpaint", *words, "--steps", "2"])


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# ------------------------------------------------------------------------------------------------------------- masks


def photo() -> Picture:
    values = np.zeros((20, 30, 3), np.uint8)
    values[:10, :10] = 255
    values[15:, 20:] = 255
    return Picture(values)


def test_an_intersection_is_where_both_are() -> None:
    both = from_words("color:white&box:0,0,15,15", photo())
    assert (both[:10, :10] == 1).all()
    assert both.sum() == 100
    assert (from_words("box:0,0,9,9+box:0,0,20,20&box:0,0,5,5", photo()).sum()) == 25  # from left to right


@pytest.mark.parametrize("color", ["white", "White", "#fff", "#ffffff", "ffffff", "white~0"])
def test_colours_have_names(color: str) -> None:
    assert (from_words(f"color:{color}", photo()) == from_words("color:#ffffff~0", photo())).all()


def test_a_colour_that_is_none_names_the_nearest() -> None:
    with pytest.raises(PictureError, match="did you mean white"):
        from_words("color:whit", photo())


def test_several_masks_are_united_in_words_recipes_and_python(here: Path) -> None:
    shapes = ("box:2,2,8,8", "box:20,10,30,20")
    assert edit("a.png", "--mask", shapes[0], "--mask", shapes[1], "-o", "two.png", "--save-recipe", "r.yaml") == 0
    changed = (pixels("two.png") != pixels("a.png")).any(2)
    united = from_words("+".join(shapes), Picture.read("a.png")) > 0
    assert changed[united].any()
    assert not changed[~united].any()
    chain = recipe.read("r.yaml")
    assert chain.stages[0].plugins[0].mask == shapes
    assert Inpaint(mask=[*shapes]) == Inpaint(mask=shapes)
    assert Inpaint(mask=[shapes[0]]) == Inpaint(mask=shapes[0])
    assert recipe.from_yaml(recipe.to_yaml(chain)) == chain
    assert (read_mask(shapes, Picture.read("a.png")) == united).all()


def test_an_option_given_twice_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("a.png", "--mask", MASK, "--grow", "2", "--grow", "3") == 2
    assert "--grow is given twice, as 2 and as 3; give it once" in capsys.readouterr().err


def test_a_mask_of_equal_aspect_is_resized_and_that_is_said(here: Path) -> None:
    small = np.zeros((16, 20), np.uint8)
    small[4:8, 4:8] = 255
    large = np.kron(small, np.ones((4, 4), np.uint8))
    said: list[str] = []
    picture = Picture.read("a.png")
    wanted = np.kron(small > 0, np.ones((2, 2)))
    for mask in (small, large):
        assert (load(mask, picture, notify=said.append) == wanted).all()
    assert len(said) == 2
    assert all("resized to the picture's 40x32" in line for line in said)
    thin = np.zeros((64, 80), np.uint8)
    thin[:, 33] = 255  # half a pixel wide in the picture
    assert (load(thin, picture)[:, 16] == 1).all()
    with pytest.raises(PictureError, match="they must be equal"):
        load(np.zeros((20, 20), np.uint8), picture)
    soft = load(np.tile(np.linspace(0.0, 1.0, 20, dtype=np.float32), (16, 1)), picture)
    assert ((soft >= 0) & (soft <= 1)).all()
    assert (np.diff(soft[0]) >= 0).all()


@pytest.mark.parametrize("paint", [(255, 0, 0), (90, 140, 60)])
def test_a_picture_in_colours_is_no_mask(here: Path, capsys: pytest.CaptureFixture[str], paint) -> None:
    coloured = Image.new("RGB", (40, 32), paint)
    coloured.paste((20, 40, 200), (0, 0, 20, 32))  # one colour alone would be paint (tests/test_painted_masks.py)
    coloured.save("coloured.png")
    assert edit("a.png", "--mask", "coloured.png") == 1
    said = capsys.readouterr().err
    assert "mask coloured.png: is in colours (100% of it), so it is not a mask" in said
    assert not Path("a.inpaint.png").exists()
    wanted = "#" + bytes(paint).hex()
    for command in re.findall(r"editkit (mask coloured.png .*?mask.png)", said):
        assert run([*command.replace("color red", f"color {wanted}").split(), "--force"]) == 0
    assert pixels("mask.png").max() > 0


def test_nearly_grey_masks_stay_masks(here: Path) -> None:
    """A JPEG's chroma, a tint and a dot of colour are no reason to refuse."""
    mask = np.zeros((32, 40, 3), np.uint8)
    mask[8:16, 8:16] = (255, 250, 235)
    mask[0, 0] = (255, 0, 0)
    Image.fromarray(mask).save("mask.jpg", quality=60)
    assert edit("a.png", "--mask", "mask.jpg") == 0
    layer = np.zeros((32, 40, 4), np.uint8)
    layer[..., 0] = 255  # what is transparent has a colour that nobody sees
    layer[8:16, 8:16] = 255
    assert read_mask(layer, Picture.read("a.png")).sum() == 64


# ----------------------------------------------------------------------------------------- several pictures and places


def test_several_pictures_into_a_folder_each_as_if_it_were_alone(here: Path, capsys) -> None:
    assert edit("a.png", "b.png", "--mask", MASK, "-o", "out/") == 0
    assert "2 of 2 made" in capsys.readouterr().err
    assert edit("b.png", "--mask", MASK, "-o", "alone.png") == 0
    assert (pixels("out/b.png") == pixels("alone.png")).all()


def test_a_folder_with_masks_by_a_pattern(here: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((4, 24), (4, 32)))).save(f"{name}.mask.png")
    assert edit(".", "--mask", "{stem}.mask.png", "-o", "out/") == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["a.png", "b.png"]
    assert (pixels("out/a.png")[10:] == pixels("a.png")[10:]).all()


def test_a_pattern_that_no_shell_has_opened_names_the_pictures(here: Path, capsys) -> None:
    assert edit("[ab].png", "--mask", MASK, "-o", "out/") == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["a.png", "b.png"]
    Image.open("a.png").save("[ab].png")  # a file of that name is that file
    assert edit("[ab].png", "--mask", MASK, "-o", "own/") == 0
    assert [p.name for p in Path("own").iterdir()] == ["[ab].png"]
    assert edit("*.tiff", "--mask", MASK, "-o", "none/") == 1
    assert "*.tiff: no such file" in capsys.readouterr().err


def test_a_picture_that_is_named_twice_is_made_once(here: Path, capsys) -> None:
    assert edit("a.png", "./a.png", ".", "--mask", MASK, "-o", "out/") == 0
    assert "2 of 2 made" in capsys.readouterr().err


def test_a_pattern_names_the_results(here: Path) -> None:
    assert edit("a.png", "--mask", MASK, "-o", "{stem}.fixed{suffix}") == 0
    assert edit("a.png", "--mask", MASK, "-o", "name") == 0
    assert (pixels("a.fixed.png") == pixels("name.png")).all()


def test_one_that_fails_does_not_stop_the_rest(here: Path, capsys) -> None:
    assert edit("a.png", "none.png", "b.png", "--mask", MASK, "-o", "out/") == 1
    said = capsys.readouterr().err
    assert "failed: none.png: none.png: no such file" in said
    assert "2 of 3 made, 1 failed" in said
    assert Path("out/b.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.png", "sub/a.png", "-o", "out/"], "would both be written to out/a.png"),
        (["a.png", "b.png", "-o", "-"], "cannot all go to standard output"),
        (["a.png", "b.png", "-o", "one.png"], "would both be written to one.png"),
        (["a.png", "b.png", "--compare", "c.png"], "--compare is for one picture"),
        (["empty", "-o", "out/"], "empty: contains no pictures"),
        (["a.png", "-o", "{stm}.png"], "it may have {stem}, {name}, {suffix} and {folder}"),
        (["a.png", "-o", "q.png", "--quality", "50"], "has no quality"),
    ],
)
def test_places_that_cannot_be_are_refused_before_the_work(here: Path, capsys, words, said) -> None:
    Path("sub").mkdir()
    Path("empty").mkdir()
    Image.open("a.png").save("sub/a.png")
    assert edit(*words, "--mask", MASK) != 0
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in here.iterdir()) == ["a.png", "b.png", "empty", "sub"]


def test_a_copy_of_what_is_replaced_is_kept_and_can_be_made_again(here: Path) -> None:
    before = Path("a.png").read_bytes()
    assert edit("a.png", "--mask", MASK, "-o", "a.png", "--backup") == 0
    assert Path("a.png~").read_bytes() == before
    assert read_provenance("a.png").picture == "a.png~"
    assert run(["rerun", "a.png", "-o", "again.png"]) == 0
    assert (pixels("again.png") == pixels("a.png")).all()
    second = Path("a.png").read_bytes()
    assert edit("a.png", "--mask", MASK, "-o", "a.png", "--backup", "--seed", "3") == 0
    assert Path("a.png~").read_bytes() == before
    assert Path("a.png~2").read_bytes() == second


def test_quality_is_that_of_the_file(here: Path) -> None:
    sizes = []
    for quality in ("20", "95"):
        assert edit("a.png", "--mask", MASK, "-o", f"{quality}.jpg", "--quality", quality) == 0
        sizes.append(Path(f"{quality}.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_run_and_rerun_take_another_mask(here: Path) -> None:
    assert edit("a.png", "--mask", MASK, "-o", "one.png", "--save-recipe", "r.yaml") == 0
    other = "box:24,8,32,16"
    assert edit("a.png", "--mask", other, "-o", "two.png") == 0
    assert run(["run", "r.yaml", "a.png", "--mask", other, "-o", "ran.png"]) == 0
    assert run(["rerun", "one.png", "--mask", other, "-o", "again.png"]) == 0
    for name in ("ran.png", "again.png"):
        assert (pixels(name) == pixels("two.png")).all()


def test_a_batch_has_its_edit_behind_two_dashes(here: Path, capsys) -> None:
    Path("in").mkdir()
    for name in ("a", "b"):
        Path(f"{name}.png").rename(f"in/{name}.png")
        Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((4, 24), (4, 32)))).save(f"in/{name}.m.png")
    words = ["inpaint", "--mask", "{stem}.m.png", "--grow", "2", "--steps", "2"]
    assert run(["batch", "in", "out", "--seed", "4", "--", *words]) == 0
    assert sorted(p.name for p in Path("out").glob("*.png")) == ["a.png", "b.png"]
    assert run(["batch", "in", "out", "--seed", "4", "--resume", "--", *words]) == 0
    assert "2 were done before" in capsys.readouterr().err
    assert (pixels("out/a.png")[12:] == pixels("in/a.png")[12:]).all()
    assert run(["batch", "in", "out2", "--", *words, "-o", "x.png"]) == 2
    assert "--output: is not allowed after --" in capsys.readouterr().err
    assert run(["batch", "no.yaml", "in", "out2"]) == 2
    assert "editkit run" not in capsys.readouterr().err


def test_a_plan_writes_its_recipe(here: Path) -> None:
    assert run(["plan", "inpaint", "a.png", "--mask", MASK, "--save-recipe", "r.yaml"]) == 0
    assert recipe.read("r.yaml").stages[0].plugins[0].mask == MASK


# ----------------------------------------------------------------------------------------------------------- the help


def test_the_version_and_the_help_by_all_their_names(capsys) -> None:
    for words in (["-V"], ["version"], ["--version"]):
        assert run(words) == 0
    assert len(set(capsys.readouterr().out.split("\n"))) == 2  # one line, and the empty one behind the last
    assert run(["help", "inpaint"]) == 0
    assert "--mask" in capsys.readouterr().out
    done = subprocess.run([sys.executable, "-m", "editkit", "-V"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("editkit ")


def heeds_interrupts() -> None:
    """Before a child starts: what is run in the background inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_edit_that_watches_is_made_again_when_the_mask_changes(here: Path) -> None:
    def mask(x: int) -> None:
        values = np.zeros((32, 40), np.uint8)
        values[8:16, x : x + 8] = 255
        Image.fromarray(values).save("new.png")
        Path("new.png").replace("mask.png")

    def until(true: Callable[[], bool]) -> None:
        end = time.monotonic() + 300
        while not true():
            assert time.monotonic() < end, "nothing happened"
            assert process.poll() is None
            time.sleep(0.1)

    mask(4)
    words = ["inpaint", "a.png", "--mask", "mask.png", "--steps", "2", "-o", "out.png", "-w"]
    process = subprocess.Popen(
        [sys.executable, "-m", "editkit", *words], stderr=subprocess.PIPE, text=True, preexec_fn=heeds_interrupts
    )
    try:
        until(Path("out.png").exists)
        first = Path("out.png").read_bytes()
        mask(24)
        until(lambda: Path("out.png").read_bytes() != first)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
    assert "watching" in process.communicate()[1]
    assert (pixels("out.png")[:, :20] == pixels("a.png")[:, :20]).all()


def test_what_comes_once_cannot_be_watched(here: Path, capsys) -> None:
    assert edit("a.png", "--mask", MASK, "-o", "-", "--watch") == 2
    assert "--watch needs files" in capsys.readouterr().err


def test_no_help_holds_words_in_brackets_which_are_taken_for_markup() -> None:
    for found in pkgutil.iter_modules(cli.__path__, "editkit.cli."):
        for command in getattr(getattr(import_module(found.name), "app", None), "registered_commands", ()):
            helps = [command.help or inspect.getdoc(command.callback) or ""]
            hints = get_type_hints(command.callback, include_extras=True).values()
            helps += [str(getattr(note, "help", "")) for hint in hints for note in getattr(hint, "__metadata__", ())]
            for words in helps:
                assert Text.from_markup(words).plain == words.replace("\\[", "["), f"{found.name}: {words}"
