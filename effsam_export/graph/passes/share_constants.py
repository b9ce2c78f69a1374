"""Replace equal constants by one that all nodes use.

TinyViT's six blocks of 14x14 windows have the same 196x196 index table: sharing it saves 1.5 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass

if TYPE_CHECKING:
    import onnx

SIZE_LIMIT = 1 << 24
"""Largest constant, in elements, that is compared; larger ones are weights, which differ."""


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Share equal constants. The results do not change, so this is always possible."""
    graph = ir.from_proto(model)
    before = len(graph.graph.initializers)
    shared = DeduplicateInitializersPass(size_limit=SIZE_LIMIT)(graph).model
    after = len(shared.graph.initializers)
    note = f"{before} to {after} constants" if after < before else "no two constants are equal"
    return ir.to_proto(shared), note
