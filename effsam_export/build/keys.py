"""What a cell of a build depends on, part by part, and the hash that names its bundle.

Two cells with the same parts are the same bundle. Where a cell was built before and a part of it is
another one now, that part is the reason to build it again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import __version__, backends

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.pipeline import ExportRequest

TRACING = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "numpy", "pillow")
"""Take part in every export."""
ABSENT = "not installed"


def parts(request: ExportRequest) -> dict[str, str]:
    """Everything that the bundle of a request follows from, by name.

    Args:
        request: With its checkpoint; where the bundle goes does not matter.
    """
    from effsam_export import profiles
    from effsam_export.calibration.recipe import hashes

    target, model = request.target, request.model
    photographs = profiles.load_parity_images(request.parity_file)
    found = {
        "effsam-export": __version__,
        "code": code(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "model": model.name,
        "model.options": _json(dict(model.options)),
        "weights": request.checkpoint.sha256,
        "target.profile": hashlib.sha256(target.source).hexdigest(),
        "target.options": _json(dict(target.options)),
        "precision": target.precision,
        "components": " ".join(request.components),
        "photographs": _digest(
            [(p.path.name, p.cases, sorted(hashes([p.path]).values())) for p in photographs]
        ),
    }
    if target.precision != "fp32":
        found["precision.recipe"] = _digest(model.precision)
    entry = backends.BACKENDS[target.backend]
    tools = [*TRACING, *entry.packages]
    if request.int8 is not None:
        tools += [entry.quantizer] if entry.quantizer else []
        plan, calibration = request.int8.plan, request.int8.calibration
        found["int8.recipe"] = _digest(sorted(plan.recipes.items()))
        seen = [(p.name, h) for p, h in hashes(calibration.images).items()]
        settings = {k: v for k, v in vars(calibration).items() if k not in ("images", "name")}
        found["int8.calibration"] = _digest([seen, sorted(settings.items())])
    found |= {f"tool.{name}": version_of(name) for name in tools}
    return found


def digest(found: Mapping[str, str]) -> str:
    """The name of a bundle with these parts."""
    return hashlib.sha256(_json(dict(found)).encode()).hexdigest()


def reasons(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is another one than it was, as sentences; hashes by their first twelve digits."""
    found = []
    for name in dict.fromkeys([*now, *before]):
        was, new = before.get(name), now.get(name)
        if was == new:
            continue
        if was is None or new is None:
            found.append(f"{name} {'is new' if was is None else 'is gone'}")
        else:
            found.append(f"{name} {_short(was)} -> {_short(new)}")
    return found


@cache
def code() -> str:
    """Hash of this package's own source files, by path and contents."""
    root = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@cache
def version_of(package: str) -> str:
    """Version of a package by its name or by that of its module."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(package)
        return metadata.version(owners[0]) if owners else ABSENT


def _digest(value: Any) -> str:  # noqa: ANN401 - frozen dataclasses of plain values
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _json(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value, sort_keys=True)


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
