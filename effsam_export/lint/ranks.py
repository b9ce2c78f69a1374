"""Rules on the number of axes a tensor may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.lint.findings import Hit
from effsam_export.lint.subject import shape_of, times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.fx import Node

    from effsam_export.lint.subject import Subject

DELEGATE_RANK = 4
"""LiteRT's GPU delegate supports four axes: batch, height, width and channels."""
CORE_ML_RANK = 5
"""Core ML's `reshape` and `transpose` support five axes on the Neural Engine and GPU."""


def delegate_rank(subject: Subject) -> Iterator[Hit]:
    """Yield tensors of more than four axes in torch's core operators."""
    return _over(subject.core_calls, DELEGATE_RANK)


def stated_rank(subject: Subject) -> Iterator[Hit]:
    """Yield tensors of more axes than the `max_rank` of the target file, if it has one."""
    limit = subject.target.options.get("max_rank")
    return _over(subject.core_calls, int(limit)) if limit is not None else iter(())


def core_ml_rank(subject: Subject) -> Iterator[Hit]:
    """Yield tensors of more than five axes."""
    return _over(subject.calls, CORE_ML_RANK)


def engine_rank(subject: Subject) -> Iterator[Hit]:
    """Yield tensors of five axes, which Core ML supports but rarely runs on the Neural Engine."""
    return _over(subject.calls, DELEGATE_RANK)


def _over(nodes: Sequence[Node], limit: int) -> Iterator[Hit]:
    for node in nodes:
        shape = shape_of(node)
        if len(shape) > limit:
            yield Hit(node=node, detail=f"rank {len(shape)}: {times(shape)}")
