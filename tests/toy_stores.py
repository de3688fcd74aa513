"""A store in memory with faults to be set, and runs of a batch into it."""

import json
import sys
from contextlib import closing
from pathlib import Path

import fsspec
import numpy as np
import pytest
from faulty import Faults, FaultyMemory, files
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from toy_clock import Clock

from editkit.batch import lease, ledger, stores
from editkit.batch.catalog import Catalog
from editkit.batch.driver import run_into
from editkit.batch.engines import serial
from editkit.batch.sources import fill_catalog
from editkit.batch.stores import open_store
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import RECIPE, picture

NAME = "editkit-batch.jsonl"


CHAIN = Chain.of(Inpaint(mask="box:0,0,7,7")).using(steps=2, seed=5)


@pytest.fixture
def memory(monkeypatch):
    """`memory://`, empty, with faults to be set; no pause takes any time, and no run is taken for dead by it."""
    fsspec.register_implementation("memory", FaultyMemory, clobber=True)
    monkeypatch.setattr(FaultyMemory, "faults", Faults())
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    monkeypatch.setattr(stores, "TRIES", 30)
    monkeypatch.setattr(lease, "time", Clock())
    stores._reader.cache_clear()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield FaultyMemory
    MemoryFileSystem.store.clear()
    stores._reader.cache_clear()
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


@pytest.fixture
def here(tmp_path, monkeypatch, memory) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


def put(**data: bytes) -> None:
    for name, body in data.items():
        MemoryFileSystem().pipe_file(f"/in/{name.replace('__', '.')}", body)


def go(work, *, resume=False, force=False, mask=None, identity=None):
    """A run of `work` from memory://in into memory://out."""
    with closing(Catalog()) as catalog:
        fill_catalog(catalog, CHAIN, "memory://in", "memory://out", mask, ".png", False)
        with ledger.open_ledger(
            open_store("memory://out"), catalog, identity or {"run": "x"}, resume=resume, force=force
        ) as book:
            return run_into(work, catalog, book, serial, "memory://out", fresh=not (resume or force), force=force)


def results() -> dict[str, bytes]:
    return {name: data for name, data in files("out").items() if not name.startswith(".editkit") and name != NAME}


def masked_folder(folder: Path) -> None:
    """Two pictures and a third in a folder below, with masks beside them."""
    for k, name in enumerate(("a.png", "b.png", "sub/c.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, k)
        mask = np.zeros((24, 24), np.uint8)
        mask[:7, : 7 + k] = 255
        Image.fromarray(mask).save(path.with_suffix(".mask.png"))


def write_rows(name: str, table: list[dict]) -> None:
    if name.endswith(".parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(sys.modules["pyarrow"].Table.from_pylist(table), name)
    else:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in table))
