"""The pages of the site: every command and every piece of Python on them is run, every link leads somewhere.

The files that they name are the demonstration pictures, small (docs/demonstration.py). Networks that would be fetched
are tiny folders of random weights, which prove that the command is right and nothing about pictures.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_latent
import tiny_masks
import yaml
from PIL import Image

from editkit.cli import run

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    [DOCS / f"{name}.md" for name in ("index", "start", "masks", "models", "combining", "batch", "plugin")]
    + list((DOCS / "tasks").glob("*.md"))
)
SIDE = 72


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)


@pytest.fixture(scope="module")
def laid(tmp_path_factory):
    """The demonstration files, made once."""
    folder = tmp_path_factory.mktemp("laid")
    runpy.run_path(str(DOCS / "demonstration.py"))["lay"](folder, SIDE)
    return folder


@pytest.fixture
def here(laid, tmp_path, monkeypatch):
    """A copy of them, which is the current folder."""
    shutil.copytree(laid, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slug(heading: str) -> str:
    """What a heading's anchor is called."""
    return re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-")


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.strip().splitlines()]


@pytest.fixture
def models(here, monkeypatch):
    """Tiny folders in the place of networks that a page's commands name; whatever they say is taken."""
    from editkit_plugins.masks import networks

    def lay(page: Path) -> None:
        for name in set(re.findall(r"models/(\w+)", "\n".join(commands(page)))):
            MODELS[name](here / "models" / name)
        monkeypatch.setattr(networks, "BOX", 0.0)
        monkeypatch.setattr(networks, "WORD", 0.0)

    return lay


def _sd(folder: Path) -> None:
    import diffusers

    tiny_latent.save_sd(folder, diffusers.DDIMScheduler(**tiny_latent.SD))


def _canny(folder: Path) -> None:
    import diffusers

    diffusers.ControlNetModel.from_unet(tiny_latent.unet()).save_pretrained(folder)


MODELS = {"sd15": _sd, "canny": _canny, "dino": tiny_masks.grounding_dino, "sam2": tiny_masks.sam2}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_does_what_it_says(page, here, models, capsys):
    """Exit code 0, and what it says it writes is there afterwards."""
    models(page)
    assert all(line.startswith("editkit ") for line in commands(page)), "other shells' blocks are text"
    for line in commands(page):
        words = shlex.split(line)[1:]
        assert run(words) == 0, f"{line}\n{capsys.readouterr().err}"
        for option in ("-o", "--show", "--trace", "--preview", "--save-mask", "--save-recipe", "--each"):
            if option in words[:-1] and "{" not in (written := words[words.index(option) + 1]):
                assert Path(written.replace("tries.png", "tries.sheet.png")).exists(), line


@pytest.mark.parametrize("code", blocks(DOCS / "python.md", "python"))
def test_the_python_of_the_page_runs(code, here, capsys):
    exec(compile(code, "python.md", "exec"), {"__name__": "__main__"})
    if "error" in code:
        assert "msk" in capsys.readouterr().out


def test_the_recipe_and_the_settings_of_the_pages_are_valid(here, monkeypatch):
    from editkit.cli.settings import read

    (recipe,) = blocks(DOCS / "batch.md", "yaml")
    assert yaml.safe_load(recipe)["stages"]
    Path("recipe.yaml").write_text(recipe)
    assert run(["run", "recipe.yaml", "photo.jpg", "-o", "out.png"]) == 0
    (settings,) = blocks(DOCS / "models.md", "toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here))
    (here / "editkit").mkdir()
    (here / "editkit" / "config.toml").write_text(settings)
    found = read()
    assert found.values["steps"] == 30
    assert found.models["sd15"].startswith("stable-diffusion-v1-5/")


def test_the_pages_plugin_is_the_readmes():
    """Which tests/test_readme.py installs and runs."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for language in ("python", "toml"):
        for block in blocks(DOCS / "plugin.md", language):
            assert block in readme


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_says(path, here):
    """In small: the words that it prints are those it was saved with, wherever they are no share of the picture."""
    executed = runpy.run_path(str(DOCS / "make_notebooks.py"))["executed"]
    saved = json.loads(path.read_text(encoding="utf-8"))
    for before, after in zip(saved["cells"], executed(saved)["cells"], strict=True):
        if before["cell_type"] == "code":
            assert [o["output_type"] for o in before["outputs"]] == [o["output_type"] for o in after["outputs"]]
            for old, new in zip(before["outputs"], after["outputs"], strict=True):
                assert list(old.get("data", {})) == list(new.get("data", {}))
                assert [re.sub(r"[\d.%(), ]+", "", t) for t in old.get("text", [])] == [
                    re.sub(r"[\d.%(), ]+", "", t) for t in new.get("text", [])
                ]


def test_every_sheet_is_there_and_none_is_left_over():
    found = runpy.run_path(str(DOCS / "make_sheets.py"))["sheets"]()
    assert set(found) == {path.name for path in (DOCS / "sheets").iterdir()}
    assert len(found) > 10


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/]+\.(?:md|ipynb)", text.split("\nnav:")[1]))
    there = {p.relative_to(DOCS).as_posix() for p in (*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb"))}
    assert named == there | {"ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    for page in DOCS.rglob("*.md"):
        bare = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", bare):
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor and path.suffix == ".md":
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
                assert anchor in {slug(heading) for heading in headings}, f"{page.name}: {target}#{anchor}"


def test_what_errors_point_to_is_there():
    """A message names a page and an anchor of it."""
    named = {
        found
        for folder in ("editkit", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        for found in re.findall(r"docs/(\w+\.md)#([\w-]+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) >= 3
    for page, anchor in named:
        headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(encoding="utf-8"), re.M)
        assert anchor in {slug(heading) for heading in headings}, f"{page}#{anchor}"


def test_the_demonstration_files_are_damaged_where_they_say(laid):
    damaged, another = (
        np.asarray(Image.open(laid / name).convert("RGB")).astype(int) for name in ("damaged.jpg", "another.jpg")
    )
    assert (np.abs(damaged - another).max(axis=2) > 40).mean() > 0.005
    assert np.asarray(Image.open(laid / "turned.png"))[0, 0, 3] == 0
