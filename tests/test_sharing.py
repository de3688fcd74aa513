"""Several pictures through the network at once: values as alone, each its own noise; one call for calls of one size."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from editkit.batch.engines import serial
from editkit.batch.folder import items, listing
from editkit.batch.sizes import most_at_once
from editkit.batch.work import Work, new_models
from editkit.cli import run
from editkit.models import sharing
from editkit.models.sharing import BatchPoint, SharingLoad, _BatchedForward
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Whoever meets waits for the others however long they take."""
    monkeypatch.setattr(sharing, "PATIENCE", 600.0)


class Net(nn.Module):
    """Counts its calls; has copies of a batch as Stable Diffusion's network has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.rows: list[int] = []

    def forward(self, x, t, extra=None, cross_attention_kwargs=None):
        self.rows.append(len(x))
        copies = (cross_attention_kwargs or {}).get("copies", 1)
        assert all(torch.equal(part, x[: len(x) // copies]) for part in x.chunk(copies))
        return (self.linear(x) * t[:, None] + (0 if extra is None else extra["more"][0]),)


def together(net: Net, calls: list) -> list:
    meeting = BatchPoint()
    forward = _BatchedForward(net.forward, meeting)
    meeting.expect(len(calls))

    @torch.no_grad()
    def one(call):
        with meeting.member():
            return [forward(*given, **named)[0] for given, named in call]

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def call(seed: int, copies: int = 1, rows: int = 1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.randn(rows, 6, generator=generator)] * copies)
    more = {"more": [torch.randn(copies * rows, 6, generator=generator)]}
    named = {"extra": more, "cross_attention_kwargs": {"copies": copies} if copies > 1 else None}
    return (x, torch.full((len(x),), 0.5 + seed)), named


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2])
def test_calls_of_one_size_are_one_and_each_gets_its_rows(copies, rows):
    net = Net()
    calls = [[call(10 * k + j, copies, rows) for j in range(3)] for k in range(4)]
    with torch.no_grad():
        alone = [[net(*given, **named)[0] for given, named in one] for one in calls]
    net.rows.clear()
    made = together(net, calls)
    assert net.rows == [4 * copies * rows] * 3
    for mine, its in zip(made, alone, strict=True):
        for a, b in zip(mine, its, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_other_sizes_go_by_themselves_and_whoever_is_done_is_not_waited_for():
    net = Net()
    calls = [[call(1)], [call(2), call(3)], [call(4, rows=2)] * 3]
    with torch.no_grad():
        alone = [[net(*given, **named)[0] for given, named in one] for one in calls]
    net.rows.clear()
    made = together(net, calls)
    assert sorted(net.rows) == [1, 2, 2, 2, 2]
    assert all(torch.allclose(a, b) for m, i in zip(made, alone, strict=True) for a, b in zip(m, i, strict=True))


def test_what_needs_gradients_and_strangers_go_alone():
    net, meeting = Net(), BatchPoint()
    forward = _BatchedForward(net.forward, meeting)
    meeting.expect(2)
    (x, t), _ = call(0)
    with meeting.member():
        x.requires_grad_()
        forward(x, t)[0].sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        forward(x, t)
    assert net.rows == [1, 1]


def test_an_error_of_the_network_is_everybodys_own_and_nobody_waits_for_ever(monkeypatch):
    class Broken(Net):
        def forward(self, x, t, **named):
            raise RuntimeError("no room")

    def one(result: list) -> None:
        try:
            together(Broken(), [[call(1)], [call(2)]])
        except RuntimeError as error:
            result.append(str(error))

    said: list[str] = []
    thread = threading.Thread(target=one, args=(said,), daemon=True)
    thread.start()
    thread.join(120)
    assert said == ["no room"]
    monkeypatch.setattr(sharing, "PATIENCE", 0.01)
    net, meeting = Net(), BatchPoint()
    meeting.expect(2)  # the other never comes
    (x, t), _ = call(0)
    with torch.no_grad(), meeting.member():
        _BatchedForward(net.forward, meeting)(x, t)
    assert net.rows == [1]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for k in range(4):
        rows = 48 if k < 3 else 80  # the last one is of another size
        picture = np.kron(rng.integers(0, 255, (rows // 8, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(picture).save(tmp_path / "in" / f"{k}.png")
    return tmp_path


def results(folder: Path, chain: Chain, size: int) -> dict[str, bytes]:
    todo = items(listing(folder / "in"), folder / "in", folder / "out")
    made = list(serial(Work(chain, models=new_models(size), size=size), todo))
    assert [one.item.name for one in made] == [item.name for item in todo]
    assert not [one.error for one in made if one.error]
    for one in made:
        (folder / f"{size}-{one.item.name}").write_bytes(one.data)
    return {one.item.name: one.data for one in made}


def far(folder: Path, a: int, b: int) -> int:
    """The largest difference of a channel, in levels of 255."""
    pixels = [[np.asarray(Image.open(folder / f"{n}-{k}.png")).astype(int) for k in range(4)] for n in (a, b)]
    return max(int(np.abs(one - other).max()) for one, other in zip(*pixels, strict=True))


@pytest.mark.parametrize("plugin", [Inpaint(mask="box:8,8,30,30"), Guide(brightness=0.2)])
def test_pictures_at_once_are_those_alone(folder, plugin):
    """A difference of 1e-4 of [-1, 1] is 0.013 levels: at most a rounding falls the other way."""
    chain = Chain.of(plugin).using(model="pocket", steps=2, seed=4, dtype="fp32")
    alone = results(folder, chain, 1)
    results(folder, chain, 3)
    assert far(folder, 1, 3) <= 1
    assert results(folder, chain, 1) == alone  # bytes at 1


def test_how_many_at_once():
    assert most_at_once(Chain.of(Inpaint(mask="box:0,0,3,3"))) == 1  # patches: there is nothing to share
    assert most_at_once(Chain.of(Inpaint(mask="box:0,0,3,3")).using(model="pocket", device="cpu")) in range(1, 9)
    assert isinstance(new_models(4).load, SharingLoad)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "0"], "--batch-size: must be 1 to 64, or auto"),
        (["--batch-size", "many"], "--batch-size: must be 1 to 64, or auto"),
        (["--batch-size", "2", "--workers", "2"], "--batch-size: works with one process"),
    ],
)
def test_mistakes(folder, capsys, monkeypatch, words, said):
    monkeypatch.chdir(folder)
    assert run(["batch", "in", "out", *words, "--", "inpaint", "--mask", "box:0,0,3,3"]) == 2
    assert said in capsys.readouterr().err


def test_the_command_takes_a_number_and_auto(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for size in ("2", "auto"):
        words = ["batch", "in", f"out{size}", "--batch-size", size, "--model", "pocket", "--steps", "1", "--quiet"]
        assert run([*words, "--", "inpaint", "--mask", "box:0,0,9,9"]) == 0
        assert len(list(Path(f"out{size}").glob("*.png"))) == 4
