"""Python, YAML and command line convert into each other without loss; a mistake in a recipe is said with its line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editkit.cli.words import parse
from editkit.editing import recipe
from editkit.errors import RecipeError
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.options import Options
from editkit.plugins import Guide, Inpaint, SDEdit

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)
fractions = st.floats(0, 1, allow_nan=False)


def some(**values):
    """A mapping with any of `values` left out."""
    return st.fixed_dictionaries({}, optional=values)


plugins = st.one_of(
    some(strength=fractions).map(lambda v: SDEdit(**v)),
    some(
        mask=texts.filter(lambda t: t != "-"), invert_mask=st.booleans(), grow=st.integers(0, 50),
        repeats=st.integers(1, 9),
        method=st.sampled_from(["replace", "repaint"]), start=st.just(0.25),
    ).map(lambda v: Inpaint(**v)),
    some(
        loss=st.sampled_from(["brightness", "color", "my_module:loss"]), weight=st.floats(-1e6, 1e6),
        color=st.just("#a0b1c2"),
    ).map(lambda v: Guide(**v)),
)  # fmt: skip
options = some(
    model=texts, prompt=texts, steps=st.integers(1, 100), seed=st.integers(0, 2**63 - 1), canvas=st.just("full"),
    guidance_scale=st.floats(0, 30), sampler=st.just("ddim:eta=1"), offline=st.just(True),
).map(lambda v: Options(**v))  # fmt: skip
chains = st.lists(
    st.tuples(st.lists(plugins, min_size=1, max_size=3), options), min_size=1, max_size=3
).map(lambda stages: Chain(tuple(Stage(tuple(p), o) for p, o in stages)))  # fmt: skip


def values(chain: Chain):
    """What a chain says, whatever was left at its default."""
    return [([(p.name, p.model_dump()) for p in s.plugins], s.options.model_dump()) for s in chain.stages]


@given(chains)
def test_python_to_yaml_and_back(chain):
    back = recipe.from_yaml(recipe.to_yaml(chain), allow_code=True)
    for stage in chain.stages:  # what only the person at the machine may say is not in a recipe
        object.__setattr__(stage, "options", stage.options.model_copy(update={"offline": False}))
    assert values(back) == values(chain)
    assert recipe.to_yaml(back) == recipe.to_yaml(chain)


@given(chains)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_python_to_words_and_back(chain):
    chain = chain.inherited()
    line = parse(recipe.to_words(chain, "photo.png"))
    assert line.picture == "photo.png"
    assert values(line.chain) == values(chain)


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    chain = Chain.of(Inpaint(mask="masks/m.png") & Guide(loss="reference", reference="r.png"))
    text = recipe.to_yaml(chain, Path("recipes"))
    assert "../masks/m.png" in text
    path = tmp_path / "recipes" / "r.yaml"
    path.write_text(text)
    (inpaint, guide) = recipe.read(path, anywhere=True).stages[0].plugins
    assert Path(inpaint.mask).resolve() == tmp_path / "masks" / "m.png"
    assert Path(guide.reference).resolve() == tmp_path / "r.png"
    words = recipe.to_yaml(Chain.of(Inpaint(mask="box:1,2,3,4")), Path("recipes"))
    assert "box:1,2,3,4" in words


HEAD = "editkit: 2\nstages:\n  - plugins:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "a recipe is a mapping"),
        ("a: [", "line 1: is not YAML"),
        ("stages: []", "a recipe says `editkit: 2`, got None"),
        ("editkit: 2\nstages: []", "line 2: stages must be a list"),
        ("editkit: 2\nstagse: []", "line 2: unknown key 'stagse'; did you mean stages?"),
        (HEAD + "      - inpaint: {maks: m.png}", "line 4: unknown key 'maks'; did you mean mask?"),
        (HEAD + "      - sdedit:\n          strength: 3", "line 5: sdedit: strength: must be less than or equal to 1"),
        (HEAD + "      - nothere: {}", "line 4: no plugin is called 'nothere'"),
        (HEAD + "      - guide: {loss: 'os:getcwd'}", "line 4: guide.loss names code .* --allow-code"),
        (HEAD + "      - sdedit: {}\n    options: {allow_code: true}", "line 5: unknown key 'allow_code'"),
        (HEAD + "      - sdedit: {}\n    options: {stpes: 3}", "line 5: unknown key 'stpes'; did you mean steps?"),
        (HEAD + "      - sdedit: {}\n        inpaint: {}", "line 4: a plugin is written as"),
        (
            HEAD + "      - sdedit: {strength: 0.3,\n          strength: 0.9}",
            "line 5: is not YAML: has 'strength' twice",
        ),
    ],
)
def test_a_mistake_is_said_with_its_line(text, message):
    with pytest.raises(RecipeError, match=message):
        recipe.from_yaml(text)


@given(st.text(max_size=200))
def test_any_text_is_a_recipe_or_a_clean_error(text):
    with pytest.raises(RecipeError):
        recipe.from_yaml(text)


def test_what_cannot_be_written_says_so():
    with pytest.raises(RecipeError, match="inpaint.mask is ndarray"):
        recipe.to_yaml(Chain.of(Inpaint(mask=np.zeros((3, 3)))))
    with pytest.raises(RecipeError, match="guide.loss is function"):
        recipe.to_yaml(Chain.of(Guide(loss=lambda image: image.sum(1))))
