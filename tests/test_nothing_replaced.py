"""What lies there is not replaced by trainings, classifiers, reports, grids; videos of strangers are read or refused.

Siblings of what outside attempts found (docs/reliability.md), in commands that came later. No network.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_claims import changed

from editkit.cli import run
from editkit.errors import EditkitError, PictureError
from editkit.plugins import Inpaint


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("photos/0.png", "photos/1.png", "labels/a/0.png", "labels/b/0.png", "x.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(name)
    return tmp_path


PRIOR = ["train", "prior", "--images", "photos", "--output", "run", "--batch", "2", "--channels", "32,32", "--window",
         "16", "--layers", "1", "--threads", "1"]  # fmt: skip


def held(folder: str) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_a_run_takes_the_place_of_no_other(here, capsys):
    """Whoever forgets --resume keeps what hours have made."""
    assert run([*PRIOR, "--steps", "1"]) == 0
    before = held("run")
    assert run([*PRIOR, "--steps", "2"]) == 1
    assert "run: holds checkpoint.safetensors of a run already; --resume goes on with it" in capsys.readouterr().err
    Path("run/checkpoint.safetensors").rename("kept")
    assert run([*PRIOR, "--steps", "2"]) == 1
    assert "run: holds export of a run already" in capsys.readouterr().err
    Path("kept").rename("run/checkpoint.safetensors")
    assert held("run") == before
    assert run([*PRIOR, "--steps", "2", "--resume"]) == 0

    Path("held.txt").write_text("0.png\n")
    Path("report").mkdir()
    Path("report/inpaint.png").write_text("precious")
    words = ["train", "report", "--model", "run/export", "--images", "photos", "--output", "report", "--heldout",
             "held.txt", "--steps", "1", "--samples", "1"]  # fmt: skip
    assert run(words) == 1
    assert "report/inpaint.png: exists already; name another --output, or --force" in capsys.readouterr().err
    assert held("report") == {"inpaint.png": b"precious"}
    for name, claim in (("channels", [32, 1_600_000]), ("layers", 10**7)):
        more = {name: claim}
        base = changed(Path("run/export"), here / name, "pocket.json", lambda c, m=more: c["architecture"].update(m))
        with pytest.raises(EditkitError, match=f"its configuration says .*{name}"):
            _loaded(base)
    for said in ("[1]", '{"architecture": 3}', "[" * 100_000, "{}"):
        (base / "pocket.json").write_text(said)
        with pytest.raises(EditkitError, match=r"pocket\.json or the weights cannot be read"):
            _loaded(base)
    (base / "pocket.json").unlink()
    os.mkfifo(base / "pocket.json")
    with pytest.raises(EditkitError, match="is not a regular file"):
        _loaded(base)


def _loaded(folder):
    from editkit.training.network import load

    return load(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_training_is_kept_whatever_its_folder_and_its_pictures_are_called(here):
    """It was lost to the first checkpoint."""
    os.rename("photos/1.png", b"photos/\xff.png")
    os.rename("labels/b", b"labels/\xfe")
    name = os.fsdecode(b"run\xff")
    words = [name if word == "run" else word for word in PRIOR]
    assert run([*words, "--steps", "1"]) == 0
    assert run([*words, "--steps", "2", "--resume"]) == 0
    assert "export/ATTRIBUTION.md" in held(name)
    assert run(["train", "classifier", "--images", "labels", "--output", "model", "--size", "16", "--steps", "1",
                "--width", "8", "--stages", "2"]) == 0  # fmt: skip
    assert json.loads(Path("model/config.json").read_bytes())["labels"] == ["a", os.fsdecode(b"\xfe")]


def test_a_classifier_takes_the_place_of_no_weights(here, capsys):
    Path("model").mkdir()
    Path("model/model.safetensors").write_text("precious")
    words = ["train", "classifier", "--images", "labels", "--output", "model", "--size", "16", "--steps", "1",
             "--width", "8", "--stages", "2"]  # fmt: skip
    assert run(words) == 1
    assert "model/model.safetensors: exists already" in capsys.readouterr().err
    assert held("model") == {"model.safetensors": b"precious"}
    assert run([*words, "--force"]) == 0
    assert set(held("model")) == {"model.safetensors", "config.json"}


def test_a_grid_that_is_refused_leaves_no_folder(here, capsys):
    words = ["grid", "--vary", "seed=1,2", "--cells", "cells", "inpaint", "x.png", "--mask", "box:1,1,5,5"]
    assert run([*words, "-o", "x.png", "--force"]) == 2
    assert "is also an input" in capsys.readouterr().err
    assert not Path("cells").exists()


# ------------------------------------------------------------------------------------------------------- videos


@pytest.fixture
def clip(here):
    av = pytest.importorskip("av")
    with av.open("v.mkv", "w") as out:
        stream = out.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 24, 20, "bgr0"
        for shade in (10, 200):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.full((20, 24, 3), shade, np.uint8))):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return "v.mkv"


def edited(clip, **more):
    from editkit.editing.video import edit_video

    return edit_video(clip, Inpaint(mask="box:1,1,5,5"), "o.mkv", **more)


def test_frames_are_kept_in_no_folder_that_is_a_link(clip):
    Path("elsewhere").mkdir()
    Path("o.mkv.frames").symlink_to("elsewhere")
    with pytest.raises(PictureError, match=r"o\.mkv\.frames: is a link"):
        edited(clip)
    assert not list(Path("elsewhere").iterdir())


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_lies_in_the_place_of_a_videos_record_is_not_waited_for(clip, kind):
    Path("o.mkv.frames").mkdir()
    place = Path("o.mkv.frames/edit.json")
    {"pipe": os.mkfifo, "link": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](place)
    with pytest.raises(PictureError, match="holds frames of another edit"):
        edited(clip)


def test_a_video_writes_no_file_of_one_picture(clip, capsys):
    assert run(["repair", clip, "--save-mask", "f.png", "-o", "o.mkv"]) == 2
    assert "--save-mask is for one picture, and a video makes several" in capsys.readouterr().err
    assert not Path("f.png").exists()


@pytest.fixture
def heard(here):
    """A video with sound, as bytes."""
    av = pytest.importorskip("av")
    with av.open("h.mkv", "w") as out:
        stream, sound = out.add_stream("ffv1", rate=5), out.add_stream("pcm_s16le", rate=8000)
        stream.width, stream.height, stream.pix_fmt = 24, 20, "bgr0"
        out.metadata["title"] = "a title"
        for packet in (
            *stream.encode(av.VideoFrame.from_ndarray(np.zeros((20, 24, 3), np.uint8))),
            *stream.encode(None),
        ):
            out.mux(packet)
        waves = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.int16), format="s16", layout="mono")
        waves.sample_rate = 8000
        for packet in (*sound.encode(waves), *sound.encode(None)):
            out.mux(packet)
    return Path("h.mkv").read_bytes()


def test_sound_of_no_known_kind_is_left_out_and_said(heard):
    """After hours of work it was an error."""
    assert heard.count(b"A_PCM/INT/LIT") == 1
    Path("v.mkv").write_bytes(heard.replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    said = []
    assert edited("v.mkv", notify=said.append) == 1
    assert "v.mkv: has sound of an unknown kind, which is dropped" in said
    Path("o.mkv").unlink()
    Path("v.mkv").write_bytes(heard)
    said.clear()
    assert edited("v.mkv", notify=said.append) == 1
    assert said == []


def test_a_picture_of_no_known_kind_is_one_line(heard):
    Path("v.mkv").write_bytes(heard.replace(b"V_FFV1", b"V_XYZ1").replace(b"V_MS/VFW/FOURCC", b"V_XY/VFW/FOURCC"))
    with pytest.raises(PictureError, match=r"v\.mkv: (its video format is not known|cannot be decoded)"):
        edited("v.mkv")


def test_a_title_that_is_no_text_spoils_no_video(heard):
    Path("v.mkv").write_bytes(heard.replace(b"a title", b"a \xff\xfetle"))
    assert edited("v.mkv") == 1


def test_frames_that_no_memory_holds_are_refused_before_they_are_decoded(clip, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Free", (), {"available": 24 * 20 * 32 - 1}))
    with pytest.raises(PictureError, match=r"v\.mkv: its 24x20 pixels need about .* GB are free"):
        edited(clip)


TABLE = ["--", "inpaint", "--mask", "box:2,2,9,9", "--steps", "1", "--model", "pocket"]


@pytest.mark.parametrize(("name", "how", "said"), [
    ("t.jsonl", [], "is there already in out"), ("l.jsonl", [], "is a link, a folder or a device"),
    ("l.jsonl", ["--force"], "is a link, a folder or a device"), ("l.jsonl", ["--resume"], "is a link"),
    ("editkit-batch.jsonl", ["--force"], "is the journal's name"), ("d.parquet", ["--force"], "is a link, a folder"),
    ("m.jsonl", ["--force"], "is the manifest that is read"),
])  # fmt: skip
def test_a_table_of_results_takes_the_place_of_nothing_else(here, capsys, name, how, said):
    Path("out/d.parquet").mkdir(parents=True)
    Path("mine.txt").write_text("mine")
    Path("out/t.jsonl").write_text("mine")
    Path("out/m.jsonl").write_text('{"picture": "../photos/0.png"}')
    Path("out/l.jsonl").symlink_to(here / "mine.txt")
    before = held(".")
    source = "out/m.jsonl" if name == "m.jsonl" else "photos"
    assert run(["batch", source, "out", "--results", name, *how, *TABLE]) == 2
    assert said in capsys.readouterr().err
    assert held(".") == before


def test_a_table_of_a_run_that_goes_on_or_begins_anew_is_replaced(here):
    words = ["batch", "photos", "out", "--results", "t.jsonl"]
    assert run([*words, *TABLE]) == 0
    for how in ("--resume", "--force"):
        Path("out/t.jsonl").write_text("old")
        assert run([*words, how, *TABLE]) == 0
        assert len(Path("out/t.jsonl").read_text().splitlines()) == 2


def test_what_is_there_under_a_name_without_an_ending_is_meant(here, capsys):
    """`-o /dev/null` once made /dev/null.png."""
    os.mkfifo("pipe")
    assert run(["inpaint", "x.png", "--mask", "box:2,2,9,9", "-o", "pipe", "--force"]) == 1
    assert "pipe" in capsys.readouterr().err
    assert not Path("pipe.png").exists()
