"""Functions that copy a package with one defect."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from effsam_export.backends.coreml.mil import package as files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.backends.coreml.mil.package import Proto

RECORD_BYTES = 64


def copied(package: Path, name: str) -> Path:
    return shutil.copytree(package, package.with_name(f"{name}.mlpackage"))


def edited(package: Path, change: Callable[[Proto], None], name: str = "edited") -> Path:
    """Copy a package whose model protobuf `change` modifies."""
    copy = copied(package, name)
    model = files.model_file(copy)
    spec = files.parse(model)
    change(spec)
    model.write_bytes(spec.SerializeToString())
    return copy


def main(spec: Proto) -> Proto:
    return spec.mlProgram.functions["main"]


def block(spec: Proto) -> Proto:
    """Return the ops of `main`."""
    return main(spec).block_specializations[main(spec).opset]


def operation(spec: Proto, kind: str) -> Proto:
    """Return the first op of a kind."""
    return next(op for op in block(spec).operations if op.type == kind)


def literal(spec: Proto, kind: str, parameter: str) -> Proto:
    """Return the protobuf value of a constant parameter of the first op of a kind."""
    name = operation(spec, kind).inputs[parameter].arguments[0].name
    made = next(op for op in block(spec).operations if op.outputs[0].name == name)
    return made.attributes["val"]


def weights(package: Path) -> Path:
    return files.model_file(package).parent / "weights" / "weight.bin"


def flipped(package: Path, byte: int, name: str = "flipped") -> Path:
    """Copy a package with one bit of the weight file flipped, the second highest of a byte."""
    copy = copied(package, name)
    data = bytearray(weights(copy).read_bytes())
    data[byte] ^= 0x40
    weights(copy).write_bytes(data)
    return copy


def shortened(package: Path, by: int, name: str = "shortened") -> Path:
    """Copy a package whose weight file is truncated."""
    copy = copied(package, name)
    weights(copy).write_bytes(weights(copy).read_bytes()[:-by])
    return copy
