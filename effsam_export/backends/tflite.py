"""TFLite (LiteRT): the traced program through litert-torch, without TensorFlow."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.backends import tflite_file, tflite_gpu
from effsam_export.backends.receipt import check_precision
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec import Artifact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    from effsam_export.spec import ComponentSpec, Feeds, Graph, TargetProfile

    Options = Mapping[str, str | int | float | bool]

TOOLS = ("ai-edge-litert", "litert-torch")
SHOWN = 5
"""Operators of a refused file that the message names."""


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Convert the traced program, halve its constants for FP16, and count and check the file.

    The file has one signature, called as the component, with the contract's names of tensors.

    Raises:
        UsageError: The graph has dynamic dimensions.
        CheckFailed: The file does not hold what was asked for, or something that the target cannot
            run: a custom operator, a forbidden one, a tensor of too high a rank.
    """
    from effsam_export.backends import tflite_convert

    component = graph.component
    check_fixed(component)
    assert graph.program is not None
    model = tflite_file.parse(tflite_convert.convert(graph.program, component))
    if target.options.get("delegate") == "gpu":
        tflite_gpu.align_ranks(model)
    if target.precision == "fp16":
        tflite_file.halve_constants(model)
    path = out_dir / f"{component.name}.tflite"
    path.write_bytes(tflite_file.serialise(model))
    return artifact_of(path, component, target)


def artifact_of(path: Path, component: ComponentSpec, target: TargetProfile) -> Artifact:
    """Re-open a file, check it against the contract and the target, and count what it holds."""
    model = tflite_file.read(path)
    faults = tflite_file.signature_faults(
        model, component.name, component.inputs, component.outputs
    )
    # Not the user's doing: the converter and this module disagree.
    assert not faults, f"{component.name}: {'; '.join(faults)}"
    check_limits(component.name, target, model)
    counts = tflite_file.count_constants(model)
    check_precision(component.name, target.precision, counts)
    return Artifact(
        component=component.name,
        backend="tflite",
        precision=target.precision,
        files=(path,),
        tensors_by_dtype=counts,
        ops=tflite_file.count_operators(model),
        versions={name.replace("-", "_"): metadata.version(name) for name in TOOLS},
        options=target.options,
    )


def check_fixed(component: ComponentSpec) -> None:
    """Refuse dynamic dimensions.

    Raises:
        UsageError: There are some, with their names.
    """
    dynamic = dict.fromkeys(n for s in component.inputs for n in s.shape if isinstance(n, str))
    if dynamic:
        names = ", ".join(f"`{n}`" for n in dynamic)
        raise UsageError(
            f"{component.name}: TFLite takes fixed shapes, and this graph has {names} open",
            hint="give the target's `options` a number of prompt points, `slots = 8`",
        )


def check_limits(name: str, target: TargetProfile, model: schema.ModelT) -> None:
    """Refuse what the target cannot run.

    Raises:
        CheckFailed: Operator, tensor and shape of each such thing, as far as they can be shown.
    """
    options = target.options
    rank = options.get("max_rank")
    faults = tflite_file.limit_faults(
        model,
        max_rank=None if rank is None else int(rank),
        forbidden=str(options.get("forbidden_ops", "")).split(),
    )
    if options.get("delegate") == "gpu":
        faults += tflite_gpu.faults(model)
    faults = list(dict.fromkeys(faults))
    if faults:
        shown = "\n  ".join(faults[:SHOWN])
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CheckFailed(f"{name}: target `{target.name}` cannot run this graph:\n  {shown}{more}")


class TfliteSession:
    """One signature of a file in LiteRT's interpreter, with XNNPACK."""

    def __init__(self, path: Path, signature: str, num_threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        outputs = tflite_file.signature_outputs(tflite_file.read(path), signature)
        with quiet_runtime():
            interpreter = Interpreter(model_path=str(path), num_threads=num_threads)
            self._runner = interpreter.get_signature_runner(signature)
        self._outputs = outputs

    def run(self, feeds: Feeds) -> Feeds:
        with quiet_runtime():
            results = self._runner(**{k: np.ascontiguousarray(v) for k, v in feeds.items()})
        # Copies: the arrays may lie in the interpreter's memory, which the next call overwrites.
        return {name: np.array(results[name]) for name in self._outputs}


def open_session(artifact: Artifact) -> TfliteSession:
    """Load the component's signature with the number of threads of the target profile."""
    threads = int(artifact.options.get("num_threads", 1))
    return TfliteSession(artifact.files[0], artifact.component, threads)


def stand_in(options: Options) -> str:
    """What runs here in the place of the target's runtime; empty where that is LiteRT's CPU one."""
    return "LiteRT on the CPU" if options.get("delegate") == "gpu" else ""


@contextmanager
def quiet_runtime() -> Iterator[None]:
    """Keep the runtime's own notes off the terminal; they are written by C++, past `sys.stderr`.

    What it said stays available where it matters: it is added to an error that is raised.
    """
    saved = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except (RuntimeError, ValueError) as error:
            notes.seek(0)
            said = notes.read().decode(errors="replace").strip()
            raise RuntimeError(f"{error}\n{said}" if said else str(error)) from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)
