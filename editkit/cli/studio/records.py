"""The records of pictures and edits that a studio keeps, as JSON in its folder."""

from __future__ import annotations

import re
import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

State = Literal["waiting", "running", "done", "failed", "stopped", "interrupted"]

ENDED: tuple[State, ...] = ("done", "failed", "stopped", "interrupted")

ID = re.compile(r"[0-9a-f]{16}")


def new_id() -> str:
    """Return an unused id for a picture or an edit."""
    return secrets.token_hex(8)


class PictureRecord(BaseModel):
    """A picture that can be edited: from the folder, uploaded, or a result.

    `path` is relative to the studio's folder; `depth` is in bits per channel.
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
    """An edit, recorded from the time it was requested, so that a restarted server finds it.

    Args:
        picture: the id of the edited picture; the result of an earlier edit has that edit's id (`parent`).
        recipe: the chain, with paths relative to the studio's folder.
        group: shared by candidates that were requested together.
        kept: the largest difference of the pixels outside the mask; None: every pixel could change.
        result: the record of the result.
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

    def public_data(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        return self.model_dump(exclude={"provenance", "tab"})
