"""Masks as other programs write them: taken as meant, or asked about."""

import numpy as np
import pytest
from PIL import Image
from toy_as_they_are import SHAPE, scene

from editkit.cli import run
from editkit.errors import PictureError
from editkit.pictures.masks import read_mask
from editkit.pictures.picture import Picture

# --------------------------------------------------------------------------------------------------------- masks


PHOTO = Picture.read(scene())


def mask_of(array, tmp_path=None, name="m.png"):
    said = []
    if tmp_path is None:
        return read_mask(array, PHOTO, notify=said.append), said
    Image.fromarray(array).save(tmp_path / name)
    return read_mask(tmp_path / name, PHOTO, notify=said.append), said


@pytest.mark.parametrize("white", [1, 7, 31])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("end", [None, "png", "tif", "bmp"])
def test_masks_of_nought_and_one_are_masks(tmp_path, white, dtype, end):
    if end == "bmp" and dtype == np.uint16:
        pytest.skip("BMP has 8 bits")
    mask, said = mask_of(SHAPE.astype(dtype) * dtype(white), None if end is None else tmp_path, f"m.{end}")
    np.testing.assert_array_equal(mask, SHAPE)
    assert any(f"{white} is taken for white" in line for line in said)


def test_eight_bits_in_sixteen_are_a_mask(tmp_path):
    mask, _ = mask_of(SHAPE.astype(np.uint16) * np.uint16(255), tmp_path)
    np.testing.assert_array_equal(mask, SHAPE)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_map_of_labels_is_asked_about(tmp_path, dtype):
    labels = SHAPE.astype(dtype)
    labels[12:15, 12:15] = 2
    with pytest.raises(PictureError, match=r"levels from 0 to 2 .*label.*editkit mask"):
        mask_of(labels, tmp_path)


@pytest.mark.parametrize("hidden", [0, 255])
@pytest.mark.parametrize("painted", [0, 1, 20])
def test_dark_strokes_on_transparency_are_asked_about(tmp_path, hidden, painted):
    colour = np.where(SHAPE, painted, hidden).astype(np.uint8)
    with pytest.raises(PictureError, match=r"transparen.*--from-alpha.*--invert"):
        mask_of(np.dstack([colour, colour, colour, SHAPE * np.uint8(255)]), tmp_path)


def test_what_the_question_says_makes_the_mask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strokes = np.zeros((32, 48, 4), np.uint8)
    strokes[..., 3] = SHAPE * 255
    Image.fromarray(strokes).save("s.png")
    assert run(["mask", "s.png", "--from-alpha", "--invert", "-o", "m.png"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("m.png")) > 127, SHAPE)
    Image.fromarray(SHAPE.astype(np.uint8) * 2 + 1).save("labels.png")
    assert run(["mask", "labels.png", "--color", "#030303~0", "-o", "n.png"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("n.png")) > 127, SHAPE)


def test_white_strokes_on_transparency_are_a_mask_whatever_is_hidden(tmp_path):
    for hidden in (0, 255):
        colour = np.where(SHAPE, 255, hidden).astype(np.uint8)
        mask, _ = mask_of(np.dstack([colour, colour, colour, SHAPE * np.uint8(255)]), tmp_path)
        np.testing.assert_array_equal(mask, SHAPE)


@pytest.mark.parametrize("word", ["color:#ff0000", "brightness"])
def test_what_is_hidden_under_transparency_is_in_no_mask(word):
    pixels = (
        np.full((32, 48, 4), (255, 0, 0, 255), np.uint8) if "color" in word else np.full((32, 48, 4), 255, np.uint8)
    )
    pixels[~SHAPE, 3] = 0
    mask = read_mask(word, Picture.read(pixels))
    np.testing.assert_array_equal(mask, SHAPE)
