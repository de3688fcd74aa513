"""Videos: what passes is removed, masks follow, runs go on, times stay."""

import weakref

import av
import cv2
import numpy as np
import pytest
from toy_video import FRAMES, MASKS, TRUTH, H, N, StopNow, W, clip, masked, read, shown, stand, written

from editkit import edit_video
from editkit.editing import frames
from editkit.editing.frames import FrameSources, SourceFrame
from editkit.editing.video import Together, _VideoEdit
from editkit.errors import PictureError
from editkit.pictures.boxes import Box
from editkit.pictures.files.clips import Clip, Span, write_clip
from editkit.pictures.motion import estimate_homography, grey, refine_homography, warp
from editkit.pictures.picture import Picture
from editkit.plugins import Inpaint, Remove, SDEdit, Upscale

__all__ = ["clip", "masked"]


def hidden_in_all(k, rim):
    """How many pixels of frame k's hole, `rim` wider than the mask, no other frame that is looked at shows."""
    wide = [cv2.dilate(mask.astype(np.uint8), np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)) > 0 for mask in MASKS]
    y, x = np.nonzero(wide[k])
    there = stand(k) @ np.stack([x, y, np.ones(len(x))])
    seen = np.zeros(len(x), bool)
    for r in range(0, N, 2):
        A = stand(r)
        u, v = np.rint(np.linalg.solve(A[:, :2], there - A[:, 2:])).astype(int)
        inside = (u >= rim) & (u < W - rim) & (v >= rim) & (v < H - rim)
        seen[inside] |= ~wide[r][v[inside], u[inside]]
    return int((~seen).sum())


def psnr(a, b, where):
    return 10 * np.log10(255**2 / np.mean((a[where].astype(float) - b[where]) ** 2))


@pytest.fixture(scope="module")
def removed(clip, masked, tmp_path_factory):
    """(the film without what passes, what was told of its frames): the whole edit, for all who compare with it."""
    place, told = tmp_path_factory.mktemp("removed") / "out.mkv", []
    assert edit_video(clip, Remove(mask=masked), place, watch=told.append) == N
    return place, told


def test_what_passes_is_truly_removed(removed):
    """What other frames show is copied: as near to the truth as resampling allows, and the rest identical."""
    place, told = removed
    made = read(place)
    assert len(made) == N
    assert np.mean([psnr(made[k], TRUTH[k], MASKS[k]) for k in range(N)]) > 28.0
    rim = np.ones((13, 13), np.uint8)
    for k in range(N):
        kept = cv2.dilate(MASKS[k].astype(np.uint8), rim) == 0
        assert (made[k][kept] == FRAMES[k][kept]).all()
    assert sum(t.invented for t in told) <= sum(hidden_in_all(k, rim=6) for k in range(N))
    assert not place.with_name("out.mkv.frames").exists()


def test_what_no_frame_shows_is_invented_once(tmp_path):
    """A mask that stands still before a standing camera hides the same in all: one invention, carried along."""
    clip = written(tmp_path / "still.mkv", [TRUTH[0]] * 6)
    told = []
    edit_video(clip, Inpaint(mask="box:60,40,90,70"), tmp_path / "out.mkv", watch=told.append)
    made = read(tmp_path / "out.mkv")
    assert [t.invented > 0 for t in told] == [True] + [False] * 5
    for k in range(1, 6):
        assert np.abs(made[k].astype(int) - made[0]).max() <= 1


def test_a_mask_follows_what_it_marks(clip, tmp_path):
    edit_video(clip, Remove(mask="box:14,50,46,90"), tmp_path / "out.mkv", together=Together(track=True))
    made = read(tmp_path / "out.mkv")
    gone = [psnr(made[k], TRUTH[k], MASKS[k]) - psnr(FRAMES[k], TRUTH[k], MASKS[k]) for k in range(N)]
    assert min(gone) > 6.0


def test_masks_from_a_folder_of_frames(clip, removed, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for k, mask in enumerate(MASKS):
        Picture(shown([mask])[0]).write(folder / f"{k:03}.png")
    edit_video(clip, Remove(mask=str(folder)), tmp_path / "a.mkv")
    assert all((a == b).all() for a, b in zip(read(tmp_path / "a.mkv"), read(removed[0]), strict=True))


def test_what_is_filled_flickers_no_more_than_the_truth(removed):
    """Neighbours in the hole, the later one laid over the earlier by the camera that is known."""

    def flicker(frames):
        found = []
        for k in range(N - 1):
            a, b = (np.vstack([stand(j), [0, 0, 1]]) for j in (k, k + 1))
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            laid = cv2.warpAffine(frames[k + 1], (np.linalg.inv(b) @ a)[:2], (W, H), flags=flags)
            found.append(np.abs(laid[MASKS[k]].astype(float) - frames[k][MASKS[k]]).mean())
        return np.mean(found)

    assert flicker(read(removed[0])) <= 1.2 * flicker(TRUTH)


def test_what_was_invented_goes_along_before_later_stages(tmp_path):
    """As with one stage: invented once; the later stage sees it as it was; and a run that stopped goes on with that."""
    clip = written(tmp_path / "still.mkv", [TRUTH[0][:60, :80]] * 4)
    edits, told = Inpaint(mask="box:30,20,45,35") | Upscale(scale=2), []

    def stop(so_far):
        if so_far.done == 2:
            raise StopNow

    edit_video(clip, edits, tmp_path / "out.mkv", watch=told.append)
    assert [t.invented > 0 for t in told] == [True, False, False, False]
    with pytest.raises(StopNow):
        edit_video(clip, edits, tmp_path / "again.mkv", watch=stop)
    edit_video(clip, edits, tmp_path / "again.mkv")
    assert (tmp_path / "again.mkv").read_bytes() == (tmp_path / "out.mkv").read_bytes()


@pytest.mark.parametrize("after", [1, 9, N])
def test_an_interrupted_edit_goes_on_to_the_same_bytes(clip, masked, removed, tmp_path, after):
    def stop(told):
        if told.done == after:
            raise StopNow

    with pytest.raises(StopNow):
        edit_video(clip, Remove(mask=masked), tmp_path / "out.mkv", watch=stop)
    assert not (tmp_path / "out.mkv").exists()
    told = []
    edit_video(clip, Remove(mask=masked), tmp_path / "out.mkv", watch=told.append)
    assert len(told) == N, "what was finished is shown again"
    assert sum(one.shown + one.invented > 0 for one in told) == N - after, "and not computed again"
    assert all((a == b).all() for a, b in zip(read(tmp_path / "out.mkv"), read(removed[0]), strict=True))
    assert (tmp_path / "out.mkv").read_bytes() == removed[0].read_bytes()


def test_frames_of_another_edit_are_not_gone_on_with(clip, tmp_path):
    def stop(told):
        raise StopNow

    with pytest.raises(StopNow):
        edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "out.mkv", watch=stop)
    with pytest.raises(PictureError, match="holds frames of another edit"):
        edit_video(clip, Inpaint(mask="box:9,9,40,41"), tmp_path / "out.mkv")


def test_times_that_are_not_even_stay(tmp_path):
    times = [0, 1, 3, 4, 8, 9, 15, 16]
    clip = written(tmp_path / "in.mkv", FRAMES[:8], times=times)
    edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "out.mkv")
    assert [float(f.time) for f in Clip.open(tmp_path / "out.mkv").frames()] == pytest.approx(
        [t / 25 for t in times], abs=1e-3
    )


def test_a_range_of_every_second_frame_with_its_sound(tmp_path):
    clip = written(tmp_path / "in.mp4", FRAMES, codec="libx264", pix_fmt="yuv420p", sound=True)
    edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "out.mp4", span=Span.of("0.2s-0:0.6", 2))
    found = Clip.open(tmp_path / "out.mp4")
    assert found.sound
    assert [float(f.time) for f in found.frames()] == pytest.approx([0, 0.08, 0.16, 0.24, 0.32], abs=1e-3)

    def packets(path, first, last):
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            found = [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.pts is not None]
        return [data for at, data in found if first <= at < last]

    assert packets(tmp_path / "out.mp4", 0.0, 9.0) == packets(clip, 0.2, 0.6)
    assert len(packets(clip, 0.2, 0.6)) > 10


def test_ten_bits_stay_ten_bits(tmp_path):
    deep = [frame.astype(np.uint16) * 257 for frame in TRUTH[:3]]
    clip = written(tmp_path / "in.mp4", deep, codec="libx264", pix_fmt="yuv420p10le")
    assert Clip.open(clip).deep
    edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "out.mp4")
    edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "out.mkv")
    assert Clip.open(tmp_path / "out.mp4").deep
    made, before = read(tmp_path / "out.mkv"), read(clip)
    assert made[0].dtype == np.uint16
    assert all((m[50:] == b[50:]).all() for m, b in zip(made, before, strict=True))


def test_odd_sizes_and_colour_tags_come_back(tmp_path):
    clip = written(tmp_path / "in.mp4", [f[:91, :121] for f in TRUTH[:2]], codec="libx264", pix_fmt="yuv444p")
    source = Clip.open(clip)
    tagged = Clip(source.path, source.size, source.rate, source.time_base, False, False, False,
                  {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1})  # fmt: skip
    frames = [(f.time, f.pixels) for f in source.frames()]
    write_clip(tmp_path / "out.mp4", iter(frames), tagged, Span())
    found = Clip.open(tmp_path / "out.mp4")
    assert found.size == (121, 91)
    assert found.tags == tagged.tags
    for made, (_, given) in zip(read(tmp_path / "out.mp4"), frames, strict=True):
        assert np.abs(made.astype(int) - given).mean() < 3.0


def test_the_stages_after_the_first_see_every_frame(clip, masked, tmp_path):
    edit_video(clip, Remove(mask=masked) | Upscale(scale=2), tmp_path / "out.mkv", span=Span.of("0-0.05"))
    assert Clip.open(tmp_path / "out.mkv").size == (2 * W, 2 * H)


def test_a_frame_starts_with_the_change_of_the_one_before(tmp_path):
    """Steering edits flicker less: standing still, what the next frames are given is nearer to what came before."""
    clip = written(tmp_path / "still.mkv", [TRUTH[0][:80, :112]] * 2)
    edits = SDEdit(strength=0.3)
    edit_video(clip, edits, tmp_path / "alone.mkv", together=Together(follow=0.0))
    edit_video(clip, edits, tmp_path / "along.mkv", together=Together(follow=0.5))
    alone, along = read(tmp_path / "alone.mkv"), read(tmp_path / "along.mkv")
    assert (alone[0] == alone[1]).all()  # the same noise for every frame
    assert (along[0] == alone[0]).all()
    assert (along[1] != alone[1]).any()


def test_the_cameras_motion_is_found_to_a_tenth_of_a_pixel():
    H_found = estimate_homography(grey(TRUTH[0]), grey(TRUTH[6]), np.zeros((H, W), bool))
    H_found = refine_homography(H_found, grey(TRUTH[0]), grey(TRUTH[6]), np.ones((H, W), bool))
    a, s = 0.012, 1.6
    A0 = np.array([[s, 0, 150], [0, s, 120], [0, 0, 1]])
    A6 = np.array([[np.cos(a) * s, -np.sin(a) * s, 150 + 2.3 * 6], [np.sin(a) * s, np.cos(a) * s, 120 + 0.9 * 6],
                   [0, 0, 1]])  # fmt: skip
    exact = np.linalg.inv(A6) @ A0
    corners = np.array([[30.0, 30, 1], [130, 30, 1], [30, 90, 1], [130, 90, 1]]).T
    found, wanted = H_found @ corners, exact @ corners
    assert np.abs(found[:2] / found[2] - wanted[:2] / wanted[2]).max() < 0.1


def test_laying_a_frame_over_another_is_exact_for_quadratics():
    """Keys 1981: cubic convolution with a = -0.5 is of third order; where nothing moves, nothing changes."""
    y, x = np.mgrid[:40, :50].astype(float)
    H_to = np.array([[1.02, -0.03, 3.3], [0.02, 0.97, -1.7], [1e-4, -2e-4, 1.0]])
    box = Box(12, 10, 40, 30)

    def of(x, y):
        return np.stack([3 + x - 2 * y, 0.1 * x * x - 0.2 * x * y, 0.05 * y * y + x], -1)

    v, u = np.mgrid[10:30, 12:40].astype(float)
    there = np.linalg.solve(H_to, np.stack([u, v, np.ones_like(u)]).reshape(3, -1)).reshape(3, *u.shape)
    wanted = of(there[0] / there[2], there[1] / there[2])
    assert np.abs(warp(of(x, y), H_to, box) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert (warp(FRAMES[0], np.eye(3), box) == FRAMES[0][10:30, 12:40]).all()


def test_what_is_not_to_be_looked_at_does_not_pull_the_camera():
    """What passes is in both frames, at other places; it moves the fit by no more than a thirtieth of a pixel."""
    exact = np.linalg.inv(np.vstack([stand(7), [0, 0, 1]])) @ np.vstack([stand(3), [0, 0, 1]])
    rough = estimate_homography(grey(TRUTH[3]), grey(TRUTH[7]), MASKS[3])
    found = refine_homography(rough, grey(FRAMES[3]), grey(FRAMES[7]), ~MASKS[3] & ~MASKS[7])
    y, x = np.nonzero(MASKS[7])
    off = found @ np.linalg.solve(exact, np.stack([x, y, np.ones(len(x))]))
    assert np.abs(off[:2] / off[2] - np.stack([x, y])).max() < 1 / 30


def laid_out(index, hidden, shift):
    """A frame that shows `TRUTH[0]` moved by so many pixels to the left."""
    pixels = np.roll(TRUTH[0], -shift, 1)
    camera = np.array([[1.0, 0, -shift], [0, 1, 0], [0, 0, 1]])
    return SourceFrame(index, pixels, grey(pixels), hidden, camera)


def test_a_place_is_filled_from_where_it_was_filled_from():
    """Another frame that shows more does not take it over; where its own source shows nothing more, it goes on."""
    none, hole = np.zeros((H, W), bool), np.zeros((H, W), bool)
    hole[40:70, 60:100] = True
    left = none.copy()
    left[:, :78] = True
    sources, others = FrameSources(), [laid_out(4, left, 0), laid_out(9, none, 2)]
    now = laid_out(0, hole, 0)
    pixels, origin = sources.fill(now, others[:1])
    first = origin == 5
    assert first[hole].any()
    assert (origin[hole & ~first] == 0).all()
    sources.advance(now, pixels, origin)
    _, origin = sources.fill(laid_out(1, hole, 1), others)
    assert (origin[hole & np.roll(first, -1, 1)] == 5).mean() > 0.95
    assert (origin[hole] > 0).all()
    assert (origin[hole] == 10).any()


def test_what_was_invented_is_kept_in_a_bounded_number_of_frames():
    """Every frame shows something new, and hides it: at most four are held, and nothing in use is let go."""
    sources, hole = FrameSources(), np.zeros((H, W), bool)
    hole[40:80, W - 20 :] = True
    for k in range(9):
        frame = laid_out(k, hole, 2 * k)
        pixels, origin = sources.fill(frame, [])
        rest = hole & (origin == 0)
        assert rest[:, -2:].any()
        assert k == 0 or not rest[:, :-4].any()
        sources.advance(frame, pixels, np.where(rest, -(k + 1), origin))
        assert len(sources.anchors) <= 4
        assert {anchor.origin for anchor in sources.anchors} >= set(np.unique(sources.before[1][hole]).tolist())


def test_what_is_held_does_not_grow_with_the_clip(tmp_path, monkeypatch):
    """Frames that are alive whenever one is finished: as many of a clip three times as long."""
    monkeypatch.setattr(frames, "REACH", 0.16)
    still, y, x = TRUTH[0][30:90, 20:100], *np.mgrid[:60, :80]
    most = {}
    for n in (12, 30):
        clip = written(tmp_path / f"{n}.mkv", [still] * n)
        passing = [(abs(x - 10 - 12 * (k % 6)) < 4) & (abs(y - 30) < 6) for k in range(n)]
        marks = written(tmp_path / f"m{n}.mkv", shown(passing))
        alive, found = [], []

        def counted(work, times, alive=alive, theirs=_VideoEdit._frames_with_holes):
            for one in theirs(work, times):
                alive.append(weakref.ref(one))
                yield one

        def watch(told, alive=alive, found=found):
            found.append(sum(ref() is not None for ref in alive))

        with monkeypatch.context() as patched:
            patched.setattr(_VideoEdit, "_frames_with_holes", counted)
            edit_video(clip, Remove(mask=marks), tmp_path / f"out{n}.mkv", watch=watch)
        assert len(found) == n
        most[n] = max(found)
    assert most[12] == most[30] <= 12
