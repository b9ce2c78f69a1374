"""The two sides of a comparison, expected masks, and outputs compared by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.parity.metrics import tensor_diff
from effsam_export.parity.results import ComparisonResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.parity.results import CaseResult, ComparisonPoint, Picture
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.tensors import Feeds, Float32


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What is compared: the loaded reference, and opened graphs by component name.

    A component that is missing from `artifacts` is not exported and not judged; end to end needs
    both.

    Attributes:
        simulator: What runs the artefacts in the place of the target's own runtime; empty where
            that runs itself.
    """

    module: nn.Module
    sources: Mapping[str, Session]
    artifacts: Mapping[str, Session]
    simulator: str = ""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What PyTorch answers to one prompt: the golden vector of a bundle.

    Attributes:
        prompt: In original-image pixels, with the logits it feeds back.
        masks: KxHxW bool at original size, in graph order.
        scores: K float32.
        stability: K numbers from 0 to 1, as `images.stability` has them; none of instances.
    """

    name: str
    prompt: Prompt
    masks: NDArray[np.bool_]
    scores: Float32
    stability: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExpectedImage:
    """A photograph and everything PyTorch answers about it."""

    name: str
    image: NDArray[np.uint8]
    cases: tuple[Expected, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that was measured on a set of images, before it is held to gates."""

    comparisons: tuple[ComparisonResult, ...]
    cases: tuple[CaseResult, ...]
    pictures: tuple[Picture, ...]
    expected: tuple[ExpectedImage, ...]


def compare(
    point: ComparisonPoint, spec: ComponentSpec, case: str, reference: Feeds, found: Feeds
) -> ComparisonResult:
    """Compare outputs by exact name; a missing, extra or misshapen tensor is a problem."""
    problems, tensors = [], []
    wanted = {t.name for t in spec.outputs}
    problems += [f"output `{n}` is missing" for n in sorted(wanted - set(found))]
    problems += [f"output `{n}` is not in the contract" for n in sorted(set(found) - wanted)]
    for tensor in spec.outputs:
        if tensor.name not in found or tensor.name not in reference:
            continue
        a, b = reference[tensor.name], found[tensor.name]
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
