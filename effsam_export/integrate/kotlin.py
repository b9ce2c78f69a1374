"""Generate Kotlin for Android and LiteRT's `Interpreter`; only the binding needs Android."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.integrate import render
from effsam_export.integrate.contract import num_threads
from effsam_export.integrate.kotlin_memory import peak_memory

if TYPE_CHECKING:
    from effsam_export.integrate.contract import Contract

BACKENDS = {"tflite": "LiteRT"}
RUN = "head -n 20 SelfTest.kt  # how an app runs it on a device"
RUNTIME = "[2.1.0,3.0.0)"
"""Versions of LiteRT for Android; 2.0 has no `Interpreter`."""
SOURCES = (
    "Segmenter.kt",
    "Resizing.kt",
    "LiteRtGraph.kt",
    "AndroidImages.kt",
    "SelfTest.kt",
    "SelfTestFiles.kt",
)
GRADLE = "build.gradle.kts"
EXAMPLE = (3000, 4000)
"""(height, width) of the photograph whose peak memory the code states."""
MB = 1_000_000


def files(contract: Contract) -> dict[str, str]:
    """Return the library, its binding to LiteRT, the self-test, and lines for an app's build.

    Raises:
        UsageError: The bundle is for the GPU delegate, which `Interpreter` of LiteRT 2 lacks, or
            its number of threads is invalid.
    """
    if contract.options.get("delegate") == "gpu":
        raise UsageError(
            "the bundle is for LiteRT's GPU delegate, but LiteRT 2's `Interpreter` runs on the CPU",
            hint="export it for `tflite` or `android-cpu`",
        )
    tags = render.tags_of(contract)
    peak = peak_memory(contract, EXAMPLE)
    values = {
        **render.common(contract),
        "PHOTOGRAPH": f"{EXAMPLE[1]} x {EXAMPLE[0]}",
        "READ_MB": _megabytes(peak.read),
        "EMBED_MB": _megabytes(peak.embed),
        "PREDICT_MB": _megabytes(peak.predict),
        "NOTICE": render.commented(render.notice(contract), "//"),
        "NUM_THREADS": repr(num_threads(contract.options)),
        "RUNTIME": render.quoted(f"com.google.ai.edge.litert:litert:{RUNTIME}"),
        "PAD_VALUE": ", ".join(map(repr, contract.pad_value or ())),
        "PADDING_POINT": ", ".join(map(repr, contract.padding_point)),
        "BACKGROUND": _literal(contract.background),
        "EMPTY_LABEL": _literal(contract.empty),
        "MAX_POINTS": _literal(contract.max_points),
        "TAKES_BOX": _literal(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": _literal(contract.takes_points_with_box),
        "TAKES_MASK": _literal(contract.takes_mask),
        "SINGLE": ", ".join(map(repr, contract.single)),
        "MULTIMASK": ", ".join(map(repr, contract.multimask)),
    }
    return {name: render.fill(name, tags, values) for name in (*SOURCES, GRADLE)}


def _megabytes(size: int) -> str:
    """Return bytes in MB, rounded up."""
    return str(math.ceil(size / MB))


def _literal(value: int | bool | None) -> str:
    return "null" if value is None else repr(value).lower()
