"""Noise that moves with what is seen: it stays noise, goes where things go, and stays with what comes into view."""

import cv2
import numpy as np
import pytest
import torch
from toy_video import PHOTO, read, written

from editkit import edit_video
from editkit.cli import run
from editkit.diffusion.model import Pass
from editkit.diffusion.noise import Streams
from editkit.editing import drifting
from editkit.editing.video import Together
from editkit.pictures.boxes import Box
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugins import SDEdit

H, W = 24, 32
WHOLE = Pass(Box(0, 0, W, H), H, W, 4)


def shifted(dx, dy=0):
    """Everything was dx to the right and dy below in the first frame."""
    come = drifting.no_displacement(H, W)
    come[..., 0], come[..., 1] = dx, dy
    return drifting.drift(come)


def normal(drift, at=WHOLE, shape=(1, 3, H, W), multiple=1, seed=4):
    noise = Streams((seed,))
    return (noise if drift is None else drift.move_noise(noise, at, multiple)).stream("start").normal(shape)


def test_in_the_first_frame_it_is_the_noise_itself():
    still = drifting.drift(drifting.no_displacement(H, W))
    assert torch.equal(normal(still), normal(None))
    eighth = normal(None, shape=(2, 4, H // 8, W // 8))
    assert torch.equal(normal(still, shape=(2, 4, H // 8, W // 8)), eighth)


@pytest.mark.parametrize("moved", [(3, 0), (-5, 2)])
def test_it_goes_where_things_go(moved):
    """Of whole pixels it is the first frame's, shifted; what comes in is the same in every later frame."""
    dx, dy = moved
    made, plain = normal(shifted(dx, dy)), normal(None)
    assert torch.equal(made, torch.roll(plain, (-dy, -dx), (2, 3)))


def test_a_latent_goes_by_its_own_pixels():
    made, plain = normal(shifted(8, 0), shape=(1, 4, H // 8, W // 8)), normal(None, shape=(1, 4, H // 8, W // 8))
    assert torch.equal(made, torch.roll(plain, -1, 3))


def test_boxes_that_move_see_one_field():
    """Of two boxes, 5 pixels apart, what both see has the same noise."""
    still = drifting.drift(drifting.no_displacement(H, W))
    first, second = (normal(still, Pass(Box(x, 2, x + 16, 18), 16, 16, 4), (1, 3, 16, 16)) for x in (3, 8))
    assert torch.equal(first[..., 5:], second[..., :-5])


@pytest.mark.parametrize("kind", ["turn", "shrink", "torn"])
def test_no_value_is_used_twice_whatever_the_flow(kind):
    """So it is independent N(0, 1) again; and most of it is the first frame's, where most of that is in view."""
    y, x = np.mgrid[:H, :W].astype(np.float32)
    come = {
        "turn": np.stack([0.2 * (y - H / 2), -0.2 * (x - W / 2)], -1),
        "shrink": np.stack([0.5 * (x - W / 2), 0.5 * (y - H / 2)], -1),
        "torn": np.random.default_rng(1).uniform(-9, 9, (H, W, 2)),
    }[kind]
    sources = drifting.drift(come.astype(np.float32)).sources(WHOLE, 1, H, W)
    taken = sources[sources >= 0]
    assert len(np.unique(taken)) == len(taken)
    assert taken.max() < H * W
    drift = drifting.drift(come.astype(np.float32))
    made, plain = normal(drift)[0].flatten(1), normal(None)[0].flatten(1)
    assert torch.equal(made[:, sources >= 0], plain[:, taken])
    own = made[:, sources < 0]
    assert not np.isin(own.numpy(), plain.numpy()).any()


def test_flows_add_up():
    """Two shifts of a part, one after the other, are their sum where both are known."""
    by = np.zeros((H, W, 2), np.float32)
    by[..., 0] = 2.0
    come = drifting.add_displacement(drifting.add_displacement(drifting.no_displacement(H, W), by), by)
    assert np.allclose(come[..., 0], 4.0, atol=1e-4)
    assert torch.equal(normal(drifting.drift(come)), normal(shifted(4)))


def test_the_stream_draws_again_what_it_drew():
    """An edit may put a stream back to where it stood: what comes into view is drawn again as well."""
    stream = shifted(0.4, 0).move_noise(Streams((4,)), WHOLE, 1).stream("start")
    before = [generator.get_state() for generator in stream.generators]
    first = stream.normal((1, 3, H, W))
    for generator, state in zip(stream.generators, before, strict=True):
        generator.set_state(state)
    assert torch.equal(stream.normal((1, 3, H, W)), first)


EDIT = Chain.of(SDEdit(strength=0.6)).using(steps=6, model="pocket", dtype="fp32")
"""By a network, in one precision: what `patches` copies jumps between frames, on some processors more than noise."""


def panned(count=3, step=4):
    photo = cv2.resize(Picture.read(PHOTO).pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return [np.ascontiguousarray(photo[40:88, 60 + step * k : 124 + step * k]) for k in range(count)]


def test_an_edit_swims_less_over_a_camera_that_moves(tmp_path):
    """The later frame laid over the earlier by the known shift: nearer with noise that goes along."""
    clip = written(tmp_path / "pan.mkv", panned())
    apart = {}
    for along in (False, True):
        out = tmp_path / f"{along}.mkv"
        edit_video(clip, EDIT, out, together=Together(follow=0.0, noise_along=along))
        made = read(out)
        gaps = [a[8:-8, 12:-8].astype(float) - b[8:-8, 8:-12] for a, b in zip(made, made[1:], strict=False)]
        apart[along] = np.mean([np.abs(gap).mean() for gap in gaps])
    assert apart[True] < 0.9 * apart[False]


def test_interrupted_it_goes_on_to_the_same_bytes(tmp_path):
    clip, together = written(tmp_path / "pan.mkv", panned()), Together(follow=0.0, noise_along=True)

    def stop(told):
        raise KeyboardInterrupt

    edit_video(clip, EDIT, tmp_path / "whole.mkv", together=together)
    with pytest.raises(KeyboardInterrupt):
        edit_video(clip, EDIT, tmp_path / "parts.mkv", together=together, watch=stop)
    edit_video(clip, EDIT, tmp_path / "parts.mkv", together=together)
    assert (tmp_path / "whole.mkv").read_bytes() == (tmp_path / "parts.mkv").read_bytes()


def test_where_it_means_nothing_it_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = written("pan.mkv", panned(2))
    Picture(panned(1)[0]).write("a.png")
    assert run(["remove", clip, "--mask", "box:9,9,40,40", "--noise-along", "-o", "out.mkv"]) == 2
    assert "--noise-along is for edits that generate every frame" in capsys.readouterr().err
    assert run(["sdedit", "a.png", "--noise-along", "-o", "out.png"]) == 2
    assert "--noise-along is for videos" in capsys.readouterr().err
