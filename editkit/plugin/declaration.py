"""What everything that comes in through an entry point is: a name with parameters."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Declaration(BaseModel):
    """What is wanted, with which parameters. Frozen; holds no tensors and no networks.

    Class attributes:
        api: the version of the protocol it was written for.
        name: the name of its entry point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    api: ClassVar[int]
    name: ClassVar[str]
