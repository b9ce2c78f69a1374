"""The recipe file that a search writes, and the key of its saved evaluations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effsam_export.bisect.fp16 import Fp16Evaluator
    from effsam_export.bisect.int8 import Int8Evaluator
    from effsam_export.bisect.search import Outcome
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.int8 import Int8Recipe


def search_key(plan: ExportPlan) -> str:
    """Return the hash of everything that an evaluation depends on besides the overrides."""
    import hashlib

    from effsam_export._version import __version__
    from effsam_export.config.calibration import hashes
    from effsam_export.matrix import keys
    from effsam_export.pipeline import stage_keys
    from effsam_export.util import installed

    backend = plan.target.backend
    parts = [
        __version__,
        # Another version may round differently and so change a mask.
        stage_keys.code_hash(),
        *(f"{t} {installed.version_of(t)}" for t in keys.tools_of(backend, plan.target.precision)),
        plan.dynamic_model.name,
        backend,
        repr(sorted(plan.dynamic_model.options.items())),
        repr(plan.dynamic_model.preprocess),
        plan.weights.sha256,
        repr([(p.cases, p.value_range, hashes([p.path])) for p in plan.parity_images]),
    ]
    if plan.int8 is not None:
        parts += [
            repr(sorted(plan.int8.plan.recipes.items())),
            # The paths of the images do not matter, only their contents.
            repr(replace(plan.int8.calibration, images=())),
            repr(sorted(hashes(plan.int8.calibration.images).values())),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def to_toml(plan: ExportPlan, evaluator: Int8Evaluator | Fp16Evaluator, outcome: Outcome) -> str:
    """Return the result of a search as a recipe file for an export."""
    from effsam_export.config import fp16_recipe, int8_recipe
    from effsam_export.spec.sizes import text_of

    if plan.int8 is None:
        from effsam_export.bisect.fp16 import Fp16Evaluator

        assert isinstance(evaluator, Fp16Evaluator)
        entries = [
            replace(evaluator.entry(c.layer), reason=reason(c.sensitivity, "in FP16"))
            for c in outcome.choices
        ]
        return fp16_recipe.to_toml(summary(outcome, half=True), entries)
    recipes = plan.int8.plan
    searched: dict[str, Int8Recipe] = {
        c.name: with_choices(recipes.recipe(c.name, plan.target.backend), c.name, outcome)
        for c in plan.dynamic_model.components
    }
    return int8_recipe.to_toml(
        summary(outcome, half=False),
        searched,
        checkpoint=plan.weights.sha256,
        image_size=text_of(plan.dynamic_model.preprocess.image_size),
    )


def with_choices(recipe: Int8Recipe, component: str, outcome: Outcome) -> Int8Recipe:
    """Return a recipe with the choices of a search for its component, each with its reason."""
    from effsam_export.bisect.search import SEPARATOR
    from effsam_export.spec.int8 import LayerOverride

    more = []
    for choice in outcome.choices:
        owner, _, path = choice.layer.partition(SEPARATOR)
        if owner == component:
            more.append(
                LayerOverride(
                    modules=(path,),
                    treatment=choice.treatment,
                    reason=reason(choice.sensitivity, "quantized"),
                    source="effsam bisect",
                    recursive=False,
                )
            )
    return replace(recipe, overrides=(*more, *recipe.overrides))


def reason(sensitivity: float, how: str) -> str:
    """Return the reason that a recipe gives for keeping a layer."""
    return f"the mean mask IoU falls by {sensitivity:.4f} if only this layer is {how}"


def describe(treatment: str, *, half: bool) -> str:
    """Return the treatment of a layer, for a table."""
    return "fp32" if half else treatment


def summary(outcome: Outcome, *, half: bool) -> str:
    """Return the result of a search in one line."""
    in_float = sum(c.treatment == "keep_float" for c in outcome.choices)
    weights = len(outcome.choices) - in_float
    before, after = outcome.before, outcome.after
    kept = (
        f"{in_float} layers in FP32"
        if half
        else f"{in_float} layers in floating point and {weights} weight-only INT8"
    )
    own = outcome.deployed
    return (
        f"{kept}, of {outcome.layers}: "
        f"min mask IoU {before.min_iou:.4f} to {after.min_iou:.4f}, "
        f"mean {before.mean_iou:.4f} to {after.mean_iou:.4f} in ONNX Runtime, "
        f"{outcome.evaluations} evaluations"
        + (f"; on the target itself {own.min_iou:.4f} and {own.mean_iou:.4f}" if own else "")
    )
