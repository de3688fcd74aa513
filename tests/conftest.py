"""Shared by all tests: OMP_NUM_THREADS threads (one), no network, no module left behind."""

import functools
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Several would fight with pytest-xdist for the cores; whoever tries the suite with more says so.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# No timing assertions: how long an example takes is the machine's business.
settings.register_profile("editkit", deadline=None)
settings.load_profile("editkit")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path_factory):
    """Whoever runs the tests may have settings of editkit's; no test sees them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))
    for name in [name for name in os.environ if name.startswith("EDITKIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_module_left(tmp_path_factory):
    """A module that a test wrote and imported goes with the test: the next may write another of that name."""
    before = set(sys.modules)
    yield
    temporary = tmp_path_factory.getbasetemp()
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(temporary):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, request):
    """Offline means no socket: using one to anywhere fails the test. Marked `loopback`, it may talk to this machine."""
    inside = request.node.get_closest_marker("loopback") is not None
    real = {way: getattr(socket.socket, way) for way in ("connect", "connect_ex", "sendto")}

    def refuse(self, *given, way):
        here = self.family == socket.AF_UNIX or str(given[-1][0]) in ("127.0.0.1", "::1", "localhost")
        if inside and here:
            return real[way](self, *given)
        if self.family == socket.AF_UNIX:
            raise OSError("no sockets in tests")
        raise AssertionError(f"a test opened a socket to {given[-1]}")

    for way in real:
        monkeypatch.setattr(socket.socket, way, functools.partialmethod(refuse, way=way))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Tiny models of today's transformers, each saved when it is first asked for (`tiny_families.Folders`)."""
    import tiny_families

    return tiny_families.Folders(tmp_path_factory.mktemp("families"))
