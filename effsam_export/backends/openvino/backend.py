"""OpenVINO: convert the traced graph to IR in FP32, with FP16 or BF16 weights, or in INT8."""

from __future__ import annotations

from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import openvino

from effsam_export.backends.openvino import bf16
from effsam_export.backends.openvino.session import OpenvinoSession
from effsam_export.backends.receipt import check_precision
from effsam_export.spec.stages import Artifact
from effsam_export.util import cpu

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.backends import Options
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile

BFLOAT16 = "bfloat16"
HINT = "inference_precision"
NO_BF16 = "OpenVINO on a CPU without BF16"


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Convert the ONNX graph, save the IR (`.xml` and `.bin`), then check its constants."""
    path = out_dir / f"{graph.component.name}.xml"
    model = openvino.convert_model(str(graph.path))
    versions = {"openvino": str(openvino.__version__)}
    if target.precision == "int8":
        from effsam_export.backends.openvino import quantize as nncf_ptq

        assert graph.quantization is not None
        model = nncf_ptq.apply(model, graph.quantization)
        versions["nncf"] = metadata.version("nncf")
    if target.precision == "bf16":
        bf16.apply(model)
    number_names(model)
    openvino.save_model(model, str(path), compress_to_fp16=target.precision == "fp16")
    counts = count_constants(path)
    executed: dict[str, int] = {}
    in_fp32 = 0
    if target.precision == "bf16":
        in_fp32 = bf16.fp32_elements_beside_layers(path)
    check_precision(graph.component.name, target.precision, counts, fp32_by_recipe=in_fp32)
    if target.precision == "bf16":
        compiled = open_ir(path, target.options).compiled
        executed = bf16.executed(compiled)
        if cpu.has_bf16():
            bf16.check_layers(graph, path, bf16.executed_layers(compiled))
    return Artifact(
        component=graph.component.name,
        backend="openvino",
        precision=target.precision,
        files=(path, path.with_suffix(".bin")),
        tensors_by_dtype=counts,
        ops=count_ops(path),
        executed=executed,
        versions=versions,
        options=target.options,
    )


def number_names(model: openvino.Model) -> None:
    """Number generated names within the model, so that equal graphs give equal files.

    OpenVINO generates names such as `Constant_8895` with a counter of the whole process.
    """
    for i, op in enumerate(model.get_ordered_ops()):
        if op.get_type_name() in ("Parameter", "Result"):
            continue
        # The counter may end any part of a name: `Transpose_2026/fq_weights_1/scale`.
        parts = [part.rpartition("_") for part in op.get_friendly_name().split("/")]
        named = [
            f"{stem}_{i}" if stem and number.isdigit() else f"{stem}{bar}{number}"
            for stem, bar, number in parts
        ]
        op.set_friendly_name("/".join(named))


def count_constants(path: Path) -> dict[str, int]:
    """Return the number of constant elements of an IR by numpy dtype name."""
    counts = Counter[str]()
    for op in openvino.Core().read_model(str(path)).get_ops():
        if op.get_type_name() == "Constant":
            kind = op.get_element_type()
            # numpy has no BF16.
            name = BFLOAT16 if kind == openvino.Type.bf16 else np.dtype(kind.to_dtype()).name
            counts[name] += int(np.prod(op.get_output_shape(0), dtype=np.int64))
    return dict(sorted(counts.items()))


def count_ops(path: Path) -> dict[str, int]:
    """Return the number of operators of an IR by kind, without constants, inputs and outputs."""
    kinds = Counter(op.get_type_name() for op in openvino.Core().read_model(str(path)).get_ops())
    return {k: n for k, n in sorted(kinds.items()) if k not in ("Constant", "Parameter", "Result")}


def open_session(artifact: Artifact, threads: int | None = None) -> OpenvinoSession:
    """Compile an artefact for the device and inference precision of its target.

    Args:
        artifact: The artefact.
        threads: Threads of the device `CPU`; None for OpenVINO's own number.

    Raises:
        CheckFailed: OpenVINO cannot compile it for the device, or compiled it for another.
    """
    return open_ir(artifact.files[0], artifact.options, threads)


def open_ir(path: Path, options: Options, threads: int | None = None) -> OpenvinoSession:
    """Compile an IR with the options of a target; see `open_session`."""
    device, precision = str(options.get("device", "CPU")), str(options.get(HINT, "f32"))
    return OpenvinoSession(path, device, precision, threads)


def simulator(options: Options) -> str:
    """Return what computes in place of BF16 on a CPU without it; otherwise "".

    OpenVINO itself runs here. Opening a session fails without the target's device.
    """
    return NO_BF16 if options.get(HINT) == "bf16" and not cpu.has_bf16() else ""
