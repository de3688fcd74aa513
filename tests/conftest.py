"""Shared by all tests: OMP_NUM_THREADS threads (one), no network, no module left behind."""

import functools
import gc
import itertools
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Several would fight with pytest-xdist for the cores; whoever tries the suite with more says so.
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
torch.set_num_threads(THREADS)

# No timing assertions: how long an example takes, and how long one is looked for, is the machine's business. The same
# examples each time; `--hypothesis-profile=wide` draws others.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("editkit", calm, derandomize=True, database=None)
settings.register_profile("wide", calm)
settings.load_profile("editkit")


def pytest_configure(config):
    """What failed the first time is said in full, though the second time was right."""
    if config.pluginmanager.hasplugin("rerunfailures"):
        config.option.rerun_show_tracebacks = True


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Workers take a part each, and what others have left: what a module makes for its tests is made once."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(config, items):
    """Browsers and services are other people's programs, and are tried once more. What is ours alone never is."""
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.get_closest_marker("loopback"):
                item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_collection_finish():
    """What was imported by now stays: collecting garbage need not look at a million objects again in each test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What a test wrote may hold names that are no text; a worker could not send its report then."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path_factory):
    """Whoever runs the tests may have settings of editkit's; no test sees them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))
    monkeypatch.setattr("editkit.cli.rates._place", lambda: tmp_path_factory.getbasetemp() / "rates" / "rates.json")
    for name in [name for name in os.environ if name.startswith("EDITKIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def nothing_left():
    """What ran in a test changes nothing for the next, in whatever order they come: what a child inherits (variables of
    the environment, signals that are ignored), and the number of threads.
    """
    variables = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    yield
    for name in {*os.environ, *variables}:
        if name.startswith(("PYTEST_", "RAY_")) or os.environ.get(name) == variables.get(name):
            continue
        if name in variables:
            os.environ[name] = variables[name]
        else:
            del os.environ[name]
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:  # not one that Python does not know
                signal.signal(number, handler)
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def no_module_left(tmp_path_factory):
    """A module that a test wrote and imported goes with the test: the next may write another of that name."""
    before = len(sys.modules)
    yield
    temporary = tmp_path_factory.getbasetemp()
    for name in list(itertools.islice(sys.modules, before, None)):  # the newest come last
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
