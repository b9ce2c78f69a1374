"""Compare exported graphs with PyTorch on evaluation images, and check the gates.

Each component is compared at two points: the authors' PyTorch code with the traced ONNX graph, and
that graph with the artefact. End to end, the masks at original size of PyTorch and of the artefacts
are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from effsam_export.imaging.decode import read_image
from effsam_export.imaging.images import check_prompt
from effsam_export.parity import slots
from effsam_export.parity.cached import cached_reference
from effsam_export.parity.comparison import ExpectedImage
from effsam_export.parity.gates import check_gates
from effsam_export.parity.instances import InstancesImage
from effsam_export.parity.prompted import PromptedImage
from effsam_export.parity.results import ParityReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from effsam_export.imaging.pixels import Decoded
    from effsam_export.parity.cases import CaseResult
    from effsam_export.parity.comparison import ImageMeasurement, PromptMeasurement, Sides
    from effsam_export.parity.evaluation_set import EvaluationSet
    from effsam_export.parity.results import ComparisonResult, Picture
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import Gates, Precision
    from effsam_export.util.progress import OnProgress

    OpenImage = Callable[[ModelSpec, Sides, str, tuple[slots.Call, ...]], ImageMeasurement]


@dataclass(frozen=True, kw_only=True)
class ParityResult:
    """The outcome of a parity check.

    Attributes:
        report: The measurements and the failures.
        pictures: Masks for the HTML report.
        expected: PyTorch's outputs, for the golden vectors of a bundle.
    """

    report: ParityReport
    pictures: tuple[Picture, ...]
    expected: tuple[ExpectedImage, ...]


def check(
    model: ModelSpec,
    sides: Sides,
    evaluation: EvaluationSet,
    *,
    target: str,
    precision: Precision,
    gates: Gates,
    on_progress: OnProgress | None = None,
) -> ParityResult:
    """Compare the outputs for every image and prompt, and check the gates.

    Args:
        model: Specification of the model.
        sides: The PyTorch model and the opened graphs.
        evaluation: Images and prompts.
        target: Name of the target, for the report.
        precision: Precision of the export, for the report.
        gates: Limits that the confident masks have to meet, or all if there are too few.
        on_progress: Called with (prompts done, prompts in all).

    Raises:
        ImageError: An image cannot be read.
        PromptError: A prompt does not fit its image, or the model does not support it.
    """
    open_image: OpenImage = InstancesImage if model.finds_instances else PromptedImage
    if model.batch != 1:
        model = _with_cached_images(model)

    @lru_cache(maxsize=2)
    def decoded_at(number: int) -> Decoded:
        row = evaluation.images[number]
        return read_image(row.path, row.value_range)

    total, done = sum(len(row.cases) for row in evaluation.images), 0
    comparisons: list[ComparisonResult] = []
    cases: list[CaseResult] = []
    pictures: list[Picture] = []
    expected: list[ExpectedImage] = []
    notes: list[str] = []
    for number, row in enumerate(evaluation.images):
        decoded, name = decoded_at(number), row.path.stem
        image = decoded.pixels
        notes += [f"image `{row.path.name}` {note}" for note in decoded.notes]
        for case in row.cases:
            check_prompt(case.prompt, (image.shape[0], image.shape[1]), model.prompts)
        calls = slots.calls(
            model.batch, number, len(evaluation.images), lambda i: decoded_at(i).pixels
        )
        opened = open_image(model, sides, name, calls)
        comparisons += opened.comparisons
        cases += opened.cases
        measured: list[PromptMeasurement] = []
        for case in row.cases:
            measured.append(opened.measure(case))
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        comparisons += [c for m in measured for c in m.comparisons]
        cases += [m.result for m in measured if m.result is not None]
        pictures += [m.picture for m in measured if m.picture is not None]
        expected.append(
            ExpectedImage(name=name, image=image, cases=tuple(m.expected for m in measured))
        )
    report = ParityReport(
        model=model.name,
        target=target,
        precision=precision,
        gates=gates,
        comparisons=tuple(comparisons),
        cases=tuple(cases),
        failures=check_gates(gates, comparisons, cases, model.masks.score, precision),
        left_out=evaluation.left_out,
        notes=tuple(notes),
        simulator=sides.simulator,
    )
    return ParityResult(report=report, pictures=tuple(pictures), expected=tuple(expected))


def _with_cached_images(model: ModelSpec) -> ModelSpec:
    """Return the model that computes PyTorch's outputs of an image once for all of its slots."""
    first, *others = model.components
    return replace(model, components=(cached_reference(first), *others))
