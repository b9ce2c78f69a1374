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
"""LiteRT's GPU delegate has no more axes than batch, height, width and channels."""
CORE_ML_RANK = 5
"""coremltools: `reshape` and `transpose` of the Neural Engine and GPU stop at five."""


def delegate_rank(subject: Subject) -> Iterator[Hit]:
    """Tensors of more than four axes once the converter has taken composite operators apart."""
    return _over(subject.core_calls, DELEGATE_RANK)


def stated_rank(subject: Subject) -> Iterator[Hit]:
    """Tensors of more axes than the target file's own `max_rank`, where it has one."""
    limit = subject.target.options.get("max_rank")
    return _over(subject.core_calls, int(limit)) if limit is not None else iter(())


def core_ml_rank(subject: Subject) -> Iterator[Hit]:
    """Tensors of more than five axes."""
    return _over(subject.calls, CORE_ML_RANK)


def engine_rank(subject: Subject) -> Iterator[Hit]:
    """Tensors of five axes, which Core ML takes and the Neural Engine seldom does."""
    return _over(subject.calls, DELEGATE_RANK)


def _over(nodes: Sequence[Node], limit: int) -> Iterator[Hit]:
    for node in nodes:
        shape = shape_of(node)
        if len(shape) > limit:
            yield Hit(node=node, detail=f"rank {len(shape)}: {times(shape)}")
