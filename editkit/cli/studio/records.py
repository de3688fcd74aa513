"""What a studio remembers of pictures and edits, as JSON in its folder."""

from __future__ import annotations

import re
import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

State = Literal["waiting", "running", "done", "failed", "stopped", "interrupted"]

ENDED: tuple[State, ...] = ("done", "failed", "stopped", "interrupted")

ID = re.compile(r"[0-9a-f]{16}")


def new_id() -> str:
    """A name for something new."""
    return secrets.token_hex(8)


class PictureRecord(BaseModel):
    """A picture that can be edited: one of the folder, one that was sent, or a result.

    `path` is relative to the studio's folder; `depth` is of a channel, in bits.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    path: str
    width: int
    height: int
    depth: int
    alpha: bool = False
    format: str | None = None
    notices: tuple[str, ...] = ()


class EditRecord(BaseModel):
    """An edit, from when it was asked for: what a restarted server finds.

    Args:
        picture: what was edited; a result of an earlier edit has that edit's id (`parent`).
        recipe: the chain, its paths relative to the studio's folder.
        group: candidates that were asked for together.
        kept: by how much pixels outside of the mask differ; None: everything could change.
        result: what came of it.
    """

    id: str
    picture: str
    parent: str | None
    recipe: dict[str, Any]
    tab: str | None = None
    group: str | None = None
    state: State = "waiting"
    created: float = 0.0
    seconds: float | None = None
    calls: int | None = None
    error: str | None = None
    notices: tuple[str, ...] = ()
    kept: int | None = None
    seed: int = 0
    summary: str = ""
    provenance: str | None = None
    result: PictureRecord | None = None

    def told(self) -> dict[str, Any]:
        """What the page is told of it."""
        return self.model_dump(exclude={"provenance", "tab"})
