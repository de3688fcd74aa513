"""Entry points are read once, and anew where something was installed or taken away."""

import shutil

from editkit.common import entries
from editkit.common.entries import Group
from editkit.diffusion.samplers import SAMPLERS


def _install(folder, name):
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[editkit.nothing]\n{name} = {name}:X\n")


def test_what_is_installed_meanwhile_is_seen_and_what_is_gone_is_not(tmp_path, monkeypatch):
    group = Group("editkit.nothing", "thing", "nobody")
    assert group.names() == []
    monkeypatch.syspath_prepend(str(tmp_path))
    _install(tmp_path, "one")
    assert group.names() == ["one"]
    _install(tmp_path, "two")
    assert group.names() == ["one", "two"]
    shutil.rmtree(tmp_path / "one-0.1.dist-info")
    assert group.names() == ["two"]


def test_metadata_is_read_once_while_nothing_changes(monkeypatch):
    read, asked = entries.entry_points, []
    monkeypatch.setattr(entries, "entry_points", lambda group: asked.append(group) or read(group=group))
    group = Group("editkit.never", "thing", "nobody")
    for _ in range(3):
        assert group.names() == []
    assert asked == ["editkit.never"]


def test_whose_a_sampler_is_is_asked_once_while_nothing_changes(monkeypatch):
    entries._entries_named.cache_clear()
    owner, asked = entries._owner, []
    monkeypatch.setattr(entries, "_owner", lambda point: asked.append(point.name) or owner(point))
    for _ in range(3):
        SAMPLERS.load("heun")
    assert set(asked) == {"heun"}
    count = len(asked)
    SAMPLERS.load("heun")
    assert len(asked) == count
