"""Forms are made from declarations: what a form can send is taken, or refused in the declaration's own words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studio_help import client_of, config, opened, pixels, png, recipe

from editkit.cli.studio import forms
from editkit.errors import ParameterError
from editkit.plugin import registry
from editkit.plugin.params import cli_name

DECLARED = {row["name"]: row for row in forms.plugins()}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "photo.png").write_bytes(png(pixels()))
    with client_of(config(folder)) as made:
        made.picture = opened(made, "photo.png")
        yield made


def value_of(field: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a field's form may send, within its bounds and somewhat beyond."""
    low, high = field["low"], field["high"]
    least = -1e3 if low is None else low - 1
    most = 1e3 if high is None else high + 1
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "flag": st.booleans(),
        "int": st.integers(int(least), int(most)),
        "float": st.floats(least, most, allow_nan=False),
        "choice": st.sampled_from(field["choices"] or ["x"]),
        "color": st.sampled_from(["#102030", "#abcdef", "no colour"]),
        "mask": st.sampled_from(["box:1,1,9,9", "ellipse:2,2,20,20"]),
        "picture": st.just("photo.png"),
        "weights": st.just(field["default"] or "x"),
    }
    one = kinds.get(field["kind"], st.sampled_from(["1", "10%", "a b", ""]))
    return st.lists(one, min_size=1, max_size=2) if field["repeated"] and field["kind"] != "mask" else one


@st.composite
def filled(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A plugin, and what its form may hold."""
    row = DECLARED[draw(st.sampled_from(sorted(DECLARED)))]
    fields = [f for f in row["fields"] if f["required"]]
    more = st.lists(st.sampled_from(row["fields"]), max_size=4, unique_by=lambda f: f["key"])
    return row["name"], {f["key"]: draw(value_of(f)) for f in [*fields, *draw(more)]}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(filled())
def test_what_a_form_sends_is_taken_or_refused_in_the_declarations_words(client, form):
    name, values = form
    answer = client.post("/said", json={"picture": client.picture, "recipe": recipe({name: values})})
    declaration = registry.load(name)
    keys = {cli_name(field): field for field in declaration.model_fields}
    try:
        declaration(**{keys[key]: value for key, value in values.items()})
    except ParameterError as error:
        assert answer.status_code == 422
        assert " ".join(error.reason.split()) in answer.json()["error"]
        if error.field:
            assert answer.json()["place"][:5] == ["stages", 0, "plugins", 0, name]
            assert answer.json()["place"][-1] == cli_name(error.field)
        return
    if answer.status_code == 200:
        assert answer.json()["recipe"]["stages"][0]["plugins"][0].keys() == {name}
    else:  # the declaration takes it, and a page may not name it
        assert "start the studio with --allow-model" in answer.json()["error"]


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_every_field_says_what_it_is_entered_by(name):
    row = DECLARED[name]
    assert row["help"]
    for field in row["fields"]:
        assert field["kind"] in {"flag", "int", "float", "choice", "text", "mask", "picture", "weights", "color"}
        assert field["help"], field["key"]
        assert field["kind"] != "choice" or field["choices"]
    keys = [field["key"] for field in row["fields"]]
    assert len(keys) == len(set(keys))
    written = {"save_noise", "save_mask", "from_noise"}
    assert not written & set(keys)


def test_a_mask_is_painted_where_a_plugin_sets_it():
    assert DECLARED["inpaint"]["masks"]
    assert not DECLARED["sdedit"]["masks"]
    kinds = {field["key"]: field["kind"] for field in DECLARED["inpaint"]["fields"]}
    assert (kinds["mask"], kinds["from"], kinds["feather"]) == ("mask", "picture", "int")
