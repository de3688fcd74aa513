"""Editing by instruction: the model sees the picture and regenerates it as the prompt says.

The picture and further reference pictures are part of the conditioning (`Conditioning.references`); the process starts
from pure noise. The result has the picture's own size: sides that the model cannot take are padded on the right and
below, and the padding is cropped from the result. Nothing is shifted or rescaled, and the reference has the size of the
result. With a mask (`inpaint ... with edit`) only the inside of the mask is regenerated.

`--only-changes` copies into the picture only what the edit changed (see `only_changes.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from editkit.plugin import (
    ChainError,
    EditkitError,
    Figures,
    Hooks,
    ModelError,
    ModelInfo,
    Options,
    Picture,
    PictureSource,
    Plugin,
    Reference,
    Run,
    Section,
    Step,
    TakesReferences,
    UsageError,
    capability,
    to_unit,
)
from editkit_plugins.only_changes import figures, only_changes

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.pictures.changes import Changes
    from editkit.plugin import Conditioning, Notify


class Edit(Plugin):
    """Change a picture as --prompt says (`make it winter`), with a model that takes reference pictures.

    To change only the inside of a mask: `inpaint photo.png --mask mask.png --model DIR --prompt "a red door" with
    edit`.
    """

    name: ClassVar[str] = "edit"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        'edit photo.png --model DIR --prompt "make it winter" --only-changes',
        'edit photo.png --model DIR --prompt "the man wears this hat" --reference hat.png',
        'inpaint photo.png --mask mask.png --model DIR --prompt "a red door" with edit',
    )
    order: ClassVar[int] = -60
    offers: ClassVar[frozenset[str]] = frozenset({"references"})
    needs: ClassVar[frozenset[str]] = frozenset({"references"})
    able: ClassVar[str] = "FLUX.2, FLUX.1 Kontext, Qwen-Image-Edit, -Edit-Plus and LongCat-Image-Edit do"
    fresh: ClassVar[bool] = True

    reference: tuple[PictureSource, ...] = Field(
        (), description="Another picture that the instruction refers to; repeatable."
    )
    only_changes: bool = Field(
        False, description="Keep every pixel that the edit did not change, bit for bit; report shifts."
    )

    def hooks(self) -> type[Hooks[Any]]:
        return _OnlyChanges if self.only_changes else _EditHooks

    def open(self, picture: Picture, notify: Notify) -> Picture:
        """Check that the other pictures can be read, before weights load."""
        for source in self.reference:
            try:
                Picture.read(source)
            except EditkitError as error:
                raise UsageError(f"edit: --reference: {error}") from error
        return picture

    def default_options(self, info: ModelInfo) -> Options:
        """Check the number of references, at the point where the model is known and no weights are loaded yet.

        Raises:
            UsageError: the model takes fewer pictures than were given.
        """
        looked = 1 + len(self.reference)
        if info.references and looked > info.references:
            raise UsageError(
                f"edit has the picture and {len(self.reference)} --reference, but {info.name} takes at most "
                f"{info.references} pictures in all; give fewer"
            )
        return Options()


class _EditHooks(Hooks[Edit]):
    def __init__(self, plugin: Edit, run: Run) -> None:
        super().__init__(plugin, run)
        model, picture = capability(run.model, TakesReferences), run.inputs.picture
        if model is None:
            raise ModelError(f"model {run.model.info.name} says that it takes reference pictures, but has no `refer`")
        if picture is None:
            raise ChainError("edit works on a picture, and there is none; with sample(), give known=")
        if run.options.prompt is None:
            run.notify("edit has no --prompt, so the model has no instruction; say what to change with --prompt")
        self._report_size(picture)
        own = model.refer(picture)
        if own.picture.shape != picture.shape:  # scaled down: reference and result would differ in scale
            own = replace(own, latent=run.model.encode(picture), picture=picture)
        self.references: list[Reference] = [own, *(model.refer(self._second_picture(one)) for one in plugin.reference)]

    def _second_picture(self, source: PictureSource) -> Tensor:
        """(1, 3, h, w) in [-1, 1], in the colours of the edited picture."""
        other = Picture.read(source).coloured_as(self.run.inputs.file)
        return to_unit(other.visible).to(self.run.device)

    def _report_size(self, picture: Tensor) -> None:
        original = self.run.inputs.original
        if original is None or original.shape[-2:] == picture.shape[-2:]:
            return
        (height, width), (h, w) = picture.shape[-2:], original.shape[-2:]
        multiple = self.run.model.info.multiple
        if (height, width) == (h + -h % multiple, w + -w % multiple):
            self.run.notify(
                f"edit: {w}x{h} is padded to {width}x{height}, multiples of {multiple}, and cropped back at the end"
            )

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        for reference in self.references:
            cond = cond.plus_reference(reference)
        return cond


class _OnlyChanges(_EditHooks):
    found: Changes | None = None

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        original = self.run.inputs.original
        if original is None:
            return image
        result, self.found = only_changes(original, image, original, self.run.notify)
        return result

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        return {} if self.found is None else figures(self.found)
