"""Files beside a picture - recipes, settings, tables, weights - and places to write to, when they are not what they
should be: pipes, devices, endless, deep, of another encoding, full, closed, too long. No network."""

import errno
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from editkit.batch.metrics import _load_state
from editkit.batch.scoring import pictures_of
from editkit.cli import console, run
from editkit.cli.console import LONGEST, bounded
from editkit.cli.rerun import _find_models, _replace_models
from editkit.cli.words import parse
from editkit.common.small import read_limited_bytes, read_limited_text
from editkit.diffusion.samplers import make_sampler
from editkit.editing.api import edit
from editkit.editing.picture_density import density
from editkit.errors import EditkitError, ModelError
from editkit.models import Gaussian, describe, memory
from editkit.models.classifiers import is_noisy
from editkit.models.files.fingerprint import fingerprint
from editkit.models.files.layout import Layout, explain_mistake
from editkit.models.memory import afford_backward
from editkit.models.pocket.model import Pocket
from editkit.pictures.files.provenance import Provenance, UsedModel, read_provenance
from editkit.plugin import hints
from editkit.plugins import Guide, Inpaint


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "editkit").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(name)
    os.mkfifo("pipe")
    return tmp_path


# ------------------------------------------------------------------------------------------------- what is read


def test_a_small_file_is_read_whole_and_no_other(here):
    Path("x").write_bytes(b"\xef\xbb\xbfabc")
    assert read_limited_bytes("x") == b"\xef\xbb\xbfabc"
    assert read_limited_text("x") == "abc"  # without the byte order mark
    assert read_limited_bytes("x", 6) == b"\xef\xbb\xbfabc"
    with pytest.raises(OSError, match="more than 5 bytes"):
        read_limited_bytes("x", 5)
    for other in ("pipe", "/dev/zero", "."):
        with pytest.raises(OSError, match="is not a regular file"):
            read_limited_bytes(other)
    with pytest.raises(FileNotFoundError):
        read_limited_bytes("nothing")


def test_a_pipe_that_a_person_names_is_read(here):
    read, write = os.pipe()
    os.write(write, b"abc")
    os.close(write)
    assert read_limited_bytes(f"/dev/fd/{read}", pipe=True) == b"abc"
    os.close(read)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "/dev/zero", "a.png"],
        ["batch", "/dev/zero", "in", "out"],
        ["score", "a.png", "--reference", "b.png", "--prompts", "/dev/zero"],
    ],
)
def test_a_device_is_no_recipe_and_no_table(here, capsys, words):
    pytest.importorskip("torchmetrics")
    Path("in").mkdir()
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "is not a regular file" in said
    assert said.count("\n") == 1


def test_a_pipe_in_a_folder_of_a_model_is_waited_for_by_nobody(here):
    Path("m").mkdir()
    os.mkfifo("m/config.json")
    with pytest.raises(ModelError, match="is not a regular file"):
        Layout("m", Path("m")).json("config.json")
    assert explain_mistake(Path("m/config.json")) == "is not a regular file"
    assert not is_noisy("m")
    with pytest.raises(ModelError, match="is not a regular file"):
        _load_state("pipe", "fid")


def test_a_row_that_names_a_pipe_fails_alone(here, capsys):
    Path("r.yaml").write_text("editkit: 2\nstages:\n- plugins:\n  - inpaint: {mask: 'box:2,2,9,9'}\n")
    rows = ({"picture": "pipe", "output": "p.png"}, {"picture": "a.png", "mask": "pipe", "output": "q.png"},
            {"picture": "b.png"})  # fmt: skip
    Path("m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(["batch", "r.yaml", "m.jsonl", "out"]) == 1
    said = capsys.readouterr().err
    assert "pipe: is not a regular file" in said
    assert "a.png: its mask is not a regular file" in said
    assert [p.name for p in sorted(Path("out").glob("*.png"))] == ["b.png"]


BROKEN = {
    "latin": (b"[defaults]\nprompt = '\xe9'\n", "is not UTF-8"),
    "utf-16": ("[defaults]\n".encode("utf-16"), "is not UTF-8"),
    "deep": (b"a = " + b"[\n" * 20_000, "is not TOML"),
    "digits": (b"[defaults]\nsteps = " + b"\n".join([b"9" * 1900] * 3), "is not TOML"),
    "one long number": (b"[defaults]\nsteps = " + b"9" * 6000, "a line of more than 2000"),
    "dots": (b"[defaults]\n" + b".".join([b"a"] * 30_000) + b" = 1", "a line of more than 2000"),
    "large": (b"#\n" * 40_000, "more than 65536 bytes"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_settings_that_are_broken_are_one_line_and_doctor_says_so(here, capsys, kind):
    data, said = BROKEN[kind]
    Path("config/editkit/config.toml").write_bytes(data)
    assert run(["config"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert run(["doctor"]) == 1
    assert f"BROKEN: settings: {here}" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "config.toml"])  # the last: a link to itself
def test_settings_that_are_no_file_are_one_line(here, capsys, place):
    Path("config/editkit/config.toml").symlink_to(here / place if place == "pipe" else place)
    assert run(["config"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_settings_may_begin_with_a_byte_order_mark(here, capsys):
    Path("config/editkit/config.toml").write_bytes(b"\xef\xbb\xbf[defaults]\nsteps = 7\n")
    assert run(["config"]) == 0
    assert "7" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- what is written


class Full(io.StringIO):
    """Standard output on a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("words", [["plugins"], ["completion", "bash"], ["config"], ["--version"]])
@pytest.mark.parametrize("out", ["full", "closed"])
def test_standard_output_that_takes_nothing_is_one_line(here, monkeypatch, capsys, words, out):
    console.out.cache_clear()
    monkeypatch.setattr(sys, "stdout", Full() if out == "full" else None)
    code = run(words)
    monkeypatch.undo()
    console.out.cache_clear()
    said = capsys.readouterr().err
    assert code == 1
    assert said.startswith("error: standard output: cannot be written: ")
    assert said.count("\n") == 1


def test_a_picture_for_a_closed_standard_output_is_one_line(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    code = run(["mask", "a.png", "--box", "1,1,5,5", "-o", "-"])
    monkeypatch.undo()
    assert code == 1
    assert "standard output: cannot be written: it is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["score", "a" * 300], ["inpaint", "a.png", "--mask", "box:1,1,5,5", "--preview", "m" * 300 + ".png"],
        ["controlnet", "a.png", "--control", "c" * 300],
        ["mask", "a.png", "--add", "text:dog", "--mask-model", "c" * 300],
    ],
)  # fmt: skip
def test_a_name_longer_than_a_file_can_have_is_one_line(here, capsys, words):
    assert run(words) in (1, 2)
    said = capsys.readouterr().err
    assert "should not happen" not in said
    assert "\nerror: " in "\n" + said
    assert len(said) < LONGEST + 200


@pytest.mark.parametrize(
    "call",
    [lambda name: parse([name, "a.png"]), make_sampler, hints.load, lambda name: Guide(loss=name)],
    ids=["plugin", "sampler", "hint", "loss"],
)
def test_a_name_that_is_not_known_is_cut_for_programs_too(call):
    with pytest.raises(EditkitError) as error:
        call("x" * 10_000)
    assert len(str(error.value)) < 600


def test_messages_are_bounded_and_keep_their_end(here, capsys):
    text = "begin " + "x" * 10_000 + " end"
    assert len(bounded(text)) == LONGEST
    assert bounded(text).startswith("begin x")
    assert bounded(text).endswith("x end")
    assert bounded("a\n b") == "a b"
    assert run(["restore", "a.png", "--degradation", "gaussian:" + "1," * 9000]) == 2
    assert len(capsys.readouterr().err) < LONGEST + 20


def test_scores_take_the_place_of_no_picture(here, capsys):
    pytest.importorskip("torchmetrics")
    for folder in ("results", "truth"):
        Path(folder).mkdir()
        Path(folder, "a.png").write_bytes(Path("a.png").read_bytes())
    assert pictures_of(Path("results")) == [Path("results/a.png")]
    assert pictures_of(Path("nothing")) == []
    for flag, path in (("-o", "results/a.png"), ("--sheet", "truth/a.png"), ("--sheet", "results/../truth/a.png")):
        assert run(["score", "results", "--reference", "truth", flag, path, "--force"]) == 2
        assert "is also an input" in capsys.readouterr().err


def test_names_that_are_no_text_are_in_a_table_of_scores(here, capsys):
    pytest.importorskip("torchmetrics")
    name = os.fsdecode(b"Mu\xf1oz.png")
    Path(name).write_bytes(Path("a.png").read_bytes())
    assert run(["score", name, "--reference", "a.png", "-o", "s.csv"]) == 0
    assert Path("s.csv").read_text(encoding="utf-8").splitlines()[1] == "Mu\\udcf1oz,,,inf,1.0"


# --------------------------------------------------------------------------------------------------- memory


def test_a_backward_pass_is_asked_for_its_memory_first(here, monkeypatch):
    table = [Pocket.held * size * 3 * 100 * 200 for size in (2, 4)]
    model = describe("pocket")

    class Holds:
        held, info = Pocket.held, model

    for size, needed in zip((2, 4), table, strict=True):
        monkeypatch.setattr(memory, "available", lambda device, free=needed: free)
        afford_backward(Holds(), 100, 200, size, torch.device("cpu"))
        monkeypatch.setattr(memory, "available", lambda device, free=needed: free - 1)
        with pytest.raises(ModelError, match="200x100 pixels: the backward pass"):
            afford_backward(Holds(), 100, 200, size, torch.device("cpu"))
    silent = Gaussian(mean=torch.zeros(3, 4, 4), covariance=torch.eye(48))
    afford_backward(silent, 10**6, 10**6, 4, torch.device("cpu"))  # what a model holds is not guessed


def test_guides_and_densities_of_large_pictures_are_refused_before_they_run(here, monkeypatch):
    large = np.zeros((400, 400, 3), np.uint8)
    monkeypatch.setattr(memory, "available", lambda device: 500 << 20)  # enough for 360 x 360
    monkeypatch.setattr("editkit.editing.stages.available", lambda device: 500 << 20)
    with pytest.raises(ModelError, match="400x400 pixels: the backward pass"):
        edit(large, Guide(brightness=0.6), model="pocket", steps=2)
    with pytest.raises(ModelError, match="400x400 pixels: the backward pass"):
        density(large, model="pocket", steps=4)
    small = Inpaint(mask="box:100,100,120,120") & Guide(brightness=0.6)
    assert edit(large, small, model="pocket", steps=2, canvas="full").size == (400, 400)  # the mask's windows count


# ---------------------------------------------------------------------------------------------------- rerun


def test_a_model_elsewhere_is_taken_by_rerun_only_with_the_weights_that_made_the_picture(here, tmp_path):
    from diffusers import DDIMScheduler
    from tiny_latent import SD, save_sd

    save_sd(Path("sd"), DDIMScheduler(**SD))
    hash_ = fingerprint(describe(str(tmp_path / "sd"), offline=True))
    recipe = {"editkit": 2, "stages": [{"plugins": [{"inpaint": {}}], "options": {"model": "sd"}}, {"plugins": []}, 5]}
    for given, places in ((hash_, {"sd": str(tmp_path / "sd")}), ("0" * 64, {}), (None, {})):
        found = Provenance(recipe=recipe, models=(UsedModel(name="sd", hash=given),))
        assert _find_models(found, Path("out"), tmp_path) == places
    assert _find_models(Provenance(recipe=recipe, models=(UsedModel(name="sd", hash=hash_),)), tmp_path, tmp_path) == {}
    told = _replace_models(recipe, {"sd": "/x/sd"})
    assert told["stages"][0]["options"]["model"] == "/x/sd"
    assert told["stages"][1:] == [{"plugins": []}, 5]


def test_a_batch_by_a_model_of_a_folder_is_made_again_from_where_it_was_made(here):
    from diffusers import DDIMScheduler
    from tiny_latent import SD, save_sd

    save_sd(Path("sd"), DDIMScheduler(**SD))
    Path("in").mkdir()
    Image.open("a.png").resize((32, 24)).save("in/a.png")
    Path("r.yaml").write_text(
        "editkit: 2\nstages:\n- plugins:\n  - inpaint: {mask: 'box:2,2,9,9'}\n  options: {model: ./sd, steps: 1}\n"
    )
    assert run(["batch", "r.yaml", "in", "out"]) == 0
    assert read_provenance("out/a.png").models[0].name == "sd"  # and nothing of where it lies
    assert run(["rerun", "out/a.png", "--picture", "in/a.png", "-o", "again.png"]) == 0
    assert Path("again.png").read_bytes() == Path("out/a.png").read_bytes()


# ------------------------------------------------------------------------- what is read is not what is written


def test_beside_a_video_and_a_mask_nothing_that_is_read_is_replaced(here, capsys):
    av = pytest.importorskip("av")
    with av.open("c.mp4", "w") as out:
        stream = out.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 90, np.uint8), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode()):
            out.mux(packet)
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save("m.png")
    before = {name: Path(name).read_bytes() for name in ("c.mp4", "m.png", "a.png")}
    edit_ = ["inpaint", "c.mp4", "--mask", "box:4,4,9,9", "--force"]
    for words in (
        [*edit_, "-o", "z.mp4", "--save-recipe", "c.mp4"],
        [*edit_, "-o", "z.mp4", "--save-recipe", "./z.mp4"],
        ["mask", "a.png", "--add", "box:1,1,9,9", "--minus", "m.png", "-o", "n.png", "--show", "m.png", "--force"],
    ):
        assert run(words) == 2
        assert "give another name" in (told := capsys.readouterr().err) or "different names" in told
    assert {name: Path(name).read_bytes() for name in before} == before
    assert not Path("z.mp4").exists()
    words = ["mask", "a.png", "--add", "m.png", "--minus", "box:1,1,9,9", "-o", "m.png", "--force"]
    assert run(words) == 0  # the result itself may


@pytest.mark.parametrize("word", ["faces", "box:1,1,9,9", "text:dog", "lettering"])
@pytest.mark.parametrize("name", ["nosuch", "yunet.onnx", "n" * 300])
def test_a_network_for_masks_that_is_not_there_is_told_whatever_the_word(here, capsys, word, name):
    assert run(["mask", "a.png", "--add", word, "--mask-model", name, "-o", "m.png"]) == 1
    kind = "file" if name.endswith(".onnx") else "folder"
    assert f"there is no such {kind}" in capsys.readouterr().err


def test_every_promise_names_a_test_that_is_there():
    root = Path(__file__).parent.parent
    text = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:tests|benchmarks)/[\w/]+\.py", text)) | {
        f"tests/{name}.py" for name in re.findall(r"(?<![/\w])test_\w+", text)
    }
    assert len(named) > 15
    assert [name for name in sorted(named) if not (root / name).is_file()] == []
    table = text[text.index("| promise |") : text.index("## What happens")].splitlines()[2:]
    assert [row for row in table if row.startswith("|") and ".py" not in row.rsplit("|", 2)[1]] == []
