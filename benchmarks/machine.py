"""What a run was made on: processor, cores, instruction sets, thread counts, versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from effsam_export.util.machine import cpu_name, usable_cores

CPUINFO = Path("/proc/cpuinfo")
TOLD_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
    *("neon", "asimd", "asimddp"),
)
PACKAGES = ("effsam-export", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy")


def describe() -> dict[str, Any]:
    """Processor model, usable cores, instruction sets that matter here, load, and versions."""
    info = CPUINFO.read_text("utf-8") if CPUINFO.is_file() else ""
    pairs = (line.partition(":") for line in info.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "flags": [f for f in TOLD_FLAGS if f in flags],
        "system": platform.platform(),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
