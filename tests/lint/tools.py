"""Small programs for the rules to look at."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.config import targets as profiles
from effsam_export.lint.rules import RULES
from effsam_export.lint.subject import Subject
from effsam_export.precision.ranges import Ranges, measure
from effsam_export.spec.tensors import TensorSpec
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from effsam_export.spec.targets import Precision, TargetProfile


def target(
    backend: str = "onnx", precision: Precision = "fp16", **options: str | int | float | bool
) -> TargetProfile:
    """A target of any backend; lint wants no SDK of it."""
    base = profiles.load_target("onnx", "fp16")
    return replace(base, backend=backend, precision=precision, options=options)


class Function(nn.Module):
    """A function as a module, so that it can be traced."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Tensor:
        return self.function(*args)


def subject(
    of: nn.Module | Callable[..., Tensor],
    *inputs: Tensor,
    to: TargetProfile | None = None,
    measured: bool = False,
    dynamic: tuple[dict[int, str], ...] = (),
    kept: frozenset[str] = frozenset(),
) -> Subject:
    """A program of a module or function, traced on some inputs, and measured on them if asked."""
    module = of if isinstance(of, nn.Module) else Function(of)
    dims = {name: torch.export.Dim(name, max=64) for axes in dynamic for name in axes.values()}
    shapes = tuple({axis: dims[name] for axis, name in axes.items()} for axes in dynamic)
    with torch.no_grad(), warnings.catch_warnings():
        # torch's own use of its own deprecated class.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.export.export(
            module.eval(),
            inputs,
            dynamic_shapes={"args": shapes} if shapes and module is not of else shapes or None,
        )
    names = dynamic or tuple({} for _ in inputs)
    specs = tuple(
        TensorSpec(
            name=f"x{i}",
            shape=tuple(axes.get(axis, size) for axis, size in enumerate(x.shape)),
        )
        for i, (x, axes) in enumerate(zip(inputs, names, strict=True))
    )
    ranges: Ranges = {}
    if measured:
        measure(program, {f"x{i}": x for i, x in enumerate(inputs)}, ranges)
    return Subject(
        component=replace(TINY_SAM.component("decoder"), inputs=specs),
        target=to or target(),
        program=program,
        ranges=ranges,
        fp32_nodes=kept,
    )


def hits(rule: str, of: Subject) -> list[tuple[str, str, str]]:
    """What a rule finds: node, detail, severity."""
    return [
        (h.node.name, h.detail, h.severity or RULES[rule].severity) for h in RULES[rule].check(of)
    ]
