"""Generate Python that needs numpy and the bundle's runtime, and Pillow to read image files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.integrate import render
from effsam_export.integrate.contract import num_threads
from effsam_export.integrate.render import quoted

if TYPE_CHECKING:
    from effsam_export.integrate.contract import Contract
    from effsam_export.integrate.instances import InstanceContract

BACKENDS = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "ai_edge_litert"}
RUN = "python selftest.py BUNDLE"
IMAGING = Path(__file__).resolve().parents[1] / "imaging"
COPIES = ("pixels.py", "samples.py")
"""Modules of this package that generated Python has a copy of, to read images alike."""
COPY_MARK = "Needs numpy and Pillow, nothing else: `effsam code` copies this file."
"""Line in the docstring of each, in whose place the copy has the notice of generated files."""


def files(contract: Contract) -> dict[str, str]:
    """Return `segmenter.py`, `selftest.py`, `images.py` and the modules that it needs.

    Raises:
        UsageError: The bundle is for LiteRT's GPU delegate, which Python lacks, or its number of
            threads is invalid.
    """
    values = {**render.common(contract), **_values(contract), **_runtime(contract)}
    return _filled("segmenter.py", render.tags_of(contract), values)


def instance_files(contract: InstanceContract) -> dict[str, str]:
    """Return the same files for a segmenter.

    Raises:
        UsageError: As `files`.
    """
    values = {**_instance_values(contract), **_runtime(contract)}
    return _filled(
        "instances.py", ("instances", contract.backend, render.images_tag(contract)), values
    )


def _filled(segmenter: str, tags: tuple[str, ...], values: dict[str, str]) -> dict[str, str]:
    return {
        "segmenter.py": render.fill(segmenter, tags, values),
        "selftest.py": render.fill("selftest.py", tags, values),
        "images.py": render.fill("images.py", (), values),
        **{name: _copy(name, values["NOTICE"]) for name in COPIES},
    }


def _copy(name: str, notice: str) -> str:
    """Return a module of `imaging` that stands beside the others, with the notice."""
    text = (IMAGING / name).read_text("utf-8")
    return text.replace(COPY_MARK, notice).replace("effsam_export.imaging.", "")


def _runtime(contract: Contract | InstanceContract) -> dict[str, str]:
    """Return the values for opening a graph."""
    package, options = BACKENDS[contract.backend], contract.options
    if options.get("delegate") == "gpu":
        raise UsageError(
            "the bundle is for LiteRT's GPU delegate, which Python lacks",
            hint="export it for `tflite` or `android-cpu`",
        )
    return {
        "NOTICE": render.notice(contract),
        "PACKAGE": package,
        "PACKAGE_LITERAL": quoted(package),
        "DISTRIBUTION": quoted(package.replace("_", "-")),
        "PROVIDER": quoted(str(options.get("provider", "CPUExecutionProvider"))),
        "DEVICE": quoted(str(options.get("device", "CPU"))),
        "INFERENCE_PRECISION": quoted(str(options.get("inference_precision", "f32"))),
        "NUM_THREADS": repr(num_threads(options)),
    }


def _values(contract: Contract) -> dict[str, str]:
    return {
        "PAD_VALUE": repr(contract.pad_value),
        "PADDING_POINT": repr(contract.padding_point),
        "BACKGROUND": repr(contract.background),
        "EMPTY_LABEL": repr(contract.empty),
        "MAX_POINTS": repr(contract.max_points),
        "TAKES_BOX": repr(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": repr(contract.takes_points_with_box),
        "TAKES_MASK": repr(contract.takes_mask),
        "SINGLE": repr(contract.single),
        "MULTIMASK": repr(contract.multimask),
    }


def _instance_values(contract: InstanceContract) -> dict[str, str]:
    return {
        **render.common_instances(contract),
        "PAD_VALUE": repr(contract.pad_value),
        "BACKGROUND": repr(contract.background),
        "MAX_POINTS": repr(contract.max_points),
        "TAKES_BOX": repr(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": repr(contract.takes_points_with_box),
    }
