"""What a search for an INT8 recipe measures: inputs of layers, and the masks of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from effsam_export.pipeline.component import TraceJob, trace_folder
from effsam_export.pipeline.int8_steps import Measured
from effsam_export.pipeline.int8_trial import trial
from effsam_export.quantize.rules import rules_of
from effsam_export.spec.int8 import Int8Recipe, Quantization
from effsam_export.spec.slots import in_one_slot
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from effsam_export.calibration.samples import Calibration
    from effsam_export.config.int8_recipe import Int8Plan
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.workspace import Workspace
    from effsam_export.quantize.ladder import Sensitivity
    from effsam_export.quantize.layer_inputs import Statistics
    from effsam_export.spec.int8 import Optimize
    from effsam_export.spec.model import ComponentSpec

SIMULATED = 2
"""Number of calibration samples on which the SQNR of a recipe is predicted."""
MAX_SHARE = 0.4
"""Maximum share of the time of a search in which the gains of layers are measured."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a search tries to reach besides the target's gates.

    Attributes:
        sqnr_db: Predicted SQNR of the outputs from which on a recipe is confirmed, in dB.
        mean_iou: Mean mask IoU with PyTorch, where confident masks decide.
        min_iou: Minimum mask IoU, likewise.
    """

    sqnr_db: float
    mean_iou: float
    min_iou: float


AIMS: Mapping[Optimize, Aim] = {
    "size": Aim(sqnr_db=30.0, mean_iou=0.99, min_iou=0.95),
    "latency": Aim(sqnr_db=26.0, mean_iou=0.985, min_iou=0.93),
    "accuracy": Aim(sqnr_db=0.0, mean_iou=0.99, min_iou=0.95),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is searched.

    Attributes:
        plan: The export, with a stage cache.
        module: The loaded model.
        spec: The component whose recipe is searched.
        calibration: The calibration images.
        space: Where temporary files are written.
    """

    plan: ExportPlan
    module: nn.Module
    spec: ComponentSpec
    calibration: Calibration
    space: Workspace

    @property
    def optimize(self) -> Optimize:
        """What the search prefers."""
        assert self.plan.int8 is not None
        assert self.plan.int8.search is not None
        return self.plan.int8.search.optimize

    @property
    def budget_s(self) -> float:
        """Time of the search, in seconds."""
        assert self.plan.int8 is not None
        assert self.plan.int8.search is not None
        return self.plan.int8.search.budget_s


def measured_inputs(subject: Subject, wrapped: nn.Module) -> Statistics:
    """Run the component over the calibration images, and collect the inputs of its layers.

    Args:
        subject: What is searched.
        wrapped: The export form of its component.
    """
    import torch

    from effsam_export.quantize.layer_inputs import can_simulate, collect

    spec = subject.spec
    paths = graph_layers(subject)
    names = [n for n, layer in wrapped.named_modules() if n in paths and can_simulate(layer)]
    with stage(f"sensitivity {spec.name}", subject.space.on_event) as running:
        folder = subject.calibration.samples(subject.plan.model, spec)
        feeds = Quantization(recipe=Int8Recipe(scheme="weight_only"), samples=folder).feeds()

        def samples() -> Iterator[Sequence[Tensor]]:
            for feed in feeds:
                one = in_one_slot(spec, feed)
                yield tuple(torch.from_numpy(one[s.name]) for s in spec.inputs)

        found = collect(
            wrapped,
            names,
            samples(),
            count=subject.calibration.images.recipe.num_samples,
            simulated=SIMULATED,
            on_progress=running.on_progress,
        )
        running.detail = f"{len(found.layers)} layers"
    return found


def with_gains(
    subject: Subject,
    wrapped: nn.Module,
    statistics: Statistics,
    layers: Sequence[Sensitivity],
    time_left: Callable[[], float],
) -> tuple[Sensitivity, ...]:
    """Return sensitivities with the gain of each layer, by one run of the component for each.

    The layers with the most arithmetic come first. If `MAX_SHARE` of the time is up, the others get
    the median gain.

    Args:
        subject: What is searched.
        wrapped: The export form of its component.
        statistics: What one pass collected.
        layers: Sensitivities without gains.
        time_left: Returns the seconds that are left.
    """
    from effsam_export.quantize.simulate import with_gain

    target = subject.plan.target
    rules = rules_of(target.backend, target.options)
    found: dict[str, Sensitivity] = {}
    with stage(f"gain {subject.spec.name}", subject.space.on_event) as running:
        for layer in sorted(layers, key=lambda x: -x.macs):
            if time_left() < (1 - MAX_SHARE) * subject.budget_s or time_left() <= 0:
                break
            found[layer.path] = with_gain(wrapped, statistics, rules, layer)
            running.on_progress(len(found), len(layers))
        running.detail = f"{len(found)} of {len(layers)} layers"
    middle = median([x.gain for x in found.values()]) if found else 1.0
    return tuple(found.get(x.path, replace(x, gain=middle)) for x in layers)


def graph_layers(subject: Subject) -> frozenset[str]:
    """Trace the component, and return the paths of its modules that have weights in the graph."""
    from effsam_export.graph import passes
    from effsam_export.quantize.treatments import layer_paths
    from effsam_export.spec.stages import Graph

    plan, spec = subject.plan, subject.spec
    scratch = subject.space.scratch
    job = TraceJob(spec=spec, quantization=None, out=scratch, scratch=scratch, changes={})
    with stage(f"trace {spec.name}", subject.space.on_event):
        folder, _ = trace_folder(plan, subject.module, job)
        path = folder / f"{spec.name}.onnx"
        graph = Graph(component=spec, path=path, opset=plan.target.opset)
        return layer_paths(passes.annotate(graph, plan.target).model)


def confirmed(subject: Subject, recipes: Int8Plan) -> Measured:
    """Export by some recipes with the target's own quantizer, and measure the masks."""
    plan = subject.plan
    assert plan.int8 is not None
    report = trial(
        replace(plan, int8=replace(plan.int8, plan=recipes, search=None)),
        subject.module,
        subject.calibration,
        subject.space.scratch,
        subject.space.on_event,
    )
    if report is None:
        return Measured()
    return measured_of(report, subject.spec.name, AIMS[subject.optimize])


def measured_of(report: ParityReport, component: str, aim: Aim) -> Measured:
    """Return what a parity check says of the gates and of the aim of a component's search."""
    sqnr = min(
        (
            tensor.sqnr_db
            for comparison in report.comparisons
            if comparison.point == "artifact" and comparison.component == component
            for tensor in comparison.tensors[:1]
        ),
        default=math.nan,
    )
    changes = sum(d.ranking_counts for d in report.decisions)
    mean, minimum = report.mean_iou, report.min_iou
    meets_aim = report.passed
    if mean is None or minimum is None:
        meets_aim = meets_aim and sqnr >= aim.sqnr_db
    elif not report.all_masks_decide:
        meets_aim = meets_aim and mean >= aim.mean_iou and minimum >= aim.min_iou and not changes
    return Measured(
        mean_iou=finite(mean),
        min_iou=finite(minimum),
        ranking_changes=changes,
        sqnr_db=finite(sqnr),
        meets_gates=report.passed,
        meets_aim=meets_aim,
    )


def finite(value: float | None) -> float | None:
    """Return a number that JSON has; None for NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None
