"""How much a studio takes, and what a stranger packed into its folder."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from studio_help import asked, client_of, config, ended, opened, pixels, png, recipe
from toy_attacks import SMALL, client, folder, kept, said

from editkit.cli.studio.config import Bounds, Config, RefusedRequest
from editkit.cli.studio.guard import Guard
from editkit.cli.studio.queue import Queue
from editkit.cli.studio.records import EditRecord, PictureRecord
from editkit.cli.studio.store import Store
from editkit.errors import UsageError

__all__ = ["client", "folder"]


@pytest.mark.parametrize(
    "body", [b"[" * 15_000, b'{"a":' * 3000, b"{", b"null", b'"x"', b"\xff\xfe", b'{"picture": 5}']
)
def test_broken_json_is_said(client, body):
    said(client.post("/plan", content=body, headers={"content-type": "application/json"}), 400, 422)


@pytest.mark.parametrize("id_", ["x", "../../etc", "0" * 16, "0" * 15, "0" * 17, "%00", "0123456789ABCDEF"])
def test_names_that_nothing_has_are_not_found(client, id_):
    for path in (
        "/pictures/{}",
        "/pictures/{}/preview",
        "/masks/{}",
        "/edits/{}",
        "/edits/{}/result",
        "/edits/{}/events",
    ):
        assert client.get(path.format(id_)).status_code in (400, 404, 422)


def test_more_edits_than_fit_are_refused(folder):
    import threading

    hold, dropped = threading.Event(), []
    queue = Queue(SMALL, lambda edit, device, stop: hold.wait() and None, dropped.append)
    queue.start(("cpu",))
    queue.add("first", "a")
    while queue.before("first") is not None:
        pass
    for edit, tab in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        queue.add(edit, tab)
    with pytest.raises(RefusedRequest, match="of this tab"):
        queue.add("a3", "a")
    queue.add("c1", "c")
    with pytest.raises(RefusedRequest, match="4 edits are already waiting"):
        queue.add("d1", "d")
    assert [queue.before(edit) for edit in ("a1", "b1", "c1", "a2")] == [0, 1, 2, 3]
    queue.close("a")
    assert dropped == ["a1", "a2"]
    queue.add("d1", "d")
    hold.set()
    queue.end()


def test_a_thousand_streams_are_not_opened(folder):
    guard = Guard(None, config(folder))  # type: ignore[arg-type]
    assert guard.config.bounds.streams <= 64
    with client_of(config(folder, bounds=SMALL)) as client:
        studio = client.app.app.state.studio
        for _ in range(SMALL.streams):
            studio.tabs.come("a")
        edit = "0" * 16
        assert client.get(f"/edits/{edit}/events").status_code == 404
        assert "streams" in said(client.get("/events?tab=b"), 503)


def test_a_password_lets_in_slowly_and_only_at_the_door(folder):
    now = [0.0]
    from editkit.cli.studio.server import application

    settings = config(folder, host="0.0.0.0", password="correct horse")
    guard = application(settings)
    guard.clock = lambda: now[0]
    from starlette.testclient import TestClient

    with TestClient(guard, base_url="http://192.168.1.5:8765", follow_redirects=False) as client:
        assert client.get("/").status_code == 200
        assert client.get("/folder").status_code == 401
        said(client.post("/login", content="password=wrong"), 401)
        said(client.post("/login", content="password=correct+horse"), 429)
        now[0] = 5.0
        inside = client.post("/login", content="password=correct+horse")
        assert inside.status_code == 303
        assert client.get(inside.headers["location"] + "folder").status_code == 200
        said(client.get(inside.headers["location"] + "folder", headers={"host": "rebound.example"}), 421)


def test_a_mask_of_another_picture_or_size_is_refused(client):
    picture = opened(client, "photo.png")
    said(client.post(f"/masks?picture={picture}", content=png(np.zeros((10, 99), np.uint8))), 422)
    said(client.post(f"/masks?picture={picture}", content=b"x"), 422)
    said(client.post(f"/masks?picture={'0' * 16}", content=png(np.zeros((48, 64), np.uint8))), 404)


def test_an_animated_bomb_is_bounded(client):
    file = io.BytesIO()
    frames = [Image.fromarray(pixels(seed=k)) for k in range(30)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    assert client.post("/pictures?name=a.webp", content=file.getvalue()).status_code in (201, 413, 422)


def test_bounds_are_no_wider_than_the_library(folder):
    with pytest.raises(RefusedRequest):
        Bounds(upload=1 << 40)
    assert Config(folder=folder).token != Config(folder=folder).token


# -------------------------------------------------------------------------------- a folder that a stranger packed

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\n%%EndComments\n(%s) (w) file closefile showpage\n"


@pytest.mark.parametrize("endless", ["/dev/zero", "pipe"])
def test_a_planted_record_that_never_ends_is_none(folder, endless):
    os.mkfifo(folder / "pipe")
    for part, file in (("pictures", "about.json"), ("edits", "edit.json")):
        place = kept(folder, part, "00000000000000ab")
        place.mkdir()
        (place / file).symlink_to(endless if endless[0] == "/" else folder / "pipe")
    with client_of(config(folder)) as client:
        assert client.get("/pictures/00000000000000ab").status_code == 404
        assert client.get("/edits").json() == []
        assert client.post("/pictures/open", json={"path": "photo.png"}).status_code == 200


def test_a_planted_mask_or_result_starts_no_program_and_leads_nowhere(folder, tmp_path_factory, monkeypatch):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(png(pixels()))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("PostScript was run"))
    kept(folder, "masks", "00000000000000aa.png").symlink_to(outside)
    kept(folder, "masks", "00000000000000ab.png").write_bytes(EPS)
    with client_of(config(folder)) as client:
        picture = client.post("/pictures/open", json={"path": "photo.png"}).json()
        assert client.get("/masks/00000000000000aa").status_code == 404  # a link
        assert client.get("/masks/00000000000000aa/raw").status_code == 404
        assert "is not a picture" in client.get("/masks/00000000000000ab/raw").json()["error"]
        assert client.post("/pictures", content=EPS).status_code == 422
    record = EditRecord(id="00000000000000ac", picture=picture["id"], parent=None, recipe=recipe(), state="done",
                        result=PictureRecord(**picture))  # fmt: skip
    place = kept(folder, "edits", record.id)
    place.mkdir()
    (place / "edit.json").write_text(record.model_dump_json())
    (place / "kept.png").write_bytes(EPS)
    with client_of(config(folder)) as client:
        assert [edit["id"] for edit in client.get("/edits").json()] == [record.id]
        assert "is not a picture" in client.get(f"/edits/{record.id}/result").json()["error"]


@pytest.mark.parametrize("part", ["", "pictures", "masks", "edits"])
def test_what_the_studio_keeps_goes_nowhere_else(folder, tmp_path_factory, part):
    outside = tmp_path_factory.mktemp("outside")
    place = folder / ".editkit-studio" / part
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(outside)
    with pytest.raises(UsageError, match="is a link"):
        Store(folder, Bounds())
    assert list(outside.iterdir()) == []


def test_a_name_longer_than_a_file_can_have_is_said(client, folder):
    edit = asked(client, opened(client, "photo.png"), recipe({"inpaint": {"mask": "box:2,2,9,9"}}))[0]["id"]
    assert ended(client, edit)["state"] == "done"
    answer = client.post(f"/edits/{edit}/save", json={"path": "x" * 300 + ".png"})
    assert answer.status_code == 422
    assert "File name too long" in answer.json()["error"]
