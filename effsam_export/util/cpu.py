"""What this machine's processor can do that decides whether INT8 is faster."""

from __future__ import annotations

from pathlib import Path

INFO = Path("/proc/cpuinfo")
SHOWN = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
"""Of these one is needed: without them INT8 was slower than FP32 (openvino#25197)."""


def flags() -> tuple[str, ...]:
    """Which of `SHOWN` the processor has; empty where the system does not list them."""
    if not INFO.is_file():
        return ()
    for line in INFO.read_text("utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            present = set(line.partition(":")[2].split())
            return tuple(f for f in SHOWN if f in present)
    return ()


def int8_flags() -> tuple[str, ...]:
    """Its instructions for products of INT8."""
    return tuple(f for f in flags() if f in DOT_PRODUCTS)
