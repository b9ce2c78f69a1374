"""Generate C++17 for OpenVINO, ONNX Runtime or LiteRT; only `effsam_graph.cpp` differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.integrate import render
from effsam_export.integrate.contract import num_threads
from effsam_export.integrate.render import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.integrate.contract import Contract
    from effsam_export.integrate.instances import InstanceContract

BACKENDS = {"openvino": "OpenVINO", "onnx": "ONNX Runtime", "tflite": "LiteRT"}
RUN = "cmake -S . -B build; cmake --build build; build/selftest BUNDLE"
NAMES = (
    "effsam_segmenter.hpp",
    "effsam_segmenter.cpp",
    "effsam_graph.hpp",
    "effsam_graph.cpp",
    "selftest_files.hpp",
    "selftest.cpp",
    "example.cpp",
    "CMakeLists.txt",
)
GRAPH = "effsam_graph.cpp"
"""File with a template for each runtime."""
INSTANCES = {"effsam_segmenter.hpp": "instances.hpp", "effsam_segmenter.cpp": "instances.cpp"}
"""File -> its template for a segmenter."""
RUNTIMES = {"openvino": "openvino", "onnx": "onnxruntime", "tflite": "ai-edge-litert"}
"""Backend -> the runtime's name in a manifest, which the self-test reports."""
PROVIDER = "CPUExecutionProvider"


def files(contract: Contract) -> dict[str, str]:
    """Return the library, its binding to the runtime, the self-test, and a `CMakeLists.txt`.

    Raises:
        UsageError: A bundle for ONNX Runtime or LiteRT is not for the CPU, or its number of threads
            is invalid.
    """
    values = {**render.common(contract), **_values(contract), **_runtime(contract)}
    return _filled(contract.backend, render.tags_of(contract), values, {})


def instance_files(contract: InstanceContract) -> dict[str, str]:
    """Return the same files for a segmenter.

    Raises:
        UsageError: As `files`.
    """
    values = {
        **render.common_instances(contract),
        **_prompt_values(contract),
        "PAD_VALUE": _braces(contract.pad_value),
        **_runtime(contract),
    }
    return _filled(
        contract.backend,
        ("instances", contract.backend, render.images_tag(contract)),
        values,
        INSTANCES,
    )


def _filled(
    backend: str, tags: tuple[str, ...], values: dict[str, str], others: Mapping[str, str]
) -> dict[str, str]:
    templates = {GRAPH: f"effsam_graph_{backend}.cpp", **others}
    return {name: render.fill(templates.get(name, name), tags, values) for name in NAMES}


def _runtime(contract: Contract | InstanceContract) -> dict[str, str]:
    """Return the values for opening a graph."""
    options = contract.options
    if options.get("delegate") == "gpu":
        raise UsageError(
            "the bundle is for LiteRT's GPU delegate, but code in C++ runs LiteRT on the CPU",
            hint="export it for `tflite` or `android-cpu`",
        )
    provider = options.get("provider", PROVIDER)
    if provider != PROVIDER:
        raise UsageError(
            f"the bundle is for ONNX Runtime's `{provider}`, but code in C++ is generated "
            f"for {PROVIDER}",
            hint="export it for `onnx`",
        )
    return {
        "NOTICE": render.commented(render.notice(contract), "//"),
        "HASH_NOTICE": render.commented(render.notice(contract), "#"),
        "RUNTIME": quoted(RUNTIMES[contract.backend]),
        "DEVICE": quoted(str(options.get("device", "CPU"))),
        "INFERENCE_PRECISION": quoted(str(options.get("inference_precision", "f32"))),
        "NUM_THREADS": repr(num_threads(options)),
    }


def _values(contract: Contract) -> dict[str, str]:
    return {
        **_prompt_values(contract),
        "PAD_VALUE": _braces(contract.pad_value or ()),
        "PADDING_POINT": _braces(contract.padding_point),
        "EMPTY_LABEL": repr(contract.empty),
        "TAKES_MASK": _truth(contract.takes_mask),
        "SINGLE": _braces(contract.single),
        "MULTIMASK": _braces(contract.multimask),
    }


def _prompt_values(contract: Contract | InstanceContract) -> dict[str, str]:
    """Return the values for prompts, which both kinds of bundles have."""
    return {
        "BACKGROUND": _optional(contract.background),
        "MAX_POINTS": _optional(contract.max_points),
        "TAKES_BOX": _truth(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": _truth(contract.takes_points_with_box),
    }


def _braces(values: tuple[float, ...] | tuple[int, ...]) -> str:
    return f"{{{', '.join(repr(v) for v in values)}}}"


def _optional(value: int | None) -> str:
    return "std::nullopt" if value is None else repr(value)


def _truth(value: bool) -> str:
    return "true" if value else "false"
