"""A studio by its addresses: pictures come in, edits come out, as the command would make them."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from studio_help import asked, client_of, config, ended, events, opened, pixels, png, recipe, served
from test_door import SEPIA, distribution

from editkit.cli import run
from editkit.cli.studio.queue import Stop
from editkit.cli.studio.server import application
from editkit.pictures.files.provenance import read_provenance
from editkit.pictures.picture import Picture

FILL = recipe({"inpaint": {"mask": "box:20,15,40,30"}}, steps=3)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    (place / "photo.png").write_bytes(png(pixels()))
    return place


@pytest.fixture
def client(folder):
    with client_of(config(folder)) as made:
        yield made


def test_the_folders_pictures_are_listed_and_hidden_ones_are_not(client, folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "b.jpg").write_bytes(b"x")
    (folder / ".secret.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert [row["path"] for row in client.get("/folder").json()] == ["photo.png", "sub/b.jpg"]


def test_a_picture_of_the_folder_has_one_name_in_all_tabs_until_it_changes(client, folder):
    first = opened(client, "photo.png")
    assert opened(client, "photo.png") == first
    (folder / "photo.png").write_bytes(png(pixels(seed=1)))
    os.utime(folder / "photo.png", (time.time() + 9, time.time() + 9))
    assert opened(client, "photo.png") != first
    assert client.get(f"/pictures/{first}").status_code == 200


def test_a_sent_picture_is_kept_as_it_came_and_seen_at_bounded_size(client, folder):
    data = png(pixels(60, 2500))
    sent = client.post("/pictures?name=wide.png", content=data).json()
    assert (sent["name"], sent["width"], sent["height"]) == ("wide.png", 2500, 60)
    assert (folder / sent["path"]).read_bytes() == data
    preview = Image.open(io.BytesIO(client.get(f"/pictures/{sent['id']}/preview").content))
    assert preview.size == (2048, 49)


def test_tiles_show_the_very_pixels_at_level_0_and_means_above(client):
    array = pixels(700, 900)
    sent = client.post("/pictures?name=a.png", content=png(array)).json()
    tile = Image.open(io.BytesIO(client.get(f"/pictures/{sent['id']}/tiles/0/1/1").content))
    assert np.array_equal(np.asarray(tile), array[512:700, 512:900])
    half = Image.open(io.BytesIO(client.get(f"/pictures/{sent['id']}/tiles/1/0/0").content))
    assert half.size == (450, 350)
    assert client.get(f"/pictures/{sent['id']}/tiles/0/9/9").status_code == 404


def test_an_edit_is_told_step_by_step_and_leaves_what_is_outside_the_mask(client, folder):
    picture = opened(client, "photo.png")
    edit = asked(client, picture, FILL)[0]
    seen = events(client, edit["id"])
    kinds = [kind for kind, _ in seen]
    assert kinds[0] == "state"
    assert {"progress", "estimate"} <= set(kinds)
    assert seen[-1][1]["state"] == "done"
    assert seen[-1][1]["kept"] == 0
    made = np.asarray(Image.open(io.BytesIO(client.get(f"/edits/{edit['id']}/result").content)))
    outside = np.ones((48, 64), bool)
    outside[15:30, 20:40] = False
    assert np.array_equal(made[outside], pixels()[outside])
    assert not np.array_equal(made[~outside], pixels()[~outside])


CHAIN = recipe(
    {"inpaint": {"mask": "box:20,15,40,30", "feather": 2}, "guide": {"brightness": 0.6}},
    {"sdedit": {"strength": 0.2}},
    steps=3,
    seed=7,
    model="pocket",
)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp"])
def test_three_cards_give_the_bytes_of_the_command_that_is_shown(client, folder, monkeypatch, ending):
    picture = opened(client, "photo.png")
    edit = ended(client, asked(client, picture, CHAIN)[0]["id"])
    assert edit["state"] == "done", edit
    saved = client.post(f"/edits/{edit['id']}/save", json={"path": f"saved{ending}"})
    assert saved.status_code == 200, saved.text
    shown = client.post("/said", json={"picture": picture, "recipe": CHAIN}).json()["command"]
    words = shlex.split(shown)[1:]
    words[-1] = f"--output=by-command{ending}"
    monkeypatch.chdir(folder)
    assert run([*words, "--quiet"]) == 0
    assert (folder / f"saved{ending}").read_bytes() == (folder / f"by-command{ending}").read_bytes()


def test_a_painted_mask_gives_the_commands_bytes_and_provenance(client, folder, monkeypatch):
    picture = opened(client, "photo.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 5:25] = 255
    mask[20, 5:25] = 90
    sent = client.post(f"/masks?picture={picture}", content=png(mask)).json()
    assert client.get(f"/masks/{sent['id']}/raw").content == mask.tobytes()
    wanted = recipe({"inpaint": {}}, steps=2)
    edit = ended(client, asked(client, picture, wanted, mask=sent["id"])[0]["id"])
    client.post(f"/edits/{edit['id']}/save", json={"path": "saved.png"})
    shown = client.post("/said", json={"picture": picture, "recipe": wanted, "mask": sent["id"]}).json()
    monkeypatch.chdir(folder)
    assert run([*shlex.split(shown["command"])[1:], "--quiet"]) == 0
    assert (folder / "saved.png").read_bytes() == (folder / "photo.inpaint.png").read_bytes()
    found = read_provenance(folder / "saved.png")
    assert found is not None
    assert found.picture == "photo.png"
    assert run(["rerun", "saved.png", "-o", "again.png"]) == 0


def test_16_bits_and_a_turned_jpeg_keep_every_pixel_outside_the_mask(client, folder):
    deep = pixels(40, 50, deep=True)
    cv2.imwrite(str(folder / "deep.png"), deep[..., ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(40, 50)).save(folder / "turned.jpg", exif=exif, quality=95)
    for name, size in (("deep.png", (50, 40)), ("turned.jpg", (40, 50))):
        picture = opened(client, name)
        about = client.get(f"/pictures/{picture}").json()
        assert (about["width"], about["height"]) == size
        edit = ended(client, asked(client, picture, recipe({"inpaint": {"mask": "box:5,5,15,15"}}, steps=2))[0]["id"])
        client.post(f"/edits/{edit['id']}/save", json={"path": f"{name}.out.png"})
        before, after = Picture.read(folder / name), Picture.read(folder / f"{name}.out.png")
        assert before.pixels.dtype == after.pixels.dtype
        outside = np.ones(before.pixels.shape[:2], bool)
        outside[5:15, 5:15] = False
        assert np.array_equal(before.pixels[outside], after.pixels[outside])


def test_plan_says_what_it_costs_and_where_a_conflict_is(client):
    picture = opened(client, "photo.png")
    plan = client.post("/plan", json={"picture": picture, "recipe": CHAIN}).json()
    assert plan["calls"] > 0
    assert [stage["plugins"] for stage in plan["stages"]][1] == ["sdedit"]
    wrong = recipe({"inpaint": {"mask": "box:1,1,9,9", "feather": -1}})
    answer = client.post("/plan", json={"picture": picture, "recipe": wrong})
    assert answer.status_code == 422
    assert answer.json()["place"] == ["stages", 0, "plugins", 0, "inpaint", "feather"]
    assert "greater than or equal to 0" in answer.json()["error"]
    two = client.post(
        "/plan",
        json={"picture": picture, "recipe": recipe({"inpaint": {"mask": "box:1,1,9,9"}, "uncrop": {"left": 9}})},
    )
    assert two.status_code == 422
    assert "both set the mask" in two.json()["error"]


@pytest.mark.parametrize("form", ["command", "python", "yaml"])
def test_every_way_to_say_a_chain_is_read_back(client, form):
    picture = opened(client, "photo.png")
    told = client.post("/said", json={"picture": picture, "recipe": CHAIN}).json()
    assert client.post("/read", json={"text": told[form]}).json() == CHAIN


def test_options_of_a_later_stage_are_said_in_python_too(client):
    wanted = recipe({"sdedit": {"strength": 0.5}}, {"sdedit": {"strength": 0.2}}, steps=4)
    wanted["stages"][1]["options"] = {"steps": 9}
    picture = opened(client, "photo.png")
    told = client.post("/said", json={"picture": picture, "recipe": wanted}).json()
    for form in ("command", "python", "yaml"):
        assert client.post("/read", json={"text": told[form]}).json() == wanted


@pytest.mark.parametrize(
    "text",
    ["import os; os.system('x')",
     "edit('a.png', __import__('os').system('x'))", "edit('a.png', Inpaint(mask=open('x')))",
     "editkit", "editkit --help", "[", "", "edit('a.png', Nope())", "edit('a', Inpaint(), allow_code=True)"],
)  # fmt: skip
def test_what_is_no_chain_is_said_in_one_line(client, text):
    answer = client.post("/read", json={"text": text})
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]


def test_history_is_a_tree_and_survives_the_server(folder):
    with client_of(config(folder)) as client:
        picture = opened(client, "photo.png")
        first = ended(client, asked(client, picture, FILL)[0]["id"])
        second = ended(client, asked(client, first["id"], recipe({"sdedit": {"strength": 0.2}}, steps=5))[0]["id"])
        assert (first["parent"], second["parent"]) == (None, first["id"])
        refused = client.delete(f"/edits/{first['id']}")
        assert refused.status_code == 409
    with client_of(config(folder)) as client:
        assert [edit["id"] for edit in client.get("/edits").json()] == [first["id"], second["id"]]
        assert client.get(f"/edits/{second['id']}/result").status_code == 200
        assert client.delete(f"/edits/{second['id']}").status_code == 204
        assert client.delete(f"/edits/{first['id']}").status_code == 204
        assert client.get("/edits").json() == []


def test_what_a_killed_server_had_not_ended_is_interrupted(folder):
    with client_of(config(folder)) as client:
        edit = ended(client, asked(client, opened(client, "photo.png"), FILL)[0]["id"])
    file = folder / ".editkit-studio" / "edits" / edit["id"] / "edit.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "state": "running", "result": None}))
    (folder / ".editkit-studio" / "edits" / "0123456789abcdef").mkdir()
    with client_of(config(folder)) as client:
        (found,) = client.get("/edits").json()
        assert found["state"] == "interrupted"
        assert client.get(f"/edits/{edit['id']}/result").status_code == 409


def test_candidates_are_the_edit_with_seeds_from_its_own_on(client):
    picture = opened(client, "photo.png")
    edits = asked(client, picture, recipe({"sdedit": {"strength": 0.5}}, steps=4, seed=5, model="pocket"), candidates=3)
    assert [edit["seed"] for edit in edits] == [5, 6, 7]
    assert len({edit["group"] for edit in edits}) == 1
    results = {client.get(f"/edits/{ended(client, edit['id'])['id']}/result").content for edit in edits}
    assert len(results) == 3


def test_an_edit_is_stopped_in_the_middle_and_while_it_waits(folder, gate):
    with client_of(config(folder)) as client:
        picture = opened(client, "photo.png")
        wanted = recipe({"sdedit": {"strength": 1.0}}, steps=16, model="pocket")
        running, waiting = (asked(client, picture, wanted)[0]["id"] for _ in range(2))
        client.post(f"/edits/{waiting}/cancel")
        assert client.get(f"/edits/{waiting}").json()["state"] == "stopped"
        while "fraction" not in client.get(f"/edits/{running}").json():
            pass
        assert [row.get("fraction", 0) > 0 for row in client.get("/edits").json()] == [True, False]
        client.post(f"/edits/{running}/cancel")
        assert ended(client, running)["state"] == "stopped"
        assert "fraction" not in client.get(f"/edits/{running}").json()
        gate.open()
        assert ended(client, asked(client, picture, FILL)[0]["id"])["state"] == "done"


def test_an_edit_that_fails_says_why_and_the_next_one_is_made(client):
    picture = opened(client, "photo.png")
    failed = ended(client, asked(client, picture, recipe({"inpaint": {"mask": "box:100,100,200,200"}}))[0]["id"])
    assert failed["state"] == "failed"
    assert "outside" in failed["error"]
    assert ended(client, asked(client, picture, FILL)[0]["id"])["state"] == "done"


def test_saving_over_keeps_a_copy_and_never_replaces_without_being_told(client, folder):
    before = (folder / "photo.png").read_bytes()
    edit = ended(client, asked(client, opened(client, "photo.png"), FILL)[0]["id"])
    refused = client.post(f"/edits/{edit['id']}/save", json={"path": "photo.png"})
    assert refused.status_code == 422
    assert (folder / "photo.png").read_bytes() == before
    assert client.post(f"/edits/{edit['id']}/save", json={"path": "photo.png", "over": True}).status_code == 200
    assert (folder / "photo.png~").read_bytes() == before
    assert (folder / "photo.png").read_bytes() != before


@pytest.mark.parametrize(
    ("format", "begins"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8"), ("tiff", b"II*"), ("webp", b"RIFF")]
)
def test_a_result_comes_in_every_format(client, format, begins):
    edit = ended(client, asked(client, opened(client, "photo.png"), FILL)[0]["id"])
    answer = client.get(
        f"/edits/{edit['id']}/result?format={format}&quality=80"
        if format in ("jpeg", "webp")
        else f"/edits/{edit['id']}/result?format={format}"
    )
    assert answer.content.startswith(begins)
    assert "attachment" in answer.headers["content-disposition"]


def test_masks_in_words_are_drawn_by_the_library(client):
    picture = opened(client, "photo.png")
    made = client.post("/masks/words", json={"picture": picture, "words": "box:4,5,10,9+flood:60,40~90"}).json()
    raw = np.frombuffer(client.get(f"/masks/{made['id']}/raw").content, np.uint8).reshape(48, 64)
    assert (raw[5:9, 4:10] == 255).all()
    assert raw[40, 60] == 255
    assert made["share"] == pytest.approx((raw > 0).mean())
    for words in ("box:1,2", "nonsense", "photo.png", "box:1,1,2,2+watermark:../x.png"):
        assert client.post("/masks/words", json={"picture": picture, "words": words}).status_code == 422


def test_a_strangers_plugin_has_a_form_and_edits(folder, tmp_path, monkeypatch):
    place = tmp_path / "site"
    place.mkdir()
    distribution(place, "my-sepia", SEPIA, "sepia = my_sepia:Sepia")
    monkeypatch.syspath_prepend(str(place))
    with client_of(config(folder)) as client:
        rows = {row["name"]: row for row in client.get("/plugins").json()["plugins"]}
        tint = next(field for field in rows["sepia"]["fields"] if field["key"] == "strength_of_tint")
        assert (tint["kind"], tint["low"], tint["high"], tint["default"]) == ("float", 0.0, 1.0, 0.3)
        wanted = recipe({"sepia": {"strength_of_tint": 0.5}, "sdedit": {"strength": 0.1}}, steps=10)
        assert ended(client, asked(client, opened(client, "photo.png"), wanted)[0]["id"])["state"] == "done"


def test_every_address_is_documented(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/pictures",
        "/masks",
        "/edits",
        "/edits/{edit}/events",
        "/edits/{edit}/cancel",
        "/plugins",
        "/models",
        "/plan",
    } <= set(paths)
    for path in paths.values():
        for row in path.values():
            assert row["description"]


def test_models_say_what_they_take(folder):
    with client_of(config(folder, models=("nowhere/nothing",))) as client:
        rows = {row["name"]: row for row in client.get("/models").json()}
        assert {"auto", "patches", "pocket", "nowhere/nothing"} <= set(rows)
        assert rows["nowhere/nothing"]["why"]
        assert "known" in rows["pocket"]["takes"]


def test_tabs_that_closed_give_their_places_free(folder):
    from editkit.cli.studio.studio import Tabs

    tabs = Tabs(5.0)
    tabs.come("a")
    tabs.come("a")
    tabs.go("a", now=1.0)
    assert tabs.closed(now=100.0) == []
    tabs.go("a", now=100.0)
    assert tabs.closed(now=104.0) == []
    tabs.come("a")  # a reload
    assert tabs.closed(now=200.0) == []
    tabs.go("a", now=200.0)
    assert tabs.closed(now=205.0) == ["a"]
    assert tabs.closed(now=300.0) == []
    assert len(tabs) == 0


def test_the_workers_end_with_the_server(folder):
    guard = application(config(folder))
    studio = guard.app.state.studio
    studio.queue.start(("auto",))
    studio.queue.end(patience=120)
    assert not any(thread.is_alive() for thread in studio.queue._threads)
    assert not Stop()


def test_the_help_names_the_command_and_what_it_needs(capsys, tmp_path):
    assert run(["studio", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--allow-model" in shown
    assert run(["studio", str(tmp_path), "--host", "0.0.0.0"]) == 2
    assert "--token-file" in capsys.readouterr().err
    assert run(["studio", str(tmp_path / "nowhere")]) == 2
    assert run(["studio", str(tmp_path), "--password", "short"]) == 2
    short = tmp_path / "token"
    short.write_text("short\n")
    assert run(["studio", str(tmp_path), "--token-file", str(short)]) == 2
    assert Path.cwd() != tmp_path


CLIENT = Path(__file__).parents[2] / "docs" / "studio_client.py"


def test_the_client_of_the_docs_edits_a_picture_in_forty_lines(folder, tmp_path):
    code = CLIENT.read_text().partition("class Studio")[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    with served(folder) as address:
        words = [sys.executable, str(CLIENT), address, str(folder / "photo.png"), "box:10,10,20,20", "out.png"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.split()[-1] == "done"
        assert Image.open(tmp_path / "out.png").size == (64, 48)
        words[4] = "box:nonsense"
        wrong = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert wrong.returncode != 0
