"""Further weights in a chain, apart from models: LoRAs, and those of plugins (ControlNets, adapters, classifiers)."""

from __future__ import annotations

from collections.abc import Iterator

from editkit.common.places import expand_path
from editkit.editing.settle import for_own_model
from editkit.models.files.fingerprint import of_place
from editkit.models.lora import lora_and_weight
from editkit.models.setup import refiner_and_start
from editkit.plugin.chain import Chain
from editkit.plugin.params import names_weights, params
from editkit.plugin.protocol import plugins_of


def named_weights(chain: Chain) -> tuple[tuple[str, str], ...]:
    """Return (name without folders, hash) of each file or folder of weights, in the order of the chain.

    Refiners and encoders beside an adapter are included. Weights on the hub, and files inside of words
    (`timm:NAME:FILE`), are not.
    """
    found: dict[tuple[str, str], None] = {}
    for word in _weight_names(chain):
        path = expand_path(word)
        try:
            digest = of_place(path)
        except (OSError, ValueError):
            continue
        if digest is not None:
            found[path.name, digest] = None
    return tuple(found)


def _weight_names(chain: Chain) -> Iterator[str]:
    for stage in chain.inherited().stages:
        options = for_own_model(stage).options
        yield from (str(lora_and_weight(word)[0]) for word in options.lora)
        if options.refiner is not None:
            yield refiner_and_start(options.refiner)[0]
        for plugin in plugins_of(stage):
            for param in params(type(plugin)):
                given = param.name in plugin.model_fields_set
                if given and names_weights(param, type(plugin).model_fields[param.name]):
                    value = getattr(plugin, param.name)
                    parts = value if isinstance(value, tuple) else [value]
                    yield from (one for one in parts if isinstance(one, str) and one)
            yield from plugin.found_weights()
