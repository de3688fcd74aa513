"""Which pictures of a folder, with which seeds, masks and names."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_batch import here, pictures

from editkit.batch import journal as journals
from editkit.batch.folder import Masks, items, listing
from editkit.batch.work import with_own_seed
from editkit.cli import run
from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugins import Guide

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import RECIPE

__all__ = ["here"]


def test_a_picture_has_the_same_seed_whatever_else_is_in_the_folder_and_can_be_made_alone(here):
    pictures("in", "a.png", "b.png", "c.png")
    pictures("alone", "x.png", "b.png")
    assert run(["batch", "r.yaml", "in", "out", "--quiet"]) == 0
    assert run(["batch", "r.yaml", "alone", "out2", "--quiet"]) == 0
    assert Path("out/b.png").read_bytes() == Path("out2/b.png").read_bytes()
    lines = [json.loads(line) for line in Path("out", journals.NAME).read_text().splitlines()]
    seed = next(line["seed"] for line in lines if line.get("picture") == "b.png")
    assert run(["run", "r.yaml", "in/b.png", "--seed", str(seed), "-o", "alone.png", "--quiet"]) == 0
    assert np.array_equal(np.asarray(Image.open("alone.png")), np.asarray(Image.open("out/b.png")))
    assert run(["rerun", "out/b.png", "--picture", "in/b.png", "-o", "again.png"]) == 0
    assert Path("again.png").read_bytes() == Path("out/b.png").read_bytes()


def test_every_stage_gets_a_seed_of_the_run_and_the_name():
    chain = Chain.of([[Guide()], [Guide()]]).using(seed=3)
    one, same, other = (with_own_seed(chain, name) for name in ("a.png", "a.png", "b.png"))
    assert one == same
    seeds = [
        stage.options.seed for c in (one, other, with_own_seed(chain.using(seed=4), "a.png")) for stage in c.stages
    ]
    assert len(set(seeds[:2] + seeds[2:4])) == 4  # the first stage's own seed, 0, and the second's, 3
    assert seeds[0] != seeds[2]


def test_masks_by_pattern_missing_ones_are_named(here, capsys):
    pictures("in", "a.png", "b.png", "sub/c.png")
    for name in ("in/a.mask.png", "masks/a.png", "masks/sub/c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((24, 24), np.uint8)
        mask[:7, :7] = 255
        Image.fromarray(mask).save(name)
    bare = RECIPE.replace('{mask: "box:0,0,7,7"}', "{}")
    Path("bare.yaml").write_text(bare)
    assert run(["batch", "bare.yaml", "in", "out"]) == 1  # no word of masks: those beside the pictures
    said = capsys.readouterr().err
    assert "failed: b.png: its mask is missing: in/b.mask.png" in said
    assert "failed: sub/c.png: its mask is missing: in/sub/c.mask.png" in said
    assert sorted(p.name for p in Path("out").rglob("*.png")) == ["a.png"]
    assert run(["batch", "r.yaml", "in", "out2", "--masks", "masks"]) == 1
    assert "failed: b.png: its mask is missing" in capsys.readouterr().err
    assert sorted(p.relative_to("out2").as_posix() for p in Path("out2").rglob("*.png")) == [
        "a.mask.png", "a.png", "sub/c.png",
    ][1:]  # fmt: skip
    changed = np.asarray(Image.open("out2/a.png")) != np.asarray(Image.open("in/a.png"))
    assert not changed[7:].any()
    assert not changed[:, 7:].any()


def test_where_masks_are_looked_for(tmp_path):
    pictures(str(tmp_path), "a.jpg", "sub/b.png", "sub/b_m.png")
    found = items(listing(tmp_path), tmp_path, tmp_path / "out", Masks("{stem}_m{suffix}"))
    assert [(i.name, Path(i.mask).name) for i in found] == [("a.jpg", "a_m.jpg"), ("sub/b.png", "b_m.png")]
    assert {i.mask for i in items(listing(tmp_path), tmp_path, tmp_path, Masks("box:0,0,2,2"))} == {"box:0,0,2,2"}
    with pytest.raises(UsageError, match=r"\{stam\} is not known; use \{stem\}"):
        Masks("{stam}.png")
    with pytest.raises(UsageError, match="is not a pattern"):
        Masks("{stem")


def test_results_never_share_a_name(tmp_path):
    pictures(str(tmp_path), "a.png", "a.jpg", "b.tif", "A2.png")
    found = listing(tmp_path)
    assert [i.output for i in items(found, tmp_path, tmp_path)] == ["A2.png", "a.jpg.png", "a.png.png", "b.png"]
    kept = items(found, tmp_path, tmp_path, ending=None)
    assert [i.output for i in kept] == ["A2.png", "a.jpg", "a.png", "b.tif"]


def test_links_that_lead_back_hidden_files_and_the_output_are_left_out(here, capsys):
    pictures("in", "a.png", "sub/b.png", ".hidden.png")
    Path("in/notes.txt").write_text("hello")
    Path("in/loop").symlink_to("..")
    Path("in/sub/up").symlink_to(Path("in").resolve())
    Path("in/away").symlink_to(Path("elsewhere").resolve())
    pictures("elsewhere", "c.png")
    for _ in range(2):
        code = run(["batch", "r.yaml", "in", "in/out", "--force"])
        assert code == 0
        said = capsys.readouterr().err
        assert "notes.txt" in said
    assert "leads to a folder that is worked on already" in said
    made = {p.relative_to("in/out").as_posix() for p in Path("in/out").rglob("*.png")}
    assert {"a.png", "sub/b.png", "away/c.png"} <= made
    assert not any("out/" in name or "hidden" in name for name in made)
