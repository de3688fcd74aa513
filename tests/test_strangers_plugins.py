"""Plugins of strangers that fail in every way, models' files that are nonsense, Ctrl-C at any moment. No network."""

import json
import signal
import subprocess
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from editkit.cli import listing, process
from editkit.cli import run as command
from editkit.common import entries
from editkit.errors import HookError, ModelError, PluginError
from editkit.models.classifiers import load_classifier
from editkit.models.classifiers.kinds import OWN
from editkit.models.classifiers.network import Network
from editkit.plugin import registry
from editkit.plugin.protocol import ASKED, DECLARED, Hooks, Plugin

NAMED = (
    "hooks", "claims", "uses", "beside", "calls", "alone", "through", "default_model", "default_options",
    "implied_strength", "steers",
    "found_weights", "roles", "idle",
)  # fmt: skip

ASKED_WITH = ("calls", "default_options", "implied_strength", "steers", "idle")
"""Those with one argument."""


def failing(raised):
    def method(self, *args):
        raise raised

    return method


def returning(value):
    return lambda self, *args: value


def declared(**methods):
    return type("P", (Plugin,), {"name": "hostile", "__annotations__": {}, "__module__": __name__, **methods})


def test_all_that_is_asked_of_a_declaration_is_guarded():
    assert set(NAMED) == set(ASKED)
    methods = {name for name in vars(Plugin) if not name.startswith("_") and callable(getattr(Plugin, name))}
    elsewhere = {"acts", "bind", *DECLARED}  # `called` by whoever calls them; `acts` is the core's own
    assert {m for m in methods if not m.startswith("model_")} <= {*ASKED, *elsewhere}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    "raised", [RuntimeError("on purpose\nin two lines"), SystemExit(9), KeyError("x"), RecursionError()]
)
def test_what_a_declaration_raises_names_it(name, raised):
    plugin = declared(**{name: failing(raised)})()
    with pytest.raises(HookError, match=rf"plugin hostile: {name} raised {type(raised).__name__}"):
        getattr(plugin, name)(
            *([None] if name in ("calls", "default_options", "implied_strength", "steers", "idle") else [])
        )


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("value", [None, "text", 5, [], object()])
def test_what_a_declaration_gives_is_of_its_kind(name, value):
    plugin = declared(**{name: returning(value)})()
    fits = {
        "default_model": (None, "text"), "implied_strength": (None, 5), "through": ("text",), "beside": (5,),
        "calls": (5,),
    }.get(name, ())  # fmt: skip
    arguments = [None] if name in ASKED_WITH else []
    if any(value is one or value == one for one in fits):
        assert getattr(plugin, name)(*arguments) is value
        return
    with pytest.raises(HookError, match=f"plugin hostile: {name} returned"):
        getattr(plugin, name)(*arguments)


def test_a_subclass_of_a_guarded_one_is_guarded():
    outer = type("Q", (declared(beside=returning(1)),), {"beside": failing(ValueError("no")), "__module__": __name__})
    with pytest.raises(HookError, match="beside raised ValueError"):
        outer().beside()


def test_a_declaration_that_does_nothing_is_refused():
    with pytest.raises(PluginError, match="would do nothing"):
        registry.check(declared(), "hostile")
    assert registry.check(declared(hooks=lambda self: Hooks), "hostile")
    assert registry.check(declared(open=lambda self, picture, notify: picture), "hostile")


class Point:
    """An entry point whose import fails."""

    name, value, group, dist = "hostile", "hostile:P", registry.GROUP, types.SimpleNamespace(name="p-hostile")

    def __init__(self, raised):
        self.raised = raised

    def load(self):
        raise self.raised


def registered(monkeypatch, points):
    """`points` as what is installed."""
    monkeypatch.setattr(entries, "_read", lambda group, path: tuple(points) if group == registry.GROUP else ())
    monkeypatch.setattr(entries, "_entries_named", entries._entries_named.__wrapped__)


@pytest.mark.parametrize(
    "raised", [GeneratorExit(), KeyboardInterrupt(), SystemExit(7), RecursionError(), RuntimeError("x" * 100_000),
               type("Own", (BaseException,), {})("\x1b[2J")],
)  # fmt: skip
def test_whatever_a_module_raises_when_it_is_imported_stops_nobody_else(monkeypatch, raised, capsys):
    others = list(registry.PLUGINS.points())
    registered(monkeypatch, [*others, Point(raised)])
    before = signal.signal(signal.SIGINT, process.InterruptHandler())
    try:
        rows = registry.list_installed()
        assert command(["plugins"]) == 0
        assert command(["plan", "hostile", "x.png"]) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    broken = {row.name: row.broken for row in rows if row.broken}
    assert list(broken) == ["hostile"]
    assert "p-hostile" in broken["hostile"]
    assert len(broken["hostile"]) < 700
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "inpaint" in said.out


def test_ctrl_c_while_a_plugin_is_imported_is_ctrl_c(monkeypatch):
    registered(monkeypatch, [Point(KeyboardInterrupt())])
    pressed = process.InterruptHandler()
    pressed.pressed = 1
    before = signal.signal(signal.SIGINT, pressed)
    try:
        with pytest.raises(KeyboardInterrupt):
            registry.PLUGINS.load("hostile")
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x1b]0;x\x07", "\x9b31m", "\u202e", "[red]", "[/]", "a\nb"])
def test_no_table_says_more_than_words(monkeypatch, capsys, evil):
    rows = {"plugin": [entries.InstalledEntry(evil, evil, evil), entries.InstalledEntry("b", "c", None, evil)]}
    monkeypatch.setattr(listing, "installed", lambda: rows)
    assert command(["plugins"]) == 0
    shown = capsys.readouterr().out
    assert all(c.isprintable() for line in shown.splitlines() for c in line)
    assert evil[0] not in "[" or evil in shown


# ----------------------------------------------------------------------------------------- classifiers' configurations


GOOD = {"_class_name": OWN, "labels": ["a", "b"], "channels": 3, "size": 16, "width": 8, "stages": 2}


@pytest.fixture
def classifier(tmp_path):
    save_file(Network(3, 2, 8, 2).state_dict(), tmp_path / "model.safetensors")

    def written(config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return written


NONSENSE = [
    *({**GOOD, key: value} for key in GOOD if key != "_class_name" for value in (None, "x", [], {}, -1, 0, 1e99)),
    *({k: v for k, v in GOOD.items() if k != key} for key in GOOD if key != "_class_name"),
    {**GOOD, "width": 10**7}, {**GOOD, "stages": 10**6}, {**GOOD, "stages": 40}, {**GOOD, "labels": ["a"] * 9},
    {**GOOD, "log_snr": 5}, {**GOOD, "log_snr": ["x", 1]}, {**GOOD, "log_snr": []},
    {"architecture": "resnet18", "pretrained_cfg": []}, {"architecture": "resnet18", "pretrained_cfg": [5]},
    {"architecture": "resnet18", "pretrained_cfg": {"input_size": 5}}, {"architecture": "resnet18", "library": "os"},
    {"architecture": 5}, {"architecture": ["resnet18"]}, {"architecture": "os.system"},
]  # fmt: skip


@pytest.mark.parametrize("config", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_in_a_classifier_s_configuration_is_one_line(classifier, config):
    if config.get("labels") == "x":
        pytest.skip("a word is a list of one-letter labels, of another number than the weights'")
    with pytest.raises(ModelError) as raised:
        load_classifier(classifier(config), torch.device("cpu"), offline=True)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_what_a_configuration_claims_is_not_allocated_before_it_is_compared(classifier, monkeypatch):
    made = []
    real = Network.__init__

    def counted(self, channels, classes, width=32, stages=3):
        real(self, channels, classes, width, stages)
        made.append(next(self.parameters()).device.type)

    monkeypatch.setattr(Network, "__init__", counted)
    with pytest.raises(ModelError, match="instead of"):
        load_classifier(classifier({**GOOD, "width": 4096}), torch.device("cpu"), offline=True)
    assert made == ["meta"]


def test_a_head_that_is_no_matrix_is_told(tmp_path):
    pytest.importorskip("timm")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    for head in (torch.zeros(()), torch.zeros(5), torch.zeros(2, 3, 4)):
        save_file({"fc.weight": head}, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match="last layer"):
            load_classifier(str(tmp_path), torch.device("cpu"), offline=True)


# ---------------------------------------------------------------------------------------------------------- Ctrl-C


def as_usual():
    """Before a child starts: what is run in the background, or behind a test that ran a command, ignores signals."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def child(code):
    """A process that heeds Ctrl-C, and runs `code` after `InterruptHandler` was installed."""
    start = "import os, signal\nfrom editkit.cli.process import install_signal_handlers\ninstall_signal_handlers()\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        capture_output=True, text=True, timeout=300, check=False, preexec_fn=as_usual,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


PRESS = "os.kill(os.getpid(), signal.SIGINT)\n"


def test_ctrl_c_during_an_import_is_one_line(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal\ntry:\n    " + PRESS + "except BaseException: print('caught')\n"
    )
    inside = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    assert child(inside + "import slow\n") == (130, "", "interrupted\n")
    assert child(inside + "def f():\n    import slow\ntry:\n    f()\nfinally:\n    print('late')\n") == (
        130,
        "",
        "interrupted\n",
    )


def test_ctrl_c_elsewhere_is_an_exception_once():
    code = "n = 0\nfor k in range(2):\n    try:\n        " + PRESS + "    except KeyboardInterrupt: n += 1\nprint(n)\n"
    assert child(code) == (0, "1\n", "")
    assert child("try:\n    " + PRESS + "except KeyboardInterrupt:\n    " + PRESS + "    " + PRESS) == (
        130,
        "",
        "interrupted\n",
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_what_is_half_written_goes_when_the_process_is_asked_to_end(tmp_path, name):
    code = (
        "from pathlib import Path\nfrom editkit.pictures.files import atomic\n"
        f"atomic.os.fsync = lambda handle: os.kill(os.getpid(), signal.{name})\n"
        f"try:\n    atomic.save_bytes(Path({str(tmp_path / 'x.png')!r}), b'half')\n"
        "except KeyboardInterrupt:\n    print('on')"
    )
    assert child(code) == (0, "on\n", "")
    assert list(tmp_path.iterdir()) == []


def test_what_is_started_to_ignore_ctrl_c_ignores_it():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += (
        "from editkit.cli.process import install_signal_handlers\ninstall_signal_handlers()\nimport os\n"
        + PRESS
        + "print('on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


def test_the_command_line_is_imported_without_what_takes_long():
    """What is imported before Ctrl-C is heeded is little."""
    code = "import sys; before = set(sys.modules); import editkit.cli; print(sorted(set(sys.modules) - before))"
    flags = ["-I", "-S", "-c"]  # nothing of the environment's own start-up
    path = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
    done = subprocess.run([sys.executable, *flags, path + code], capture_output=True, text=True, check=True)
    heavy = {"typing", "ctypes", "pathlib", "inspect", "dataclasses", "numpy", "torch", "pydantic", "importlib.abc"}
    assert heavy.isdisjoint(json.loads(done.stdout.replace("'", '"'))), done.stdout
