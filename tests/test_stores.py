"""Addresses instead of folders: stores that fail, and runs that are killed at any moment."""

import itertools
import json
import threading
from contextlib import closing

import pytest
from faulty import KINDS, Faults, FaultyMemory, Killed, files
from fsspec.implementations.memory import MemoryFileSystem
from toy_clock import Clock
from toy_stores import CHAIN, NAME, go, memory, put, results
from toy_work import Copies

from editkit.batch import lease, ledger, stores
from editkit.batch.catalog import Catalog
from editkit.batch.delivery import Delivery
from editkit.batch.driver import run_into
from editkit.batch.engines import serial
from editkit.batch.folder import Item
from editkit.batch.sources import fill_catalog
from editkit.batch.stores import open_store
from editkit.errors import PictureError, UsageError

__all__ = ["memory"]


def journal() -> list[dict]:
    return [json.loads(line) for line in files("out")[NAME].splitlines()]


def test_results_lines_and_nothing_else_are_left(memory):
    put(a__png=b"A", b__png=b"B", empty__png=b"")
    summary = go(Copies())
    assert (summary.made, list(summary.failed)) == (2, ["empty.png"])
    assert results() == {"a.png": b"A", "b.png": b"B"}
    assert [(line["state"], line.get("picture")) for line in journal()] == [
        ("run", None), ("done", "a.png"), ("done", "b.png"), ("failed", "empty.png"),
    ]  # fmt: skip
    others = {name.split("/")[1] for name in files("out") if name.startswith(".editkit/")}
    assert others == {"run.json", "lease"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the thread is killed as well
@pytest.mark.parametrize("kill_after", [False, True])
def test_killed_at_every_single_operation_and_resumed_nothing_is_half_there_or_twice(memory, kill_after):
    put(a__png=b"AAAA", b__png=b"BBBB", c__png=b"")
    whole = {"a.png": b"AAAA", "b.png": b"BBBB"}
    for kill_at in itertools.count(1):
        for name in list(MemoryFileSystem.store):
            if name.startswith("/out"):
                del MemoryFileSystem.store[name]
        memory.faults = Faults(kill_at=kill_at, kill_after=kill_after)
        try:
            go(Copies())
            break  # it came to its end before
        except Killed:
            memory.faults = Faults()
        assert results().items() <= whole.items(), kill_at
        marked = sum(name.startswith(".editkit/done/") for name in files("out"))
        again = Copies()
        summary = go(again, resume=True)
        assert results() == whole, kill_at
        assert summary.made + summary.before == 2
        assert len(again.log) <= 2 - marked or NAME in files("out")
        assert sorted(line["picture"] for line in journal() if line["state"] == "done") == ["a.png", "b.png"]
    assert kill_at > 20


@pytest.mark.parametrize("seed", range(8))
def test_a_store_that_is_busy_slow_or_loses_answers_changes_nothing(memory, seed):
    put(**{f"p{k}__png": bytes([k + 1]) * 50 for k in range(12)})
    memory.faults = Faults(seed, often=0.25)
    summary = go(Copies())
    assert (summary.made, summary.failed) == (12, {})
    assert results() == {f"p{k}.png": bytes([k + 1]) * 50 for k in range(12)}
    assert memory.faults.met == set(KINDS)


def test_a_store_that_never_answers_is_one_line(memory, monkeypatch):
    monkeypatch.setattr(stores, "TRIES", 3)
    put(a__png=b"A")
    memory.faults = Faults(often=1.0, kinds=("busy", "timeout", "lost"))
    with pytest.raises(PictureError, match=r"memory://out/.*does not answer as it should \(\w+\) \(3 times\)"):
        go(Copies())


@pytest.mark.parametrize("what", ["cat_file", "pipe_file"])
def test_answers_slower_than_the_lease_lose_nothing(memory, monkeypatch, what):
    """Every read, or every write, takes longer than what a run is given to show that it lives."""
    real = getattr(FaultyMemory, what)

    def slow(self, *given, **named):
        lease.time.sleep(2.0 * lease.TTL)
        return real(self, *given, **named)

    put(**{f"p{k}__png": bytes([k + 1]) * 50 for k in range(2)})
    monkeypatch.setattr(FaultyMemory, what, slow)
    summary = go(Copies())
    assert (summary.made, summary.failed) == (2, {})
    assert results() == {f"p{k}.png": bytes([k + 1]) * 50 for k in range(2)}


def test_two_workers_at_one_picture_whose_bytes_differ_leave_the_first_ones(memory):
    """As where a node was lost for a while, and another kind of processor made the picture meanwhile."""
    put(a__png=b"A")
    at = open_store("memory://out")
    item = Item("a.png", "memory://in/a.png", "memory://out/a.png", "a.png")
    with lease.hold_lease(at) as hold:
        first, second = Copies(), Copies()
        second.pack = lambda edited: Copies.pack(second, (edited[0], b"other"))
        late = Delivery(second, at, hold.number)
        opened = late.read(item)
        made = Delivery(first, at, hold.number)(item)
        after = late.pack(opened)
        assert made.done == after.done
        assert after.data == b""
        assert results() == {"a.png": b"A"}
        third = Copies()
        assert Delivery(third, at, hold.number)(item).before
        assert third.log == []


def test_a_result_that_is_not_of_this_run_is_left_alone_without_force(memory):
    put(a__png=b"A", b__png=b"B")
    MemoryFileSystem().pipe_file("/out/a.png", b"somebody's")
    work = Copies()
    summary = go(work)
    assert "a.png: exists already and is not of this run" in summary.failed["a.png"]
    assert work.log == ["b.png"]
    assert results()["a.png"] == b"somebody's"
    summary = go(Copies(), resume=True)
    assert "exists already" in summary.failed["a.png"]
    assert results()["a.png"] == b"somebody's"
    assert go(Copies(), force=True).made == 2
    assert results() == {"a.png": b"A", "b.png": b"B"}


def test_a_result_that_vanished_is_made_again(memory):
    put(a__png=b"A", b__png=b"B")
    go(Copies())
    del MemoryFileSystem.store["/out/a.png"]
    again = Copies()
    assert (go(again, resume=True).made, again.log) == (1, ["a.png"])


def test_two_runs_on_one_target_are_refused_and_one_that_was_taken_over_stops(memory, monkeypatch):
    put(a__png=b"A", b__png=b"B")
    at = open_store("memory://out")
    with lease.hold_lease(at) as hold:
        monkeypatch.setattr(lease, "time", Clock(lambda: at.replace(lease.name_of(hold.number), b"a sign of life")))
        with pytest.raises(UsageError, match="another batch is at work here"):
            go(Copies())
        monkeypatch.setattr(lease, "time", Clock(lambda: at.create(lease.name_of(hold.number + 1), b"{}")))
        with pytest.raises(UsageError, match="another batch is at work here"):
            go(Copies())
        late = Delivery(Copies(), at, hold.number)(Item("a.png", "memory://in/a.png", "memory://out/a.png", "a.png"))
        assert "another run has taken over" in late.error
        assert results() == {}
    with pytest.raises(UsageError, match="another batch has just begun here"):
        lease.Lease(at, hold.number).take()


def test_a_run_without_a_sign_of_life_is_taken_over_when_its_time_is_over(memory, monkeypatch):
    put(a__png=b"A")
    at, clock = open_store("memory://out"), Clock()
    monkeypatch.setattr(lease, "time", clock)
    lease.Lease(at, 1).take()
    assert go(Copies()).made == 1
    assert clock.now >= lease.TTL


class Ends:
    """In the place of a lease's end: it comes after so many beats."""

    def __init__(self, after: int) -> None:
        self.left = after

    def wait(self, seconds: float) -> bool:
        assert seconds < lease.TTL / 2
        lease.time.sleep(seconds)
        self.left -= 1
        return self.left < 0


def test_a_run_says_that_it_lives_until_another_takes_over(memory):
    at = open_store("memory://out")
    hold = lease.Lease(at, 1)
    hold.take()
    hold._end = Ends(3)
    hold.keep()
    assert json.loads(at.read(lease.name_of(1)))["beat"] == 3
    assert not hold.lost
    at.create(lease.name_of(2), b"{}")
    hold._end = Ends(3)
    hold.keep()
    assert hold.lost
    assert hold._end.left == 2


@pytest.mark.parametrize(("beats", "lost"), [(5, False), (9, True)])
def test_a_run_that_is_cut_off_gives_up_its_hold_when_others_may_have_taken_it(memory, monkeypatch, beats, lost):
    hold = lease.Lease(open_store("memory://out"), 1)
    hold.take()
    memory.faults = Faults(often=1.0, kinds=("busy", "timeout", "lost"))
    monkeypatch.setattr(stores, "TRIES", 1)
    hold._end = Ends(beats)
    hold.keep()
    assert hold.lost == lost


def test_the_last_word_of_a_run_is_that_its_hold_is_free(memory, monkeypatch):
    """Also where its last sign of life takes its time, so that the next run need not wait."""
    at, beating, ended = open_store("memory://out"), threading.Event(), threading.Event()
    monkeypatch.setattr(lease, "TTL", 0.0)
    real, end = lease.Lease._text, lease.Lease.end

    def slow(self, beat):
        text = real(self, beat)
        if beat > 0:
            beating.set()
            assert ended.wait(60)
        return text

    def told(self):
        end(self)
        ended.set()

    monkeypatch.setattr(lease.Lease, "_text", slow)
    monkeypatch.setattr(lease.Lease, "end", told)
    with lease.hold_lease(at) as hold:
        assert beating.wait(60)
    assert json.loads(at.read(lease.name_of(hold.number)))["released"]


def test_a_run_that_lost_its_hold_ends(memory):
    put(a__png=b"A")
    with closing(Catalog()) as catalog:
        fill_catalog(catalog, CHAIN, "memory://in", "memory://out", None, ".png", False)
        with ledger.open_ledger(open_store("memory://out"), catalog, {}) as book:
            book.lease.lost = True
            with pytest.raises(PictureError, match="this run's hold was lost"):
                run_into(Copies(), catalog, book, serial, "memory://out")
            book.lease.lost = False


def test_a_service_that_puts_over_what_is_there_is_refused(memory, monkeypatch):
    real = FaultyMemory.pipe_file
    monkeypatch.setattr(FaultyMemory, "pipe_file", lambda self, path, value, mode="", **k: real(self, path, value))
    with (
        pytest.raises(UsageError, match="puts an object over one that is there"),
        lease.hold_lease(open_store("memory://out")),
    ):
        pass


def test_another_recipe_and_a_damaged_journal_are_refused(memory):
    put(a__png=b"A")
    go(Copies())
    with pytest.raises(UsageError, match="another recipe or other options"):
        go(Copies(), resume=True, identity={"run": "y"})
    with pytest.raises(UsageError, match="an earlier run was here"):
        go(Copies())
    MemoryFileSystem().pipe_file(f"/out/{NAME}", b'{"state": "done"}\n')
    with pytest.raises(Exception, match="line 1 is damaged"):
        go(Copies(), resume=True)


def test_a_line_about_another_file_counts_for_nothing(memory):
    put(a__png=b"A")
    go(Copies())
    line = {**journal()[1], "output": "../elsewhere.png"}
    MemoryFileSystem().pipe_file(f"/out/{NAME}", (json.dumps(line) + "\n").encode())
    MemoryFileSystem().pipe_file("/elsewhere.png", b"x")
    again = Copies()
    go(again, resume=True)
    assert again.log == ["a.png"]
