"""What a cell of a build depends on, part by part, and the hash that names its bundle.

Two cells with the same parts are the same bundle. Where a cell was built before and a part of it is
another one now, that part is the reason to build it again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export._version import __version__
from effsam_export.pipeline.stage_cache import digest as digest
from effsam_export.util import installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.pipeline.request import ExportRequest

TRACING = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "numpy", "pillow", "cyclonedx")
"""Take part in every export."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a machine brings to a bundle.

    Attributes:
        code: Hash of this package's sources.
        shipped: Hash of the targets, recipes and photographs that come with it.
        tools: Package -> version, or `not installed`, of everything that can take part.
        labels: What it is, beyond its toolchains: `linux`, `cuda`, or what it was told to be.
    """

    version: str
    code: str
    shipped: str
    machine: str
    python: str
    tools: Mapping[str, str]
    labels: tuple[str, ...] = ()

    def lacks(self, backend: str, precision: str) -> str | None:
        """The first package that an export for a backend needs and that is not there."""
        return next(
            (t for t in tools_of(backend, precision) if self.tools[t] == installed.ABSENT), None
        )


def here(labels: tuple[str, ...] = ()) -> Environment:
    """This machine."""
    names = {t for b in backends.BACKENDS for t in tools_of(b, "int8")}
    return Environment(
        version=__version__,
        code=code(),
        shipped=shipped(),
        machine=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        tools={name: installed.version_of(name) for name in sorted(names)},
        labels=tuple(sorted({platform.system().lower(), *labels})),
    )


def tools_of(backend: str, precision: str) -> tuple[str, ...]:
    """Packages that take part in an export."""
    entry = backends.BACKENDS[backend]
    quantizer = (entry.quantizer,) if precision == "int8" and entry.quantizer else ()
    return tuple(dict.fromkeys((*TRACING, *entry.packages, *quantizer)))


def parts(request: ExportRequest, environment: Environment | None = None) -> dict[str, str]:
    """Everything that the bundle of a request follows from, by name.

    Args:
        request: With its checkpoint; where the bundle goes does not matter.
        environment: Of the machine that will do it; this one when None.
    """
    from effsam_export.config.calibration import hashes
    from effsam_export.config.parity import load_parity_images

    target, model = request.target, request.model
    photographs = load_parity_images(request.parity_file)
    there = environment or here()
    found = {
        **_always(request, there),
        # Names that the manifest repeats.
        "weights.name": request.weights.path.name,
        "target": target.name,
        "target.profile": hashlib.sha256(target.source).hexdigest(),
        "target.options": _json(dict(target.options)),
        "precision": target.precision,
        "components": " ".join(request.components),
        "images": _digest(
            [(p.path.name, p.cases, sorted(hashes([p.path]).values())) for p in photographs]
        ),
    }
    if target.precision != "fp32":
        found["precision.recipe"] = _digest(model.precision)
    if request.int8 is not None:
        plan, calibration = request.int8.plan, request.int8.calibration
        found["int8.recipe"] = _digest(sorted(plan.recipes.items()))
        seen = [(p.name, h) for p, h in hashes(calibration.images).items()]
        settings = {k: v for k, v in vars(calibration).items() if k not in ("images", "name")}
        found["int8.calibration"] = _digest([seen, sorted(settings.items())])
    tools = tools_of(target.backend, target.precision)
    return found | {f"tool.{name}": there.tools[name] for name in tools}


def shared(request: ExportRequest, threads: int) -> dict[str, str]:
    """What a trace of a model, or its answers in PyTorch, follow from: not the target.

    Args:
        request: Of the export.
        threads: Of the libraries that compute; sums of another order differ in the last digit.
    """
    there = here()
    tools = {f"tool.{name}": there.tools[name] for name in TRACING}
    return {**_always(request, there), "threads": str(threads), **tools}


def _always(request: ExportRequest, there: Environment) -> dict[str, str]:
    """What everything about a model follows from."""
    return {
        "effsam-export": there.version,
        "code": there.code,
        "machine": there.machine,
        "python": there.python,
        "model": request.model.name,
        "model.options": _json(dict(request.model.options)),
        "weights": request.weights.sha256,
    }


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
    """Hash of this package's own files, by path and contents: schemas and licences too."""
    # Targets and recipes are parts of their own, those that a cell takes.
    return _tree(Path(__file__).resolve().parents[1], {"__pycache__", "_data"})


@cache
def shipped() -> str:
    """Hash of the targets, recipes and photographs that come with this package."""
    from effsam_export.config.toml import data_dir

    folders = [data_dir(kind) for kind in ("calibration", "targets")]
    return _digest([_tree(folder, {"__pycache__"}) for folder in folders])


def _tree(root: Path, without: set[str]) -> str:
    """Hash of a folder's files by path and contents."""
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        if without & set(path.relative_to(root).parts):
            continue
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _digest(value: Any) -> str:  # noqa: ANN401 - frozen dataclasses of plain values
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _json(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value, sort_keys=True)


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
