"""TensorRT-RTX: engines compiled ahead of time, without a GPU, for the GPUs a target names.

One engine holds every named compute capability and is as large as one for a single capability
(MobileSAM's encoder in FP16: 19.7 MB for 80, 86 and 89 together, 19.7 MB for each), because the
kernels are finished on the user's GPU. With the option `per_capability` there is a file for each.

Equal graphs give engines of equal layers and size. Encoders are equal to the byte; in the decoders
of SAM and in FastSAM TensorRT-RTX 1.7 numbers its internal tensors (`__mye104710`) otherwise each
time: some hundred bytes of 17 million, with one thread and at fixed addresses too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
import tensorrt_rtx_bindings as trt

from effsam_export.backends.onnx.backend import kept_elements
from effsam_export.backends.receipt import check_precision
from effsam_export.backends.tensorrt import build as trt_build
from effsam_export.backends.tensorrt import shape_ranges
from effsam_export.backends.tensorrt import typed as trt_typed
from effsam_export.backends.tensorrt.kit import trt_engine
from effsam_export.backends.tensorrt.write_kit import write_json
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from effsam_export.backends import Session
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.spec.tensors import Feeds

    Options = Mapping[str, str | int | float | bool]

DEFAULT_CAPABILITIES = "80 86 89"


def known() -> tuple[int, ...]:
    """Compute capabilities this TensorRT-RTX compiles for, as 86 for 8.6."""
    return tuple(
        sorted(int(n[2:]) for n in trt.ComputeCapability.__members__ if n.startswith("SM"))
    )


def capabilities(options: Options) -> tuple[int, ...]:
    """The compute capabilities a target names, in its order.

    Raises:
        UsageError: Everything that is wrong with the option, with those that are known.
    """
    words = str(options.get("compute_capabilities", DEFAULT_CAPABILITIES)).split()
    names = {str(c) for c in known()}
    problems = [f"`{w}` is not one of them" for w in dict.fromkeys(words) if w not in names]
    problems += [f"`{w}` is named twice" for w in dict.fromkeys(words) if words.count(w) > 1]
    if not words:
        problems.append("it is empty")
    if problems:
        raise UsageError(
            f"option `compute_capabilities`: {'; '.join(problems)} (TensorRT-RTX "
            f"{trt.__version__} compiles for {', '.join(str(c) for c in known())})",
            hint="Jetson Orin (87), Hopper (90) and others take the full TensorRT, on the device: "
            "targets `jetson-orin` and `tensorrt`",
        )
    return tuple(int(w) for w in words)


def engine_files(component: str, options: Options) -> dict[str, tuple[int, ...]]:
    """File names of a component's engines, and the compute capabilities in each."""
    wanted = capabilities(options)
    if options.get("per_capability", False):
        return {f"{component}.sm{c}.engine": (c,) for c in wanted}
    return {f"{component}.engine": wanted}


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Write the typed ONNX, its engines, and the list of the layers in them.

    Files: `<component>.onnx`, `<component>.engine`, `<component>.layers.json`.

    Raises:
        UsageError: The options of the target are out of order.
        CheckFailed: TensorRT refused the graph, or the precision found is not the one asked for.
    """
    name, options = graph.component.name, target.options
    shapes = shape_ranges.ranges(graph.component, options)
    wanted = engine_files(name, options)
    typed = trt_typed.write(graph, target.precision, out_dir)
    kept = kept_elements(typed.path, graph.fp32_nodes) if target.precision == "fp16" else 0
    files, built = list(typed.files), []
    for file, chosen in wanted.items():

        def configure(config: Any, chosen: Sequence[int] = chosen) -> None:  # noqa: ANN401
            set_capabilities(config, chosen)
            set_tf32(config, allowed=bool(options.get("tf32", False)))

        made = trt_build.build(trt, graph.component, typed.path, shapes, configure)
        check_precision(name, target.precision, made.constants, kept_fp32=kept)
        trt_build.check_layers(name, target.precision, made.layers, int8=typed.int8)
        (out_dir / file).write_bytes(made.engine)
        files.append(out_dir / file)
        built.append(made)
    layers = out_dir / f"{name}.layers.json"
    # By engine: the layers for one capability may differ from those for another.
    write_json(
        layers,
        {f: trt_build.layers_document(b) for f, b in zip(wanted, built, strict=True)},
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
    """Name the GPUs an engine is for; naming any keeps the builder from looking for one here."""
    config.num_compute_capabilities = len(chosen)
    for i, capability in enumerate(chosen):
        if not config.set_compute_capability(trt.ComputeCapability(capability), i):
            raise CheckFailed(f"TensorRT-RTX refused the compute capability {capability}")


def set_tf32(config: Any, *, allowed: bool) -> None:  # noqa: ANN401 - an SDK object
    """TF32 keeps ten bits of an FP32 product's mantissa; it is on unless it is switched off."""
    (config.set_flag if allowed else config.clear_flag)(trt.BuilderFlag.TF32)


def simulator(options: Options) -> str:
    """What runs in place of the engine on this machine; empty where the engine itself can."""
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


def pick(files: Sequence[Path], options: Options, capability: int) -> Path:
    """The engine of an artefact for one compute capability.

    Raises:
        CheckFailed: It is not among the files.
    """
    component = files[0].stem
    for name, held in engine_files(component, options).items():
        found = next((f for f in files if f.name == name), None)
        if capability in held and found is not None:
            return found
    raise CheckFailed(
        f"{component}: there is no engine for compute capability {capability}",
        hint="name it in `compute_capabilities` of the target and export again",
    )


class EngineSession:
    """An engine on the GPU of this machine; the first run finishes its kernels."""

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


def open_session(artifact: Artifact) -> Session:
    """Open the engine for this machine's GPU; or what stands in for it, on the same typed ONNX."""
    if simulator(artifact.options):
        return trt_typed.open_simulator(artifact.files[0])
    capability = trt_engine.capability()
    assert capability is not None
    return EngineSession(pick(artifact.files, artifact.options, capability))
