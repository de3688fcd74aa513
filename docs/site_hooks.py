"""What the site needs besides mkdocs.yml: pages that lie outside of docs/, notebooks as pages, links out of the site.

ARCHITECTURE.md, CONTRIBUTING.md and CHANGELOG.md stay where people look for them in a repository and are pages as well.
A link of a page to a file of the repository (`../editkit/...`) is good there and leads nowhere in the site; it becomes
the file's name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The pages from outside, and the notebooks."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    for file in list(files):
        if file.src_uri.endswith(".ipynb") and file.abs_src_path is not None:
            text = as_markdown(json.loads(Path(file.abs_src_path).read_text(encoding="utf-8")), file.src_uri)
            files.remove(file)
            files.append(_page(config, file.src_uri, text))
    return files


def _page(config: MkDocsConfig, uri: str, text: str) -> File:
    """A page that is called as its source, which mkdocs would copy, not render."""
    file = File.generated(config, uri, content=text)
    file.is_documentation_page = lambda: True  # type: ignore[method-assign]
    file.dest_uri = uri.removesuffix(".ipynb") + ".html"
    return file


def as_markdown(notebook: dict[str, Any], uri: str) -> str:
    """Its cells, with what they printed and showed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_shown(output) for output in cell["outputs"]]
    name = Path(uri).name
    parts.append(f"*This page is the notebook docs/notebooks/{name}; a test runs it.*")
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    """What a cell gave: text, or a picture within the page."""
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img alt="what the cell shows" src="data:{kind};base64,{"".join(data[kind]).strip()}">'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of the site as names; README's parts are its home page."""
    folder = (Path("docs") / page.file.src_uri).parent if page.file.src_uri not in OUTSIDE else Path()

    def mend(found: re.Match[str]) -> str:
        label, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        if not target:
            return found.group(0)
        path = Path(_plain(folder / target))
        if path == Path("README.md"):
            at = "plugin.md" if anchor == "#writing-a-plugin" else "index.md"
            return f"[{label}]({_up(page)}{at})"
        if path.parts[:1] == ("docs",) and files.get_file_from_path(path.relative_to("docs").as_posix()) is not None:
            return f"[{label}]({_up(page)}{path.relative_to('docs').as_posix()}{anchor})"
        if path.as_posix() in OUTSIDE:
            return f"[{label}]({_up(page)}{path.as_posix()}{anchor})"
        return label if path.name in label else f"{label} (`{path.as_posix()}`)"

    pieces = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    return "".join(piece if piece.startswith("```") else LINK.sub(mend, piece) for piece in pieces)


def _plain(path: Path) -> str:
    """`path` without its `..`."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ".."):
            parts.append(part)
    return "/".join(parts)


def _up(page: Page) -> str:
    return "../" * page.file.src_uri.count("/")
