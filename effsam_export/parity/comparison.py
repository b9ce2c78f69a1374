"""Records of a comparison with PyTorch, and the comparison of output tensors by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from effsam_export.parity.metrics import tensor_diff
from effsam_export.parity.results import ComparisonResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.config.parity import ParityCase
    from effsam_export.parity.cases import CaseResult
    from effsam_export.parity.results import ComparisonPoint, Picture
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.tensors import Feeds, Float32


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The loaded PyTorch model and the opened graphs to compare with it, by component name.

    A component that is missing from `artifacts` was not exported and is not compared. The
    end-to-end comparison needs both the encoder and the decoder.

    Attributes:
        sources: Traced ONNX graphs in ONNX Runtime.
        artifacts: Exported files in the target's runtime or in its simulator.
        simulator: What runs the artefacts instead of the target's runtime; empty if the runtime
            itself does.
    """

    module: nn.Module
    sources: Mapping[str, Session]
    artifacts: Mapping[str, Session]
    simulator: str = ""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """PyTorch's outputs for one prompt. The golden vectors of a bundle are made of them.

    Attributes:
        prompt: In original-image pixels, with the mask logits that are fed back.
        masks: KxHxW bool at original size, in graph order.
        scores: K float32.
        stability: K values from 0 to 1, as `imaging.images.stability` returns them; empty for a
            model that detects instances.
    """

    name: str
    prompt: Prompt
    masks: NDArray[np.bool_]
    scores: Float32
    stability: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExpectedImage:
    """An image and PyTorch's outputs for each of its prompts."""

    name: str
    image: NDArray[np.uint8]
    cases: tuple[Expected, ...]


@dataclass(frozen=True, kw_only=True)
class PromptMeasurement:
    """The comparisons of one prompt.

    Attributes:
        result: The end-to-end comparison; None if not all components were exported.
        picture: The masks to draw for it; None where `result` is.
    """

    comparisons: tuple[ComparisonResult, ...]
    expected: Expected
    result: CaseResult | None
    picture: Picture | None


class ImageMeasurement(Protocol):
    """The comparisons of one image. Each kind of model has its own implementation."""

    @property
    def comparisons(self) -> tuple[ComparisonResult, ...]:
        """Comparisons of the component that sees the image, before any prompt."""

    @property
    def cases(self) -> tuple[CaseResult, ...]:
        """End-to-end comparisons that need no prompt."""

    def measure(self, case: ParityCase) -> PromptMeasurement:
        """Compare the outputs for one prompt. An earlier prompt's mask may be fed back."""


def compare(
    point: ComparisonPoint, spec: ComponentSpec, case: str, reference: Feeds, actual: Feeds
) -> ComparisonResult:
    """Compare outputs by exact name. A missing, extra or misshapen tensor is a problem.

    Args:
        point: Which two graphs are compared.
        spec: The component, whose outputs are compared.
        case: `image` or `image/prompt`.
        reference: Outputs by name that are taken as correct.
        actual: Outputs by name that are checked.
    """
    problems, tensors = [], []
    expected = {t.name for t in spec.outputs}
    problems += [f"output `{n}` is missing" for n in sorted(expected - set(actual))]
    problems += [f"output `{n}` is not in the contract" for n in sorted(set(actual) - expected)]
    for tensor in spec.outputs:
        if tensor.name not in actual or tensor.name not in reference:
            continue
        a, b = reference[tensor.name], actual[tensor.name]
        if not a.size:
            problems.append(f"`{tensor.name}` is empty")
        elif a.shape != b.shape:
            problems.append(f"`{tensor.name}` has shape {list(b.shape)}, want {list(a.shape)}")
        else:
            tensors.append(tensor_diff(tensor.name, a, b))
    return ComparisonResult(
        point=point,
        component=spec.name,
        case=case,
        tensors=tuple(tensors),
        problems=tuple(problems),
    )


def run_graphs(spec: ComponentSpec, sides: Sides, feeds: Feeds) -> tuple[Feeds, Feeds]:
    """Run the graphs of an exported component on one input.

    Returns:
        The outputs of the traced graph and of the artefact.
    """
    source, artifact = sides.sources[spec.name], sides.artifacts[spec.name]
    traced = source.run(feeds)
    return traced, traced if artifact is source else artifact.run(feeds)


def compare_graphs(
    spec: ComponentSpec, case: str, reference: Feeds, traced: Feeds, lowered: Feeds
) -> tuple[ComparisonResult, ...]:
    """Compare PyTorch -> ONNX and ONNX -> artefact.

    Args:
        spec: The component.
        case: `image` or `image/prompt`.
        reference: PyTorch's outputs.
        traced: Those of the traced graph for the same input.
        lowered: Those of the artefact.
    """
    return (
        compare("onnx", spec, case, reference, traced),
        compare("artifact", spec, case, traced, lowered),
    )
