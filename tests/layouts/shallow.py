"""SAM's decoder at half its depth, at the 1024 pixels of the apps, with generated weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import SAM_PREPROCESS
from effsam_export.models.sam.sizes import sam_at
from effsam_export.spec.model import ImageSizes
from tests import small
from tests.tiny import TINY_SAM, save_deterministic

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.spec.prompts import Preprocess


def build(preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """The small model at 1024 pixels."""
    return small.build(preprocess)


SHALLOW_SAM = replace(
    TINY_SAM,
    name="shallow-sam",
    title="Shallow SAM for tests of layouts",
    build=build,
    sizes=ImageSizes(multiple=16, at=partial(sam_at, build)),
)


def write_checkpoint(path: Path) -> Path:
    """Save a state dict of the shallow model, the same numbers at every call."""
    return save_deterministic(build(), path)
