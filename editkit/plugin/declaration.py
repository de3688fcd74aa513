"""Base class of everything that is registered through an entry point: a name and parameters."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from editkit.common.spec import did_you_mean, field_and_reason
from editkit.errors import ParameterError


class ValidatedModel(BaseModel):
    """Parameters that are validated on construction; an invalid one raises `ParameterError`."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _to_parameter_error(type(self), error) from None


def _to_parameter_error(kind: type[BaseModel], error: ValidationError) -> ParameterError:
    """Convert pydantic's first error."""
    first = error.errors(include_url=False)[0]
    known = kind.model_fields
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][0])
        hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
        return ParameterError(kind.__name__, name, f"there is no such parameter{hint}")
    if first["type"] == "missing":
        name = str(first["loc"][0])
        about = known[name].description if name in known else None
        return ParameterError(kind.__name__, name, f"is needed: {about}" if about else "is needed")
    return ParameterError(kind.__name__, *field_and_reason(error))


class Declaration(ValidatedModel):
    """A name with parameters. Frozen; holds no tensors and no networks.

    Class attributes:
        api: version of the protocol that it was written for.
        name: name of its entry point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    api: ClassVar[int]
    name: ClassVar[str]
