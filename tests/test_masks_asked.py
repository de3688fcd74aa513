"""Mask words that ask networks: `text:`, `point:`, edges by ViTMatte; `faces`, `lettering`, `background`, `--each`.

The networks are tiny folders of random weights (tests/tiny_masks.py): that the right one is asked, and what comes back
is a mask of the picture. How good masks are, they cannot say. Faces and lettering have their real weights.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny_masks
from PIL import Image, ImageDraw

from editkit import edit
from editkit.cli import run
from editkit.errors import EditkitError, ExtraError, ModelError, PictureError, UsageError
from editkit.pictures.masks import connected_parts, load, read_mask
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import ShapeError, from_words
from editkit.plugins import Inpaint
from editkit_plugins.masks import asked, faces, lettering, networks

KINDS = {
    "sam3": "SAM 3", "sam2": "SAM 2", "grounding_dino": "Grounding DINO", "clipseg": "CLIPSeg", "vitmatte": "ViTMatte",
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One tiny folder of each kind."""
    root = tmp_path_factory.mktemp("mask-models")
    return {name: str(getattr(tiny_masks, name)(root / name)) for name in KINDS}


@pytest.fixture(scope="module")
def photo():
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60))
    return Picture(np.asarray(smooth))


@pytest.fixture(scope="module")
def dark():
    """A dark disc on a light ground."""
    rows, columns = np.mgrid[:60, :80]
    disc = (rows - 30) ** 2 + (columns - 40) ** 2 < 200
    grain = np.random.default_rng(1).integers(0, 12, (60, 80, 3))
    return Picture((np.where(disc[..., None], 30, 200) + grain).astype(np.uint8))


@pytest.fixture
def certain(monkeypatch):
    """Networks that know nothing are sure of nothing: whatever they say is taken."""
    for name in ("SURE", "BOX", "WORD"):
        monkeypatch.setattr(networks, name, 0.0)
    monkeypatch.setattr(networks, "HEAT", 0.5)


def test_a_folder_is_known_by_what_it_says_it_is(folders):
    assert networks.find_networks(list(folders.values())) == {
        KINDS[name]: Path(folder) for name, folder in folders.items()
    }


@pytest.mark.parametrize("kinds", [["sam3"], ["grounding_dino", "sam2"], ["clipseg"]])
def test_words_ask_the_network_that_is_there(folders, photo, kinds, certain, monkeypatch):
    """The tool asks, gets something of the picture's size, and gets the same again; the words reach the network."""
    loaded = {name: networks.network(KINDS[name], Path(folders[name])) for name in kinds}
    seen = []
    model = loaded[kinds[0]].model
    handle = model.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["input_ids"].tolist()), with_kwargs=True
    )
    models = [folders[name] for name in kinds]
    first, again, other = (asked.by_text(photo, text, models) for text in ("the dog", "the dog", "a cat"))
    handle.remove()
    assert first.shape == (60, 80)
    assert first.dtype == np.float32
    assert set(np.unique(first)) <= {0.0, 1.0}
    assert (first == again).all()
    assert other.shape == first.shape
    assert seen[0] == seen[1] != seen[2]


def test_nothing_that_is_sure_enough_is_an_empty_mask(folders, photo, monkeypatch):
    for name in ("SURE", "BOX", "HEAT"):
        monkeypatch.setattr(networks, name, 1.1)
    for kinds in (["sam3"], ["grounding_dino", "sam2"], ["clipseg"]):
        assert not asked.by_text(photo, "the dog", [folders[k] for k in kinds]).any()


def test_a_point_asks_sam_2_about_that_point(folders, photo, monkeypatch):
    given = []
    real = networks.by_sam2
    monkeypatch.setattr(networks, "by_sam2", lambda *a, **k: given.append(k) or real(*a, **k))
    mask = from_words("point:25%,50%", photo, [folders["sam2"]])
    assert given == [{"input_points": [[[[20.0, 30.0]]]], "input_labels": [[[1]]]}]
    assert mask.shape == (60, 80)
    from_words("point:10,10,12,14", photo, [folders["sam2"]])
    assert given[1]["input_labels"] == [[[1, 1]]]


def test_sam_2_gets_every_box_and_their_masks_are_united(folders, photo):
    first, second = [5.0, 5.0, 30.0, 30.0], [40.0, 20.0, 70.0, 50.0]
    one, two, both = (
        networks.by_sam2(Path(folders["sam2"]), photo, input_boxes=[boxes])
        for boxes in ([first], [second], [first, second])
    )
    assert (both == np.maximum(one, two)).all()


def test_vitmatte_softens_the_edge_and_leaves_the_rest(folders, photo):
    hard = from_words("box:20,10,60,50", photo)
    soft = networks.matte(Path(folders["vitmatte"]), photo, hard)
    inside, outside = from_words("box:26,16,54,44", photo) > 0, from_words("box:14,4,66,56", photo) == 0
    assert (soft[inside] == 1.0).all()
    assert (soft[outside] == 0.0).all()
    assert 0.0 < soft.min() + soft.max() <= 2.0
    assert (asked.soft(photo, hard, []) == hard).all()


def test_subject_and_background_have_its_edge_where_it_is_given(folders, dark):
    for word in ("subject", "background"):
        hard, soft = (from_words(f"{word}:20,10,60,50", dark, models) for models in ([], [folders["vitmatte"]]))
        assert set(np.unique(hard)) == {0.0, 1.0}
        assert ((soft > 0.0) & (soft < 1.0)).any()


def test_words_are_joined_like_any_others(folders, photo, certain):
    mask = from_words("text:the dog+box:0,0,5,5-box:3,3,5,5", photo, [folders["clipseg"]])
    assert (mask[:3, :3] == 1.0).all()
    assert not mask[3:5, 3:5].any()


def test_the_background_is_what_the_subject_is_not(photo, dark):
    subject, rest = (from_words(f"{word}:16,12,60,48", dark) for word in ("subject", "background"))
    assert (subject + rest == 1.0).all()
    assert 150 < subject.sum() < 800
    with pytest.raises(PictureError, match="background:16,12,60,48: no subject was found"):
        from_words("background:16,12,60,48", photo)
    with pytest.raises(ShapeError, match="'?background:"):
        from_words("background:1,2", photo)


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("words", "kinds", "said"),
    [
        (
            "text:the dog",
            [],
            "text:the dog: needs --mask-model FOLDER with SAM 3 or Grounding DINO or CLIPSeg .*hf",
        ),
        ("text:the dog", ["sam2"], "got SAM 2"),
        ("text:the dog", ["grounding_dino"], "with SAM 2, got Grounding DINO"),
        ("point:3,4", ["clipseg"], "point:3,4: needs --mask-model FOLDER with SAM 2, got CLIPSeg"),
    ],
)
def test_a_missing_network_is_named_with_the_way_to_get_it(folders, photo, words, kinds, said):
    with pytest.raises(UsageError, match=said):
        from_words(words, photo, [folders[k] for k in kinds])


@pytest.mark.parametrize(
    "words", ["text:", "text: ", "point:3", "point:1,2,3", "point:900,3", "faces:3", "lettering:x"]
)
def test_words_that_make_no_sense(folders, photo, words):
    with pytest.raises(ShapeError):
        from_words(words, photo, [folders["sam2"], folders["clipseg"]])


def test_a_word_that_finds_nothing_writes_nothing(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(networks, "HEAT", 1.1)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save("photo.png")
    words = ["--mask", "text:the dog", "--mask-model", folders["clipseg"], "-o", "out.png"]
    assert run(["inpaint", "photo.png", *words]) == 1
    assert run(["mask", "photo.png", "--add", "text:the dog", "--mask-model", folders["clipseg"]]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert "nothing of that kind was found" in capsys.readouterr().err


def test_a_word_that_finds_everything_is_an_error_unless_it_is_joined(folders, photo, monkeypatch):
    monkeypatch.setattr(networks, "HEAT", 0.0)
    with pytest.raises(PictureError, match="text:sky.?: marks the whole picture"):
        from_words("text:sky", photo, [folders["clipseg"]])
    assert from_words("text:sky&box:0,0,10,10", photo, [folders["clipseg"]]).sum() == 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
            "config.json says it is a 'bert'; known",
        ),
        (lambda f: (f / "config.json").write_text("[1]"), "says it is a 'None'"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: _set(f, "config.json", "auto_map", {"AutoModel": "evil.Model"}), "'auto_map', which would run code"),
        (lambda f: _set(f, "config.json", "backbone", "timm/resnet"), "'backbone', which would fetch a part"),
        (
            lambda f: _set(f, "preprocessor_config.json", "auto_map", {"x": "y"}),
            "processor_config.json has 'auto_map'",
        ),
        (lambda f: _set(f, "tokenizer_config.json", "auto_map", {"x": "y"}), "tokenizer_config.json has 'auto_map'"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "has no .safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no weights"), "CLIPSeg cannot be read"),
        (lambda f: shutil.rmtree(f), "there is no such folder; hub ids are not downloaded"),
    ],
)
def test_a_folder_is_data(folders, photo, tmp_path, change, said):
    """No code of it runs, nothing is fetched for it, no pickle is read; one line says why."""
    mine = tmp_path / "mine"
    shutil.copytree(folders["clipseg"], mine)
    change(mine)
    with pytest.raises(ModelError, match=said) as caught:
        from_words("text:the dog", photo, [str(mine)])
    assert "\n" not in str(caught.value)


def _set(folder: Path, file: str, key: str, value: object) -> None:
    found = json.loads((folder / file).read_text())
    inner = found["vision_config"] if key == "backbone" else found
    inner[key] = value
    (folder / file).write_text(json.dumps(found))


def test_two_of_one_kind_are_refused(folders):
    with pytest.raises(ModelError, match="is CLIPSeg, and so is"):
        networks.find_networks([folders["clipseg"], folders["clipseg"]])


# --------------------------------------------------------------------------------------------- where masks are used


def test_an_edit_keeps_what_the_network_did_not_mark(folders, photo, certain):
    mask = read_mask("point:20,20&box:0,0,40,40", photo, models=[folders["sam2"]])
    assert 0.0 < mask.mean() < 1.0
    made = edit(photo, Inpaint(mask="point:20,20&box:0,0,40,40", mask_model=(folders["sam2"],)), steps=2)
    assert (made.pixels[mask == 0] == photo.pixels[mask == 0]).all()


def test_each_piece_is_a_picture_of_its_own(tmp_path, monkeypatch, photo):
    monkeypatch.chdir(tmp_path)
    photo.write("photo.png")
    words = ["mask", "photo.png", "--box", "5,5,15,25", "--box", "40,20,70,50", "--each", "cut", "-o", "m.png"]
    assert run(words) == 0
    assert sorted(path.name for path in Path("cut").iterdir()) == ["photo.1.png", "photo.2.png"]
    first, second = (np.asarray(Image.open(f"cut/photo.{k}.png")) for k in (1, 2))
    assert first.shape == (30, 30, 4)
    assert second.shape == (20, 10, 4)
    assert (second[..., :3] == photo.pixels[5:25, 5:15]).all()
    assert (second[..., 3] == 255).all()
    assert run([*words[:-1], "again.png"]) == 2
    assert run(["mask", "photo.png", "--box", "5,5,15,25", "--each", "photo.png", "-o", "n.png"]) == 2
    assert not Path("n.png").exists()


def test_pieces_leave_crumbs_out_and_begin_with_the_largest(photo):
    mask = from_words("box:0,0,40,40+box:50,10,60,20+box:70,50,71,51", photo)
    first, second = connected_parts(mask)
    assert (first.sum(), second.sum()) == (1600, 100)
    assert connected_parts(np.zeros((4, 4), np.float32)) == []


@pytest.mark.parametrize("way", [0, 1])
def test_what_a_twig_cuts_in_two_is_one_piece(way):
    mask = np.ones((40, 60), np.float32)
    np.moveaxis(mask, way, 0)[18:22] = 0.0
    assert [piece.sum() for piece in connected_parts(mask, 4)] == [mask.sum()]
    assert len(connected_parts(mask, 2)) == 2
    assert (sum(connected_parts(mask, 2)) == mask).all()  # nothing is marked that was not
    soft = from_words("box:0,0,100%,100%", Picture(np.zeros((40, 60, 3), np.uint8)))
    assert len(connected_parts(soft, 9)) == 1


# --------------------------------------------------------------------------------------------- faces and lettering


@pytest.mark.skipif(
    find_spec("dlib") is None or find_spec("skimage") is None, reason="needs dlib and scikit-image's picture"
)
def test_a_face_is_found_and_a_wall_is_none(photo):
    from skimage.data import astronaut

    mask = from_words("faces", Picture(astronaut()))
    assert mask[60:160, 190:250].mean() > 0.9, "where the face of scikit-image's astronaut is"
    assert mask.mean() < 0.15
    assert not load("faces", photo).any()


def test_faces_without_a_detector_say_how_to_get_one(photo, monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def none(name, *rest, **more):
        if name == "dlib":
            raise ModuleNotFoundError("No module named 'dlib'", name="dlib")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", none)
    with pytest.raises(ExtraError, match=r"needs dlib, which is not installed: pip install 'editkit\[masks\]'"):
        faces.faces(photo, "", [])
    (tmp_path / "yunet.onnx").write_bytes(b"no network")
    for file, said in (
        (tmp_path / "yunet.onnx", "OpenCV cannot read it as YuNet"),
        (tmp_path / "yunet2.onnx", "no such file"),
    ):
        with pytest.raises(ModelError, match=said):
            faces.faces(photo, "", [str(file)])


@pytest.mark.skipif(find_spec("rapidocr_onnxruntime") is None, reason="needs the file of rapidocr-onnxruntime")
def test_letters_are_found_and_grass_is_none():
    meadow = Image.open(Path(__file__).parent.parent / "assets" / "photos" / "grass.jpg").convert("RGB")
    drawn = meadow.copy()
    ImageDraw.Draw(drawn).text((40, 100), "Holiday 2003", "white", font_size=40)
    strokes = np.abs(np.asarray(drawn).astype(int) - np.asarray(meadow)).max(axis=2) > 60
    mask = from_words("lettering", Picture(np.asarray(drawn)))
    assert mask[strokes].mean() > 0.97
    assert mask.mean() < 4 * strokes.mean() + 0.05
    assert not from_words("lettering", Picture(np.asarray(meadow))).any()


def test_lettering_without_its_file_says_how_to_get_it(photo, monkeypatch, tmp_path):
    monkeypatch.setattr(lettering, "PACKAGE", "no_such_package")
    with pytest.raises(ExtraError, match="pip install --no-deps rapidocr-onnxruntime"):
        lettering.lettering(photo, "", [])
    (tmp_path / "det.onnx").write_bytes(b"no network")
    for file in ("det.onnx", "other-det.onnx"):
        with pytest.raises(EditkitError, match="cannot read it as PP-OCR|no such file"):
            lettering.lettering(photo, "", [str(tmp_path / file)])
