"""Report the inputs and outputs of a loaded engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.spec.tensors import ReportedTensor, Signature

if TYPE_CHECKING:
    from effsam_export.backends.tensorrt.kit.trt_engine import Engine


def signature(engine: Engine) -> Signature:
    """Return the inputs and outputs of an engine; TensorRT writes -1 for a dynamic axis."""

    def tensor(name: str) -> ReportedTensor:
        shape = tuple(n if n >= 0 else None for n in engine.shape(name))
        return ReportedTensor(name=name, shape=shape, dtype=engine.dtype(name).name)

    return Signature(
        inputs=tuple(tensor(n) for n in engine.inputs),
        outputs=tuple(tensor(n) for n in engine.outputs),
    )
