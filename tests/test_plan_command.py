"""`editkit plan`: plain sentences first, tables with --details, and a time if earlier edits of the kind are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from editkit.cli import rates, run
from editkit.editing.api import plan
from editkit.editing.settle import StagePlan
from editkit.pictures.picture import Picture
from editkit.plugins import Inpaint, Upscale

HOLE = ["--mask", "box:8,8,16,16"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rates, "_place", lambda: tmp_path / "cache" / "rates.json")
    Picture(np.random.default_rng(0).integers(60, 190, (40, 40, 3), np.uint8)).write("photo.png")
    return tmp_path / "cache" / "rates.json"


def stage(side: int = 40) -> StagePlan:
    (found,) = plan(np.zeros((side, side, 3), np.uint8), Upscale())
    return found


def keep(one: StagePlan, seconds: float) -> None:
    timed = rates.Timed()
    timed.plans[0] = one
    timed.keep(seconds)


def test_sentences_first_and_tables_on_request(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inpaint", "photo.png", *HOLE, "with", "guide", "then", "upscale"]
    assert run(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Stage 1 of 2: ")
    assert "Works on 4% of the image, 40x40 pixels, and looks at 40x40 pixels around that." in said
    assert "Stage 2 of 2: upscale, by the model upconv." in said
    assert "80x80 pixels (it is 40x40 now)" in said
    assert "1 network call." in said
    assert not {"levels", "moves", "backward"} & {*said.split()}
    assert run(["plan", "--details", *words]) == run(["plan", *words, "--details"]) == 0
    assert {"hook", "levels", "moves", "backward"} <= {*capsys.readouterr().out.split()}


def test_a_time_is_known_after_an_edit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "inpaint", "photo.png", *HOLE]) == 0
    assert "not known yet" in capsys.readouterr().out
    assert run(["inpaint", "photo.png", *HOLE, "--quiet"]) == 0
    assert run(["plan", "inpaint", "photo.png", *HOLE]) == 0
    assert "as earlier edits of this kind took on this machine" in capsys.readouterr().out


def test_half_of_a_time_is_proportional_to_the_work(place: Path) -> None:
    assert rates.estimate(stage()) is None
    keep(stage(40), 10.0)
    assert rates.estimate(stage(40)) == pytest.approx(10.0)
    assert rates.estimate(stage(56)) == pytest.approx(10.0 * (1.0 + (56 / 40) ** 2) / 2.0)
    assert rates.estimate(stage(80)) is None, "four times the work is too far"
    (other,) = plan(np.zeros((40, 40, 3), np.uint8), Inpaint(mask="box:8,8,16,16"))
    assert rates.estimate(other) is None
    keep(stage(40), 20.0)
    assert rates.estimate(stage(40)) == pytest.approx(20.0), "the latest counts"


@pytest.mark.parametrize(
    "junk",
    [b'{"K": [[1' + 400 * b"0" + b", 1.0]]}", b"", b"\xff\xfe", b"[]", b"7", b'{"a": 7}', b'{"a": [[1]]}', b"[" * 5000,
     b" " * (1 << 17), b'{"K": [[1, NaN]]}',
     b'{"K": [["1", 2], [true, 2], [0, 1], [1, -1], null, {}]}'],
)  # fmt: skip
def test_junk_is_ignored_and_replaced(place: Path, junk: bytes) -> None:
    place.parent.mkdir()
    place.write_bytes(junk.replace(b"K", rates._kind(stage()).encode()))
    assert rates.estimate(stage()) is None
    keep(stage(), 3.0)
    assert rates.estimate(stage()) == pytest.approx(3.0)


def test_a_folder_that_cannot_be_written_stops_nothing(place: Path) -> None:
    place.parent.write_text("a file, not a folder")
    keep(stage(), 3.0)
    assert rates.estimate(stage()) is None


def test_the_file_stays_small(place: Path) -> None:
    place.parent.mkdir()
    place.write_text(json.dumps({f"kind {k}": [[1.0, 1.0]] * 20 for k in range(200)}))
    for seconds in range(1, 30):
        keep(stage(), float(seconds))
    kept = json.loads(place.read_text())
    assert len(kept) == rates.KINDS
    assert len(kept[rates._kind(stage())]) == rates.TIMES
