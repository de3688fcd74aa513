"""A manifest is somebody's file: what it may name, and what it may not unless the person at the machine says so."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.batch.driver import batch
from editkit.batch.folder import Masks
from editkit.batch.reach import Reach
from editkit.cli import run
from editkit.common.named import has_escaping_path
from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint

EDIT = ["--quiet", "--", "inpaint", "--steps", "2", "--model", "pocket"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The manifest lies in `job`; `private.png` lies beside that folder, and so do masks."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for place in ("job/in", "masks"):
        Path(place).mkdir(parents=True)
    for name in ("private.png", "job/a.png", "job/in/b.png"):
        Image.fromarray(random.integers(0, 256, (12, 14, 3), dtype=np.uint8)).save(name)
    mask = np.zeros((12, 14), np.uint8)
    mask[3:7, 4:9] = 255
    for name in ("private.mask.png", "job/m.png", "masks/a.png"):
        Image.fromarray(mask).save(name)
    return tmp_path


def manifest(*rows: dict, name: str = "job/m.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


LEADS_OUT = [
    {"picture": "../private.png", "output": "p.png"},
    {"picture": "in/../../private.png", "output": "p.png"},
    {"picture": "{here}/private.png", "output": "p.png"},
    {"picture": "file://{here}/private.png", "output": "p.png"},
    {"picture": "FILE://{here}/private.png", "output": "p.png"},
    {"picture": "local://{here}/private.png", "output": "p.png"},
    {"picture": "file://{here}/job/../private.png", "output": "p.png"},
    {"picture": "link.png"},
    {"picture": "linked/private.png"},
    {"picture": "~/private.png", "output": "p.png"},
    {"picture": "private.zip::../../private.png", "output": "p.png"},
    {"picture": "../private.zip::a.png", "output": "p.png"},
    {"picture": "linked.zip::a.png", "output": "p.png"},
    {"picture": "https://host.invalid/p.png"},
    {"picture": "http://169.254.169.254/latest/meta-data"},
    {"picture": "a.png", "mask": "../private.mask.png"},
    {"picture": "a.png", "mask": "{here}/private.mask.png"},
    {"picture": "a.png", "mask": "https://host.invalid/m.png"},
    {"picture": "a.png", "mask": "watermark:{here}/private.png"},
    {"picture": "a.png", "mask": "box:0,0,3,3+watermark:../private.png"},
    {"picture": "a.png", "mask": "box:0,0,3,3", "from": "../private.png"},
    {"picture": "a.png", "mask": "box:0,0,3,3", "inpaint.from": "{here}/private.png"},
    {"picture": "a.png", "mask": "box:0,0,3,3", "lora": ["{here}/private.safetensors:0.7"]},
    {"picture": "a.png", "mask": "box:0,0,3,3", "model": "{here}/model"},
    {"picture": "a.png", "mask": "box:0,0,3,3", "transformer": "../t.gguf"},
]


@pytest.mark.parametrize("row", LEADS_OUT, ids=json.dumps)
def test_a_manifest_names_nothing_elsewhere(here, capsys, row):
    Path("job/link.png").symlink_to(here / "private.png")
    Path("job/linked").symlink_to(here)
    Path("job/linked.zip").symlink_to(here / "private.zip")
    row = json.loads(json.dumps(row).replace("{here}", str(here)))
    name = manifest({"picture": "a.png", "mask": "m.png"}, row)
    assert run(["batch", name, "out", *EDIT]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "job/m.jsonl: row 2 names " in said
    assert "add --anywhere if you trust who wrote it" in said
    assert not Path("out").exists()


def test_what_lies_with_the_manifest_may_be_named_in_each_way(here):
    name = manifest(
        {"picture": "a.png", "mask": "m.png"},
        {"picture": "./in/b.png", "mask": "./m.png"},
        {"picture": f"{here}/job/a.png", "mask": f"file://{here}/job/m.png", "output": "whole.png"},
        {"picture": f"file://{here}/job/in/b.png", "mask": "box:1,1,4,4+watermark:in/b.png", "output": "words.png"},
        {"picture": "a.png", "mask": "m.png", "output": "filled.png", "from": ["in/b.png"]},
    )
    learning = ["--quiet", "--", "inpaint", "--model", "patches"]  # who can be shown another picture by --from
    assert run(["batch", name, "out", *learning]) in (0, 1)  # no watermark is found
    made = {p.relative_to("out").as_posix() for p in Path("out").rglob("*.png")}
    assert {"a.png", "in/b.png", "whole.png", "filled.png"} <= made
    assert Path("out/a.png").stat().st_size  # a column's picture is looked for beside the manifest, not where one is
    assert not np.array_equal(Image.open("out/a.png"), Image.open("out/filled.png"))


def test_a_link_within_the_folder_is_no_way_out(here):
    Path("job/same.png").symlink_to("a.png")
    assert run(["batch", manifest({"picture": "same.png", "mask": "m.png"}), "out", *EDIT]) == 0


def test_the_person_at_the_machine_may_allow_every_place(here, capsys):
    Path("job/link.png").symlink_to(here / "private.png")
    name = manifest(
        {"picture": "../private.png", "mask": "../private.mask.png", "output": "p.png"},
        {"picture": f"{here}/private.png", "mask": "m.png", "output": "q.png"},
        {"picture": "link.png", "mask": "m.png"},
    )
    assert run(["batch", name, "out", "--anywhere", *EDIT]) == 0
    assert sorted(p.name for p in Path("out").glob("*.png")) == ["link.png", "p.png", "q.png"]
    capsys.readouterr()
    assert run(["batch", "job", "out2", "--anywhere", *EDIT]) == 2
    assert "--anywhere: is for a recipe or a manifest" in capsys.readouterr().err


def test_no_manifest_says_anywhere_of_itself(here, capsys):
    assert run(["batch", manifest({"picture": "a.png", "anywhere": True}), "out", *EDIT]) == 2
    assert "has the column 'anywhere', which the edit does not take" in capsys.readouterr().err


def test_masks_that_the_command_names_lie_where_it_says(here):
    """Of the folder where the person is, as every other name on the command line."""
    words = ["--masks", "masks", "--mask", "{stem}.png"]
    assert run(["batch", manifest({"picture": "a.png"}), "out", *words, *EDIT]) == 0
    assert run(["batch", manifest({"picture": "a.png", "mask": f"{here}/masks/a.png"}), "out2", *words, *EDIT]) == 0
    assert run(["batch", manifest({"picture": "a.png"}), "out3", "--mask", "../private.mask.png", *EDIT]) == 0


def test_python_asks_for_the_same_word(here):
    name = manifest({"picture": f"{here}/private.png", "mask": "m.png", "output": "p.png"})
    chain = Chain.of(Inpaint()).using(steps=2, model="pocket")
    with pytest.raises(UsageError, match="add --anywhere"):
        batch(chain, name, "out")
    assert batch(chain, name, "out", anywhere=True).made == 1


def test_buckets_and_hosts_that_the_command_names_are_allowed_and_no_others():
    reach = Reach.of("s3://jobs/today/m.jsonl", "gs://results/x", Masks("{stem}.png", "az://masks"), anywhere=False)
    for name in ("a.png", "s3://jobs/in/a.png", "S3://jobs/a.png", "gs://results/b.png", "az://masks/c.png",
                 "s3://jobs/a.png?sig=x", "memory://anything/a.png"):  # fmt: skip
        reach.check("m", 1, name)
    for name in ("s3://other/a.png", "s3://jobs.evil/a.png", "gs://jobs/a.png", "https://jobs/a.png", "../a.png",
                 "/etc/a.png", "file:///etc/a.png", "s3://jobs/../other/a.png",
                 "s3://user@jobs.evil/a.png"):  # fmt: skip
        with pytest.raises(UsageError, match="row 1 names "):
            reach.check("m", 1, name)
    with pytest.raises(UsageError) as error:
        reach.check("m", 1, "https://host/a.png?sig=sesame")
    assert "sesame" not in str(error.value)


def test_a_manifest_at_the_root_of_this_machine_lies_there():
    assert Reach.of("/m.jsonl", "out", None, anywhere=False).joined("a.png") == "//a.png"
    assert os.path.realpath("//a.png") in ("/a.png", "//a.png")


def test_words_that_are_no_files_pass(here):
    rows = [{"picture": "a.png", "mask": "box:10%,10%,50%,50%-ellipse:1,1,3,3", "prompt": "../ or /imagine a cat"},
            {"picture": "a.png", "mask": "color:#ff0000~20+border:2", "negative": "~ /etc"}]  # fmt: skip
    reach = Reach.of("job/m.jsonl", "out", None, anywhere=False)
    for row in rows:
        reach.check("m", 1, row["mask"])
        reach.check_columns("m", 1, {k: v for k, v in row.items() if k not in ("picture", "mask")})


@pytest.mark.parametrize(("text", "out"), [
    ("softedge:weights=/x", True), ("softedge:size=3,weights=../x,low=2", True), ("softedge:weights=x,size=3", False),
    (":".join("a" * 50), True), ("+".join(["box:1,2,3,4"] * 60), False), ("ode:rtol=1e-3,atol=1e-4", False),
])  # fmt: skip
def test_names_behind_an_equals_sign_are_names(text, out):
    """A detector's weights, as `--control softedge:weights=DIR`; what has too many parts may name anything."""
    assert has_escaping_path(text) == out
