"""Servers that are no friends: nothing is read without end, nobody is waited for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_stores import here, masked_folder, memory, write_rows

from editkit.batch import stores
from editkit.cli import run

__all__ = ["here", "memory"]


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
        trusted = ["--anywhere"] if name == "p.png" else []
        assert run(["batch", address, "out", "--quiet", *trusted, "--", "inpaint"]) == 1
        server.shutdown()
    assert f"/{name}: larger than 1 MiB, the most that is read" in capsys.readouterr().err


@pytest.mark.loopback
def test_nobody_answers_and_an_address_within_another(here, capsys, monkeypatch):
    pytest.importorskip("aiohttp")
    import socket

    monkeypatch.setattr(stores, "PAUSE", 0.0)
    taken = socket.socket()  # nobody listens there, and nobody else can begin to
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    for address, said in (
        (f"http://127.0.0.1:{port}/in/", "does not answer as it should"),
        (f"zip://a.png::http://127.0.0.1:{port}/p.zip", "is an address within another"),
        ("nothing.zip", "there is no such archive"),
    ):
        assert run(["batch", address, "out", "--quiet", "--", "inpaint"]) in (1, 2)
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
    taken.close()


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
