"""Save and check ONNX files of any size. Weights above protobuf's limit get a file of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from pathlib import Path

MAX_INLINE_BYTES = 1_900_000_000
"""Largest total of weights inside the file. Protobuf refuses messages of 2**31 bytes."""

SMALLEST_OUTSIDE_BYTES = 1024
"""Smaller constants stay in the file: runtimes read shapes and epsilons while they load it."""


def save(model: onnx.ModelProto, path: Path, *, max_inline: int = MAX_INLINE_BYTES) -> None:
    """Write a model; weights of more than `max_inline` bytes go to `<name>.onnx.data` beside it.

    An older data file is removed. If the weights went to a data file, `model` is empty afterwards,
    because a copy would need the memory twice. Load the file to use the model again.
    """
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    weights = sum(len(t.raw_data) for t in model.graph.initializer)
    if weights <= max_inline:
        onnx.save(model, path)
        return
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=SMALLEST_OUTSIDE_BYTES,
    )


def check(path: Path) -> None:
    """Check a file against the ONNX standard, by path: larger models than 2 GB need that."""
    onnx.checker.check_model(str(path))
