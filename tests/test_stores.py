"""Addresses instead of folders: stores that fail, runs that are killed at any moment, manifests, archives, secrets."""

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path

import fsspec
import numpy as np
import pytest
from faulty import Faults, FaultyMemory, Killed, files
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from toy_work import Copies

from editkit.batch import lease, ledger, stores
from editkit.batch.catalog import Catalog
from editkit.batch.delivery import Delivery
from editkit.batch.driver import run_into
from editkit.batch.engines import serial
from editkit.batch.folder import Item, Masks, items, listing
from editkit.batch.manifest import columns_of, rows, with_columns
from editkit.batch.sources import cataloged
from editkit.batch.stores import read_from, shown, store
from editkit.cli import run
from editkit.errors import ExtraError, PictureError, UsageError
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import RECIPE, fill, picture

NAME = "editkit-batch.jsonl"
CHAIN = Chain.of(Inpaint(mask="box:0,0,7,7")).using(steps=2, seed=5)


@pytest.fixture
def memory(monkeypatch):
    """`memory://`, empty, with faults to be set; pauses are short."""
    fsspec.register_implementation("memory", FaultyMemory, clobber=True)
    monkeypatch.setattr(FaultyMemory, "faults", Faults())
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    monkeypatch.setattr(stores, "TRIES", 30)
    monkeypatch.setattr(lease, "TTL", 0.03)
    stores._reader.cache_clear()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield FaultyMemory
    MemoryFileSystem.store.clear()
    stores._reader.cache_clear()
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


@pytest.fixture
def here(tmp_path, monkeypatch, memory) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


def put(**data: bytes) -> None:
    for name, body in data.items():
        MemoryFileSystem().pipe_file(f"/in/{name.replace('__', '.')}", body)


def go(work, *, resume=False, force=False, mask=None, identity=None):
    """A run of `work` from memory://in into memory://out."""
    with closing(Catalog()) as catalog:
        cataloged(catalog, CHAIN, "memory://in", "memory://out", mask, ".png", False)
        with ledger.opened(
            store("memory://out"), catalog, identity or {"run": "x"}, resume=resume, force=force
        ) as book:
            return run_into(work, catalog, book, serial, "memory://out", fresh=not (resume or force), force=force)


def results() -> dict[str, bytes]:
    return {name: data for name, data in files("out").items() if not name.startswith(".editkit") and name != NAME}


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
    assert memory.faults.met == {"busy", "timeout", "lost"}


def test_a_store_that_never_answers_is_one_line(memory, monkeypatch):
    monkeypatch.setattr(stores, "TRIES", 3)
    put(a__png=b"A")
    memory.faults = Faults(often=1.0)
    with pytest.raises(PictureError, match=r"memory://out/.*does not answer as it should \(\w+\) \(3 times\)"):
        go(Copies())


def test_two_workers_at_one_picture_whose_bytes_differ_leave_the_first_ones(memory):
    """As where a node was lost for a while, and another kind of processor made the picture meanwhile."""
    put(a__png=b"A")
    at = store("memory://out")
    item = Item("a.png", "memory://in/a.png", "memory://out/a.png", "a.png")
    with lease.held(at) as hold:
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
    monkeypatch.setattr(lease, "TTL", 0.3)
    put(a__png=b"A", b__png=b"B")
    at = store("memory://out")
    with lease.held(at) as hold:
        with pytest.raises(UsageError, match="another batch is at work here"):
            go(Copies())
        monkeypatch.setattr(lease, "TTL", 0.0)
        at.create(lease.name_of(hold.number + 1), b"{}")
        late = Delivery(Copies(), at, hold.number)(Item("a.png", "memory://in/a.png", "memory://out/a.png", "a.png"))
        assert "another run has taken over" in late.error
        assert results() == {}
    with pytest.raises(UsageError, match="another batch has just begun here"):
        lease.Lease(at, hold.number).take()


def test_a_run_that_lost_its_hold_ends(memory):
    put(a__png=b"A")
    with closing(Catalog()) as catalog:
        cataloged(catalog, CHAIN, "memory://in", "memory://out", None, ".png", False)
        with ledger.opened(store("memory://out"), catalog, {}) as book:
            book.lease.lost = True
            with pytest.raises(PictureError, match="this run's hold was lost"):
                run_into(Copies(), catalog, book, serial, "memory://out")
            book.lease.lost = False


def test_a_service_that_puts_over_what_is_there_is_refused(memory, monkeypatch):
    real = FaultyMemory.pipe_file
    monkeypatch.setattr(FaultyMemory, "pipe_file", lambda self, path, value, mode="", **k: real(self, path, value))
    with pytest.raises(UsageError, match="puts an object over one that is there"), lease.held(store("memory://out")):
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


# -------------------------------------------------------------------------------------------- pictures and masks


def test_from_a_store_into_a_store_or_a_folder_the_bytes_are_those_of_folders(here, capsys):
    bad = fill(here / "in", pictures=8, broken=3)
    for path in Path("in").iterdir():
        if path.exists():
            MemoryFileSystem().pipe_file(f"/in/{path.name}", path.read_bytes())
    assert run(["batch", "r.yaml", "in", "folders"]) == 1
    expected = {p.name: p.read_bytes() for p in Path("folders").glob("*.png")}
    assert run(["batch", "r.yaml", "memory://in", "memory://out"]) == 1
    said = capsys.readouterr().err
    assert results() == expected
    assert {f"p{k:03}.png" for k in range(8)} - bad == set(expected)
    assert "memory://out: 5 of 8 made, 3 failed" in said
    assert run(["batch", "r.yaml", "memory://in", "back", "--quiet"]) == 1
    assert {p.name: p.read_bytes() for p in Path("back").glob("*.png")} == expected
    assert run(["batch", "r.yaml", "in", "memory://up", "--quiet"]) == 1
    assert {name: data for name, data in files("up").items() if name.endswith(".png")} == expected
    assert run(["batch", "r.yaml", "memory://in", "memory://out", "--resume", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["before"] == 5


def masked_folder(folder: Path) -> None:
    """Two pictures and a third in a folder below, with masks beside them."""
    for k, name in enumerate(("a.png", "b.png", "sub/c.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, k)
        mask = np.zeros((24, 24), np.uint8)
        mask[:7, : 7 + k] = 255
        Image.fromarray(mask).save(path.with_suffix(".mask.png"))


def test_masks_in_a_store_are_found_as_in_a_folder(here):
    masked_folder(here / "in")
    for path in (here / "in").rglob("*.png"):
        MemoryFileSystem().pipe_file(f"/in/{path.relative_to(here / 'in').as_posix()}", path.read_bytes())
        if ".mask" in path.name:
            name = path.relative_to(here / "in").as_posix().replace(".mask", "")
            MemoryFileSystem().pipe_file(f"/masks/{name}", path.read_bytes())
    words = ["--", "inpaint", "--steps", "2"]
    assert run(["batch", "in", "folders", "--quiet", *words]) == 0
    expected = {p.relative_to("folders").as_posix(): p.read_bytes() for p in Path("folders").rglob("*.png")}
    assert sorted(expected) == ["a.png", "b.png", "sub/c.png"]
    assert run(["batch", "memory://in", "memory://out", "--quiet", *words]) == 0
    assert results() == expected
    more = ["--quiet", "--masks", "memory://masks", *words]
    assert run(["batch", "in", "memory://apart", *more]) == 1  # the masks are pictures then, and have none
    assert run(["batch", "memory://in", "bypattern", "--quiet", "--mask", "memory://masks/{stem}.png", *words]) == 1
    for name in ("a.png", "sub/c.png"):
        before, after = np.asarray(Image.open(f"in/{name}")), np.asarray(Image.open(f"bypattern/{name}"))
        assert np.array_equal(before[7:], after[7:])
        assert not np.array_equal(before, after)


def test_names_of_results_and_choice_of_pictures_are_those_of_a_folder(tmp_path, memory):
    names = ["a.png", "a.jpg", "b.tif", "A2.png", "s/x.png", "s/x.mask.png", "s/X.png", ".hidden.png", "n.txt"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        MemoryFileSystem().pipe_file(f"/in/{name}", b"x")
    for masks, ending in [(None, ".png"), (None, None), (Masks(), ".jpg"), (Masks("{stem}.mask{suffix}"), ".png")]:
        expected = items(listing(tmp_path), tmp_path, tmp_path / "out", masks, ending)
        with closing(Catalog()) as catalog:
            found = cataloged(catalog, CHAIN, "memory://in", "memory://out", masks, ending, False)
            got = list(catalog.items("memory://out"))
            assert [got[-1], got[0]] == [catalog.items("memory://out")[-1], catalog.items("memory://out")[0]]
        assert {(i.name, i.output) for i in got} == {(i.name, i.output) for i in expected}
        for mine in got:
            other = next(i for i in expected if i.name == mine.name)
            assert (mine.mask is None) == (other.mask is None)
            assert mine.mask is None or mine.mask == f"memory://in/{Path(other.mask).relative_to(tmp_path).as_posix()}"
        assert found.others == ["n.txt"]


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_an_archive_is_a_folder(here, ending):
    masked_folder(here / "in")
    data = io.BytesIO()
    if ending == ".zip":
        with zipfile.ZipFile(data, "w") as archive:
            for path in sorted((here / "in").rglob("*.png")):
                archive.write(path, path.relative_to(here / "in"))
            archive.writestr("../up.png", b"x")
    else:
        with tarfile.open(fileobj=data, mode="w:gz" if ending == ".tar.gz" else "w") as archive:
            archive.add(here / "in", ".")
    Path(f"p{ending}").write_bytes(data.getvalue())
    MemoryFileSystem().pipe_file(f"/there/p{ending}", data.getvalue())
    words = ["--", "inpaint", "--steps", "2"]
    assert run(["batch", "in", "folders", "--quiet", *words]) == 0
    expected = {p.relative_to("folders").as_posix(): p.read_bytes() for p in Path("folders").rglob("*.png")}
    code = 1 if ending == ".zip" else 0  # the name that leads out is a failure
    assert run(["batch", f"p{ending}", "out", "--quiet", *words]) == code
    assert {p.relative_to("out").as_posix(): p.read_bytes() for p in Path("out").rglob("*.png")} == expected
    assert run(["batch", f"memory://there/p{ending}", "memory://out", "--quiet", *words]) == code
    assert results() == expected


@pytest.mark.loopback
def test_an_http_listing_is_a_folder(here):
    pytest.importorskip("aiohttp")
    import http.server
    import threading

    masked_folder(here / "in")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = ["--", "inpaint", "--steps", "2"]
        assert run(["batch", "in", "folders", "--quiet", *words]) == 0
        expected = {p.relative_to("folders").as_posix(): p.read_bytes() for p in Path("folders").rglob("*.png")}
        assert run(["batch", f"http://127.0.0.1:{server.server_port}/in/", "memory://out", "--quiet", *words]) == 0
        assert results() == expected
        server.shutdown()


# ------------------------------------------------------------------------------------------------------ manifests


def write_rows(name: str, table: list[dict]) -> None:
    if name.endswith(".parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(sys.modules["pyarrow"].Table.from_pylist(table), name)
    else:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in table))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_manifest_says_picture_mask_seed_and_options(here, ending, capsys):
    masked_folder(here / "in")
    table = [
        {"picture": "in/a.png", "mask": "in/a.mask.png", "seed": 11, "grow": 1, "output": None},
        {"picture": "in/b.png", "mask": "box:0,0,5,5", "seed": None, "grow": None, "output": "named.png"},
        {"picture": "in/b.png", "mask": "box:0,0,9,9", "seed": 3, "grow": None},
        {"picture": "in/none.png", "mask": "box:0,0,9,9", "seed": 3, "grow": None},
        {"picture": "in/a.png", "mask": "in/none.mask.png", "seed": 3, "grow": None},
    ]
    write_rows(f"m{ending}", table)
    words = ["--results", f"made{ending}", "--", "inpaint", "--steps", "2"]
    assert run(["batch", f"m{ending}", "out", *words]) == 1
    said = capsys.readouterr().err
    assert "failed: in/none.png: in/none.png: no such file" in said
    assert "failed: in/a-2.png: its mask is missing: in/none.mask.png" in said.replace("./", "")
    assert sorted(p.relative_to("out").as_posix() for p in Path("out").rglob("*.png")) == [
        "in/a.png", "in/b-2.png", "named.png",
    ]  # fmt: skip
    alone = ["inpaint", "in/a.png", "--mask", "in/a.mask.png", "--seed", "11", "--grow", "1", "--steps", "2", "--quiet"]
    assert run([*alone, "-o", "alone.png"]) == 0
    assert np.array_equal(np.asarray(Image.open("alone.png")), np.asarray(Image.open("out/in/a.png")))
    if ending == ".jsonl":
        made = [json.loads(line) for line in Path("out/made.jsonl").read_text().splitlines()]
    else:
        import pyarrow.parquet

        made = pyarrow.parquet.read_table("out/made.parquet").to_pylist()
    assert [row["picture"] for row in made if row["error"] is None] == ["in/a.png", "in/b.png", "in/b-2.png"]
    first = next(row for row in made if row["picture"] == "in/a.png")
    assert first["bytes"] == Path("out/in/a.png").stat().st_size
    assert (first["seed"], len(first["sha256"]), first["network_calls"] > 0) == (11, 64, True)
    assert run(["batch", f"m{ending}", "memory://out", *words]) == 1
    mine = {p.relative_to("out").as_posix(): p.read_bytes() for p in Path("out").rglob("*.png")}
    assert {n: d for n, d in results().items() if n.endswith(".png")} == mine


def test_a_manifest_as_csv_is_the_same_in_other_words_and_its_categories_are_judged(here, capsys):
    masked_folder(here / "in")
    table = (
        "\ufeffpicture,mask,seed,grow,prompt,category\r\nin/a.png,in/a.mask.png,11,1,,signs\r\n"
        'in/b.png,"box:0,0,5,5",3,,,"old, ""high"" walls"\r\n'
    )
    Path("m.csv").write_text(table, encoding="utf-8", newline="")
    write_rows("m.jsonl", [
        {"picture": "in/a.png", "mask": "in/a.mask.png", "seed": 11, "grow": 1},
        {"picture": "in/b.png", "mask": "box:0,0,5,5", "seed": 3},
    ])  # fmt: skip
    for name in ("m.csv", "m.jsonl"):
        assert run(["batch", name, name.replace(".", "-"), "--", "inpaint", "--steps", "2"]) == 0
    for name in ("a.png", "b.png"):
        assert np.array_equal(Image.open(f"m-csv/in/{name}"), Image.open(f"m-jsonl/in/{name}"))
    capsys.readouterr()
    assert run(["score", "m-csv", "--reference", ".", "--prompts", "m.csv", "--metrics", "psnr", "--json"]) == 0
    assert 'old, \\"high\\" walls' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"picture,sead\nin/a.png,3\n", "did you mean seed"),
        (b"picture\nin/a.png,7\n", "row 1 has more values than columns; a comma within one needs quotes"),
        (b"picture;seed\nin/a.png;7\n", "not separated by commas; save it as CSV with commas"),
        (b"picture,seed,seed\nin/a.png,7,8\n", "has the column 'seed' twice; leave one out"),
        (b'picture\n"in/a.png\n', "cannot be read as CSV"),
        (b"picture\nin/\xe4.png\n", "it is not UTF-8"),
        (b"picture,seed\nin/a.png,many\n", "seed"),
    ],
)
def test_a_wrong_csv_is_one_line(here, capsys, table, said):
    masked_folder(here / "in")
    Path("w.csv").write_bytes(table)
    assert run(["batch", "w.csv", "w", "--", "remove", "--mask", "box:0,0,4,4"]) in (1, 2)
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not list(Path("w").rglob("*.png"))


def test_a_manifest_in_a_store_names_what_lies_beside_it_and_elsewhere(here):
    masked_folder(here / "in")
    for name in ("a.png", "a.mask.png"):
        MemoryFileSystem().pipe_file(f"/deep/in/{name}", Path("in", name).read_bytes())
    table = [
        {"picture": "in/a.png", "mask": "in/a.mask.png"},
        {"picture": "memory://deep/in/a.png", "mask": "box:0,0,3,3"},
    ]
    MemoryFileSystem().pipe_file("/deep/m.jsonl", "".join(json.dumps(row) + "\n" for row in table).encode())
    assert run(["batch", "memory://deep/m.jsonl", "memory://out", "--quiet", "--", "inpaint", "--steps", "2"]) == 0
    assert sorted(results()) == ["deep/in/a.png", "in/a.png"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"picture": "a.png", "promt": "x"}',
            "row 1 has the column 'promt', which the edit does not take; did you mean",
        ),
        ('{"picture": "a.png", "guide.brightness": 1}', "has the column 'guide.brightness'"),
        ('{"picture": "a.png", "allow_code": true}', "has the column 'allow_code'"),
        ('{"mask": "a.png"}', "row 1 has no name or address in picture"),
        ('{"picture": 3}', "row 1 has no name or address in picture"),
        ("[1]", "row 1 is not an object"),
        ("nonsense", "line 1 is not JSON"),
        ('{"picture": "../a.png"}', "leads out of the folder of results"),
        ('{"picture": "a.png", "output": "/b.png"}', "leads out of the folder of results"),
        ('{"picture": "nope://a/b.png"}', "nope:// is not a kind of address"),
        ('{"picture": "a.png", "output": ".editkit/done/b.png"}', "is hidden or no file"),
        ('{"picture": "a.png", "output": "."}', "is hidden or no file"),
        ('{"picture": "a.png", "output": "a\\u0000.png"}', "holds a character that no name has"),
        ('{"picture": "a.png", "output": "\\ud800.png"}', "holds a character that no name has"),
        ('{"picture": "\\udcff.png"}', "holds a character that no name has"),
        ('{"picture": "a.png", "mask": "\\ud800"}', "holds a character that no name has"),
    ],
)
def test_a_wrong_manifest_is_one_line_before_anything_is_made(here, capsys, line, said):
    Path("m.jsonl").write_text(line + "\n")
    assert run(["batch", "r.yaml", "m.jsonl", "out"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_no_row_names_a_file_to_be_written(here, capsys):
    picture(here / "a.png", 0)
    for column in ("save_noise", "invert.save_noise"):
        write_rows("m.jsonl", [{"picture": "a.png", column: str(here / "theirs.noise")}])
        assert run(["batch", "m.jsonl", "out", "--", "invert", "--steps", "2"]) == 2
        assert f"has the column '{column}', which the edit does not take" in capsys.readouterr().err
    assert [path.name for path in sorted(here.iterdir())] == ["a.png", "m.jsonl", "r.yaml"]


def test_a_whole_path_may_be_written_as_an_address(here):
    picture(here / "a.png", 0)
    write_rows("m.jsonl", [{"picture": f"file://{here}/a.png", "output": "b.png"}])
    assert run(["batch", "r.yaml", "m.jsonl", "out"]) == 0
    assert Path("out/b.png").is_file()


def test_force_replaces_no_mask_of_a_folder(here, capsys):
    for folder in ("in", "masks"):
        Path(folder).mkdir()
        picture(here / folder / "a.png", 0)
    before = Path("masks/a.png").read_bytes()
    words = ["batch", "in", "masks", "--masks", "masks", "--force", "--", "inpaint", "--steps", "2"]
    assert run(words) == 2
    assert "are the same folder" in capsys.readouterr().err
    assert Path("masks/a.png").read_bytes() == before


def test_force_replaces_no_picture_and_no_mask_of_a_manifest(here, capsys):
    picture(here / "a.png", 0)
    Path("out").mkdir()
    picture(here / "out" / "m.png", 1)
    (here / "link").symlink_to(here, target_is_directory=True)
    before = [Path(name).read_bytes() for name in ("a.png", "out/m.png")]
    for row, target in (
        ({"picture": "a.png"}, "."),
        ({"picture": "a.png"}, str(here / "link")),
        ({"picture": "a.png", "mask": "out/m.png", "output": "m.png"}, "out"),
    ):
        write_rows("m.jsonl", [row])
        assert run(["batch", "m.jsonl", target, "--force", "--", "inpaint", "--steps", "2"]) == 2
        assert "where --force would let a result take its place" in capsys.readouterr().err
    MemoryFileSystem().pipe_file("/b/a.png", before[0])
    write_rows("m.jsonl", [{"picture": "memory://b/a.png", "mask": "box:0,0,3,3", "output": "a.png"}])
    assert run(["batch", "m.jsonl", "memory://b", "--force", "--", "inpaint", "--steps", "2"]) == 2
    assert [*before, before[0]] == [
        Path("a.png").read_bytes(), Path("out/m.png").read_bytes(), MemoryFileSystem().cat_file("/b/a.png"),
    ]  # fmt: skip


def test_a_name_that_cannot_be_is_one_pictures_failure(here, capsys):
    picture(here / "a.png", 0)
    write_rows("m.jsonl", [{"picture": "a.png", "output": "x" * 300 + ".png"}, {"picture": "a.png"}])
    assert run(["batch", "r.yaml", "m.jsonl", "out"]) == 1
    err = capsys.readouterr().err
    assert "failed: a.png: " in err
    assert "this should not happen" not in err
    assert [p.name for p in Path("out").glob("*.png")] == ["a-2.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_not_utf8_goes_into_no_store(here, capsys):
    Path("in").mkdir()
    picture(here / "in" / "a.png", 0)
    os.rename("in/a.png", b"in/\xff.png")
    picture(here / "in" / "b.png", 1)
    assert run(["batch", "r.yaml", "in", "memory://out"]) == 1
    assert "its name is not UTF-8" in capsys.readouterr().err
    assert list(results()) == ["b.png"]


def test_a_value_out_of_range_fails_for_its_picture_alone(here, capsys):
    picture(here / "a.png", 0)
    write_rows("m.jsonl", [{"picture": "a.png", "steps": -3}, {"picture": "a.png", "steps": 2}])
    assert run(["batch", "r.yaml", "m.jsonl", "out"]) == 1
    assert "failed: a.png: " in capsys.readouterr().err
    assert [p.name for p in Path("out").glob("*.png")] == ["a-2.png"]


def test_what_a_row_says_is_what_the_chain_would_say():
    chain = Chain.of(Inpaint(mask="box:0,0,7,7") & Guide(brightness=0.3)).using(steps=4)
    columns = set(columns_of(chain))
    assert {"seed", "prompt", "steps", "inpaint.grow", "grow", "guide.brightness"} <= columns
    assert not {"loss", "guide.loss", "allow_code", "offline"} & columns  # code is named by nobody but the user
    changed = with_columns(chain, (("seed", 9), ("prompt", "x"), ("grow", 3), ("guide.brightness", 0.5)))
    assert changed.stages[0].plugins == (Inpaint(mask="box:0,0,7,7", grow=3), Guide(brightness=0.5))
    assert (changed.stages[0].options.seed, changed.stages[0].options.prompt) == (9, "x")
    table = io.BytesIO(b'\n{"picture": "a", "seed": null}\n')
    assert list(rows(table, "m.jsonl", chain)) == [{"picture": "a"}]


# --------------------------------------------------------------------------------------------- mistakes, secrets


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["memory://nothing", "out"], "memory://nothing: there is nothing of that name"),
        (["nope://x/y", "out"], "nope:// is not a kind of address that is known"),
        (["in", "nope://x/y"], "cannot keep results"),
        (["in", "out.zip"], "is an archive, which a kill would leave damaged"),
        (["in", "https://host/out"], "cannot keep results (https://)"),
        (["in", "m.jsonl"], "is a manifest; results go into a folder"),
        (["none.jsonl", "out"], "there is no such manifest"),
        (["none", "memory://out"], "is not a folder"),
        (["memory://in", "memory://in"], "lie in each other"),
        (["memory://in", "memory://in/out"], "lie in each other"),
        (["memory://in/a", "memory://in"], "lie in each other"),
        (["s3://key:sesame@bucket/in", "out"], "has a name or a password before an @"),
        (["s3://bucket/in", "out", "--offline"], "--offline opens no socket"),
        (["in", "memory://out", "--results", "x.csv"], "--results x.csv: must be a name that ends in"),
        (["in", "memory://out", "--results", "../x.jsonl"], "must be a name that ends in"),
    ],
)
def test_mistakes_are_one_line(here, capsys, words, said):
    (here / "in").mkdir()
    picture(here / "in" / "a.png", 0)
    put(a__png=b"x")
    assert run(["batch", "r.yaml", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert "sesame" not in err
    assert not Path("out").exists()


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    def lacking(kind):
        raise ImportError("Install s3fs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", lacking)
    with pytest.raises(ExtraError, match=r"pip install 'editkit\[stores\]'"):
        store("s3://bucket/x")


def test_secrets_are_in_no_message_and_no_journal(here, capsys):
    assert shown("https://u:p@host/a/b.png?sig=sesame#x") == "https://host/a/b.png"
    assert "sesame" not in repr(stores.Remote("https://host/a?sig=sesame"))
    with pytest.raises(PictureError) as error:
        read_from("memory://in/a.png?sig=sesame")
    assert "sesame" not in str(error.value)
    picture(here / "a.png", 0)
    MemoryFileSystem().pipe_file("/in/a.png?sig=sesame", Path("a.png").read_bytes())
    write_rows("m.jsonl", [{"picture": "memory://in/a.png?sig=sesame"}, {"picture": "memory://in/b.png?sig=sesame"}])
    for out in ("out", "memory://out"):
        assert run(["batch", "r.yaml", "m.jsonl", out, "--results", "made.jsonl"]) == 1
    said = capsys.readouterr()
    assert "sesame" not in said.err + said.out
    written = [*files("out").items(), *((str(p), p.read_bytes()) for p in Path("out").rglob("*") if p.is_file())]
    assert len(written) > 5
    assert not [name for name, data in written if b"sesame" in data or "sesame" in name]


def test_no_secret_is_said_of_a_service_that_never_answers(memory, monkeypatch):
    def busy(self, path, *args, **kwargs):
        raise TimeoutError(path)

    monkeypatch.setattr(FaultyMemory, "cat_file", busy)
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    with pytest.raises(PictureError, match="memory://in/a.png: does not answer as it should") as error:
        read_from("memory://in/a.png?sig=sesame")
    assert "sesame" not in str(error.value)


def test_a_bucket_that_vanishes_ends_the_run_with_one_line(memory, monkeypatch):
    put(a__png=b"A")

    def gone(self, path, value, mode="", **kwargs):
        raise FileNotFoundError(path)

    monkeypatch.setattr(FaultyMemory, "pipe_file", gone)
    with pytest.raises(PictureError, match="memory://out: is not there any more; nothing can be written"):
        go(Copies())


def test_an_object_that_is_larger_than_what_is_read_is_not_fetched(memory, monkeypatch):
    put(a__png=b"x" * 100, b__png=b"y")
    monkeypatch.setattr(stores, "MAX_BYTES", 50)
    summary = go(Copies())
    assert "larger than" in summary.failed["a.png"]
    assert summary.made == 1


# ------------------------------------------------------------------------------------- servers that are no friends


def endless(*, text: bool):
    """A server on this machine's loopback; every answer goes on until the client leaves, and says no length."""
    import http.server

    class Endless(http.server.BaseHTTPRequestHandler):
        sent = 0

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if text else "image/png")
            self.end_headers()
            try:
                while self.sent < 1 << 26:  # a test that fails ends as well
                    self.sent += self.wfile.write(b'<a href="a.png">a</a>' * 5000)
            except OSError:
                return

        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            return

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)


@pytest.mark.loopback
@pytest.mark.parametrize("name", ["in/", "m.jsonl", "p.png"])
def test_no_answer_is_read_without_end(here, capsys, monkeypatch, name):
    pytest.importorskip("aiohttp")
    import threading

    from editkit.batch import web
    from editkit.pictures.files import reading

    monkeypatch.setattr(web, "MOST_LISTED", 1 << 20)
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    with endless(text=name == "in/") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{name}"
        if name == "p.png":
            write_rows("rows.jsonl", [{"picture": address, "mask": "box:0,0,3,3"}])
            address = "rows.jsonl"
        assert run(["batch", address, "out", "--quiet", "--", "inpaint"]) == 1
        server.shutdown()
    assert f"/{name}: larger than 1 MiB, the most that is read" in capsys.readouterr().err


@pytest.mark.loopback
def test_nobody_answers_and_an_address_within_another(here, capsys, monkeypatch):
    pytest.importorskip("aiohttp")
    import socket

    monkeypatch.setattr(stores, "PAUSE", 0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, said in (
        (f"http://127.0.0.1:{port}/in/", "does not answer as it should"),
        (f"zip://a.png::http://127.0.0.1:{port}/p.zip", "is an address within another"),
        ("nothing.zip", "there is no such archive"),
    ):
        assert run(["batch", address, "out", "--quiet", "--", "inpaint"]) in (1, 2)
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1


def test_an_archive_that_is_a_pipe_is_not_waited_for(here, capsys):
    os.mkfifo("p.zip")
    assert run(["batch", "p.zip", "out", "--quiet", "--", "inpaint"]) == 2
    assert "there is no such archive" in capsys.readouterr().err


@pytest.mark.parametrize("outputs", [("x.png", "x.png"), ("x.png", "X.PNG"), ("e\u0301.png", "\u00e9.png"),
                                     ("s//t.png", "./s/t.png")])  # fmt: skip
def test_rows_that_say_one_output_are_refused_before_anything_is_made(here, capsys, outputs):
    masked_folder(here / "in")
    write_rows("m.jsonl", [{"picture": "in/a.png", "mask": "box:0,0,3,3", "output": out} for out in outputs])
    assert run(["batch", "m.jsonl", "out", "--quiet", "--", "inpaint"]) == 2
    assert "in/a.png and in/a-2.png: both rows have the output" in capsys.readouterr().err
    assert not Path("out").exists()


def test_what_a_row_says_is_its_results_name_whatever_others_are_called(here):
    masked_folder(here / "in")
    write_rows("m.jsonl", [{"picture": "in/a.png", "mask": "box:0,0,3,3"},
                           {"picture": "in/b.png", "mask": "box:0,0,9,9", "output": "in/a.png"}])  # fmt: skip
    assert run(["batch", "m.jsonl", "out", "--quiet", "--", "inpaint", "--steps", "2"]) == 0
    lines = map(json.loads, Path("out/editkit-batch.jsonl").read_text().splitlines())
    made = {line["picture"]: line for line in lines if "picture" in line}
    assert made["in/b.png"]["output"] == "in/a.png"
    assert made["in/a.png"]["output"] not in ("in/a.png", "in/b.png")


def test_a_full_folder_of_temporary_files_is_one_line(here, capsys):
    masked_folder(here / "in")
    words = ["--workers", "1", "--quiet", "--", "inpaint", "--mask", "box:1,1,3,3"]
    command = [sys.executable, "-m", "editkit", "batch", "in", "out", *words]
    bound = "import resource, os; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    limited = f"{bound}os.execv({sys.executable!r}, {command!r})"
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the list of pictures cannot be kept there (disk I/O error)" in done.stderr
    assert done.stderr.count("\n") == 1
