"""TFLite (LiteRT): convert a traced program to a .tflite file with litert-torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING

from effsam_export.backends.receipt import check_precision
from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import gpu as tflite_gpu
from effsam_export.backends.tflite import merge as tflite_merge
from effsam_export.backends.tflite.session import Fp16Session, InterpreterSession
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    from effsam_export.backends import ArtifactSession
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile

    Options = Mapping[str, str | int | float | bool]

TOOLS = ("ai-edge-litert", "litert-torch")
QUANTIZER = "ai-edge-quantizer"
SIMULATOR = "LiteRT on the CPU, computing in FP16"
DELEGATES = ("xnnpack", "gpu")
MAX_BYTES = 2**31 - 2**24
"""Maximum size of all constants: a flatbuffer's 2 GB, less 16 MB for everything else."""
SHOWN = 5
"""Maximum number of operators that an error message lists."""


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Convert the traced program, store its constants in the precision, and check the file.

    The file has one signature with the name of the component and the tensor names of the contract.

    Raises:
        UsageError: The graph has dynamic dimensions.
        CheckFailed: The file does not have the target's precision, or the target cannot run it: a
            custom operator, a forbidden one, a tensor with too many dimensions, or an unknown
            delegate.
    """
    from effsam_export.backends.tflite import convert as tflite_convert

    component = graph.component
    check_delegate(target.options)
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
        tflite_file.store_constants_in_fp16(model)
    path = out_dir / f"{component.name}.tflite"
    write(model, path)
    return artifact_of(path, component, target)


def check_delegate(options: Options) -> None:
    """Check that a target asks for a delegate that runs or is simulated here.

    Raises:
        CheckFailed: It asks for another one, in whose place LiteRT would use the CPU.
    """
    asked = str(options.get("delegate", "xnnpack"))
    if asked not in DELEGATES:
        raise CheckFailed(
            f"the target asks LiteRT for delegate `{asked}`, and it would give `xnnpack`, the CPU",
            hint="known delegates: " + ", ".join(f"`{d}`" for d in DELEGATES),
        )


def check_size(name: str, size: int) -> None:
    """Check that the constants fit into one file, before the conversion takes minutes.

    Raises:
        CheckFailed: The constants of the traced program are larger than 2 GB.
    """
    if size > MAX_BYTES:
        raise CheckFailed(
            f"{name}: the constants have {size / 1e9:.1f} GB in FP32, and the converter first "
            "writes an FP32 .tflite file of at most 2 GB",
            hint="choose another target, or a smaller encoder",
        )


def write(model: schema.ModelT, path: Path) -> None:
    """Write a .tflite file.

    Raises:
        CheckFailed: The constants are larger than the 2 GB of a .tflite file.
    """
    size = tflite_file.bytes_of_constants(model)
    if size > MAX_BYTES:
        raise CheckFailed(
            f"{path.stem}: a .tflite file has at most 2 GB, and the constants have "
            f"{size / 1e9:.1f} GB",
            hint="export in FP16 (`--fp16`) or INT8 (`--int8`)",
        )
    path.write_bytes(tflite_file.serialise(model))


def artifact_of(path: Path, component: ComponentSpec, target: TargetProfile) -> Artifact:
    """Re-open a file, check it against the contract and the target, and return its counts."""
    model = tflite_file.read(path)
    faults = tflite_file.signature_faults(
        model, component.name, component.inputs, component.outputs
    )
    # A difference is a bug of the converter or of this module, not a user error.
    assert not faults, f"{component.name}: {'; '.join(faults)}"
    check_limits(component.name, target, model)
    counts = tflite_file.count_constants(model)
    # `quantize` has checked the INT8 weights of the file against the recipe.
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
    """Check that a component has no dynamic dimensions.

    Raises:
        UsageError: It has some; the message names them.
    """
    dynamic = dict.fromkeys(n for s in component.inputs for n in s.shape if isinstance(n, str))
    if dynamic:
        names = ", ".join(f"`{n}`" for n in dynamic)
        raise UsageError(
            f"{component.name}: TFLite takes fixed shapes only, and this graph has dynamic "
            f"dimensions: {names}",
            hint="set the target option `slots = 8`, the number of points per prompt",
        )


def check_limits(name: str, target: TargetProfile, model: schema.ModelT) -> None:
    """Check that the target can run every operator of a file.

    Raises:
        CheckFailed: It cannot; the message has operator, tensor and shape of the first ones.
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
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise CheckFailed(
            f"{name}: target `{target.name}` cannot run this graph:",
            lines=[*faults[:SHOWN], *more],
        )


def combine(
    artifacts: Sequence[Artifact],
    components: Sequence[ComponentSpec],
    target: TargetProfile,
    out_dir: Path,
) -> tuple[Artifact, ...]:
    """Merge artefacts to one file with a signature for each, if the target has `single_file`.

    Args:
        artifacts: Artefacts of `lower`; their files are deleted.
        components: Their contracts, in the same order.
        target: Target, with or without `single_file`.
        out_dir: Directory of the merged file, `model.tflite`.

    Returns:
        The artefacts with the merged file and unchanged counts, or the same artefacts without
        `single_file`.
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
    expected = sum((Counter(a.tensors_by_dtype) for a in artifacts), Counter[str]())
    assert tflite_file.count_constants(model) == dict(expected)
    for artifact in artifacts:
        artifact.files[0].unlink()
    return tuple(replace(a, files=(path,)) for a in artifacts)


def open_session(artifact: Artifact, threads: int | None = None) -> ArtifactSession:
    """Load the signature of a component.

    Args:
        artifact: The artefact.
        threads: Number of threads; None for that of the target.

    Raises:
        CheckFailed: The file cannot be read, lacks the component, or is for an unknown delegate.
    """
    check_delegate(artifact.options)
    kind = Fp16Session if artifact.options.get("delegate") == "gpu" else InterpreterSession
    threads = threads or int(artifact.options.get("num_threads", 1))
    return kind(artifact.files[0], artifact.component, threads)


def simulator(options: Options) -> str:
    """Return the name of the simulator for a GPU target, or "" for a CPU target."""
    return SIMULATOR if options.get("delegate") == "gpu" else ""
