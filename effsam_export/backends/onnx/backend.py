"""ONNX Runtime: write the traced graph in FP32, cast to FP16, or quantized to INT8."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from effsam_export.backends.onnx.session import CPU, OnnxSession
from effsam_export.backends.receipt import check_precision
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from collections.abc import Collection

    from effsam_export.backends import Options, Session
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Write the graph in the target's precision, then check and count its constants."""
    import onnx

    from effsam_export.graph import onnx_file
    from effsam_export.graph.passes import cast_fp16

    path = out_dir / f"{graph.component.name}.onnx"
    if target.precision == "int8":
        from effsam_export.backends.onnx import quantize as onnx_qdq

        assert graph.quantization is not None
        with tempfile.TemporaryDirectory() as scratch:
            model = onnx_qdq.apply(onnx.load(graph.path), graph.quantization, Path(scratch))
        onnx_file.save(model, path)
    elif target.precision == "fp16":
        onnx_file.save(cast_fp16.apply(onnx.load(graph.path), keep=graph.fp32_nodes), path)
    else:
        for file in graph.files:
            shutil.copyfile(file, out_dir / file.name)
    data = path.with_name(f"{path.name}.data")
    counts = count_constants(path)
    in_fp32 = fp32_constant_elements(path, graph.fp32_nodes) if target.precision == "fp16" else 0
    check_precision(graph.component.name, target.precision, counts, fp32_by_recipe=in_fp32)
    return Artifact(
        component=graph.component.name,
        backend="onnx",
        precision=target.precision,
        files=(path, data) if data.is_file() else (path,),
        tensors_by_dtype=counts,
        ops=count_ops(path),
        versions={"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        options=target.options,
    )


def count_constants(path: Path) -> dict[str, int]:
    """Return the number of constant elements of an ONNX file by numpy dtype name."""
    import onnx

    counts = Counter[str]()
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        name = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        counts[name] += int(np.prod(tensor.dims, dtype=np.int64))
    return dict(sorted(counts.items()))


def fp32_constant_elements(path: Path, nodes: Collection[str]) -> int:
    """Return the number of FP32 constant elements of an ONNX file that these nodes read."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    read = {name for n in graph.node if n.name in set(nodes) for name in n.input}
    return sum(
        int(np.prod(t.dims, dtype=np.int64))
        for t in graph.initializer
        if t.name in read and t.data_type == onnx.TensorProto.FLOAT
    )


def count_ops(path: Path) -> dict[str, int]:
    """Return the number of nodes of an ONNX file by operator."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return dict(sorted(Counter(n.op_type for n in nodes).items()))


def open_session(artifact: Artifact, threads: int | None = None) -> OnnxSession:
    """Open an artefact with the execution provider of its target, without a fallback.

    Args:
        artifact: The artefact.
        threads: Threads of an operator on the CPU; None for one per physical core.

    Raises:
        CheckFailed: ONNX Runtime cannot load it, or would run it on another provider.
    """
    provider = str(artifact.options.get("provider", CPU))
    # An encoder runs once an image, and its arena would be large: 12 GB for SlimSAM-77.
    arena = artifact.component == "decoder"
    return OnnxSession(artifact.files[0], provider, threads, arena=arena)


def simulator(options: Options) -> str:
    """Return "": ONNX Runtime itself runs on this machine."""
    del options
    return ""


def open_source(graph: Graph) -> Session:
    """Open a traced graph in ONNX Runtime, to compare it with PyTorch."""
    return open_onnx(graph.path)


def open_onnx(path: Path) -> Session:
    """Open an ONNX file in ONNX Runtime on the CPU."""
    return OnnxSession(path, CPU)
