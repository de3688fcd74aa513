"""`with cache`: calls that are saved, and that nothing else is changed, on tiny networks with random weights."""

from __future__ import annotations

import gc
import weakref
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_parity_flux
import test_parity_qwen
import tiny_flow as tiny
import torch
from diffusers import FirstBlockCacheConfig, Flux2KleinPipeline
from test_parity_flux2 import parts

from editkit import edit
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import CachesSteps
from editkit.errors import ChainError
from editkit.models import describe, load
from editkit.models.latent.caching import twin
from editkit.models.latent.tokens import packed
from editkit.models.leasing import Models
from editkit.plugins import Cache, SDEdit

CPU = torch.device("cpu")
ALWAYS = 50.0
"""A threshold that is always met."""
NAMES = ["flux", "fill", "kontext", "control", "qwen", "qwen-plus"]
"""Kontext and Fill's own pipelines give diffusers' caches no context, and fail."""


def pipe(name: str) -> Any:
    if name.startswith("qwen"):
        return test_parity_qwen.pipe("text" if name == "qwen" else "plus", whole=False)
    return test_parity_flux.pipe("dev" if name == "flux" else name)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {}
    for name in NAMES:
        path = tmp_path_factory.mktemp("models") / name
        pipe(name).save_pretrained(path)
        made[name] = load(describe(str(path)), CPU, torch.float32)
    return made


def equal(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_it_leaves_out_and_what_it_never_does(models: dict[str, Any], name: str) -> None:
    """At 0 no bit is another one. Where everything counts as little changed, the rest is that of the first step."""
    plain = tiny.walked(models[name])
    assert equal(tiny.walked(models[name], [Cache(threshold=0.0)]), plain)
    saving = tiny.walked(models[name], [Cache(threshold=ALWAYS)])
    assert torch.equal(saving[0], plain[0]), "nothing is remembered at the first step"
    assert not torch.equal(saving[-1], plain[-1])
    assert equal(tiny.walked(models[name]), plain), "nothing is left of it"


def test_a_threshold_that_is_never_met_changes_no_bit(models: dict[str, Any]) -> None:
    plain = tiny.walked(models["qwen"], guidance_scale=4.0)
    assert equal(tiny.walked(models["qwen"], [Cache(threshold=1e-9)], guidance_scale=4.0), plain)


def test_it_is_the_pipelines_cache(tmp_path: Path) -> None:
    """FLUX.1, whose text pipeline gives its calls a context."""
    theirs = test_parity_flux.pipe("dev")
    theirs.transformer = deepcopy(theirs.transformer)
    theirs.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.3))
    given = {"prompt": tiny.PROMPT, "height": 64, "width": 64, "num_inference_steps": 8, "guidance_scale": 3.5}
    expected = tiny.states(theirs, **given)
    plain = tiny.states(test_parity_flux.pipe("dev"), **given)
    assert tiny.distance(plain, expected) > 1e-3, "it saves something"
    test_parity_flux.pipe("dev").save_pretrained(tmp_path)
    model = tiny.plain(load(describe(str(tmp_path)), CPU, torch.float32))
    found = [packed(x) for x in tiny.walked(model, [Cache(threshold=0.3)], steps=8)]
    assert tiny.distance(found, expected) <= 1e-5


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_what_was_saved_is_counted(models: dict[str, Any], name: str) -> None:
    """By hand: what the blocks behind the first were asked."""
    said: list[str] = []
    asked = []
    network = models[name].transformer
    last = [block for part in network.children() if isinstance(part, torch.nn.ModuleList) for block in part][-1]
    seen = next(last.children()).register_forward_pre_hook(lambda *a: asked.append(1))  # the twin has it too
    try:
        edit(
            np.asarray(tiny.picture(64, 64)), SDEdit(strength=1.0) & Cache(threshold=ALWAYS), model=models[name],
            prompt="a red door", steps=4, device="cpu", notify=said.append, canvas="full",
        )  # fmt: skip
    finally:
        seen.remove()
    (line,) = [line for line in said if line.startswith("cache: ")]
    words = line.removeprefix("cache: ").replace(",", "").split()
    calls, saved = int(words[1]), int(words[3])
    assert words[::2] == ["calls", "saved"]
    assert calls == 4 * (1 if name == "flux" else 2)
    assert saved == calls - calls // 4, "all but those of the first step"
    assert len(asked) == calls - saved


def test_it_keeps_to_its_window(models: dict[str, Any]) -> None:
    plain, whole = tiny.walked(models["flux"], steps=6), tiny.walked(models["flux"], [Cache(threshold=ALWAYS)], steps=6)
    late = tiny.walked(models["flux"], [Cache(threshold=ALWAYS, start=0.5)], steps=6)
    assert equal(late[:4], plain[:4]), "the first of its window is computed"
    assert not torch.equal(late[-1], plain[-1])
    assert not torch.equal(late[-1], whole[-1])
    assert equal(tiny.walked(models["flux"], [Cache(threshold=ALWAYS, start=1.0)], steps=6), plain)


def test_halves_of_guidance_have_a_memory_each(models: dict[str, Any]) -> None:
    """Of two texts of other lengths, which are two calls, each adds what it added itself: by a threshold that is always
    met, the answer to each is what it would be alone."""
    cache = models["qwen"].leased()
    keeps = cache.cache_steps(ALWAYS)
    keeps.active = True
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    level = cache.schedule.levels(4, "trailing")[-1]
    conds = [Conditioning(prompt=cache.encode_text(text)[0]) for text in ("a", "a much longer text than that")]
    first = [p.x0 for p in cache(x, level, conds)]
    again = [p.x0 for p in cache(x, level, conds)]
    assert keeps.calls == 4
    alone = models["qwen"].leased()
    alone.cache_steps(ALWAYS).active = True
    expected = [alone(x, level, [cond])[0].x0 for cond in conds]
    for one, two, three in zip(first, again, expected, strict=True):
        assert torch.allclose(one, two, atol=1e-4)
        assert torch.allclose(one, three, atol=1e-4)


def test_gradients_are_the_networks_own(models: dict[str, Any]) -> None:
    plain, cached = models["flux"].leased(), models["flux"].leased()
    keeps = cached.cache_steps(ALWAYS)
    keeps.active = True
    level = plain.schedule.levels(4, "trailing")[-1]
    grads = []
    for model in (plain, cached, cached):
        x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model(x, level, [Conditioning()])[0].x0.square().sum().backward()
        assert x.grad is not None
        grads.append(x.grad)
    assert all(torch.equal(grad, grads[0]) for grad in grads)
    assert keeps.saved == 0


def test_gradients_of_a_text_are_the_networks_own_too(models: dict[str, Any]) -> None:
    """What `invert --null-text` asks: x_t is given, and the text is learnt."""
    plain, cached = models["qwen"].leased(), models["qwen"].leased()
    keeps = cached.cache_steps(ALWAYS)
    keeps.active = True
    level = plain.schedule.levels(4, "trailing")[-1]
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    words, grads = plain.encode_text("a")[0], []
    for model in (plain, cached, cached):
        e = words.embeds.detach().clone().requires_grad_()
        model(x, level, [Conditioning(prompt=replace(words, embeds=e))])[0].x0.square().sum().backward()
        assert e.grad is not None
        assert bool(e.grad.any())
        grads.append(e.grad)
    assert all(torch.equal(grad, grads[0]) for grad in grads)
    assert keeps.saved == 0


def test_checkpointing_reaches_the_network_that_learns(models: dict[str, Any]) -> None:
    with Models().borrow(models["flux"]) as lease:
        model: Any = lease.model
        model.cache_steps(ALWAYS)
        assert lease.checkpoint()
        assert models["flux"].transformer.gradient_checkpointing
    assert not models["flux"].transformer.gradient_checkpointing


def test_what_a_controlnet_adds_is_not_added_twice(models: dict[str, Any]) -> None:
    """Behind blocks that are left out it would be added to what they added with it."""
    model, given = models["flux"].leased(), dict[str, Any]()
    keeps = model.cache_steps(ALWAYS)
    keeps.active = True
    model.transformer.register_forward_pre_hook(lambda module, args, named: given.update(named), with_kwargs=True)
    level = model.schedule.levels(4, "trailing")[-1]
    model(torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)), level, [Conditioning()])
    steered = {**given, "controlnet_block_samples": [torch.ones(1, 16, 32)]}
    with torch.no_grad():
        one, two = (model.transformer(**steered)[0] for _ in range(2))
        expected = models["flux"].transformer(**steered)[0]
    assert torch.equal(one, two)
    assert torch.equal(one, expected)
    assert (keeps.calls, keeps.saved) == (3, 0)


def test_nothing_of_it_outlives_the_edit(models: dict[str, Any]) -> None:
    network = models["flux"].transformer
    before = {name: type(module) for name, module in network.named_modules()}
    seen: list[Any] = []
    with Models().borrow(models["flux"]) as lease:
        model: Any = lease.model
        assert isinstance(model, CachesSteps)
        model.cache_steps(0.5)
        seen.append(weakref.ref(model.transformer))
        assert model.transformer is not network
        assert models["flux"].transformer is network
        theirs = dict(model.transformer.named_parameters())
        assert all(theirs[name] is value for name, value in network.named_parameters()), "the tensors are shared"
    del model, lease, theirs
    gc.collect()
    assert seen[0]() is None
    assert {name: type(module) for name, module in network.named_modules()} == before
    assert not any("_diffusers_hook" in vars(module) or "forward" in vars(module) for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_two_edits_at_once_do_not_meet(models: dict[str, Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with_cache, without = tiny.walked(models["flux"], [Cache(threshold=ALWAYS)]), tiny.walked(models["flux"])
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(tiny.walked, models["flux"], [Cache(threshold=ALWAYS)])
        two = pool.submit(tiny.walked, models["flux"])
    assert equal(one.result(), with_cache)
    assert equal(two.result(), without)


def test_a_twin_of_packed_weights_has_the_same_ones(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    import tiny_files

    pipe("qwen").save_pretrained(tmp_path / "qwen")
    file = tiny_files.gguf(pipe("qwen").transformer.state_dict(), tmp_path / "x.gguf")
    model: Any = load(describe(str(tmp_path / "qwen"), transformer=str(file)), CPU, torch.float32)
    made = dict(twin(model.transformer).named_parameters())
    assert all(made[name] is value for name, value in model.transformer.named_parameters())
    plain = tiny.walked(model)
    assert not torch.equal(tiny.walked(model, [Cache(threshold=ALWAYS)])[-1], plain[-1])
    assert equal(tiny.walked(model), plain)


def test_models_that_cannot_are_refused_before_weights_load(tmp_path: Path) -> None:
    Flux2KleinPipeline(**parts(), is_distilled=True).save_pretrained(tmp_path / "klein")
    for file in (tmp_path / "klein").rglob("*.safetensors"):
        file.unlink()
    photo = np.asarray(tiny.picture(64, 64))
    with pytest.raises(ChainError, match="cache needs a model that takes step cache; .*: FLUX.1 and Qwen-Image do"):
        edit(photo, SDEdit() & Cache(), model=str(tmp_path / "klein"), prompt="x")
    with pytest.raises(ChainError, match="cache needs a model that takes step cache"):
        edit(photo, SDEdit() & Cache())


def test_it_does_not_go_with_what_changes_the_layers(models: dict[str, Any]) -> None:
    with pytest.raises(ChainError, match="compile=True replaces; leave out one of the two"):
        edit(np.asarray(tiny.picture(64, 64)), SDEdit() & Cache(), model=models["flux"], prompt="x", compile=True)
