"""Batches: every picture of a folder, whatever is broken in it, and however the run ends."""

import errno
import json
import os
import pickle
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_batch import here, pictures

from editkit.batch import driver as batching
from editkit.batch import journal as journals
from editkit.batch.driver import batch, with_mask
from editkit.batch.engines import processes
from editkit.batch.folder import items, listing
from editkit.batch.journal import Done, open_journal
from editkit.batch.work import Work
from editkit.cli import run
from editkit.errors import PictureError, UsageError
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint, Uncrop

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import batch_kill
from broken_folder import RECIPE, fill
from toy_work import copy, dies

__all__ = ["here"]

CHAIN = Chain.of(Inpaint(mask="box:0,0,7,7")).using(steps=2, seed=5)


def states(folder: str) -> list[tuple[str, str]]:
    lines = Path(folder, journals.NAME).read_text().splitlines()
    return [(line["state"], line.get("picture", "")) for line in map(json.loads, lines)]


class Forked:
    """A run in a fork of this process: torch is there already, so it starts at once."""

    def __init__(self, words: list[str], said: Path) -> None:
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os._exit(run(words))

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


def test_a_bad_picture_is_named_and_the_rest_goes_on(here, capsys):
    bad = fill(here / "in", pictures=18, broken=7)
    assert run(["batch", "r.yaml", "in", "out"]) == 1
    said = capsys.readouterr().err
    assert {line.split(": ")[1] for line in said.splitlines() if line.startswith("failed: ")} == bad
    assert "out: 11 of 18 made, 7 failed" in said.splitlines()[-1]
    assert "Traceback" not in said
    for name in sorted(p.name for p in Path("in").iterdir() if p.name not in bad):
        before, after = (np.asarray(Image.open(Path(folder, name))) for folder in ("in", "out"))
        kept = np.ones((24, 24), bool)
        kept[:7, :7] = False
        assert np.array_equal(before[kept], after[kept])
        assert not np.array_equal(before[~kept], after[~kept])
    assert run(["batch", "r.yaml", "in", "out", "--resume", "--json"]) == 1
    again = json.loads(capsys.readouterr().out)
    assert (again["made"], again["before"], set(again["failed"])) == (0, 11, bad)


def test_killed_at_random_moments_and_resumed_every_result_is_the_same(tmp_path):
    seed = random.randrange(1000)
    figures = batch_kill.run(tmp_path, pictures=40, broken=5, kills=4, workers=1, seed=seed, start=Forked)
    assert figures["wrong"] == [], f"seed {seed}"
    assert figures["results"] == 35


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
def test_workers_end_when_their_driver_is_killed():
    """Else they would hold memory for ever."""
    script = f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]}; import toy_work; toy_work.drive()"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 300
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in", "in"], "are the same folder"),
        (["in", "link"], "are the same folder"),
        (["in/deep", "in"], "lies inside of"),
        (["nowhere", "out"], "is not a folder"),
        (["in/a.png", "out"], "is not a folder"),
        (["in", "in/a.png"], "is not a folder"),
        (["loop", "out"], "is not a folder"),
        (["empty", "out"], "contains no pictures"),
        (["in", "out", "--sampler", "none"], "no sampler is called"),
        (["in", "out", "--masks", "nowhere"], "--masks nowhere: is not a folder"),
        (["in", "out", "--workers", "0"], "--workers: must be 1"),
        (["in", "out", "--format", "gif"], "--format: must be keep or one of"),
        (["in", "out", "--resume", "--force"], "give one of them"),
        (["in", "done"], "--resume goes on with it"),
        (["in", "done", "--resume", "--seed", "9"], "another recipe or other options"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(here, capsys, words, said):
    pictures("in", "a.png")
    for folder in ("in/deep", "empty"):
        Path(folder).mkdir()
    Path("link").symlink_to("in")
    Path("loop").symlink_to("loop")
    assert run(["batch", "r.yaml", "in", "done", "--quiet"]) == 0
    before = {p: p.read_bytes() for p in here.rglob("*") if not p.is_symlink() and p.is_file()}
    capsys.readouterr()
    assert run(["batch", "r.yaml", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in here.rglob("*") if not p.is_symlink() and p.is_file()} == before


def test_what_is_wrong_for_every_picture_is_said_once(here, capsys):
    pictures("in", "a.png", "b.png")
    Path("twice.yaml").write_text(RECIPE.replace("    options", "      - inpaint: {mask: m.png}\n    options"))
    assert run(["batch", "twice.yaml", "in", "out"]) == 2
    assert run(["batch", "r.yaml", "in", "out", "--model", "nowhere"]) == 1
    conflict, missing = capsys.readouterr().err.strip().splitlines()
    assert "inpaint and inpaint both set the mask" in conflict
    assert "'nowhere' was not found" in missing
    assert not Path("out").exists()


def test_masks_for_a_recipe_that_takes_none(here, capsys):
    pictures("in", "a.png")
    Path("g.yaml").write_text("editkit: 1\nstages: [{plugins: [{uncrop: {right: 6}}]}]\n")
    assert run(["batch", "g.yaml", "in", "out", "--mask", "{stem}.mask.png"]) == 2
    assert "no plugin of the recipe takes one" in capsys.readouterr().err
    with pytest.raises(UsageError):
        with_mask(Chain.of(Uncrop(right=6)), "m.png")


def test_a_result_that_was_there_before_is_not_touched_without_force(here, capsys):
    pictures("in", "a.png", "b.png")
    pictures("out", "a.png")
    old = Path("out/a.png").read_bytes()
    assert run(["batch", "r.yaml", "in", "out"]) == 1
    assert "out/a.png: exists already and is not of this run" in capsys.readouterr().err
    assert Path("out/a.png").read_bytes() == old
    assert run(["batch", "r.yaml", "in", "out", "--force", "--quiet"]) == 0
    assert Path("out/a.png").read_bytes() != old


def test_a_full_disk_stops_the_run_and_it_can_go_on(here, capsys, monkeypatch):
    pictures("in", "a.png", "b.png", "c.png")
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 4:  # the journal's first line, then for each picture its part and its line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert run(["batch", "r.yaml", "in", "out"]) == 1
    said = capsys.readouterr().err
    assert "No space left on device); 1 pictures are done: fix that and use --resume" in said
    assert [p.name for p in Path("out").rglob("*") if p.is_file() and p.name != journals.NAME] == ["a.png"]
    monkeypatch.setattr(os, "fsync", real)
    assert run(["batch", "r.yaml", "in", "out", "--resume", "--quiet"]) == 0
    assert states("out") == [("run", ""), ("done", "a.png"), ("done", "b.png"), ("done", "c.png")]


def test_a_full_disk_in_the_journal_itself_leaves_no_half_line(here, monkeypatch):
    pictures("in", "a.png")
    real = os.write

    def short(handle, data):
        if b'"done"' in data:
            return real(handle, data[:10])
        return real(handle, data)

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(PictureError, match="No space left"):
        batch(CHAIN, Path("in"), Path("out"))
    assert states("out") == [("run", "")]
    assert not list(Path("out").glob("*.png"))


def test_one_item_that_cannot_be_written_does_not_stop_the_rest(here, capsys):
    pictures("in", "a.png", "b.png")
    Path("out/a.png").mkdir(parents=True)
    assert run(["batch", "r.yaml", "in", "out", "--force"]) == 1
    assert "failed: a.png: out/a.png: is a folder" in capsys.readouterr().err
    assert Path("out/b.png").exists()


def test_a_line_that_a_kill_tore_is_cut_off_and_a_part_without_its_line_is_made_again(here):
    pictures("in", "a.png", "b.png")
    assert run(["batch", "r.yaml", "in", "out", "--quiet"]) == 0
    expected = {p.name: p.read_bytes() for p in Path("out").glob("*.png")}
    path = Path("out", journals.NAME)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    Path("out/b.png").unlink()
    part = Path("out", journals.PARTS)
    part.mkdir()
    (part / "0123.part").write_bytes(b"half")
    assert run(["batch", "r.yaml", "in", "out", "--resume", "--quiet"]) == 0
    assert {p.name: p.read_bytes() for p in Path("out").glob("*.png")} == expected
    assert states("out") == [("run", ""), ("done", "a.png"), ("done", "b.png")]
    assert not part.exists()


def test_killed_between_the_line_and_the_new_name_the_part_takes_its_place(here, monkeypatch):
    target = Path("out/a.png")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt), open_journal(Path("out"), {}) as journal:
            journal.commit(Done("a.png", "a.png", 0, "", 0), b"whole", target)
    assert not target.exists()
    with open_journal(Path("out"), {}, resume=True) as journal:
        assert journal.settle("a.png", "a.png")
    assert target.read_bytes() == b"whole"


def test_a_damaged_journal_and_a_second_run_in_the_same_folder_are_refused(here):
    with open_journal(Path("out"), {}), pytest.raises(UsageError, match="another batch is at work"):
        open_journal(Path("out"), {}, resume=True).__enter__()
    Path("out", journals.NAME).write_text("{}\n")
    with pytest.raises(Exception, match="line 1 is damaged"):
        open_journal(Path("out"), {}, resume=True).__enter__()


def test_interrupted_the_run_says_how_to_go_on(here, capsys, monkeypatch):
    pictures("in", "a.png", "b.png")
    real = Work.read

    def interrupted(self, item):
        if item.name == "b.png":
            raise KeyboardInterrupt
        return real(self, item)

    monkeypatch.setattr(Work, "read", interrupted)
    assert run(["batch", "r.yaml", "in", "out"]) == 130
    assert "1 results are complete, --resume continues" in capsys.readouterr().err


def test_a_worker_that_dies_takes_one_picture_with_it(tmp_path):
    pictures(str(tmp_path), "a.png", "b.png", "c.png", "d.png")
    todo = items(listing(tmp_path), tmp_path, tmp_path / "out")
    results = {result.item.name: result for result in processes(2)(dies, todo)}
    assert sorted(results) == ["a.png", "b.png", "c.png", "d.png"]
    assert [name for name, result in results.items() if result.error] == ["b.png"]
    assert "its process ended" in results["b.png"].error


def test_an_engine_of_ones_own_in_any_order_and_work_that_raises_nothing(tmp_path):
    pictures(str(tmp_path / "in"), "a.png", "b.png")
    todo = items(listing(tmp_path / "in"), tmp_path / "in", tmp_path / "out")

    def backwards(function, work):
        for item in reversed(work):
            yield function(item)

    with open_journal(tmp_path / "out", {}) as journal:
        summary = batching.run(copy, todo, journal, backwards)
    assert (summary.made, summary.failed) == (2, {})
    assert states(str(tmp_path / "out"))[1:] == [("done", "b.png"), ("done", "a.png")]
    broken = Work(CHAIN)(replace(todo[0], target="a.nonsense"))
    assert "nonsense" in broken.error


def test_work_can_be_sent_to_another_process_and_gives_the_same_there(tmp_path):
    pictures(str(tmp_path), "a.png")
    (item,) = items(listing(tmp_path), tmp_path, tmp_path / "out")
    work = Work(CHAIN)
    assert pickle.loads(pickle.dumps(work)) == work
    assert pickle.loads(pickle.dumps(work))(item).data == work(item).data != b""
