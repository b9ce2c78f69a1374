"""TFLite (LiteRT): the traced program through litert-torch, without TensorFlow."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING

from effsam_export.backends.receipt import check_precision
from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import gpu as tflite_gpu
from effsam_export.backends.tflite import merge as tflite_merge
from effsam_export.backends.tflite.session import HalfSession, InterpreterSession
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    from effsam_export.backends import Session
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile

    Options = Mapping[str, str | int | float | bool]

TOOLS = ("ai-edge-litert", "litert-torch")
QUANTIZER = "ai-edge-quantizer"
SIMULATOR = "LiteRT on the CPU, computing in FP16"
MAX_BYTES = 2**31 - 2**24
"""A flatbuffer's 2 GB, less a share for everything that is not a constant."""
SHOWN = 5
"""Operators of a refused file that the message names."""


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Convert the traced program, halve or quantize its constants, and count and check the file.

    The file has one signature, called as the component, with the contract's names of tensors.

    Raises:
        UsageError: The graph has dynamic dimensions.
        CheckFailed: The file does not hold what was asked for, or something that the target cannot
            run: a custom operator, a forbidden one, a tensor of too high a rank.
    """
    from effsam_export.backends.tflite import convert as tflite_convert

    component = graph.component
    check_fixed(component)
    assert graph.program is not None
    check_size(component.name, graph.program.stat().st_size)
    content = tflite_convert.convert(graph.program, component)
    if target.precision == "int8" and graph.quantization is not None:
        from effsam_export.backends.tflite import quantize as tflite_ptq

        content = tflite_ptq.quantize(content, graph.program, graph.quantization, component)
    model = tflite_file.parse(content)
    if target.options.get("delegate") == "gpu":
        tflite_gpu.align_ranks(model)
    if target.precision == "fp16":
        tflite_file.halve_constants(model)
    path = out_dir / f"{component.name}.tflite"
    write(model, path)
    return artifact_of(path, component, target)


def check_size(name: str, size: int) -> None:
    """Refuse constants that the converter cannot hold, before it has run for minutes.

    Raises:
        CheckFailed: The traced program's constants have over 2 GB.
    """
    if size > MAX_BYTES:
        raise CheckFailed(
            f"{name}: these constants have {size / 1e9:.1f} GB in FP32, and the converter builds "
            "one .tflite file of at most 2 GB before any are halved",
            hint="choose another target, or a smaller encoder",
        )


def write(model: schema.ModelT, path: Path) -> None:
    """Write a file.

    Raises:
        CheckFailed: Its constants are more than a .tflite file can hold.
    """
    size = tflite_file.bytes_of_constants(model)
    if size > MAX_BYTES:
        raise CheckFailed(
            f"{path.stem}: a .tflite file holds at most 2 GB, and these constants have "
            f"{size / 1e9:.1f} GB",
            hint="FP16 (`--fp16`) halves them",
        )
    path.write_bytes(tflite_file.serialise(model))


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
    # What of an INT8 file has to be INT8 is the recipe's to say, and was checked against it.
    if target.precision != "int8":
        check_precision(component.name, target.precision, counts)
    tools = (*TOOLS, QUANTIZER) if target.precision == "int8" else TOOLS
    return Artifact(
        component=component.name,
        backend="tflite",
        precision=target.precision,
        files=(path,),
        tensors_by_dtype=counts,
        ops=tflite_file.count_operators(model),
        versions={name.replace("-", "_"): metadata.version(name) for name in tools},
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


def combine(
    artifacts: Sequence[Artifact],
    components: Sequence[ComponentSpec],
    target: TargetProfile,
    out_dir: Path,
) -> tuple[Artifact, ...]:
    """The artefacts as one file with a signature for each, if the target's `single_file` asks so.

    Args:
        artifacts: What `lower` gave, whose files are removed.
        components: Their contracts, in the same order.
        target: With or without `single_file`.
        out_dir: Where `model.tflite` goes.

    Returns:
        The same artefacts, with their own receipts, all in that file; or untouched.
    """
    if not target.options.get("single_file") or len(artifacts) < 2:
        return tuple(artifacts)
    path = out_dir / "model.tflite"
    write(tflite_merge.merge([tflite_file.read(a.files[0]) for a in artifacts]), path)
    model = tflite_file.read(path)
    for component in components:
        faults = tflite_file.signature_faults(
            model, component.name, component.inputs, component.outputs
        )
        assert not faults, f"{component.name}: {'; '.join(faults)}"
    wanted = sum((Counter(a.tensors_by_dtype) for a in artifacts), Counter[str]())
    assert tflite_file.count_constants(model) == dict(wanted)
    for artifact in artifacts:
        artifact.files[0].unlink()
    return tuple(replace(a, files=(path,)) for a in artifacts)


def open_session(artifact: Artifact) -> Session:
    """Load the component's signature with the number of threads of the target profile."""
    kind = HalfSession if artifact.options.get("delegate") == "gpu" else InterpreterSession
    threads = int(artifact.options.get("num_threads", 1))
    return kind(artifact.files[0], artifact.component, threads)


def simulator(options: Options) -> str:
    """What runs here in the place of the target's runtime; empty where that is LiteRT's CPU one."""
    return SIMULATOR if options.get("delegate") == "gpu" else ""
