"""Facts about this machine: packages, available targets, CPU features, GPUs and disk space."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export._version import __version__
from effsam_export.config import targets as profiles
from effsam_export.util import cpu

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "openvino",
    "coremltools",
    "litert-torch",
    "ai-edge-litert",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt",
    "numpy",
    "pillow",
)
SMI_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class TargetState:
    """Whether a target is available here.

    Attributes:
        missing: Name of the package that is not installed; None if the target is available.
        extra: Extra of `effsam-export` that installs it.
    """

    name: str
    backend: str
    missing: str | None
    extra: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The facts that `effsam doctor` prints.

    Attributes:
        packages: Name -> version, or None if the package is not installed.
        memory_gb: Physical memory in GB of 1e9 bytes; None if unknown.
        gpus: Name, compute capability and driver of each NVIDIA GPU.
        disk_free_gb: Free space on the disk of the cache, in GB of 1e9 bytes.
        can_trace: Whether the packages to trace a model are installed.
    """

    version: str
    python: str
    system: str
    cores: int
    cpu_flags: tuple[str, ...]
    gpus: tuple[str, ...]
    memory_gb: float | None
    disk_free_gb: float
    cache_dir: Path
    can_trace: bool
    packages: dict[str, str | None]
    targets: tuple[TargetState, ...]


def diagnose(cache_dir: Path) -> Diagnosis:
    """Collect the facts without importing torch or another heavy package."""
    disk = next(p for p in (cache_dir, *cache_dir.parents) if p.is_dir())
    packages = {name: _version(name) for name in PACKAGES}
    targets = []
    for name in profiles.target_names():
        backend = profiles.load_target(name).backend
        entry = backends.BACKENDS[backend]
        missing = None if backends.available(backend) else entry.packages[0]
        targets.append(TargetState(name=name, backend=backend, missing=missing, extra=entry.extra))
    return Diagnosis(
        version=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        cpu_flags=cpu.flags(),
        gpus=_gpus(),
        memory_gb=_memory_gb(),
        disk_free_gb=shutil.disk_usage(disk).free / 1e9,
        cache_dir=cache_dir,
        can_trace=all(packages[p] for p in ("torch", "onnx", "onnxscript", "onnxruntime")),
        packages=packages,
        targets=tuple(targets),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[str, ...]:
    # The TensorRT kit asks the driver directly, but imports numpy; this command must not.
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version"]
    try:
        result = subprocess.run(
            [*command, "--format=csv,noheader"],
            capture_output=True,
            check=True,
            text=True,
            timeout=SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.split(", ") for line in result.stdout.splitlines() if line.count(", ") == 2]
    return tuple(f"{name}, compute capability {c}, driver {driver}" for name, c, driver in rows)


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return None
