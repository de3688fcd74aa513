"""Classifier guidance: steer the picture towards a class, by the gradient of a classifier.

Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233. The energy is
-scale log p(y | .). The engine's rule x0' = x0 + (sigma_t^2 / alpha_t) scale grad log p(y | x_t) is their Algorithm 2,
eps' = eps - sigma_t scale grad log p(y | x_t), for every sampler. With ddpm's large variance, Sigma = beta_t, it is
their Algorithm 1, mu' = mu + scale Sigma grad log p(y | mu), to first order in beta_t.

A noise-aware classifier p(y | x_t, t) needs no backward pass through the model. An ordinary classifier sees the
estimate E[x0 | x_t] instead (as in DPS, Chung et al. 2023, arXiv:2209.14687): exactly, through the network, or cheaply,
on x0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from editkit.models.classifiers import is_noisy, load_classifier, resolve_label
from editkit.models.classifiers.kinds import Noisy
from editkit.plugin import Guidance, GuidanceHooks, Hooks, Metavar, Run, Section, Step, Through, UsageError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def _source(value: Any) -> Any:
    if (isinstance(value, str) and value) or callable(value) or hasattr(value, "at"):
        return value
    raise ValueError(f"is {value!r}; a classifier's name or folder, or in Python an object with labels, is needed")


ClassifierSource = Annotated[Any, BeforeValidator(_source), Metavar("CLASSIFIER", path=False)]


class Classifier(Guidance):
    """Steer the picture until a classifier recognises the wanted label in it.

    Without --gradient, a noise-aware classifier is evaluated on x_t, and an ordinary one on the estimated picture, with
    the exact gradient through the network.
    """

    name: ClassVar[str] = "classifier"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "classifier photo.png --label tabby --classifier timm:resnet18",
        "inpaint photo.png --mask mask.png with classifier --label tabby --classifier timm:resnet18 --view region",
        "sdedit photo.png --strength 0.6 with classifier --label tabby --classifier timm:resnet18",
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"scale": 0.0}
    example: ClassVar[Mapping[str, Any]] = {"label": "0", "classifier": "./classifier"}

    label: str = Field(min_length=1, description="The wanted class: its number or its name.")
    classifier: ClassifierSource = Field(
        description="A folder (editkit train classifier, timm's layout), a hub id, torchvision:NAME:FILE, timm:NAME."
    )
    scale: float = Field(1.0, description="Strength; 1 is Bayes' rule, above 1 is stronger, 0 changes nothing.")

    def hooks(self) -> type[Hooks[Classifier]]:
        return _ClassifierHooks

    def through(self) -> Through:
        return self.gradient or ("x_t" if is_noisy(self.classifier) else "network")

    def strength(self) -> float:
        return self.scale


class _ClassifierHooks(GuidanceHooks[Classifier]):
    def __init__(self, plugin: Classifier, run: Run) -> None:
        super().__init__(plugin, run)
        self.network: Any = None
        if plugin.scale == 0.0:
            return
        source = plugin.classifier
        if isinstance(source, str):
            source = run.lease.network(load_classifier, source, run.device, offline=run.options.offline)
        self.network, self.label = source, resolve_label(plugin.label, source.labels)
        noisy, asked = isinstance(source, Noisy), plugin.through()
        if noisy and asked != "x_t":
            raise UsageError(f"classifier: {plugin.classifier} is noise-aware, so it sees x_t; leave --gradient out")
        if not noisy and asked == "x_t":
            raise UsageError(
                f"classifier: {plugin.classifier} was not trained on noisy pictures, so it cannot be evaluated on x_t; "
                f"use --gradient network or x0, or train one with editkit train classifier"
            )
        if noisy:
            moves = run.plan.flow
            acting = [run.levels[move.t] for k, move in enumerate(moves) if plugin.acts(k, len(moves))]
            source.check(run.shape, acting or run.levels)

    def loss(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"]:
        """Return -log p(y | x_t) or -log p(y | x0), (batch,)."""
        if isinstance(self.network, Noisy):
            logits = self.network.at(step.x_t, step.t)
        else:
            logits = self.network(self.pixels(step, x0))
        return -logits.log_softmax(1)[:, self.label]
