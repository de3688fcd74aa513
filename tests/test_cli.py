"""The command line as a user would use it, unhappy paths included; the model is the embedded `patches`."""

import gc
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image

from editkit.cli import run
from editkit.cli.process import configure_process
from editkit.common.device import cpu_has_bf16

MASK = "box:30,20,58,44"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a small photograph (a crop of a demonstration picture) to work in."""
    photo = next((Path(__file__).parent.parent / "assets" / "photos").glob("*.jpg"))
    Image.open(photo).convert("RGB").resize((128, 96)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_inpaint_keeps_every_pixel_outside_the_mask(here, capsys):
    assert run(["inpaint", "photo.png", "--mask", MASK, "--steps", "6"]) == 0
    before, after = pixels("photo.png"), pixels("photo.inpaint.png")
    assert after.shape == before.shape
    hole = np.zeros(before.shape[:2], bool)
    hole[20:44, 30:58] = True
    assert np.array_equal(before[~hole], after[~hole])
    assert not np.array_equal(before[hole], after[hole])
    assert "wrote photo.inpaint.png" in capsys.readouterr().err


def test_the_same_command_gives_the_same_bytes(here):
    for name in ("a.png", "b.png"):
        assert run(["inpaint", "photo.png", "--mask", MASK, "--steps", "4", "--seed", "7", "-o", name]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_with_and_then_and_one_line_of_json(here, capsys):
    words = ["inpaint", "photo.png", "--mask", MASK, "--steps", "4", "with", "guide", "--brightness", "0.9"]
    assert run([*words, "then", "sdedit", "--strength", "0.5", "--json", "-o", "out.png"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["stages"] == [["inpaint", "guide"], ["sdedit"]]
    assert record["output"] == "out.png"
    assert [line.split()[0] for line in err.splitlines()] == ["guide:", "sdedit:"]
    assert record["measured"] == [{"stage": 0, "plugin": "guide", "brightness": ANY, "wanted": 0.9, "measured": ANY}]
    assert run(["plan", *words, "then", "sdedit", "--strength", "0.5", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert sum(p["network_calls"] for p in plans) == record["network_calls"]


def test_values_called_with_and_then_are_values(here, capsys):
    assert run(["sdedit", "photo.png", "--prompt", "then", "--negative", "with"]) == 2
    assert "takes no text" in capsys.readouterr().err


def test_standard_input_and_output(here, monkeypatch, capfdbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("photo.png").read_bytes())))
    assert run(["sdedit", "-", "--steps", "4", "--strength", "0.3", "--quiet"]) == 0
    out, err = capfdbinary.readouterr()
    assert Image.open(io.BytesIO(out)).size == (128, 96)
    assert err == b""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["inpaint", "photo.png"], 2, "inpaint needs --mask"),
        (["inpaint", "no.png", "--mask", MASK], 1, "no such file"),
        (["inpaint", "text.png", "--mask", MASK], 1, "not a picture"),
        (["inpaint", "truncated.png", "--mask", MASK], 1, "truncated"),
        (["inpaint", "photo.png", "--mask", "small.png"], 1, "9x7, the picture is 128x96"),
        (["inpaint", "photo.png", "--mask", "black.png"], 1, "empty"),
        (["inpaint", "photo.png", "--mask", MASK, "--feather", "-1"], 2, "--feather: must be greater than or equal"),
        (["inpaint", "photo.png", "--mask", MASK, "--method", "guess"], 2, "'replace', 'repaint'"),
        (["inpaint", "photo.png", "--mask", MASK, "--sampler", "dpmm"], 2, "no sampler is called 'dpmm'"),
        (["inpaint", "photo.png", "--mask", MASK, "--sampler", "ddim:eta=2"], 2, "allowed: 0 to 1"),
        (["inpaint", "photo.png", "--mask", MASK, "--maks", "x"], 2, "--maks"),
        (["plan", "inpaint", "photo.png", "extra.png", "--mask", MASK], 2, "extra"),
        (["inpaint", "photo.png", "--mask", MASK, "with"], 2, "`with` needs a plugin"),
        (["inpaint", "photo.png", "--mask", MASK, "then"], 2, "`then` needs a plugin"),
        (["inpaint", "photo.png", "--mask", MASK, "then", "inpiant"], 2, "did you mean inpaint?"),
        (["inpaint", "photo.png", "--mask", MASK, "with", "inpaint", "--mask", MASK], 2, "both set the mask"),
        (["inpaint", "photo.png", "--mask", MASK, "-o", "taken.png"], 1, "--force"),
        (["inpaint", "photo.png", "--mask", MASK, "-o", "nowhere/out.png"], 1, "no such folder"),
        (["inpaint", "photo.png", "--mask", MASK, "-o", "a.png", "then", "sdedit", "-o", "b.png"], 2, "given twice"),
        (
            ["inpaint", "photo.png", "--mask", MASK, "--dtype", "fp16"],
            2,
            "use bf16 or auto" if cpu_has_bf16() else "use fp32 or auto",
        ),
        (["inpaint", "photo.png", "--mask", MASK, "--device", "cuda:9"], 2, "this machine has"),
        (["guide", "photo.png", "--model", "pocket", "--loss", "os:getcwd"], 2, "--allow-code"),
        (["guide", "photo.png", "--model", "pocket", "--loss", "no_such:x", "--allow-code"], 2, "cannot be imported"),
        (["guide", "photo.png", "--color", "rde"], 2, "#rrggbb"),
        (["--nonsense"], 2, "editkit --help"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(here, capsys, words, code, said):
    Path("text.png").write_text("hello")
    Path("truncated.png").write_bytes(Path("photo.png").read_bytes()[:2000])
    Image.new("L", (9, 7), 255).save("small.png")
    Image.new("L", (128, 96), 0).save("black.png")
    Image.new("L", (8, 8)).save("taken.png")
    before = {p.name: p.read_bytes() for p in here.iterdir()}
    assert run(words) == code
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert {p.name: p.read_bytes() for p in here.iterdir()} == before


def test_a_full_mask_is_a_notice_and_runs(here, capsys):
    """The prior of `patches` is what the mask leaves: with nothing left another model does it, unless asked for."""
    Image.new("L", (32, 24), 255).save("white.png")
    Image.new("RGB", (32, 24), "teal").save("small.png")
    words = ["inpaint", "small.png", "--mask", "white.png"]
    assert run([*words, "--steps", "2", "-o", "filled.png"]) == 0
    notices = capsys.readouterr().err
    assert "covers the whole picture" in notices
    assert "pocket" in notices
    with Image.open("filled.png") as filled:
        assert filled.size == (32, 24)
    assert run([*words, "--model", "patches"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "use a smaller mask" in error


HELD = """
import sys
import threading
from editkit.cli import main
from editkit.engine import loop

real = loop.steps

def held(process):
    yield next(real(process))
    print("begun", file=sys.stderr, flush=True)
    threading.Event().wait(600)

loop.steps = held
main()
"""


def test_interrupted_in_the_middle_nothing_is_half_written(here):
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, "inpaint", "photo.png", "--mask", MASK, "-o", "out.png"],
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    assert process.stderr.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.strip() == "interrupted; nothing was written"
    assert sorted(p.name for p in here.iterdir()) == ["photo.png"]


def test_help_of_a_plugin_names_its_fields_and_the_runs(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["inpaint", "--help-all"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--mask", "--feather", "--repeats", "--steps", "--sampler", "--seed", "--canvas", "--json"):
        assert flag in shown


def test_a_recipe_saved_and_run_gives_the_same_picture_and_so_does_rerun(here, capsys):
    words = ["inpaint", "photo.png", "--mask", MASK, "--steps", "4", "--seed", "3"]
    words += ["then", "sdedit", "--strength", "0.5"]
    assert run([*words, "-o", "out.png", "--save-recipe", "r.yaml"]) == 0
    assert run(["run", "r.yaml", "photo.png", "-o", "again.png"]) == 0
    assert Path("out.png").read_bytes() == Path("again.png").read_bytes()
    assert run(["rerun", "out.png"]) == 0
    assert Path("out.png").read_bytes() == Path("out.rerun.png").read_bytes()
    capsys.readouterr()
    assert run(["show", "out.png"]) == 0
    assert "strength: 0.5" in capsys.readouterr().out
    assert run([*words, "-o", "bare.png", "--no-provenance"]) == 0
    capsys.readouterr()
    assert run(["rerun", "bare.png"]) == 1
    assert "has no provenance" in capsys.readouterr().err
    Image.new("RGB", (128, 96)).save("photo.png")
    assert run(["rerun", "out.png"]) == 1
    assert "is not the picture" in capsys.readouterr().err
    Path("photo.png").rename("photos.png")  # a near name is another picture
    assert run(["rerun", "out.png"]) == 1
    said = capsys.readouterr().err
    assert "photo.png: is not there, from which out.png was made; give its place with --picture" in said
    assert "photos.png" not in said


def test_rerun_says_that_the_mask_is_another_one(here, capsys):
    mask = np.zeros((96, 128), np.uint8)
    mask[8:24, 8:24] = 255
    with Image.open("photo.png") as photo:
        mask = np.resize(mask, photo.size[::-1])
    Image.fromarray(mask).save("m.png")
    assert run(["inpaint", "photo.png", "--mask", "m.png", "--steps", "2", "-o", "out.png"]) == 0
    capsys.readouterr()
    assert run(["rerun", "out.png"]) == 0
    assert "mask is not" not in capsys.readouterr().err
    mask[0:8] = 255
    Image.fromarray(mask).save("m.png")
    assert run(["rerun", "out.png", "--force"]) == 0
    said = capsys.readouterr().err
    assert said.count("the mask is not the one with which out.png was made") == 1
    Path("m.png").rename("elsewhere.png")
    Path("m.png").write_bytes(b"no picture")
    assert run(["rerun", "out.png", "--force"]) == 1
    assert "--mask gives the place" not in capsys.readouterr().err
    Path("m.png").unlink()
    assert run(["rerun", "out.png", "--force"]) == 1
    assert "--mask gives the place of the mask from which out.png was made" in capsys.readouterr().err
    assert run(["rerun", "out.png", "--force", "--mask", "elsewhere.png"]) == 0


def test_a_commands_process_settles_itself_and_leaves_what_the_user_set(monkeypatch):
    before = gc.get_threshold()
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "9")
    try:
        configure_process()
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
        assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "9"
        assert gc.get_threshold()[0] > before[0]
        assert gc.isenabled()
        monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
        configure_process()
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    finally:
        gc.set_threshold(*before)
