"""Write the build kit of a TensorRT bundle: scripts and documents that build and check engines.

An engine works only with the TensorRT version and GPU that it was built with. The scripts therefore
build it on the device, from the typed ONNX file, and do not need this package.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.backends.tensorrt import kit
from effsam_export.backends.tensorrt.shape_ranges import document
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.backends.tensorrt.shape_ranges import Range
    from effsam_export.backends.tensorrt.typed import TypedOnnx
    from effsam_export.spec.model import KeepFp32
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile

FOLDER = "kit"
FILES = ("README.md", "build_engine.py", "golden_masks.py", "trt_engine.py", "verify_engine.py")
MIN_TENSORRT = "10.3"
"""Oldest TensorRT version in JetPack with all features that the kit uses."""
NOTE = (
    "the counts are ONNX nodes; TensorRT fuses nodes, so an engine has fewer layers, with the same "
    "dtypes. TensorRT always computes the mean and variance of a LayerNormalization in float32"
)


def write(
    graph: Graph,
    target: TargetProfile,
    typed: TypedOnnx,
    shapes: Mapping[str, Range],
    out_dir: Path,
) -> tuple[Path, Path]:
    """Write `<component>.profiles.json`, `<component>.expected_layers.json` and the scripts.

    The scripts are written to `kit/` and are the same for every component.

    Returns:
        The two JSON files.
    """
    name = graph.component.name
    profiles = out_dir / f"{name}.profiles.json"
    expected = out_dir / f"{name}.expected_layers.json"
    write_json(profiles, profiles_document(graph, target, shapes))
    write_json(expected, expected_document(graph, target, typed))
    folder = out_dir / FOLDER
    folder.mkdir(exist_ok=True)
    for file in FILES:
        shutil.copyfile(Path(kit.__file__).with_name(file), folder / file)
    return profiles, expected


def profiles_document(
    graph: Graph, target: TargetProfile, shapes: Mapping[str, Range]
) -> dict[str, Any]:
    """Return the shape ranges and builder options of a component, which its graph cannot hold."""
    return {
        "onnx": f"{graph.component.name}.onnx",
        "opset": graph.opset,
        "precision": target.precision,
        "strongly_typed": True,
        "tensorrt": str(target.options.get("tensorrt", MIN_TENSORRT)),
        "tf32": bool(target.options.get("tf32", False)),
        "workspace_mib": int(target.options.get("workspace_mib", 0)),
        "inputs": document(shapes),
    }


def expected_document(graph: Graph, target: TargetProfile, typed: TypedOnnx) -> dict[str, Any]:
    """Return the dtypes of nodes and constants that an engine should have, from the typed ONNX.

    For an FP16 or INT8 graph, `fp32_islands` lists the nodes that compute in FP32, and `reasons`
    the entries of the recipe that keep them there.
    """
    islands = typed.fp32_nodes if target.precision != "fp32" else {}
    return {
        "precision": target.precision,
        "nodes_by_dtype": typed.float_ops,
        "nodes_by_op": typed.ops,
        "constants_by_dtype": typed.constants,
        "fp32_islands": [{"name": n, "op": op} for n, op in islands.items()],
        "reasons": [recipe_entry(rule) for rule in graph.recipe] if islands else [],
        "note": NOTE,
    }


def recipe_entry(rule: KeepFp32) -> dict[str, Any]:
    """Return an entry of an FP16 recipe as a dictionary, with `recursive` only if it is false."""
    document = asdict(rule)
    if document.pop("recursive"):
        return document
    return {**document, "recursive": False}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with sorted keys, so that equal contents give equal bytes."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode())
