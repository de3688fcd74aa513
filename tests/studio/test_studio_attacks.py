"""Who is not answered, what is not taken, what a recipe may not name: each a status and one line."""

from __future__ import annotations

import json
import os
import struct
import zlib

import pytest
from studio_help import HOST, TOKEN, asked, config, ended, opened, pixels, png, recipe
from toy_attacks import client, folder, said

from editkit.cli.studio.store import safe_name

__all__ = ["client", "folder"]


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é"])
@pytest.mark.parametrize("path", ["/", "/folder", "/edits", "/page/studio.js", "/openapi.json", "/events?tab=a"])
def test_without_the_token_nothing_is_answered(client, token, path):
    del client.headers["authorization"]
    said(client.get(path, headers={"authorization": f"Bearer {token}".encode()}), 401)
    said(client.get(f"/{token}{path}" if token else path), 401)


def test_with_the_token_in_the_path_or_in_the_header_it_is(client):
    assert client.get("/folder").status_code == 200
    del client.headers["authorization"]
    assert client.get(f"/{TOKEN}/folder").status_code == 200
    assert client.get(f"/{TOKEN}/").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.1.5:8765", "",
                                  "localhost.evil", "[::2]:8765"])  # fmt: skip
def test_a_foreign_host_is_refused_for_a_name_may_be_made_to_point_here(client, host):
    said(client.get("/folder", headers={"host": host}), 421)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765"])
def test_this_machines_own_names_are_hosts(client, host):
    assert client.get("/folder", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "https://127.0.0.1:8765"},
     {"origin": "http://127.0.0.1:9999"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_page_may_not_ask(client, headers, method):
    said(client.request(method, "/edits", headers=headers, json={} if method == "POST" else None), 403)


def test_the_studios_own_page_may(client):
    headers = {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
    assert client.get("/edits", headers=headers).status_code == 200


def test_every_answer_forbids_what_a_page_could_be_made_to_do(client):
    for path in ("/", "/folder", "/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


PATHS = ["../outside.png", "/etc/passwd", "sub/../../outside.png", "..\\outside.png", "photo.png/../../outside.png",
         "link.png", ".editkit-studio/../../outside.png", "\0", "C:\\x.png", "~/x.png", "", "."]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_picture_outside_of_the_folder_is_opened(client, folder, path):
    os.symlink(folder.parent / "outside.png", folder / "link.png")
    answer = client.post("/pictures/open", json={"path": path})
    said(answer, 404 if path else 422)
    assert [row["path"] for row in client.get("/folder").json()] == ["photo.png"]


@pytest.mark.parametrize(
    "path", [*PATHS[:5], "/tmp/x.png", ".hidden.png", ".editkit-studio/x.png", "a/../x.png", "no/x.png"]
)
def test_nothing_is_written_outside_of_the_folder(client, folder, path):
    edit = ended(
        client,
        asked(client, opened(client, "photo.png"), recipe({"inpaint": {"mask": "box:1,1,9,9"}}, steps=2))[0]["id"],
    )
    before = sorted(p for p in folder.parent.rglob("*"))
    said(client.post(f"/edits/{edit['id']}/save", json={"path": path, "over": True}), 403)
    assert sorted(p for p in folder.parent.rglob("*")) == before


CLIMBING = ["/../secret", "/%2e%2e/x", "/page/../config.py", "/page/..%2fconfig.py", "/page/%2e%2e/x",
            "/pictures/../../x/preview", "/masks/0123456789abcdeg"]  # fmt: skip


@pytest.mark.parametrize("path", CLIMBING)
def test_addresses_that_climb_lead_nowhere(client, path):
    assert client.get(path).status_code in (400, 404, 405, 422)


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(client):
    said(client.post("/pictures", content=b"x", headers={"content-length": str(1 << 30)}), 413)
    said(client.post("/pictures", content=b"x", headers={"content-length": "9" * 400}), 413)
    said(client.post("/pictures", content=b"x", headers={"content-length": "-1"}), 413)


def test_an_upload_that_does_not_say_its_length_ends_at_the_bound(client):
    sent = 0

    def endless():
        nonlocal sent
        while True:
            sent += 65536
            yield b"\0" * 65536

    said(client.post("/pictures", content=(next(endless()) for _ in range(100))), 413)
    assert sent <= 100 * 65536
    said(client.post("/edits", content=b" " * 30_000), 413)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a large picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_a_bomb_is_refused_by_what_it_claims(client, folder):
    assert "pixels" in said(client.post("/pictures?name=b.png", content=bomb(60_000, 60_000)), 413, 422)
    assert "10000" in said(client.post("/pictures?name=b.png", content=png(pixels(101, 100))), 413)
    assert list((folder / ".editkit-studio" / "pictures").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"not a picture", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n", b"%!PS\nquit"])
def test_what_is_no_picture_is_said_and_not_kept(client, folder, data):
    said(client.post("/pictures?name=b.png", content=data), 422)
    assert list((folder / ".editkit-studio" / "pictures").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [("<script>alert(1)</script>.png", "script.png"), ("../../etc/passwd", "passwd.png"), ("a\0b.jpg", "a-b.jpg"),
     ("..", "picture.png"), (".bashrc", "bashrc.png"), ("photo.php", "photo-php.png"), ("é.png", "picture.png"),
     ("x" * 300 + ".JPG", "x" * 60 + ".jpg"), ("con\\aux.png", "aux.png"), ("", "picture.png")],
)  # fmt: skip
def test_a_name_that_was_sent_is_letters_and_digits_on_the_disk(name, kept):
    assert safe_name(name, "png") == kept


def test_scripts_in_names_and_prompts_stay_text(client):
    sent = client.post("/pictures", params={"name": "<img src=x onerror=alert(1)>.png"}, content=png(pixels()))
    assert "<" not in sent.json()["name"]
    answer = client.get(f"/pictures/{sent.json()['id']}/preview")
    assert answer.headers["content-type"] == "image/png"
    edit = client.post(
        "/edits", json={"picture": sent.json()["id"], "recipe": recipe({"inpaint": {"mask": "<script>"}})}
    )
    assert edit.headers["content-type"] == "application/json"


FORGED = [
    recipe({"guide": {"loss": "os:system"}}),
    recipe({"guide": {"loss": "features", "network": "timm:resnet18"}}),
    recipe({"inpaint": {"mask": "/etc/passwd"}}),
    recipe({"inpaint": {"mask": "../outside.png"}}),
    recipe({"inpaint": {"mask": "link.png"}}),
    recipe({"inpaint": {"mask": ["box:1,1,2,2", "../outside.png"]}}),
    recipe({"inpaint": {"mask": "box:1,1,2,2+watermark:../outside.png"}}),
    recipe({"inpaint": {"mask": "box:1,1,2,2", "from": ["../outside.png"]}}),
    recipe({"inpaint": {"mask": "box:1,1,2,2", "not_from": "../outside.png"}}),
    recipe({"inpaint": {"mask": "-"}}),
    recipe({"inpaint": {"mask": "text:a dog", "mask_model": ["../sam"]}}),
    recipe({"inpaint": {"mask": "text:a dog", "mask_model": ["sam"]}}),
    recipe({"repair": {"save_mask": "stolen.png"}}),
    recipe({"invert": {"save_noise": "stolen.safetensors"}}),
    recipe({"invert": {"from_noise": "../x.safetensors"}}),
    recipe({"spandrel": {"weights": "../x.safetensors"}}),
    recipe({"spandrel": {"weights": "x.safetensors"}}),
    recipe({"restore": {"degradation": "kernel:/etc/passwd"}}),
    recipe({"restore": {"degradation": "kernel:../outside.png"}}),
    recipe({"classifier": {"label": "cat", "classifier": "timm:resnet18"}}),
    recipe({"clip": {"text": ["a"], "clip_model": "RN50:openai"}}),
    recipe({"controlnet": {"control": "canny", "controlnet": "someone/controlnet"}}),
    recipe({"controlnet": {"control": "../outside.png"}}),
    recipe({"sdedit": {}}, model="someone/model"),
    recipe({"sdedit": {}}, model="/models/sd"),
    recipe({"sdedit": {}}, model="model"),
    recipe({"sdedit": {}}, lora=["x.safetensors:0.5"]),
    recipe({"sdedit": {}}, refiner="someone/refiner:0.8"),
    recipe({"sdedit": {}}, allow_code=True),
    recipe({"sdedit": {}}, offline=False),
    recipe({"sdedit": {}}, output="/tmp/x.png"),
    recipe({"no_such_plugin": {}}),
    {"editkit": 2},
    {"editkit": 99, "stages": []},
    {"editkit": 2, "stages": [{"plugins": ["sdedit"], "__class__": "x"}]},
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda forged: json.dumps(forged)[:90])
def test_a_forged_recipe_is_refused_in_one_line_wherever_it_is_sent(client, folder, forged):
    os.symlink(folder.parent / "outside.png", folder / "link.png")
    picture = opened(client, "photo.png")
    for path in ("/edits", "/plan", "/said"):
        said(client.post(path, json={"picture": picture, "recipe": forged}), 422)
    assert client.get("/edits").json() == []
    assert sorted(p.name for p in folder.iterdir()) == [".editkit-studio", "link.png", "photo.png"]


def test_what_the_server_was_started_with_may_be_named(folder):
    allowed = config(folder, models=("someone/model", "x.safetensors", "timm:resnet18"))
    from editkit.cli.studio.recipes import parse_request

    for given in (
        recipe({"sdedit": {}}, model="someone/model"),
        recipe({"sdedit": {}}, lora=["x.safetensors:0.5"]),
        recipe({"spandrel": {"weights": "x.safetensors"}}),
        recipe({"classifier": {"label": "cat", "classifier": "timm:resnet18"}}),
    ):
        assert parse_request(given, allowed).real.stages[0].options.offline


def test_words_of_people_may_have_slashes_and_colons(folder):
    from editkit.cli.studio.recipes import parse_request

    told = recipe({"prompt": {}}, prompt="a cat and/or dog: ../..", negative="/etc")
    assert parse_request(told, config(folder)).as_written.stages[0].options.prompt == "a cat and/or dog: ../.."
