"""What a script or a notebook gets: errors in Python's words, pictures that show themselves, progress, completion."""

import inspect
import subprocess
import sys
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from toy import Isotropic

import editkit
from editkit import Hooks, Picture, Plugin, edit, stream
from editkit.errors import EditkitError, HookError, ParameterError, PictureError, UsageError
from editkit.models import Conditioning
from editkit.pictures.files.provenance import read_provenance
from editkit.plugin.options import Options, RunOptions
from editkit.plugins import Classifier, Guide, Inpaint, Restore, SDEdit, Uncrop

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
BOX = "box:4,4,12,12"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Inpaint(msk="m.png"), "Inpaint(msk=...): there is no such parameter; did you mean mask?"),
        (lambda: Inpaint(grow=-1), "Inpaint(grow=...): must be greater than or equal to 0, got -1"),
        (lambda: Inpaint(mask=3), "Inpaint(mask=...): is 3; a path, an array or a PIL image is needed"),
        (lambda: Inpaint(from_=3), "Inpaint(from_=...): "),
        (lambda: Classifier(label="cat"), "Classifier(classifier=...): is needed: "),
        (lambda: Guide(loss="simmetry"), "Guide(loss=...): no loss is called 'simmetry'; did you mean symmetry"),
        (lambda: edit(PIXELS, SDEdit(), step=3), "edit(step=...): there is no such parameter; did you mean steps?"),
        (lambda: edit(PIXELS, SDEdit(), steps=0), "edit(steps=...): must be greater than or equal to 1, got 0"),
        (lambda: stream(PIXELS, SDEdit(), steps=0), "stream(steps=...): "),
        (
            lambda: editkit.plan(PIXELS, SDEdit(), sed=0),
            "plan(sed=...): there is no such parameter; did you mean seed",
        ),
        (lambda: edit(PIXELS, Inpaint()), "inpaint needs mask=: a picture (white = regenerate) or words"),
        (lambda: edit(PIXELS, SDEdit(), prompt="a cow"), "prompt= is given, but patches (the picture's own patches) "),
        (lambda: edit(PIXELS, Uncrop()), "uncrop has nothing to add: give left=, right=, top=, bottom= or an aspect= "),
        (lambda: edit(PIXELS, SDEdit(), model="no/such", offline=True), "offline=True is on, so the hub was not asked"),
    ],
)
def test_errors_are_editkits_in_one_line_and_in_pythons_words(wrong, said):
    with pytest.raises(EditkitError) as caught:
        wrong()
    assert said in str(caught.value)
    assert "--" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.zeros(3, 4, 4), "Tensor is not a picture: a path, bytes,"),
        (7, "int is not a picture"),
        (b"nonsense", "the bytes: is not a picture that editkit reads"),
        (b"", "the bytes: is empty"),
    ],
)
def test_what_is_no_picture_is_said(source, said):
    with pytest.raises(PictureError, match=said):
        edit(source, SDEdit(strength=0.3))


def test_bytes_of_a_file_are_a_picture():
    assert (Picture.read(Picture(PIXELS)._repr_png_()).pixels == PIXELS).all()


def test_a_parameters_error_goes_through_a_pickle():
    import pickle

    error = ParameterError("Inpaint", "mask", "is needed")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "Inpaint(mask=...): is needed"


def test_an_output_that_is_there_is_found_before_the_work(tmp_path):
    Picture(PIXELS).write(tmp_path / "photo.png")
    steps = []
    words = {"model": Isotropic(), "steps": 3, "progress": steps.append}
    with pytest.raises(PictureError, match=r"`force` to replace it \(force=True\)"):
        edit(tmp_path / "photo.png", SDEdit(strength=0.5), output=tmp_path / "photo.png", **words)
    assert steps == []
    made = edit(tmp_path / "photo.png", SDEdit(strength=0.5), output=tmp_path / "out.png", **words)
    assert steps
    assert (Picture.read(tmp_path / "out.png").pixels == made.pixels).all()
    assert read_provenance(tmp_path / "out.png").picture == "photo.png"


def test_progress_comes_with_a_fraction_that_ends_at_one_and_a_picture():
    seen = []
    edit(PIXELS, Inpaint(mask=BOX) | SDEdit(strength=0.5), model=Isotropic(), steps=4, progress=seen.append)
    fractions = [update.fraction for update in seen]
    assert fractions == sorted(fractions)
    assert 0.0 < fractions[0] < 0.5
    assert fractions[-1] == 1.0
    assert seen[-1].image.mode == "RGB"
    assert "%" in repr(seen[-1])
    assert len(repr(seen[-1])) < 200
    assert seen[-1]._repr_png_().startswith(b"\x89PNG")


def test_a_stream_has_its_result_and_can_be_left():
    making = stream(PIXELS, SDEdit(strength=0.5), model=Isotropic(), steps=4, seed=1)
    for _ in making:
        pass
    assert (making.result.pixels == edit(PIXELS, SDEdit(strength=0.5), model=Isotropic(), steps=4, seed=1).pixels).all()
    early = stream(PIXELS, SDEdit(strength=0.5), model=Isotropic(), steps=4, seed=1)
    next(early)
    assert (early.result.pixels == making.result.pixels).all()  # what is left is made

    def within():
        results.append((yield from stream(PIXELS, SDEdit(strength=0.5), model=Isotropic(), steps=4, seed=1)))

    results = []
    assert len(list(within())) > 1
    assert (results[0].pixels == making.result.pixels).all()
    stopped = stream(PIXELS, SDEdit(strength=0.5), model=Isotropic(), steps=4)
    next(stopped)
    stopped.close()
    with pytest.raises(UsageError, match="stopped"):
        _ = stopped.result


def test_a_picture_shows_itself_and_is_an_array_and_an_image(tmp_path):
    alpha = np.full(PIXELS.shape[:2], 100, np.uint8)
    picture = Picture(PIXELS, alpha)
    assert repr(picture) == "<Picture 20x16, 8 bit, alpha>"
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert picture.pil.mode == "RGBA"
    assert (np.asarray(picture.pil) == np.dstack([PIXELS, alpha])).all()
    assert (np.asarray(picture) == PIXELS).all()
    assert np.asarray(picture, float).dtype == float
    copied = np.array(picture)
    copied[:] = 0
    assert (picture.pixels == PIXELS).all()
    deep = Picture(PIXELS.astype(np.uint16) * 257)
    assert (np.asarray(deep.pil) == PIXELS).all()
    picture.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "RGBA"


def test_a_plan_says_itself_in_a_line():
    (made,) = editkit.plan(PIXELS, Inpaint(mask=BOX))
    assert repr(made) == f"<inpaint by patches, ddim: one pass, {made.calls} network calls, 20x16>"


def test_tab_completion_knows_everything():
    words = "import editkit; print(sorted(dir(editkit)), 'torch' in __import__('sys').modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    for module in (editkit, __import__("editkit.plugin").plugin, __import__("editkit.models").models):
        assert set(module.__all__) <= set(dir(module))
        assert all(getattr(module, name) is not None for name in module.__all__)
    assert Conditioning is not None


def test_an_editor_can_complete_every_option():
    """`edit` and `stream` name the options, with the types that they are checked for."""
    expected = get_type_hints(Options)
    expected = {name: expected[name] for name in Options.model_fields if name != "model"}
    known = get_type_hints(RunOptions)
    assert known.keys() == expected.keys()
    assert {k: v for k, v in known.items() if k != "lora"} == {k: v for k, v in expected.items() if k != "lora"}
    for function in (edit, stream):
        assert "Unpack[RunOptions]" in str(inspect.signature(function).parameters["options"].annotation)
    assert {"mask", "grow", "feather", "start", "stop"} <= set(inspect.signature(Inpaint).parameters)
    assert "degradation" in inspect.signature(Restore).parameters


class _Float(Plugin):
    name = "float-energy"
    hook: str = "energy"

    def hooks(self):
        def given(self, *args):
            return None if kind == "clean" else 3.5

        kind = self.hook
        return type("_FloatHooks", (Hooks,), {kind: given})


@pytest.mark.parametrize("hook", ["energy", "clean", "after", "condition", "begin", "finish"])
def test_a_hook_that_gives_something_else_is_named(hook):
    with pytest.raises(HookError, match=f"plugin float-energy: {hook} returned .*is needed"):
        edit(PIXELS, SDEdit(strength=0.5) & _Float(hook=hook) if hook != "begin" else _Float(hook=hook),
             model=Isotropic(), steps=3)  # fmt: skip


def test_the_loader_of_the_release_before_still_keeps_models():
    asked = []

    def loader(info, device, dtype, **more):
        asked.append(info.name)
        return editkit.models.load(info, device, dtype, **more)

    with pytest.warns(DeprecationWarning, match="models=Models"):
        one = edit(PIXELS, Inpaint(mask=BOX), steps=2, loader=loader)
    with pytest.warns(DeprecationWarning, match="models=Models"):
        two = stream(PIXELS, Inpaint(mask=BOX), steps=2, loader=loader).result
    assert asked == ["patches", "patches"]
    assert np.array_equal(one.pixels, two.pixels)
