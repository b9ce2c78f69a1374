"""The machine that a figure was measured on, and the memory of this process."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from effsam_export.util import cpu

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Processor and system of a measurement.

    Attributes:
        cpu: Name of the processor.
        cores: Cores that this process may use.
        cpu_flags: Processor features that decide the speed of INT8.
        system: Operating system and architecture.
        python: Version of Python.
    """

    cpu: str
    cores: int
    cpu_flags: tuple[str, ...]
    system: str
    python: str

    def sentence(self) -> str:
        """Return processor, cores, system and Python on one line."""
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.cpu}, {cores}, {self.system}, Python {self.python}"


def describe() -> Machine:
    """Return this machine; runs no program and imports no package."""
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        cpu_flags=cpu.flags(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def cpu_name() -> str:
    """Return the processor's name; its architecture where the system does not say more."""
    if cpu.INFO.is_file():
        for line in cpu.INFO.read_text("utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_bytes() -> int | None:
    """Return the largest resident memory of this process so far; None where it is not known."""
    # Linux carries `ru_maxrss` of the parent over a fork and exec; VmHWM starts anew.
    if STATUS.is_file():
        for line in STATUS.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
