"""A folder of pictures and a recipe."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import RECIPE, picture


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a recipe to work in."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


def pictures(folder: str, *names: str) -> None:
    for k, name in enumerate(names):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, k)
