"""Videos that are none, results that are kept, masks and edits that are told apart."""

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from toy_video import FRAMES, MASKS, H, N, StopNow, W, clip, masked, read, shown, written

from editkit import edit_video
from editkit.cli import run
from editkit.editing.video import VideoProgress
from editkit.editing.watching.of_video import MOST, VideoPreview
from editkit.errors import EditkitError, PictureError, UsageError
from editkit.pictures.files.clips import Clip, Span
from editkit.pictures.picture import Picture
from editkit.plugins import Inpaint, Remove

__all__ = ["clip", "masked"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--range", "3"], r"--range 3: two times are needed"),
        (["--range", "5-3"], r"ends before it begins"),
        (["--range", "90-99"], r"no frames in the range"),
        (["--trace", "{out}.html"], r"--trace is for pictures, but .*in.mkv is not one"),
        (["--preview", "{out}.gif"], r"out.gif: give a folder, or a name that ends in .webp"),
        (["--preview", "{held}"], r"held: holds now.png already; give --force"),
        (["-o", "-"], r"not to standard output"),
        (["-o", "{out}.png"], r"videos are written as \.mp4, \.mov, \.mkv"),
        (["-o", "{clip}", "--force"], r"is the input video"),
        (["--mask", "{short}"], r"has 5 frames, but .* more"),
        (["--mask", "{long}"], r"long.mkv: has 25 frames, but .*in.mkv has 24; one mask for each"),
        (["--mask", "{many}"], r"many: has 25 frames, but .*in.mkv has 24"),
        (["--mask", "{small}"], r"its frames are 80x60, but the video's are 160x120"),
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
        "held": str(tmp_path / "held"),
        "small": written(tmp_path / "small.mkv", shown([mask[::2, ::2] for mask in MASKS])),
    }
    (tmp_path / "many").mkdir()
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "now.png").write_bytes(b"")
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
    with pytest.raises(PictureError, match="is not a file"):
        Clip.open(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("kind", ["clip", "folder"])
def test_no_mask_is_replaced(clip, masked, tmp_path, kind):
    target = tmp_path / "m.mkv"
    target.write_bytes(Path(masked).read_bytes())
    mask = str(target) if kind == "clip" else str(tmp_path)
    with pytest.raises(UsageError, match="is also an input"):
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

    with pytest.raises(PictureError, match="is in use by another run"):
        edit_video(clip, Inpaint(mask="box:9,9,40,40"), out, span=span, watch=again)
    assert edit_video(clip, Inpaint(mask="box:9,9,40,40"), out, span=span) == 3
    (tmp_path / "new.mkv.frames").mkdir()
    assert edit_video(clip, Inpaint(mask="box:9,9,40,40"), tmp_path / "new.mkv", span=span) == 3


def test_transparency_that_is_left_out_is_said(clip, tmp_path):
    frames = read(clip)[:2]
    path, said = written(tmp_path / "clear.mkv", frames, pix_fmt="bgra"), []
    edit_video(path, Inpaint(mask="box:9,9,20,20"), tmp_path / "out.mkv", notify=said.append)
    assert sum("have transparency, which is dropped" in line for line in said) == 1
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
                                             (["--trace", "p.html"], "--trace is for pictures")])  # fmt: skip
def test_what_cannot_be_planned_of_a_video(clip, capsys, words, said):
    assert run(["plan", "sdedit", clip, *words]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_preview_shows_the_frame_being_worked_on(tmp_path, monkeypatch):
    """Its estimates, then its result; the video's bytes are those of a run without a preview."""
    tiny = written(tmp_path / "in.mkv", [frame[40:72, 40:88] for frame in FRAMES[:2]])
    words = ["sdedit", tiny, "--steps", "4", "--strength", "0.5"]
    seen, folder, write = [], tmp_path / "p", Picture.write

    def noted(picture, path, **options):
        seen.append((Path(path), picture.pixels))
        return write(picture, path, **options)

    monkeypatch.setattr(Picture, "write", noted)
    assert run([*words, "-o", str(tmp_path / "a.mkv"), "--preview", str(folder)]) == 0
    assert {path for path, _ in seen} == {folder / "now.png"} == set(folder.iterdir())
    made, shown_ = read(tmp_path / "a.mkv"), [pixels for _, pixels in seen]
    assert len(shown_) == 2 * (2 + 1)  # two steps and the result of each of two frames
    assert all((a == b).all() for a, b in zip(made, shown_[2::3], strict=True))
    assert (shown_[0] != made[0]).any()
    assert (Picture.read(folder / "now.png").pixels == made[-1]).all()
    assert run([*words, "-o", str(tmp_path / "b.mkv")]) == 0
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_a_preview_goes_on_with_the_run_that_it_shows(clip, masked, tmp_path, monkeypatch):
    """Killed at its third frame: the folder is taken again, and an animation shows what was finished before, too."""
    words = ["remove", clip, "--mask", masked, "--range", "0-0.2", "-o", str(tmp_path / "out.mkv")]
    theirs, done = VideoPreview.frame, []

    def frame(preview, told):
        theirs(preview, told)
        done.append(told.done)
        if len(done) == 3:
            raise StopNow

    monkeypatch.setattr(VideoPreview, "frame", frame)
    assert run([*words, "--preview", str(tmp_path / "p")]) == 1
    assert run([*words, "--preview", str(tmp_path / "p")]) == 0
    assert done == [1, 2, 3, 1, 2, 3, 4, 5]
    assert (Picture.read(tmp_path / "p" / "now.png").pixels == read(tmp_path / "out.mkv")[-1]).all()
    assert run([*words, "--force", "--preview", str(tmp_path / "p.webp")]) == 0
    with Image.open(tmp_path / "p.webp") as moving:
        assert (moving.size, moving.n_frames) == ((W, H), 5)


def test_an_animation_of_a_long_video_has_a_bounded_number_of_frames(tmp_path):
    preview = VideoPreview(tmp_path / "p.webp")
    for k in range(5 * MOST):
        preview.frame(VideoProgress(k + 1, 0, 0, np.full((9, 16, 3), k, np.uint8)))
        assert len(preview.frames) <= MOST
    assert np.diff([int(np.asarray(frame)[0, 0, 0]) for frame in preview.frames]).tolist() == [8] * 29
