"""CPU features that decide whether INT8 or BF16 is faster than FP32 on this machine."""

from __future__ import annotations

from pathlib import Path

INFO = Path("/proc/cpuinfo")
SHOWN = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "avx512_bf16",
    "amx_bf16",
    "asimddp",
)
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
"""Without one of these, INT8 can be slower than FP32 (openvinotoolkit/openvino#25197)."""

BF16 = ("avx512_bf16", "amx_bf16")
"""With one of these OpenVINO computes in BF16, and does so by default."""


def flags() -> tuple[str, ...]:
    """Return the features in `SHOWN` that this CPU has; empty without `/proc/cpuinfo`."""
    if not INFO.is_file():
        return ()
    for line in INFO.read_text("utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            present = set(line.partition(":")[2].split())
            return tuple(f for f in SHOWN if f in present)
    return ()


def int8_flags() -> tuple[str, ...]:
    """Return the INT8 dot-product features of this CPU."""
    return tuple(f for f in flags() if f in DOT_PRODUCTS)


def has_bf16() -> bool:
    """Return whether this CPU has BF16 instructions; False without `/proc/cpuinfo`."""
    return any(f in BF16 for f in flags())
