"""Manifests: which pictures, which masks, which options, row by row."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from toy_stores import here, masked_folder, memory, results, write_rows

from editkit.batch.manifest import LONGEST_LINE, columns_of, rows, with_columns
from editkit.cli import run
from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import picture

__all__ = ["here", "memory"]


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


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_table_that_never_ends_is_refused(here, capsys, ending):
    """A link to a device, as a stranger's folder may hold it; and one line without an end."""
    Path(f"m{ending}").symlink_to("/dev/zero")
    edit = ["inpaint", "a.png", "--mask", "box:0,0,5,5"]
    assert run(["batch", f"m{ending}", "out", "--", "inpaint", "--mask", "box:0,0,5,5"]) == 2
    assert "there is no such manifest" in capsys.readouterr().err
    assert run(["grid", "--prompts", f"m{ending}", *edit]) == 2
    assert "is not a regular file" in capsys.readouterr().err
    with pytest.raises(UsageError, match="line 1 has more than"):
        list(rows(io.BytesIO(b" " * (LONGEST_LINE + 5)), "m.jsonl", Chain.of(Inpaint())))
