"""Names with parameters, near names, and pydantic's errors in one line."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from editkit.common.spec import did_you_mean, field_and_reason, name_of, nearest, values_of
from editkit.errors import UsageError


def test_a_name_and_its_parameters() -> None:
    assert name_of("ddim") == name_of("ddim:eta=1") == "ddim"
    assert values_of("ddim", "sampler ddim", ["eta"]) == values_of("ddim:", "sampler ddim", ["eta"]) == {}
    assert values_of("canny:low=50,high=a=b", "hint canny", ["low", "high"]) == {"low": "50", "high": "a=b"}
    assert values_of("ddim:eta=1,eta=0", "sampler ddim", ["eta"]) == {"eta": "0"}


@pytest.mark.parametrize("text", ["ddim:etta=1", "ddim:eta", "ddim:=1", "ddim:eta=1,x=2"])
def test_an_unknown_parameter_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(UsageError, match=r"^sampler ddim has no parameter '.+' \(it has: eta=\.\.\.\)$"):
        values_of(text, "sampler ddim", ["eta"])
    with pytest.raises(UsageError, match=r"\(it has: none\)"):
        values_of(text, "sampler ddim", [])


def test_near_names() -> None:
    assert did_you_mean("inpiant", ["upscale", "inpaint"]) == "; did you mean inpaint?"
    assert did_you_mean("xyz", ["upscale", "inpaint"]) == ""
    assert did_you_mean("rat", ["cat", "bat", "dog"], most=2) == "; did you mean cat or bat?"
    assert nearest("rat", ["cat", "bat", "dog"]) == ["cat"]
    assert nearest("in", ["inpaint"]) == []
    assert nearest("in", ["inpaint"], cutoff=0.4) == ["inpaint"]


class _Edges(BaseModel):
    low_value: int = Field(1, ge=0)
    kind: Literal["a", "b"] = "a"
    from_: int = 0

    @model_validator(mode="after")
    def _sane(self) -> _Edges:
        if self.low_value > 9:
            raise ValueError("this is too much")
        return self


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"low_value": -1}, "low_value", "must be greater than or equal to 0, got -1"),
        ({"kind": "c"}, "kind", "must be 'a' or 'b', got 'c'"),
        ({"from_": "x"}, "from_", "must be a valid integer, unable to parse string as an integer, got 'x'"),
        ({"low_value": 10}, "", "this is too much"),
    ],
)
def test_what_pydantic_found_in_one_line(given: dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Edges.model_validate(given)
    assert field_and_reason(caught.value) == (field, reason)


def test_it_imports_neither_torch_nor_pydantic() -> None:
    words = "import sys, editkit.errors; before = set(sys.modules); import editkit.common.spec; "
    words += "assert not {'torch', 'pydantic'} & (set(sys.modules) - before)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
