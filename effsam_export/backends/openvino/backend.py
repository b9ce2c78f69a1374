"""OpenVINO: convert the traced graph to IR in FP32, with FP16 weights, or in INT8 by NNCF."""

from __future__ import annotations

from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import openvino

from effsam_export.backends.openvino.session import OpenvinoSession
from effsam_export.backends.receipt import check_precision
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.backends import Options
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile


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
    number_names(model)
    openvino.save_model(model, str(path), compress_to_fp16=target.precision == "fp16")
    counts = count_constants(path)
    check_precision(graph.component.name, target.precision, counts)
    return Artifact(
        component=graph.component.name,
        backend="openvino",
        precision=target.precision,
        files=(path, path.with_suffix(".bin")),
        tensors_by_dtype=counts,
        ops=count_ops(path),
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
            name = np.dtype(op.get_element_type().to_dtype()).name
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
    return OpenvinoSession(
        artifact.files[0],
        str(artifact.options.get("device", "CPU")),
        str(artifact.options.get("inference_precision", "f32")),
        threads,
    )


def simulator(options: Options) -> str:
    """Return "": OpenVINO itself runs here. Opening a session fails without the target's device."""
    del options
    return ""
