"""Videos: true removal, masks that move, frames' times, sound, interruption, what cannot be decoded."""

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from editkit import edit_video
from editkit.cli import run
from editkit.editing.video import Together
from editkit.errors import EditkitError, PictureError, UsageError
from editkit.pictures.files.clips import Clip, Span, write_clip
from editkit.pictures.motion import camera, grey, refined
from editkit.pictures.picture import Picture
from editkit.plugins import Inpaint, Remove, SDEdit, Upscale

PHOTO = Path(__file__).parents[1] / "assets" / "photos" / "aqueduct.jpg"
W, H, N = 160, 120, 24


def stand(k):
    """Where the camera stands: what takes a point of frame k to the photograph, (2, 3)."""
    a, s = 0.002 * k, 1.6
    return np.array([[np.cos(a) * s, -np.sin(a) * s, 150 + 2.3 * k], [np.sin(a) * s, np.cos(a) * s, 120 + 0.9 * k]])


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


def scene():
    """Frames of a moving camera over a photograph, exactly; the same with something that passes; where that is."""
    photo = Picture.read(PHOTO).pixels
    y, x = np.mgrid[:H, :W]
    truth, frames, masks = [], [], []
    thing = cv2.GaussianBlur(np.random.default_rng(4).uniform(-600, 800, (H, 2 * W, 3)), None, 2.0)
    thing = np.clip(thing, 0, 255).astype(np.uint8)
    for k in range(N):
        A = stand(k)
        truth.append(cv2.warpAffine(photo, A, (W, H), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
        mask = ((x - 30 - 5 * k) / 14) ** 2 + ((y - 70) / 18) ** 2 < 1
        frame = truth[-1].copy()
        frame[mask] = thing[:, 5 * (N - k) : 5 * (N - k) + W][mask]
        frames.append(frame)
        masks.append(mask)
    return truth, frames, masks


TRUTH, FRAMES, MASKS = scene()


def written(path, frames, *, codec="ffv1", pix_fmt="bgr0", rate=25, times=None, sound=False):
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=rate)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = pix_fmt
        heard = out.add_stream("aac", rate=44100) if sound else None
        for k, frame in enumerate(frames):
            kind = "rgb48le" if frame.dtype == np.uint16 else "rgb24"
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind).reformat(format=pix_fmt)
            made.pts, made.time_base = (k if times is None else times[k]), Fraction(1, rate)
            out.mux(video.encode(made))
        out.mux(video.encode(None))
        if heard is not None:
            for k in range(45):
                tone = np.sin(np.arange(1024) * (0.05 + 0.001 * k)).astype(np.float32)[None]
                part = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                part.rate, part.pts = 44100, 1024 * k
                out.mux(heard.encode(part))
            out.mux(heard.encode(None))
    return str(path)


def shown(masks):
    return [np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2) for mask in masks]


def read(path):
    return [frame.pixels for frame in Clip.open(path).frames()]


def psnr(a, b, where):
    return 10 * np.log10(255**2 / np.mean((a[where].astype(float) - b[where]) ** 2))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return written(tmp_path_factory.mktemp("clip") / "in.mkv", FRAMES)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return written(tmp_path_factory.mktemp("masks") / "masks.mkv", shown(MASKS))


def test_what_passes_is_truly_removed(clip, masked, tmp_path):
    """What other frames show is copied: as near to the truth as resampling allows, and the rest identical."""
    told = []
    assert edit_video(clip, Remove(mask=masked), tmp_path / "out.mkv", watch=told.append) == N
    made = read(tmp_path / "out.mkv")
    assert len(made) == N
    assert np.mean([psnr(made[k], TRUTH[k], MASKS[k]) for k in range(N)]) > 28.0
    rim = np.ones((13, 13), np.uint8)
    for k in range(N):
        kept = cv2.dilate(MASKS[k].astype(np.uint8), rim) == 0
        assert (made[k][kept] == FRAMES[k][kept]).all()
    assert sum(t.invented for t in told) <= sum(hidden_in_all(k, rim=6) for k in range(N))
    assert not (tmp_path / "out.mkv.frames").exists()


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


def test_masks_from_a_folder_of_frames(clip, masked, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for k, mask in enumerate(MASKS):
        Picture(shown([mask])[0]).write(folder / f"{k:03}.png")
    edit_video(clip, Remove(mask=str(folder)), tmp_path / "a.mkv")
    edit_video(clip, Remove(mask=masked), tmp_path / "b.mkv")
    assert all((a == b).all() for a, b in zip(read(tmp_path / "a.mkv"), read(tmp_path / "b.mkv"), strict=True))


class StopNow(Exception):  # noqa: N818
    """Somebody pulled the plug."""


@pytest.mark.parametrize("after", [1, 9, N])
def test_an_interrupted_edit_goes_on_to_the_same_bytes(clip, masked, tmp_path, after):
    def stop(told):
        if told.done == after:
            raise StopNow

    with pytest.raises(StopNow):
        edit_video(clip, Remove(mask=masked), tmp_path / "out.mkv", watch=stop)
    assert not (tmp_path / "out.mkv").exists()
    told = []
    edit_video(clip, Remove(mask=masked), tmp_path / "out.mkv", watch=told.append)
    assert len(told) == N - after
    edit_video(clip, Remove(mask=masked), tmp_path / "whole.mkv")
    assert all((a == b).all() for a, b in zip(read(tmp_path / "out.mkv"), read(tmp_path / "whole.mkv"), strict=True))
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()


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
    edit_video(clip, Remove(mask=masked) | Upscale(scale=2), tmp_path / "out.mkv", span=Span.of("0-0.12"))
    assert Clip.open(tmp_path / "out.mkv").size == (2 * W, 2 * H)


def test_a_frame_starts_with_the_change_of_the_one_before(tmp_path):
    """Steering edits flicker less: standing still, what the next frames are given is nearer to what came before."""
    clip = written(tmp_path / "still.mkv", [TRUTH[0]] * 4)
    edits = SDEdit(strength=0.3)
    edit_video(clip, edits, tmp_path / "alone.mkv", together=Together(follow=0.0))
    edit_video(clip, edits, tmp_path / "along.mkv", together=Together(follow=0.5))
    alone, along = read(tmp_path / "alone.mkv"), read(tmp_path / "along.mkv")
    assert (alone[0] == alone[1]).all()  # the same noise for every frame
    assert (along[0] == alone[0]).all()
    assert (along[1] != alone[1]).any()


def test_the_cameras_motion_is_found_to_a_tenth_of_a_pixel():
    H_found = camera(grey(TRUTH[0]), grey(TRUTH[6]), np.zeros((H, W), bool))
    H_found = refined(H_found, grey(TRUTH[0]), grey(TRUTH[6]), np.ones((H, W), bool))
    a, s = 0.012, 1.6
    A0 = np.array([[s, 0, 150], [0, s, 120], [0, 0, 1]])
    A6 = np.array([[np.cos(a) * s, -np.sin(a) * s, 150 + 2.3 * 6], [np.sin(a) * s, np.cos(a) * s, 120 + 0.9 * 6],
                   [0, 0, 1]])  # fmt: skip
    exact = np.linalg.inv(A6) @ A0
    corners = np.array([[30.0, 30, 1], [130, 30, 1], [30, 90, 1], [130, 90, 1]]).T
    found, wanted = H_found @ corners, exact @ corners
    assert np.abs(found[:2] / found[2] - wanted[:2] / wanted[2]).max() < 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--range", "3"], r"--range 3: two times are needed"),
        (["--range", "5-3"], r"ends before it begins"),
        (["--range", "90-99"], r"no frames in the range"),
        (["--preview", "{out}.webp"], r"--preview is for pictures.*finished frames lie in OUT.frames/"),
        (["-o", "-"], r"not to standard output"),
        (["-o", "{out}.png"], r"videos are written as \.mp4, \.mov, \.mkv"),
        (["-o", "{clip}", "--force"], r"is the video that is read"),
        (["--mask", "{short}"], r"has 5 frames, and .* more"),
        (["--mask", "{long}"], r"long.mkv: has 25 frames, and .*in.mkv 24; a mask for each"),
        (["--mask", "{many}"], r"many: has 25 frames, and .*in.mkv 24"),
        (["--mask", "{small}"], r"its frames are 80x60, and the video's 160x120"),
        (["--mask", "{short}", "--track"], r"--track follows the mask of the first frame"),
    ],
)
def test_one_line_says_what_is_wrong(clip, tmp_path, capsys, words, message):
    names = {
        "clip": clip,
        "out": str(tmp_path / "out"),
        "short": written(tmp_path / "short.mkv", shown(MASKS[:5])),
        "long": written(tmp_path / "long.mkv", shown([*MASKS, MASKS[0]])),
        "many": str(tmp_path / "many"),
        "small": written(tmp_path / "small.mkv", shown([mask[::2, ::2] for mask in MASKS])),
    }
    (tmp_path / "many").mkdir()
    for k in range(N + 1):
        (tmp_path / "many" / f"{k:02}.png").write_bytes(b"")
    given = [word.format(**names) for word in words]
    given += [] if "--mask" in given else ["--mask", "box:9,9,40,40"]
    given += [] if "-o" in given else ["-o", str(tmp_path / "out.mkv")]
    before = Path(clip).read_bytes()
    assert run(["remove", clip, *given]) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, said[-1]), said
    assert "Traceback" not in " ".join(said)
    assert Path(clip).read_bytes() == before
    assert not list(tmp_path.glob("out*"))


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mkv").write_bytes(b"")
    for name in ("text.mp4", "empty.mkv"):
        with pytest.raises(PictureError, match="cannot be decoded as a video"):
            edit_video(tmp_path / name, Inpaint(mask="box:1,1,4,4"), tmp_path / "out.mkv")
    with pytest.raises(PictureError, match="no such file"):
        edit_video(tmp_path / "none.mp4", Inpaint(mask="box:1,1,4,4"), tmp_path / "out.mkv")


def test_a_video_that_changes_size(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        other = av.CodecContext.create("mjpeg", "w")
        other.width, other.height, other.pix_fmt, other.time_base = 32, 24, "yuvj420p", Fraction(1, 25)
        for k, codec in enumerate((video, other)):
            size = (48, 64, 3) if k == 0 else (24, 32, 3)
            frame = av.VideoFrame.from_ndarray(np.zeros(size, np.uint8), format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            for packet in codec.encode(frame):
                packet.stream = video
                out.mux(packet)
    with pytest.raises(PictureError, match="its frames change from 64x48 to 32x24"):
        edit_video(path, Inpaint(mask="box:9,9,20,20"), tmp_path / "out.mkv")


def test_an_existing_result_is_kept(clip, tmp_path):
    (tmp_path / "out.mkv").write_bytes(b"mine")
    with pytest.raises(EditkitError, match="exists already"):
        edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "out.mkv")
    assert (tmp_path / "out.mkv").read_bytes() == b"mine"


def test_from_the_command_line(clip, masked, tmp_path, capsys):
    out = tmp_path / "out.mkv"
    assert run(["remove", clip, "--mask", masked, "--range", "0-0.2", "-o", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["frames"] == 5
    assert record["shown"] > 0
    assert Clip.open(out).size == (W, H)


@pytest.mark.parametrize("text", ["", "a-b", "1:x-2", "1/0-2", "1e999999999-", "-1e9", "nan-", "٣-"])
def test_ranges_that_are_none(text):
    with pytest.raises(UsageError, match="two times are needed"):
        Span.of(text)


def test_a_video_names_no_other_files(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.mkv").write_bytes(Path(clip).read_bytes())
    Path("list.mp4").write_text("ffconcat version 1.0\nfile a.mkv\nfile a.mkv\n")
    Path("self.mp4").write_text("ffconcat version 1.0\nfile self.mp4\n")
    Path("hls.mp4").write_text("#EXTM3U\n#EXTINF:1.0,\na.mkv\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "self.mp4", "hls.mp4"):
        with pytest.raises(PictureError, match="cannot be decoded as a video"):
            Clip.open(name)
    Path("concat:a").mkdir()
    Path("concat:a/b.mkv").write_bytes(Path(clip).read_bytes())
    assert Clip.open("concat:a/b.mkv").size == (W, H)


def test_frames_larger_than_what_is_read_are_refused(clip, monkeypatch, tmp_path):
    monkeypatch.setattr("editkit.pictures.files.clips.MAX_PIXELS", W * H - 1)
    with pytest.raises(PictureError, match=f"its frames are {W}x{H}; at most"):
        Clip.open(clip)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(PictureError, match="is no file"):
        Clip.open(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("kind", ["clip", "folder"])
def test_no_mask_is_replaced(clip, masked, tmp_path, kind):
    target = tmp_path / "m.mkv"
    target.write_bytes(Path(masked).read_bytes())
    mask = str(target) if kind == "clip" else str(tmp_path)
    with pytest.raises(UsageError, match="is what is read"):
        edit_video(clip, Remove(mask=mask), target, force=True)
    assert target.read_bytes() == Path(masked).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["m.mkv"]


def test_frames_of_another_mask_of_that_name_are_not_gone_on_with(clip, masked, tmp_path):
    def stop(told):
        raise StopNow

    mask = tmp_path / "m.mkv"
    mask.write_bytes(Path(masked).read_bytes())
    with pytest.raises(StopNow):
        edit_video(clip, Remove(mask=str(mask)), tmp_path / "out.mkv", watch=stop)
    written(mask, shown(MASKS[::-1]))
    with pytest.raises(PictureError, match="holds frames of another edit"):
        edit_video(clip, Remove(mask=str(mask)), tmp_path / "out.mkv")


def test_an_array_is_a_mask_and_another_is_another_edit(clip, tmp_path):
    def stop(told):
        raise StopNow

    mask = np.zeros((H, W), bool)
    mask[9:40, 9:40] = True
    span, out = Span(last=Fraction(1, 10)), tmp_path / "out.mkv"
    with pytest.raises(StopNow):
        edit_video(clip, Inpaint(mask=mask), out, span=span, watch=stop)
    with pytest.raises(PictureError, match="holds frames of another edit"):
        edit_video(clip, Inpaint(mask=mask[::-1]), out, span=span)
    assert edit_video(clip, Inpaint(mask=mask.copy()), out, span=span) == 3
    edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "words.mkv", span=span)
    assert all((a == b).all() for a, b in zip(read(out), read(tmp_path / "words.mkv"), strict=True))


def test_two_runs_at_one_place_are_refused_and_a_kill_at_its_begin_is_gone_on_from(clip, tmp_path):
    span, out = Span(last=Fraction(1, 10)), tmp_path / "out.mkv"

    def again(told):
        edit_video(clip, Inpaint(mask="box:9,9,40,40"), out, span=span)

    with pytest.raises(PictureError, match="another run works there"):
        edit_video(clip, Inpaint(mask="box:9,9,40,40"), out, span=span, watch=again)
    assert edit_video(clip, Inpaint(mask="box:9,9,40,40"), out, span=span) == 3
    (tmp_path / "new.mkv.frames").mkdir()
    assert edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "new.mkv", span=span) == 3


def test_transparency_that_is_left_out_is_said(clip, tmp_path):
    frames = read(clip)[:2]
    path, said = written(tmp_path / "clear.mkv", frames, pix_fmt="bgra"), []
    edit_video(path, Inpaint(mask="box:9,9,20,20"), tmp_path / "out.mkv", notify=said.append)
    assert sum("transparent; that is left out" in line for line in said) == 1
    edit_video(clip, Inpaint(mask="box:9,9,20,20"), tmp_path / "o.mkv", span=Span(last=Fraction(1, 25)),
               notify=(opaque := []).append)  # fmt: skip
    assert not any("transparent" in line for line in opaque)


def test_a_mask_of_any_length_is_one_line(clip, tmp_path, capsys):
    assert run(["inpaint", clip, "--mask", "x" * 5000, "-o", str(tmp_path / "out.mkv")]) in (1, 2)
    said = capsys.readouterr().err
    assert "this should not happen" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["words", "masks", "every frame"])
def test_a_plan_of_a_video_is_its_first_frames_so_many_times(clip, masked, tmp_path, capsys, kind):
    words = {"words": ["remove", clip, "--mask", "box:9,9,40,40"], "masks": ["remove", clip, "--mask", masked],
             "every frame": ["sdedit", clip, "--strength", "0.3"]}[kind]  # fmt: skip
    assert run(["plan", *words, "--range", "0-0.4", "--stride", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["frames"] == 5
    assert record["copies"] == (kind != "every frame")
    mask = {"words": ["--mask", "box:9,9,40,40"], "masks": ["--mask", str(tmp_path / "m.png")]}.get(kind, [])
    Picture(np.repeat((MASKS[0] * np.uint8(255))[..., None], 3, 2)).write(tmp_path / "m.png")
    Picture(FRAMES[0]).write(tmp_path / "a.png")
    assert run(["plan", words[0], str(tmp_path / "a.png"), *mask, *words[4 if mask else 2 :], "--json"]) == 0
    assert record["first"] == json.loads(capsys.readouterr().out)
    assert run(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "about 24 frames, and for each" in said
    assert ("at most" in said) == record["copies"]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".mkv" or "frames" in path.name]


@pytest.mark.parametrize(("words", "said"), [(["--range", "90-99"], "no frames in the range"),
                                             (["--preview", "p"], "--preview is for pictures")])  # fmt: skip
def test_what_cannot_be_planned_of_a_video(clip, capsys, words, said):
    assert run(["plan", "sdedit", clip, *words]) in (1, 2)
    assert said in capsys.readouterr().err
