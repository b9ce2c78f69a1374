"""The recipe that a search writes, and what identifies a search."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effsam_export.bisect.fp16 import Fp16Evaluator
    from effsam_export.bisect.int8 import Int8Evaluator
    from effsam_export.bisect.search import Outcome
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.int8 import Int8Recipe


def question(plan: ExportPlan) -> str:
    """Everything a judgement depends on besides the layers that are kept, as a hash."""
    import hashlib

    from effsam_export._version import __version__
    from effsam_export.config.calibration import hashes
    from effsam_export.matrix import keys
    from effsam_export.util import installed

    backend = plan.target.backend
    parts = [
        __version__,
        # A last digit of another version may decide on a mask.
        keys.code_hash(),
        *(f"{t} {installed.version_of(t)}" for t in keys.tools_of(backend, plan.target.precision)),
        plan.dynamic_model.name,
        backend,
        repr(sorted(plan.dynamic_model.options.items())),
        plan.weights.sha256,
        repr([(p.cases, hashes([p.path])) for p in plan.parity_images]),
    ]
    if plan.int8 is not None:
        parts += [
            repr(sorted(plan.int8.plan.recipes.items())),
            # Not where the photographs lie: their contents follow.
            repr(replace(plan.int8.calibration, images=())),
            repr(sorted(hashes(plan.int8.calibration.images).values())),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def written(plan: ExportPlan, evaluator: Int8Evaluator | Fp16Evaluator, outcome: Outcome) -> str:
    """The answer as a file that an export takes."""
    from effsam_export.config import fp16_recipe, int8_recipe

    if plan.int8 is None:
        from effsam_export.bisect.fp16 import Fp16Evaluator

        assert isinstance(evaluator, Fp16Evaluator)
        entries = [
            replace(evaluator.entry(c.layer), reason=reason(c.sensitivity, "in FP16"))
            for c in outcome.choices
        ]
        return fp16_recipe.to_toml(summary(outcome, half=True), entries)
    recipes = plan.int8.plan
    found: dict[str, Int8Recipe] = {
        c.name: with_choices(recipes.recipe(c.name, plan.target.backend), c.name, outcome)
        for c in plan.dynamic_model.components
    }
    return int8_recipe.to_toml(summary(outcome, half=False), found)


def with_choices(recipe: Int8Recipe, component: str, outcome: Outcome) -> Int8Recipe:
    """A recipe with the choices of a search for its component, each with its reason."""
    from effsam_export.bisect.search import SEPARATOR
    from effsam_export.spec.int8 import LayerOverride

    more = []
    for choice in outcome.choices:
        owner, _, path = choice.layer.partition(SEPARATOR)
        if owner == component:
            more.append(
                LayerOverride(
                    modules=(path,),
                    treatment=choice.kept,
                    reason=reason(choice.sensitivity, "quantized"),
                    source="effsam bisect",
                    recursive=False,
                )
            )
    return replace(recipe, overrides=(*more, *recipe.overrides))


def reason(sensitivity: float, how: str) -> str:
    """Why a layer is kept."""
    return f"{how} alone it costs {sensitivity:.4f} of the mean mask IoU"


def shown(kept: str, *, half: bool) -> str:
    """What a layer is kept as, for a person."""
    return "fp32" if half else kept


def summary(outcome: Outcome, *, half: bool) -> str:
    """The answer in a line."""
    floating = sum(c.kept == "keep_float" for c in outcome.choices)
    weights = len(outcome.choices) - floating
    before, after = outcome.before, outcome.after
    kept = (
        f"{floating} layers in FP32"
        if half
        else (f"{floating} layers floating and {weights} with INT8 weights only")
    )
    own = outcome.deployed
    return (
        f"{kept}, of {outcome.layers}: "
        f"min mask IoU {before.min_iou:.4f} to {after.min_iou:.4f}, "
        f"mean {before.mean_iou:.4f} to {after.mean_iou:.4f} in ONNX Runtime, "
        f"{outcome.evaluations} evaluations"
        + (f"; on the target itself {own.min_iou:.4f} and {own.mean_iou:.4f}" if own else "")
    )
