"""Runs a chain on a picture, stage after stage, for every edit from Python and from the command line."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from editkit.common.device import pick_device, pick_dtype
from editkit.common.notify import Notify
from editkit.diffusion.model import Model, NoModel
from editkit.editing.settle import StagePlan, plan_stage
from editkit.editing.stages import Left, Tell, Update, make_ready, run_stage
from editkit.models.leasing import Lease, Models
from editkit.models.setup import Setup
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain

if TYPE_CHECKING:
    from editkit.editing.drifting import Drift


def run_chain(
    picture: Picture,
    chain: Chain,
    own: Model | None,
    notify: Notify,
    models: Models | None,
    tell: Tell,
    drift: Drift | None = None,
) -> Generator[Update, None, Picture]:
    """Run `chain` on `picture`: yield every step and return the result.

    Args:
        picture: the input picture.
        chain: the edit, with inherited options.
        own: a model object for all stages; None: the models named by options.
        notify: called with messages for the user.
        models: cache of loaded models.
        tell: called with the figures that plugins measure on the result.
        drift: motion of the noise, for a frame of a video.
    """
    models = models or Models(most=1)
    left: Left = {}
    for number, stage in enumerate(chain.stages):
        settled = plan_stage(stage, picture, notify, None if own is None else own.info)
        with lease_model(models, settled, own) as lease:
            if settled.diffuses:
                make_ready(lease.model, settled, notify)
            picture, left = yield from run_stage(settled, lease, number, len(chain.stages), notify, tell, left, drift)
    if left:
        notify("the last stage ends at noise, which is not a picture; add `then` and an edit that continues from it")
    return picture


def lease_model(models: Models, settled: StagePlan, own: Model | None) -> AbstractContextManager[Lease]:
    """Lease the model of a stage: the caller's `own`, or a loaded one; a placeholder if nothing is denoised."""
    if not settled.diffuses:
        return models.borrow(NoModel(settled.info))
    if own is not None:
        return models.borrow(own)
    options = settled.options
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    return models.lease(settled.info, device, dtype, Setup.of(options), offline=options.offline)
