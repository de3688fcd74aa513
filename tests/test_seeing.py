"""Previews, traces, comparisons, candidates and grids: what they show is what happened."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler
from PIL import Image
from tiny_latent import SD, save_sd

from editkit.cli import run
from editkit.editing import contract
from editkit.editing.api import stream
from editkit.editing.result import make
from editkit.editing.watching.charts import bars, lines
from editkit.editing.watching.sheets import GAP, LINE, Tile, compare, sheet
from editkit.editing.watching.trace import Preview, Trace, is_due
from editkit.errors import UsageError
from editkit.models.leasing import Models
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint, SDEdit

MASK = "box:0,0,7,7"
EDIT = ["inpaint", "photo.png", "--mask", MASK, "--steps", "3"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return tmp_path


def updates(edits, steps=6):
    return list(stream(contract.picture(), edits, model=contract.ExactModel(), steps=steps))


def traced(edits, path, steps=6) -> Trace:
    trace = Trace(path)
    for update in updates(edits, steps):
        trace(update)
    return trace


def test_the_engine_tells_energies_the_gradients_norm_and_where_time_went():
    """E = w (mean - m)^2 at x0: |dE/dx0| = 2 w |mean - m| / sqrt(n) = 2 sqrt(w E / n)."""
    states = [u.state for u in updates(SDEdit(strength=1.0) & Guide(brightness=0.9, gradient="x0", weight=50.0))]
    n = contract.picture().pixels.size
    for state in states[1:]:  # at the first level alpha is 0, and so is the energies' term
        ((name, energy),) = state.energies
        assert name == "guide"
        ((who, norm),) = state.gradients
        assert who == "guide"
        assert norm == pytest.approx(2.0 * (50.0 * energy / n) ** 0.5, rel=1e-4)
        spent = dict(state.seconds)
        assert {("guide", "energy"), ("energies", "backward"), ("model", "network")} <= spent.keys()
        assert all(seconds >= 0.0 for seconds in spent.values())
    assert ("sdedit", "begin") in dict(states[0].seconds)
    assert ("sdedit", "begin") not in dict(states[1].seconds)
    assert updates(SDEdit())[-1].state.gradients == ()


def test_estimates_are_shown_evenly_and_the_last_always_is():
    seen = [u.state.index for u in updates(SDEdit(strength=1.0), steps=40) if is_due(u, 8)]
    assert seen == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [u.state.index for u in updates(SDEdit(strength=1.0), steps=3) if is_due(u, 8)] == [1, 2, 3]
    assert [u.state.index for u in updates(SDEdit(strength=1.0), steps=7) if is_due(u, 2)][-1] == 7


def test_previews_in_a_folder_and_as_a_moving_picture(here, capsys):
    assert run([*EDIT, "--preview", "frames", "-o", "a.png"]) == 0
    frames = sorted(p.name for p in Path("frames").iterdir())
    assert frames[0].startswith("frame-001-stage1-pass1-level")
    assert frames[-1].endswith("level000.png")
    assert run([*EDIT, "--preview", "p.webp", "-o", "b.png"]) == 0
    with Image.open("p.webp") as moving:
        assert 1 < moving.n_frames <= len(frames)  # WebP joins frames that are equal
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()  # looking changes nothing


def test_a_trace_as_a_page_needs_nothing_else(here):
    words = [*EDIT, "--method", "repaint", "--jump", "1", "--repeats", "2", "-o", "a.png", "--trace", "t.html"]
    assert run(words) == 0
    page = Path("t.html").read_text()
    assert not re.search(r"https?://|<script|src=['\"](?!data:)|href=", page)
    assert page.count("data:image/png;base64,") >= 4
    for said in ("inpaint on patches", "sampler ddim", "upward", "Estimates of the result"):
        assert said in page
    assert run([*EDIT, "-o", "b.png", "--trace", "t.png"]) == 0
    assert Image.open("t.png").width > 400


def test_a_trace_shows_every_move_and_the_upward_ones(tmp_path):
    trace = traced(Inpaint(mask=MASK, method="repaint", jump=2, repeats=3) & Guide(), tmp_path / "t.png", steps=8)
    moves = [point.move for point in trace.points]
    assert sum(move.up for move in moves) > 0
    assert moves == [u.state.move for u in updates(Inpaint(mask=MASK, method="repaint", jump=2, repeats=3), 8)]
    assert len(trace.charts()) == 4  # plan, energies, gradient, time
    assert len(traced(SDEdit(), tmp_path / "t.png").charts()) == 2  # plan, time
    assert f"{len(moves)} moves, {sum(m.up for m in moves)} of them upward" in trace.summary()[-1]


def test_names_in_a_trace_cannot_break_the_page(tmp_path):
    trace = traced(SDEdit(), tmp_path / "t.html")
    trace.strip.append(Tile("<script>alert(1)</script>", trace.strip[0].pixels))
    trace.close()
    assert "<script>" not in (tmp_path / "t.html").read_text()


def test_a_comparison_says_what_changed_and_that_the_rest_did_not(here):
    made = make(Picture.read("photo.png"), Chain.of(Inpaint(mask=MASK)).using(steps=3))
    assert made.kept_deviation == 0
    assert made.changeable.sum() == 49
    page = compare(made.source, made.picture, made.changeable)
    assert page.width > 2 * 30
    assert run([*EDIT, "-o", "a.png", "--compare", "c.png"]) == 0
    assert np.array_equal(np.asarray(Image.open("c.png")), np.asarray(page))


def test_what_may_change_is_the_union_of_the_masks_and_everything_where_a_stage_has_none():
    model, picture = contract.ExactModel(), contract.picture()
    both = [[Inpaint(mask="box:0,0,5,5")], [Inpaint(mask="box:20,20,25,25")]]

    def changeable(edits):
        return make(picture, Chain.of(edits).using(steps=2), models=Models(load=lambda *a, **k: model)).changeable

    assert changeable(both).sum() == 50
    assert changeable([*both, [SDEdit()]]) is None


def test_what_a_lossy_file_did_outside_the_mask_is_told(here, capsys):
    assert run([*EDIT, "-o", "a.png"]) == 0
    assert "pixels outside the mask: identical" in capsys.readouterr().err
    assert run([*EDIT, "-o", "a.jpg"]) == 0
    told = int(re.search(r"JPEG changed pixels outside the mask by up to (\d+)", capsys.readouterr().err)[1])
    before, after = (np.asarray(Image.open(p)).astype(int) for p in ("photo.png", "a.jpg"))
    kept = np.ones((24, 30), bool)
    kept[:7, :7] = False
    assert told == np.abs(before - after)[kept].max() > 0
    assert run([*EDIT, "-o", "b.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept_deviation"] == 0


def test_notices_of_reading_are_said(here, capsys):
    Image.open("photo.png").convert("CMYK").save("photo.tif")
    assert run(["inpaint", "photo.tif", "--mask", MASK, "--steps", "2"]) == 0
    assert "CMYK" in capsys.readouterr().err


def test_candidates_are_the_edits_with_those_seeds(here, capsys):
    assert run([*EDIT, "--seed", "4", "--candidates", "3", "-o", "x.png"]) == 0
    said = capsys.readouterr().err
    assert "wrote x.sheet.png · 3 candidates" in said
    for seed in (4, 5, 6):
        assert run([*EDIT, "--seed", str(seed), "-o", "alone.png", "--force", "--quiet"]) == 0
        assert Path("alone.png").read_bytes() == Path(f"x.seed{seed}.png").read_bytes()


def test_a_grid_lays_out_every_pair_of_values(here, capsys):
    vary = ["--vary", "guide.weight=0,80,160", "--vary", "seed=1,2", "--cells", "cells"]
    words = ["inpaint", "photo.png", "--mask", MASK, "--steps", "2", "-o", "g.png", "with", "guide"]
    assert run(["grid", *vary, *words]) == 0
    said = capsys.readouterr().err
    assert "wrote g.png · 6 results" in said
    cells = [line for line in said.splitlines() if line.startswith("cell ")]
    assert [line.partition(":")[0] for line in cells][::5] == [
        "cell 1 of 6 (guide.weight 0, seed 1)", "cell 6 of 6 (guide.weight 160, seed 2)",
    ]  # fmt: skip
    assert all(line.endswith("to go") for line in cells[:-1])
    assert not cells[-1].endswith("to go")
    assert len(list(Path("cells").glob("*.png"))) == 6
    alone = ["inpaint", "photo.png", "--mask", MASK, "--steps", "2", "--seed", "2", "-o", "a.png"]
    assert run([*alone, "with", "guide", "--weight", "80"]) == 0
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("cells/004.png")))


def test_prompts_of_a_table_are_an_axis_category_by_category(here, capsys):
    """Each cell is the edit with that prompt alone; rows of a category stand together, the first one first."""
    model = save_sd(here / "sd", DDIMScheduler(**SD))
    Path("p.csv").write_text('prompt,category\n"a wall, old",texture\na red door,objects\na meadow,texture\n')
    edit = ["sdedit", "photo.png", "--model", str(model), "--steps", "2", "--strength", "1"]
    assert run(["grid", "--prompts", "p.csv", "--cells", "cells", *edit, "-o", "g.png"]) == 0
    said = capsys.readouterr().err
    order = ["texture: a wall, old", "texture: a meadow", "objects: a red door"]
    assert re.findall(r"cell \d of 3 \((.*)\): ", said) == order
    for k, label in enumerate(order, 1):
        assert run([*edit, "--prompt", label.partition(": ")[2], "-o", "a.png", "--force"]) == 0
        assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open(f"cells/{k:03}.png")))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("prompt,picture\na door,a.png\n", "row 1 has the column 'picture'; here are prompts of one picture"),
        ("category\nsigns\n", "row 1 has no prompt"),
        ("prompt\n", "holds no prompt"),
        ("prompt;category\na;b\n", "not separated by commas"),
        (None, "p.csv: No such file or directory"),
    ],
)
def test_a_wrong_table_of_prompts_is_one_line(here, capsys, table, said):
    if table is not None:
        Path("p.csv").write_text(table)
    assert run(["grid", "--prompts", "p.csv", *EDIT]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_quiet_grid_says_nothing(here, capsys):
    assert run(["grid", "--vary", "seed=1,2", "inpaint", "photo.png", "--mask", MASK, "--steps", "2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_plan_says_where_its_count_may_differ(here, capsys):
    """A mask that is found in the result of the stage before is not there yet."""
    first = ["plan", "inpaint", "photo.png", "--mask", MASK, "--steps", "2"]
    assert run([*first, "then", "repair"]) == 0
    found = capsys.readouterr().out
    assert "total: about " in found
    assert "is counted as detected in the input picture" in found
    assert run([*first, "then", "upscale", "--scale", "2"]) == 0
    assert "total: about" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grid", "inpaint", "photo.png"], "give --vary (or --prompts) once or twice, got 0"),
        (["grid", "--vary", "seed", *EDIT], "write it as NAME=V1,V2"),
        (["grid", "--vary", "seed=1,,2", *EDIT], "write it as NAME=V1,V2"),
        (["grid", "--vary", "sead=1", *EDIT], "is not an option of the run"),
        (["grid", "--vary", "seed=x", *EDIT], "--seed"),
        (["grid", "--vary", "guide.weight=1", *EDIT], "no plugin guide is in this edit"),
        (["grid", "--vary", "inpaint.wait=1", *EDIT], "inpaint has no parameter wait"),
        (["grid", "--vary", "inpaint.feather=-1", *EDIT], "--feather: must be greater"),
        (["grid", "--vory", "seed=1", *EDIT], "--vory is unknown here"),
        (["grid", "--vary"], "--vary needs a value"),
        (["grid", "--vary", "seed=1", *EDIT, "--trace", "t.png"], "leave --preview, --trace"),
        ([*EDIT, "--candidates", "0"], "--candidates: must be greater"),
        ([*EDIT, "--candidates", "2", "--trace", "t.png"], "--candidates writes several pictures"),
        ([*EDIT, "--trace", "t.txt"], "ends in .html or .png"),
        ([*EDIT, "--trace", "photo.png"], "is also an input"),
        ([*EDIT, "--preview", "p.gif"], "give a folder, or a name that ends in .webp"),
        ([*EDIT, "-o", "a.png", "--compare", "a.png"], "both name a.png"),
        ([*EDIT, "--compare", "a.png", "then", "sdedit", "--compare", "b.png"], "--compare is given twice"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(here, capsys, words, said):
    assert run(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert [p.name for p in here.iterdir()] == ["photo.png"]


def test_a_sheet_has_room_for_every_tile_and_charts_take_any_numbers():
    tiles = [Tile(f"tile {k}", np.full((3 + k, 5, 3), 40 * k, np.uint8)) for k in range(5)]
    page = sheet(tiles, columns=2, side=50)
    assert page.height == GAP + 3 * (50 + LINE + GAP)  # the tile of 5x5 is enlarged ten times, the highest
    assert sheet(tiles[:1], title="one").width >= 320
    assert lines("t", {"a": [(0.0, 1.0)], "b": []}, "x").size == (860, 220)
    assert lines("t", {"a": [(0, float("nan")), (1, 2.0)]}, "x").size == (860, 220)
    assert bars("t", {"a": 0.0}, "ms").width == 860


def test_outputs_are_checked_before_anything_runs(tmp_path):
    (tmp_path / "frame-001.png").write_bytes(b"")
    with pytest.raises(UsageError, match="holds frames already"):
        Preview(tmp_path)
    Preview(tmp_path, force=True)
