"""What a small file claims is compared with what it has before a library believes it; what lies there is not replaced.

Siblings of what outside attempts found (docs/reliability.md), in readers and commands that came later. No network.
"""

import contextlib
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_files
import torch
from PIL import Image

from editkit.batch.manifest import LONGEST, rows
from editkit.cli import run
from editkit.common import trust
from editkit.errors import EditkitError, ModelError, PictureError, UsageError
from editkit.models.files import gguf_header
from editkit.models.files.gguf_header import MOST, HeaderError, look_through
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint

# --------------------------------------------------------------------------------------------------- GGUF headers


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


def header(tensors: int, values: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + rest


def array(kind: int, count: int) -> bytes:
    return text(b"a") + struct.pack("<IIQ", 9, kind, count)


def tensor(*sides: int, offset: int = 0) -> bytes:
    return text(b"t") + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, 0, offset) + b"\0" * 64


CLAIMS = {
    "numbers without end": header(0, 1, array(0, 2**50)),
    "texts without end": header(0, 1, array(8, 2**50)),
    "more numbers than bytes": header(0, 1, array(0, 50_000)),
    "more than a network needs": header(0, 1, array(0, MOST + 1) + b"\0" * (MOST + 1)),
    "arrays in arrays": header(0, 1, array(9, 1) + struct.pack("<IQ", 9, 1) * 1000),
    "arrays of arrays of arrays": header(0, 1, array(9, 1000) + (struct.pack("<IQ", 0, 100) + b"\0" * 100) * 1000),
    "a long text": header(0, 1, struct.pack("<Q", 2**60)),
    "many values": header(0, 2**40),
    "many tensors": header(2**40, 0),
    "many sides": header(1, 0, text(b"t") + struct.pack("<I", 2**31)),
    "a kind of value that there is not": header(0, 1, text(b"a") + struct.pack("<I", 99)),
    "no header": b"GGUF",
    "another file": b"PK\3\4" * 20,
    "nothing": b"",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_gguf_claims_no_more_than_it_has(tmp_path, name):
    file = tmp_path / "x.gguf"
    file.write_bytes(CLAIMS[name])
    with pytest.raises(HeaderError):
        look_through(file)


@pytest.mark.parametrize("name", CLAIMS)
def test_it_is_one_line_for_the_user_and_the_library_is_not_asked(tmp_path, name, monkeypatch):
    gguf = pytest.importorskip("gguf")
    from editkit.models.files.overlay import contents

    monkeypatch.setattr(gguf, "GGUFReader", lambda file: pytest.fail("the library was asked"))
    file = tmp_path / "x.gguf"
    file.write_bytes(CLAIMS[name])
    with pytest.raises(ModelError, match=r"x\.gguf (is damaged or no GGUF file|is empty)") as error:
        list(contents("m", file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sides", [(2**40, 2**40), (2**32, 2**32), (8, 2**62), (0, 2**40)])
def test_a_tensor_of_a_gguf_that_the_file_has_not_is_refused(tmp_path, sides):
    pytest.importorskip("gguf")
    from editkit.models.files.overlay import contents

    file = tmp_path / "x.gguf"
    file.write_bytes(header(1, 0, tensor(*sides)))
    with contextlib.suppress(ModelError):
        assert all(0 in one.shape for one in contents("m", file))  # nothing of it is there, and it says so


def test_headers_of_whole_files_are_read_to_their_end(tmp_path):
    gguf = pytest.importorskip("gguf")
    file = tiny_files.gguf({"a": torch.ones(4, 32), "b": torch.ones(3)}, tmp_path / "x.gguf")
    look_through(file)
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "flux")
    writer.add_array("words", ["a", "b"])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_string("name", "x" * 1000)
    writer.add_bool("yes", True)
    writer.add_uint64("many", 2**60)
    writer.add_tensor("a", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    look_through(tmp_path / "y.gguf")


def test_what_is_looked_at_grows_with_what_is_there(tmp_path):
    """Numbers of an array are stepped over: 60,000 of them are one seek."""
    reads = []

    class Counting:
        def __init__(self, file):
            self.file = file

        def read(self, count):
            reads.append(count)
            return self.file.read(count)

        def __getattr__(self, name):
            return getattr(self.file, name)

    file = tmp_path / "x.gguf"
    file.write_bytes(header(0, 1, array(4, 60_000) + b"\0" * 240_000))
    with file.open("rb") as data:
        gguf_header._Header(Counting(data), file.stat().st_size).read()
    assert sum(reads) < 200


# ------------------------------------------------------------------------------------------------ Parquet, manifests


def table(tmp_path, columns) -> list:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "m.parquet"
    parquet.write_table(sys.modules["pyarrow"].table(columns), file, compression="zstd", row_group_size=10**9)
    with file.open("rb") as data:
        return list(rows(data, "m.parquet", Chain.of(Inpaint(mask="box:0,0,3,3"))))


def repeated(word: str, count: int):
    """A column that says one text `count` times, in a few bytes."""
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(count, np.int8)), pyarrow.array([word]))


def test_a_parquet_of_more_rows_than_it_can_have_is_none(tmp_path):
    with pytest.raises(UsageError, match="claims 10000000 rows of .* it is no table of pictures"):
        table(tmp_path, {"picture": repeated("a.png", 10_000_000)})


def test_a_long_text_in_every_row_is_refused_at_the_first(tmp_path):
    names = [f"{k}.png" for k in range(1000)]
    with pytest.raises(UsageError, match=f"row 1 has 8000000 characters in prompt; {LONGEST} at most"):
        table(tmp_path, {"picture": names, "prompt": repeated("x" * 8_000_000, 1000)})


def test_parquets_of_people_are_read(tmp_path):
    names = [f"photos/{k:07}.jpg" for k in range(20_000)]
    found = table(tmp_path, {"picture": names, "mask": ["box:0,0,3,3"] * len(names)})
    assert [row["picture"] for row in found] == names


# ------------------------------------------------------------------------------------------------ configurations

CODE = {"_attn_implementation": "a/kernel", "quantization_config": {"quant_method": "x"}, "use_kernels": True,
        "auto_map": {"AutoModel": "evil.Model"}, "experts_implementation": "a/b"}  # fmt: skip


@pytest.mark.parametrize("key", CODE)
@pytest.mark.parametrize("deep", [lambda v: v, lambda v: {"text_config": v}, lambda v: {"a": [1, [v]]}])
def test_no_folder_that_masks_ask_chooses_code(key, deep):
    with pytest.raises(ModelError, match=f"has '{key}', which would run code"):
        trust.settings("folder", "config.json", deep({key: CODE[key]}))
    trust.settings("folder", "config.json", deep({key: None, "_attn_implementation": "sdpa", "kernel_size": 3}))


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    import tiny_masks

    return tiny_masks.clipseg(tmp_path_factory.mktemp("clipseg"))


def changed(folder: Path, into: Path, file: str, change) -> Path:
    shutil.copytree(folder, into)
    said = json.loads((into / file).read_text())
    change(said)
    (into / file).write_text(json.dumps(said))
    return into


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", lambda c: c["text_config"].update(num_hidden_layers=10**7), "num_hidden_layers = 10000000"),
        ("config.json", lambda c: c["vision_config"].update(hidden_size=10**8), "hidden_size = 100000000"),
        ("config.json", lambda c: c["text_config"].update(_attn_implementation="a/b"), "which would run code"),
        ("preprocessor_config.json", lambda c: c.update(size={"height": 10**5, "width": 10**5}), "= 100000; 4096"),
        ("preprocessor_config.json", lambda c: c.update(size=10**9), "size = 1e+09; 4096"),
    ],
)
def test_a_network_for_masks_is_as_large_as_its_weights(clipseg, tmp_path, file, change, said, monkeypatch):
    import transformers

    from editkit.pictures.picture import Picture
    from editkit.pictures.shapes import from_words

    kind = transformers.CLIPSegForImageSegmentation
    monkeypatch.setattr(kind, "from_pretrained", lambda *a, **k: pytest.fail("it was built"))
    folder = changed(clipseg, tmp_path / "f", file, change)
    picture = Picture(np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ModelError) as error:
        from_words("text:a dog", picture, [str(folder)])
    assert said in str(error.value)


def test_shards_of_a_network_for_masks_lie_beside_their_index(clipseg, tmp_path):
    from editkit.pictures.picture import Picture
    from editkit.pictures.shapes import from_words

    folder = Path(shutil.copytree(clipseg, tmp_path / "f"))
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    shutil.copy(tmp_path / "model.safetensors", folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(ModelError, match=r"lists '\.\./model\.safetensors'"):
        from_words("text:a dog", Picture(np.zeros((20, 20, 3), np.uint8)), [str(folder)])


@pytest.mark.parametrize("config", [{"size": {"shortest_edge": 10**6}}, {"crop_size": [224, 10**6]}, {"size": 1e300},
                                    {"size": {"height": float("nan")}}, {"min_pixels": 10**12}])  # fmt: skip
def test_a_preparation_enlarges_no_picture_without_end(config):
    with pytest.raises(ModelError, match="is the most that is taken"):
        trust.preparation("f", "preprocessor_config.json", {"a": [config]})
    known = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "crop_size": 224, "min_pixels": 3136,
             "max_pixels": 12845056, "do_resize": True, "image_mean": [0.5, 0.5, 0.5]}  # fmt: skip
    trust.preparation("f", "preprocessor_config.json", known)


# ---------------------------------------------------------------------------------- what lies there is not replaced


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
    with pytest.raises(EditkitError, match="is no regular file"):
        _loaded(base)


def _loaded(folder):
    from editkit.training.network import load

    return load(folder)


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
    assert "is what is read" in capsys.readouterr().err
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
    assert "v.mkv: has sound of a kind that is not known here; it is left out" in said
    Path("o.mkv").unlink()
    Path("v.mkv").write_bytes(heard)
    said.clear()
    assert edited("v.mkv", notify=said.append) == 1
    assert said == []


def test_a_picture_of_no_known_kind_is_one_line(heard):
    Path("v.mkv").write_bytes(heard.replace(b"V_FFV1", b"V_XYZ1").replace(b"V_MS/VFW/FOURCC", b"V_XY/VFW/FOURCC"))
    with pytest.raises(PictureError, match=r"v\.mkv: (its picture is of a kind that is not known|cannot be decoded)"):
        edited("v.mkv")


def test_a_title_that_is_no_text_spoils_no_video(heard):
    Path("v.mkv").write_bytes(heard.replace(b"a title", b"a \xff\xfetle"))
    assert edited("v.mkv") == 1


def test_frames_that_no_memory_holds_are_refused_before_they_are_decoded(clip, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Free", (), {"available": 24 * 20 * 32 - 1}))
    with pytest.raises(PictureError, match=r"v\.mkv: its 24x20 pixels need about .* GB are free"):
        edited(clip)
