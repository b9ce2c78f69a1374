"""The official MobileSAM in INT8 against the authors' code, for one target.

Two photographs and nine prompts that we did not choose and that calibrate nothing. Exported as a
user does, with the recipe, samples and gates that ship. Core ML runs in the evaluator, which takes
long for an image, so its export is compared on one image instead of all that ship.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from effsam_export.bundle import read
from effsam_export.config import calibration, int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline import int8_comparison
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.quantize import equalize
from effsam_export.util.files import atomic_file
from tests.models.official import (
    MODEL,
    PROMPTS,
    Case,
    Outcome,
    ask,
    read_case,
    reference,
    through,
)
from tests.paths import REPOSITORY
from tests.stages import export, weights_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from effsam_export.spec.int8 import Equalization
    from effsam_export.spec.stages import Checkpoint

ONE_IMAGE = f"""
[[images]]
file = "{(REPOSITORY / "calibration" / "images" / "astronaut.jpg").as_posix()}"
prompts = [
  {{ name = "patch", points = [[172, 383, 1]] }},
  {{ name = "helmet", box = [278, 340, 512, 512] }},
]
"""
MEAN_IOU = 0.975
LEAST_IOU = 0.92


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One photograph: the authors' masks, our PyTorch model's answers and the artefact's."""

    case: Case
    wanted: Outcome
    found: Outcome


def answers(
    target: str, checkpoint: Checkpoint, shared: Path, output: Path, stage_root: Path
) -> dict[str, Asked]:
    """By photograph, for one target; the bundle goes to `output`."""
    parity = output.with_suffix(".toml")
    parity.write_text(ONE_IMAGE, "utf-8")
    request = ExportRequest(
        model=MODEL,
        target=profiles.load_target(target, "int8"),
        checkpoint=checkpoint,
        output=output,
        parity_file=parity if target == "coreml" else None,
        int8=Int8Request(calibration=calibration.load(), plan=int8_recipe.load(MODEL.name)),
    )
    with pytest.MonkeyPatch.context() as patch:
        # How fast INT8 is, is no subject here.
        patch.setattr(int8_comparison, "measure", partial(int8_comparison.measure, rounds=1))
        patch.setattr(equalize, "apply", partial(equalized_once, equalize.apply, stage_root))
        export(request, stage_root)
    bundle = read.read(output)
    sessions = [read.open_session(bundle, c.name) for c in MODEL.components]
    routes = reference(checkpoint), through(*sessions, model=bundle.model)
    found = {}
    for photo in PROMPTS:
        case = read_case(shared, photo)
        wanted, exported = (ask(case, *route) for route in routes)
        found[photo] = Asked(case=case, wanted=wanted, found=exported)
    return found


def equalized_once(
    apply: Callable[[nn.Module, Iterable[Equalization], Sequence[Sequence[Tensor]]], None],
    root: Path,
    module: nn.Module,
    entries: Iterable[Equalization],
    samples: Sequence[Sequence[Tensor]],
) -> None:
    """Equalize a module with `apply`, or as it did for another runtime in this session."""
    given = hashlib.sha256(f"{weights_hash(module)} {tuple(entries)}".encode())
    for tensor in (t for sample in samples for t in sample):
        given.update(tensor.numpy().tobytes())
    kept = root / f"equalized-{given.hexdigest()}.pt"
    if kept.exists():
        module.load_state_dict(torch.load(kept, weights_only=True))
        return
    apply(module, entries, samples)
    with atomic_file(kept) as partial_file:
        torch.save(module.state_dict(), partial_file)


def assert_best_masks_are_pytorchs(asked: dict[str, Asked]) -> None:
    """The mask of the set that wins is the one that wins in PyTorch."""
    best_masks = {
        f"{photo}/{name}": tuple(o.answers[name, "multi"].indices[0] for o in (a.wanted, a.found))
        for photo, a in asked.items()
        for name in PROMPTS[photo]
    }
    assert len(best_masks) == 9
    assert {n: pair for n, pair in best_masks.items() if pair[0] != pair[1]} == {}


def assert_masks_are_the_authors(asked: dict[str, Asked], modes: tuple[str, ...]) -> None:
    """The masks that win in these modes overlap the authors'."""
    ious = {
        f"{photo}/{name}/{mode}": mask_iou(
            a.found.answers[name, mode].masks[0], a.case.masks(name, mode)[0]
        )
        for photo, a in asked.items()
        for name in PROMPTS[photo]
        for mode in modes
    }
    assert min(ious.values()) >= LEAST_IOU, ious
    assert np.mean(list(ious.values())) >= MEAN_IOU, ious
