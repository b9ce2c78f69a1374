"""ONNX files of any size: weights past protobuf's limit lie beside the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from pathlib import Path

MAX_INLINE_BYTES = 1_900_000_000
"""Weights up to here are kept in the file. Protobuf refuses messages of 2**31 bytes."""

SMALLEST_OUTSIDE_BYTES = 1024
"""Constants below it stay in the file: runtimes read shapes and epsilons while they load."""


def save(model: onnx.ModelProto, path: Path, *, max_inline: int = MAX_INLINE_BYTES) -> None:
    """Write a model; past `max_inline` bytes of weights they go to `<name>.onnx.data` beside it.

    An older data file is removed. A model whose weights went outside is empty afterwards (a copy
    would need the memory twice): load the file to go on with it.
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
    """Check a file by the standard; by path, which is the only way past 2 GB."""
    onnx.checker.check_model(str(path))
