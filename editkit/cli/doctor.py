"""`editkit doctor`: a report of the installation and its problems."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False) -> int:
    """Report the installation: versions, device, cores, memory, the hub's cache, extras, broken plugins.

    Exit code 1 if something that is installed is broken.
    """
    import json

    from editkit.cli.console import write

    found = {**dict(_machine()), **dict(_installed())}
    broken = _broken()
    if as_json:
        write(json.dumps({**found, "broken": broken}))
    else:
        for name, value in found.items():
            write(f"{name + ':':<15}{value}")
        for line in broken:
            write(f"BROKEN: {line}")
    return 1 if broken else 0


def _machine() -> Iterator[tuple[str, Any]]:
    import psutil

    from editkit.pictures.files.provenance import versions

    yield "editkit", versions()["editkit"]
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    try:
        import torch

        from editkit.common.device import pick_device

        yield "torch", torch.__version__
        yield "device", _device(str(pick_device("auto")))
        yield "threads", torch.get_num_threads()
    except Exception as error:
        yield "torch", f"cannot be used: {type(error).__name__}: {error}"
    memory = psutil.virtual_memory()
    yield "cores", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "memory", f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}"


def _device(name: str) -> str:
    import torch

    if not name.startswith("cuda"):
        return name
    return f"{name} ({torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[0] / 2**30:.1f} GiB free)"


def _installed() -> Iterator[tuple[str, Any]]:
    from editkit.common.extras import installed

    yield "offline", "yes (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else "no"
    try:
        from huggingface_hub import constants

        yield "hub cache", constants.HF_HUB_CACHE
    except ImportError:
        yield "hub cache", "none (pip install 'editkit[diffusers]')"
    for extra, missing in installed().items():
        yield f"[{extra}]", "yes" if not missing else f"no: {', '.join(missing)} (pip install 'editkit[{extra}]')"


def _broken() -> list[str]:
    """Return entry points that cannot be loaded, and settings that cannot be read."""
    from editkit.cli import settings
    from editkit.cli.listing import installed
    from editkit.errors import EditkitError

    broken = [row.broken for rows in installed().values() for row in rows if row.broken is not None]
    try:
        settings.read()
    except EditkitError as error:
        broken.append(f"settings: {error}")
    return broken
