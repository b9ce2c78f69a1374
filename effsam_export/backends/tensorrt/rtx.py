"""TensorRT-RTX: build engines without a GPU, for the compute capabilities that a target names.

One engine supports all named capabilities and is no larger than an engine for one, because its
kernels are compiled on the user's GPU. The option `per_capability` writes an engine for each.

Equal graphs give engines with equal layers and size, but not always equal bytes: TensorRT-RTX 1.7
numbers some internal tensors (`__mye104710`) differently in each build of a decoder or of FastSAM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
import tensorrt_rtx_bindings as trt

from effsam_export.backends.onnx.backend import fp32_constant_elements
from effsam_export.backends.receipt import check_precision
from effsam_export.backends.tensorrt import build as trt_build
from effsam_export.backends.tensorrt import reported as trt_reported
from effsam_export.backends.tensorrt import shape_ranges
from effsam_export.backends.tensorrt import typed as trt_typed
from effsam_export.backends.tensorrt.kit import trt_engine
from effsam_export.backends.tensorrt.write_kit import write_json
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from effsam_export.backends import ArtifactSession
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.spec.tensors import Feeds, Signature

    Options = Mapping[str, str | int | float | bool]

DEFAULT_CAPABILITIES = "80 86 89"


def known_capabilities() -> tuple[int, ...]:
    """Return the compute capabilities that this TensorRT-RTX supports, 86 for 8.6."""
    return tuple(
        sorted(int(n[2:]) for n in trt.ComputeCapability.__members__ if n.startswith("SM"))
    )


def capabilities(options: Options) -> tuple[int, ...]:
    """Return the compute capabilities that a target names, in order.

    Raises:
        UsageError: The option is not valid; the message has all reasons and the supported values.
    """
    words = str(options.get("compute_capabilities", DEFAULT_CAPABILITIES)).split()
    names = {str(c) for c in known_capabilities()}
    problems = [f"`{w}` is not supported" for w in dict.fromkeys(words) if w not in names]
    problems += [f"`{w}` is named twice" for w in dict.fromkeys(words) if words.count(w) > 1]
    if not words:
        problems.append("it is empty")
    if problems:
        raise UsageError(
            f"option `compute_capabilities`: {'; '.join(problems)} (TensorRT-RTX "
            f"{trt.__version__} supports {', '.join(str(c) for c in known_capabilities())})",
            hint="Jetson Orin (87), Hopper (90) and others need TensorRT on the device: choose the "
            "target `jetson-orin` or `tensorrt`",
        )
    return tuple(int(w) for w in words)


def engine_files(component: str, options: Options) -> dict[str, tuple[int, ...]]:
    """Return the file names of a component's engines, with the compute capabilities of each."""
    chosen = capabilities(options)
    if options.get("per_capability", False):
        return {f"{component}.sm{c}.engine": (c,) for c in chosen}
    return {f"{component}.engine": chosen}


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Write the typed ONNX, its engines and a list of their layers.

    Files: `<component>.onnx`, `<component>.engine`, `<component>.layers.json`.

    Raises:
        UsageError: An option of the target is not valid.
        CheckFailed: TensorRT refused the graph, or the precision of a file is not the target's.
    """
    name, options = graph.component.name, target.options
    shapes = shape_ranges.ranges(graph.component, options)
    engines = engine_files(name, options)
    typed = trt_typed.write(graph, target.precision, out_dir)
    in_fp32 = (
        fp32_constant_elements(typed.path, graph.fp32_nodes) if target.precision == "fp16" else 0
    )
    files, built = list(typed.files), []
    for file, chosen in engines.items():

        def configure(config: Any, chosen: Sequence[int] = chosen) -> None:  # noqa: ANN401
            set_capabilities(config, chosen)
            set_tf32(config, allowed=bool(options.get("tf32", False)))

        result = trt_build.build(trt, graph.component, typed.path, shapes, configure)
        check_precision(name, target.precision, result.constants, fp32_by_recipe=in_fp32)
        trt_build.check_layers(name, target.precision, result.layers, int8=typed.int8)
        (out_dir / file).write_bytes(result.engine)
        files.append(out_dir / file)
        built.append(result)
    layers = out_dir / f"{name}.layers.json"
    # By engine, because the layers may depend on the compute capability.
    write_json(
        layers,
        {f: trt_build.layers_document(b) for f, b in zip(engines, built, strict=True)},
    )
    return Artifact(
        component=name,
        backend="tensorrt-rtx",
        precision=target.precision,
        files=(*files, layers),
        tensors_by_dtype=built[0].constants,
        ops=built[0].kinds,
        versions={
            "tensorrt_rtx_bindings": str(trt.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        options=options,
    )


def set_capabilities(config: Any, chosen: Sequence[int]) -> None:  # noqa: ANN401 - an SDK object
    """Set the compute capabilities of an engine; without them the builder would need a GPU."""
    config.num_compute_capabilities = len(chosen)
    for i, capability in enumerate(chosen):
        if not config.set_compute_capability(trt.ComputeCapability(capability), i):
            raise CheckFailed(f"TensorRT-RTX refused the compute capability {capability}")


def set_tf32(config: Any, *, allowed: bool) -> None:  # noqa: ANN401 - an SDK object
    """Allow or forbid TF32 (FP32 products with a mantissa of 10 bits), which is on by default."""
    (config.set_flag if allowed else config.clear_flag)(trt.BuilderFlag.TF32)


def simulator(options: Options) -> str:
    """Return the name of the simulator, or "" if the engine runs on this machine's GPU."""
    found = trt_engine.capability()
    if found is None:
        return trt_typed.SIMULATOR
    wanted = capabilities(options)
    if found not in wanted:
        named = ", ".join(str(c) for c in wanted)
        return (
            f"{trt_typed.SIMULATOR}: this GPU has compute capability {found}, "
            f"the engine is for {named}"
        )
    return ""


def engine_for(files: Sequence[Path], options: Options, capability: int) -> Path:
    """Return the engine file of an artefact for one compute capability.

    Raises:
        CheckFailed: No file is for this capability.
    """
    component = files[0].stem
    for name, held in engine_files(component, options).items():
        found = next((f for f in files if f.name == name), None)
        if capability in held and found is not None:
            return found
    raise CheckFailed(
        f"{component}: there is no engine for compute capability {capability}",
        hint="add it to the target option `compute_capabilities` and export again",
    )


class EngineSession:
    """An engine loaded on the GPU of this machine; the first run compiles its kernels."""

    def __init__(self, path: Path) -> None:
        try:
            logger = trt_build.recorder(trt)
            self._engine = trt_engine.Engine(trt, path.read_bytes(), logger=logger)
        except trt_engine.GpuError as error:
            raise CheckFailed(f"`{path.name}`: {error}") from error

    def run(self, feeds: Feeds) -> Feeds:
        try:
            return self._engine.run(feeds)
        except trt_engine.GpuError as error:
            raise CheckFailed(str(error)) from error

    def signature(self) -> Signature:
        return trt_reported.signature(self._engine)


def open_session(artifact: Artifact, threads: int | None = None) -> ArtifactSession:
    """Open the engine for this machine's GPU, or its simulator on the same typed ONNX."""
    del threads
    if simulator(artifact.options):
        return trt_typed.open_simulator(artifact.files[0])
    capability = trt_engine.capability()
    assert capability is not None
    return EngineSession(engine_for(artifact.files, artifact.options, capability))
