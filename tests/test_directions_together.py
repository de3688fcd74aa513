"""Every method of both directions with others, by `with` and by `then`: it runs as often as planned, or names who
cannot; and its moves upward are to be seen.
"""

from __future__ import annotations

import numpy as np
import pytest
from toy import Isotropic

from editkit import edit, stream
from editkit.diffusion.schedule import Cosine, Flow
from editkit.editing import contract
from editkit.editing.api import plan as planned
from editkit.editing.watching.trace import Trace
from editkit.errors import ChainError
from editkit.pictures.picture import Picture
from editkit.plugins import Cfg, Denoise, Guide, Inpaint, Invert, Keep, SDEdit, Texture, Threshold, Translate

PHOTO = Picture(np.random.default_rng(0).integers(0, 256, (30, 36, 3), dtype=np.uint8))
METHODS = ("ddib", "cycle", "edit-friendly", "flowedit", "rf", "rf-solver")
OTHERS = (
    Cfg(scale=2.0), Denoise(sigma=20.0, views=1), Guide(), Inpaint(mask="box:4,4,20,20"), Invert(),
    Keep(map="box:4,4,20,20"), SDEdit(), Texture(), Threshold(),
)  # fmt: skip
NAMES = [other.name for other in OTHERS]


def runs_or_names(chain, plugins, *names):
    try:
        contract.composes(chain, plugins)
    except ChainError as refused:
        assert all(name in str(refused) for name in names), refused


@pytest.mark.parametrize("other", OTHERS, ids=NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_translate_with_and_before_and_after_others(method, other, monkeypatch):
    flows = method in ("flowedit", "rf", "rf-solver")
    plain = contract.ExactModel.__init__

    def made(self, takes=frozenset()):
        plain(self, takes)
        self.schedule = Flow() if flows else Cosine()

    monkeypatch.setattr(contract.ExactModel, "__init__", made)
    plugin = Translate(source="a cat", method=method)
    kinds = (Translate, type(other))
    runs_or_names(plugin & other, kinds, "translate", other.name)
    for chain in (plugin | other, other | plugin):
        contract.composes(chain, kinds)


@pytest.mark.parametrize("other", OTHERS, ids=NAMES)
@pytest.mark.parametrize("given", [{}, {"refine": 2}, {"strength": 0.5}], ids=["plain", "refined", "half"])
def test_invert_with_and_before_and_after_others(given, other):
    plugin = Invert(**given)
    runs_or_names(plugin & other, (Invert, type(other)), "invert", other.name)
    for chain in (plugin | other, other | plugin):
        contract.composes(chain, (Invert, type(other)))


@pytest.mark.parametrize("sampler", ["sde", "pc", "pc:predictor=ddim,repeats=3", "langevin:repeats=3"])
@pytest.mark.parametrize("other", [Guide(), Keep(map="box:4,4,20,20"), Inpaint(mask="box:4,4,20,20"), Threshold()])
def test_the_samplers_call_as_often_as_planned(sampler, other):
    for chain in (SDEdit() & other, other) if not isinstance(other, Inpaint) else (other,):
        model = Isotropic()
        (stage,) = planned(PHOTO, chain, model=Isotropic(), sampler=sampler, steps=4)
        edit(PHOTO, chain, model=model, sampler=sampler, steps=4)
        assert model.calls == stage.calls


@pytest.mark.parametrize("plugin", [Invert(), Invert(refine=2) & Guide()], ids=["invert", "guided"])
def test_moves_upward_are_in_the_trace(tmp_path, plugin):
    trace = Trace(tmp_path / "t.html")
    for update in stream(PHOTO, plugin, model=Isotropic(), steps=4):
        trace(update)
    trace.close()
    page = (tmp_path / "t.html").read_text()
    assert "8 moves, 4 of them upward" in page


def test_two_spaces_are_told_by_their_shapes():
    """`ddib` between two models: up by one, down by another."""

    class Small(Isotropic):
        def shape(self, height, width):
            return (4, height // 2, width // 2)

    class Switched(Isotropic):
        """Of another shape from the second stage on."""

        def __init__(self):
            super().__init__()
            self.asked = 0

        def attach(self, picture, mask):
            self.asked += 1
            return Small() if self.asked > 1 else self

    with pytest.raises(ChainError, match=r"leaves a state of \(1, 3, 30, 36\) .* works on \(1, 4, 15, 18\)"):
        edit(PHOTO, Invert(way="up") | Invert(way="down"), model=Switched(), steps=3)
