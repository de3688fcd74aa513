"""The studio in a real browser: the chain as cards, as words, and with a stranger's plugin."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from safetensors.numpy import save_file
from studio_help import served
from studio_page import another, drag, fill, method, opened, ran, saved, until
from test_door import SEPIA, distribution

from editkit.cli import run
from editkit.errors import ParameterError
from editkit.plugin import registry

pytestmark = pytest.mark.loopback  # a browser


def test_three_cards_give_the_bytes_of_the_command_that_the_page_shows(page, address, folder, monkeypatch):
    opened(page, address, "photo.png")
    drag(page, (30, 30), (60, 40))
    method(page, "inpaint")
    page.click('[data-focus="with-0"]')
    page.click('dialog[open] [data-plugin="guide"]')
    fill(page, "brightness", "0.6")
    page.click('[data-focus="then"]')
    page.click('dialog[open] [data-plugin="sdedit"]')
    fill(page, "strength", "0.2")
    fill(page, "steps", "5", ".options")
    fill(page, "seed", "11", ".options")
    page.click("#tab-words")
    for words in ("--strength=0.2", "--seed=11"):
        until(page, f"document.getElementById('said-command')?.textContent.includes({words!r})")
    command = page.inner_text("#said-command")
    ran(page)
    file = saved(page, folder, "three-cards.png")
    words = shlex.split(command)[1:]
    words[-1] = "--output=by-command.png"
    monkeypatch.chdir(folder)
    assert run([*words, "--quiet"]) == 0
    assert file.read_bytes() == (folder / "by-command.png").read_bytes()


def test_a_command_that_is_pasted_becomes_cards(page, address):
    opened(page, address, "photo.png")
    page.click("#tab-words")
    page.fill(
        "#paste",
        "editkit inpaint x.png --mask box:10,10,40,40 --seed 9 with guide --brightness 0.7 then sdedit --strength 0.3",
    )
    page.click("#paste-go")
    until(page, "studio.chain.cards.map((card) => card.name).join() === 'inpaint,guide,sdedit'")
    assert page.evaluate("studio.chain.stages[0].options") == {"seed": 9}
    page.click("#tab-words")
    until(page, "document.getElementById('said-python')?.textContent.includes('Inpaint(mask=')")


def test_a_strangers_plugin_appears_with_its_form_and_its_own_error(browser, folder, tmp_path, monkeypatch):
    distribution(tmp_path, "my-sepia", SEPIA, "sepia = my_sepia:Sepia")
    monkeypatch.syspath_prepend(str(tmp_path))
    with served(folder) as address, another(browser) as page:
        opened(page, address, "photo.png")
        method(page, "sepia")
        fill(page, "strength_of_tint", "7")
        page.wait_for_selector('.field[data-key="strength_of_tint"].wrong')
        shown = page.inner_text('.field[data-key="strength_of_tint"] .field-error')
        with pytest.raises(ParameterError) as own:
            registry.load("sepia")(strength_of_tint=7)
        assert own.value.reason in shown
        fill(page, "strength_of_tint", "0.5")
        fill(page, "steps", "20", ".options")
        until(page, "document.querySelector('.wrong') === null")
        ran(page)


def test_every_form_sends_what_its_declaration_takes_and_shows_its_error(page, address):
    opened(page, address, "photo.png")
    declared = page.evaluate("[...studio.chain.declared.values()]")
    assert {row["name"] for row in declared if not row.get("broken")} == set(registry.names())
    for row in declared:
        bounded = next(
            (f for f in row["fields"] if f["own"] and f["kind"] in ("int", "float") and f["low"] is not None), None
        )
        name = row["name"]
        page.evaluate("(name) => { studio.chain.stages = []; studio.chain.add(name, null); }", name)
        values = page.evaluate("studio.chain.recipe('box:1,1,9,9').stages[0].plugins[0]")[name]
        required = {f["key"] for f in row["fields"] if f["required"]}
        try:
            registry.load(name)(**values)
        except ParameterError as error:  # it needs more than its defaults: the page says what
            until(page, f"document.getElementById('panel').textContent.includes({error.reason!r})")
            continue
        if bounded is None or required:
            continue
        wrong = bounded["low"] - 1
        page.evaluate("() => document.querySelectorAll('.card-form details').forEach((one) => { one.open = true; })")
        fill(page, bounded["key"], f"{wrong:g}")
        page.wait_for_selector(f'.field[data-key="{bounded["key"]}"].wrong')
        with pytest.raises(ParameterError) as own:
            registry.load(name)(**{bounded["name"]: int(wrong) if bounded["kind"] == "int" else wrong})
        assert own.value.reason.split(", got")[0] in page.inner_text(
            f'.field[data-key="{bounded["key"]}"] .field-error'
        )


def test_a_process_below_has_options_of_its_own(page, address):
    opened(page, address, "photo.png")
    method(page, "sdedit")
    page.click('[data-focus="then"]')
    page.click('dialog[open] [data-plugin="sdedit"]')
    fill(page, "steps", "9", ".options")
    page.click('[data-options="1"] > summary')
    fill(page, "steps", "7", '[data-options="1"]')
    stages = page.evaluate("studio.chain.recipe()").get("stages")
    assert [stage["options"] for stage in stages] == [{"steps": 9}, {"steps": 7}]
    ran(page)
    fill(page, "steps", "0", '[data-options="1"]')
    page.wait_for_selector('[data-options="1"] .field[data-key="steps"].wrong')
    assert page.locator('[data-options="0"] .wrong').count() == 0


def test_loras_that_may_be_named_are_chosen_with_their_weight(browser, folder, tmp_path):
    small = {
        "unet.down.lora_A.weight": np.zeros((1, 2), np.float32),
        "unet.down.lora_B.weight": np.zeros((2, 1), np.float32),
    }
    lora, other = tmp_path / "ink.safetensors", tmp_path / "other.safetensors"
    save_file(small, lora)
    save_file({"weight": np.zeros(2, np.float32)}, other)
    with served(folder, models=(str(lora), str(other))) as address, another(browser) as page:
        opened(page, address, "photo.png")
        method(page, "sdedit")
        page.click(".options .more > summary")
        row = page.locator('.options .field[data-key="lora"]')
        assert row.locator("li").count() == 1
        row.locator("label", has_text="ink.safetensors").click()
        assert page.evaluate("studio.chain.stages[0].options.lora") == [str(lora)]
        row.locator('input[type="number"]').fill("0.6")
        assert page.evaluate("studio.chain.stages[0].options.lora") == [f"{lora}:0.6"]
        assert page.locator('.options .field[data-key="model"] option', has_text="ink").count() == 0
        page.click("#tab-models")
        page.wait_for_selector("text=LoRA, chosen under")
