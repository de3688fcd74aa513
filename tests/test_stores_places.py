"""Stores, archives and listings give what folders give; mistakes, and secrets that are said nowhere."""

import io
import json
import sys
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path

import fsspec
import numpy as np
import pytest
from faulty import FaultyMemory, files
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from toy_stores import CHAIN, go, here, masked_folder, memory, put, results, write_rows
from toy_work import Copies

from editkit.batch import stores
from editkit.batch.catalog import Catalog
from editkit.batch.folder import Masks, items, listing
from editkit.batch.sources import fill_catalog
from editkit.batch.stores import open_store, read_from, redact
from editkit.cli import run
from editkit.errors import ExtraError, PictureError

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import fill, picture

__all__ = ["here", "memory"]

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
            found = fill_catalog(catalog, CHAIN, "memory://in", "memory://out", masks, ending, False)
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
        open_store("s3://bucket/x")


def test_secrets_are_in_no_message_and_no_journal(here, capsys):
    assert redact("https://u:p@host/a/b.png?sig=sesame#x") == "https://host/a/b.png"
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
