"""The build kit of a TensorRT bundle: what a device needs to build and check its own engines.

An engine works only with the TensorRT version and the kind of GPU it was built with, so it is built
on the device, from the typed ONNX, by scripts that need nothing of this package.
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
OLDEST = "10.3"
"""The first TensorRT with everything the kit asks for that JetPack ships."""
NOTE = (
    "counts are of ONNX nodes; TensorRT fuses nodes, so an engine has fewer layers, of the same "
    "dtypes. TensorRT takes the mean and variance of a LayerNormalization in float32 by itself"
)


def write(
    graph: Graph,
    target: TargetProfile,
    typed: TypedOnnx,
    shapes: Mapping[str, Range],
    out_dir: Path,
) -> tuple[Path, Path]:
    """Write a component's `<component>.profiles.json` and `.expected_layers.json`, and the scripts.

    The scripts go to `kit/` and are the same for every component.

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
    """How to build one component: shape ranges and the settings that no graph can hold."""
    return {
        "onnx": f"{graph.component.name}.onnx",
        "opset": graph.opset,
        "precision": target.precision,
        "strongly_typed": True,
        "tensorrt": str(target.options.get("tensorrt", OLDEST)),
        "tf32": bool(target.options.get("tf32", False)),
        "workspace_mib": int(target.options.get("workspace_mib", 0)),
        "inputs": document(shapes),
    }


def expected_document(graph: Graph, target: TargetProfile, typed: TypedOnnx) -> dict[str, Any]:
    """What a builder is asked for, by the typed ONNX: dtypes of nodes and constants, and islands.

    In an FP16 or INT8 graph the islands are the nodes that compute in FP32, with the reasons of the
    recipe.
    """
    islands = typed.fp32_nodes if target.precision != "fp32" else {}
    return {
        "precision": target.precision,
        "nodes_by_dtype": typed.float_ops,
        "nodes_by_op": typed.ops,
        "constants_by_dtype": typed.constants,
        "fp32_islands": [{"name": n, "op": op} for n, op in islands.items()],
        "reasons": [without_default(rule) for rule in graph.recipe] if islands else [],
        "note": NOTE,
    }


def without_default(rule: KeepFp32) -> dict[str, Any]:
    """An entry of a recipe; most keep all that is inside their modules, and say nothing of it."""
    document = asdict(rule)
    if document.pop("recursive"):
        return document
    return {**document, "recursive": False}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with sorted keys, so that equal contents are equal bytes."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode())
