"""What each toolchain makes of the plain model by itself: the other side of `benchmarks.defaults`.

The modules are the authors' forward pass behind the contract's inputs, nothing rewritten for
export, and every converter is called with its defaults.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.util.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.models.sam.module import Sam

Inputs = tuple[Tensor, ...]


class PlainEncoder(nn.Module):
    """`image` 1x3x1024x1024 (RGB, 0-255, padded) to the embedding, as the authors compute it."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, image: Tensor) -> Tensor:
        return self.sam.encode(image)


class PlainDecoder(nn.Module):
    """Embedding, points BxNx2 and their labels to masks and scores, as the authors compute them.

    No mask is fed back: with the authors' code that is another branch, so another graph.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.sam.decode(image_embeddings, (point_coords, point_labels), None, None)


def to_onnx(module: nn.Module, inputs: Inputs, path: Path) -> Path:
    """torch's exporter as `torch.onnx.export(model, args, file)` runs it."""
    torch.onnx.export(module, inputs, str(path), verbose=False)
    return path


def to_openvino(module: nn.Module, inputs: Inputs, path: Path) -> Path:
    """`openvino.convert_model` and `save_model`, which stores weights in FP16 by default."""
    import openvino

    openvino.save_model(openvino.convert_model(module, example_input=inputs), str(path))
    return path


def to_tflite(module: nn.Module, inputs: Inputs, path: Path) -> Path:
    """`litert_torch.convert`."""
    import litert_torch

    litert_torch.convert(module, inputs).export(str(path))
    return path


CONVERTERS: dict[str, tuple[str, Callable[[nn.Module, Inputs, Path], Path]]] = {
    # runtime -> suffix, converter
    "onnx": (".onnx", to_onnx),
    "openvino": (".xml", to_openvino),
    "tflite": (".tflite", to_tflite),
}


def convert(runtime: str, module: nn.Module, inputs: Inputs, stem: Path) -> Path | str:
    """The file of a default conversion, or the first line of why there is none."""
    suffix, converter = CONVERTERS[runtime]
    try:
        # Converters print their progress; stdout is for the table.
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            return converter(module.eval(), inputs, stem.with_name(f"{stem.name}{suffix}"))
    except Exception as error:
        # Whatever a converter raises is the finding.
        return first_line(error)


def first_line(error: Exception) -> str:
    """The first line of an error, with its type."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]


def size_of(path: Path) -> int:
    """Bytes of a file and of the weights beside it."""
    beside = [path.with_suffix(".bin"), path.with_name(f"{path.name}.data")]
    return sum(p.stat().st_size for p in (path, *beside) if p.is_file())


def open_file(runtime: str, path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """A default conversion in its runtime: inputs by position in, outputs by position out."""
    if runtime == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        return lambda values: [
            torch.from_numpy(o)
            for o in session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
        ]
    if runtime == "openvino":
        import openvino

        # FP32 arithmetic for both sides: on a CPU with AMX the default is BF16.
        compiled = openvino.Core().compile_model(
            str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        return lambda values: [
            torch.from_numpy(o.copy()) for o in compiled([v.numpy() for v in values]).values()
        ]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=usable_cores())
    interpreter.allocate_tensors()
    into = sorted(interpreter.get_input_details(), key=lambda d: str(d["name"]))
    out = sorted(interpreter.get_output_details(), key=lambda d: str(d["name"]))

    def run(values: list[Tensor]) -> list[Tensor]:
        for detail, value in zip(into, values, strict=True):
            interpreter.set_tensor(detail["index"], value.numpy())
        interpreter.invoke()
        return [torch.from_numpy(interpreter.get_tensor(d["index"])) for d in out]

    return run
