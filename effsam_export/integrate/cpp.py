"""C++17 on OpenVINO, whose headers and libraries come with its Python package too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.integrate import render
from effsam_export.integrate.render import quoted

if TYPE_CHECKING:
    from effsam_export.integrate.contract import Contract

BACKENDS = {"openvino": "OpenVINO"}
RUN = "cmake -S . -B build; cmake --build build; build/selftest BUNDLE"
NAMES = (
    "effsam_segmenter.hpp",
    "effsam_segmenter.cpp",
    "selftest_files.hpp",
    "selftest.cpp",
    "CMakeLists.txt",
)


def files(contract: Contract) -> dict[str, str]:
    """The library, the self-test with what it reads files by, and a `CMakeLists.txt`."""
    options, tags = contract.options, render.tags_of(contract)
    values = {
        **render.common(contract),
        "NOTICE": render.commented(render.notice(contract), "//"),
        "HASH_NOTICE": render.commented(render.notice(contract), "#"),
        "DEVICE": quoted(str(options.get("device", "CPU"))),
        "INFERENCE_PRECISION": quoted(str(options.get("inference_precision", "f32"))),
        "PAD_VALUE": _braces(contract.pad_value or ()),
        "PADDING_POINT": _braces(contract.padding_point),
        "BACKGROUND": _optional(contract.background),
        "EMPTY_LABEL": repr(contract.empty),
        "MAX_POINTS": _optional(contract.max_points),
        "TAKES_BOX": _truth(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": _truth(contract.takes_points_with_box),
        "TAKES_MASK": _truth(contract.takes_mask),
        "SINGLE": _braces(contract.single),
        "MULTIMASK": _braces(contract.multimask),
    }
    return {name: render.fill(name, tags, values) for name in NAMES}


def _braces(values: tuple[float, ...] | tuple[int, ...]) -> str:
    return f"{{{', '.join(repr(v) for v in values)}}}"


def _optional(value: int | None) -> str:
    return "std::nullopt" if value is None else repr(value)


def _truth(value: bool) -> str:
    return "true" if value else "false"
