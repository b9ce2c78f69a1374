"""The cache key of a cell: all inputs of its bundle by name, and the hash over them.

Cells with equal inputs have the same bundle. An input that changed since a cell's last build is the
reason to build it again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export._version import __version__
from effsam_export.pipeline.stage_cache import digest as digest
from effsam_export.pipeline.stage_keys import TRACING, code_hash, model_parts, tree_hash
from effsam_export.util import installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.pipeline.request import ExportRequest


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Properties of a machine that a bundle depends on.

    Attributes:
        code_hash: Hash of this package's source files.
        data_hash: Hash of the targets, recipes and images of this package.
        tools: Package -> version, or `not installed`, of all packages of all backends.
        labels: Names by which a build selects machines: the operating system in lower case, and
            those given to `effsam worker`.
    """

    version: str
    code_hash: str
    data_hash: str
    machine: str
    python: str
    tools: Mapping[str, str]
    labels: tuple[str, ...] = ()

    def lacks(self, backend: str, precision: str) -> str | None:
        """Return the first package that an export for a backend needs and that is not installed."""
        return next(
            (
                t
                for t in tools_of(backend, precision)
                if self.tools.get(t, installed.ABSENT) == installed.ABSENT
            ),
            None,
        )


def this_environment(labels: tuple[str, ...] = ()) -> Environment:
    """Return the properties of this machine."""
    names = {t for b in backends.BACKENDS for t in tools_of(b, "int8")}
    return Environment(
        version=__version__,
        code_hash=code_hash(),
        data_hash=data_hash(),
        machine=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        tools={name: installed.version_of(name) for name in sorted(names)},
        labels=tuple(sorted({platform.system().lower(), *labels})),
    )


def tools_of(backend: str, precision: str) -> tuple[str, ...]:
    """Return the packages that take part in an export."""
    entry = backends.BACKENDS[backend]
    quantizer = (entry.quantizer,) if precision == "int8" and entry.quantizer else ()
    return tuple(dict.fromkeys((*TRACING, *entry.packages, *quantizer)))


def parts(request: ExportRequest, environment: Environment | None = None) -> dict[str, str]:
    """Return all inputs of the bundle of a request, by name.

    Args:
        request: A request with its checkpoint; its output path is no input.
        environment: The machine that exports; None means this one.
    """
    from effsam_export.config.calibration import hashes
    from effsam_export.config.parity import load_parity_images

    target, model = request.target, request.model
    images = load_parity_images(request.parity_file)
    there = environment or this_environment()
    found = {
        "effsam-export": there.version,
        "code": there.code_hash,
        "machine": there.machine,
        "python": there.python,
        **model_parts(request),
        # Names are inputs because the manifest contains them.
        "weights.name": request.weights.path.name,
        "target": target.name,
        "target.profile": hashlib.sha256(target.source).hexdigest(),
        "target.options": _json(dict(target.options)),
        "precision": target.precision,
        "components": " ".join(request.components),
        "images": _digest(
            [
                (p.path.name, p.cases, p.value_range, sorted(hashes([p.path]).values()))
                for p in images
            ]
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


def reasons(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a sentence for each input that changed; hashes by their first twelve digits."""
    found = []
    for name in dict.fromkeys([*now, *before]):
        was, new = before.get(name), now.get(name)
        if was == new:
            continue
        if was is None or new is None:
            found.append(f"{name} {'is new' if was is None else 'was removed'}")
        else:
            found.append(f"{name} {_short(was)} -> {_short(new)}")
    return found


@cache
def data_hash() -> str:
    """Return a hash of the targets, recipes and images that come with this package."""
    from effsam_export.config.toml import data_dir

    folders = [data_dir(kind) for kind in ("calibration", "targets")]
    return _digest([tree_hash(folder, {"__pycache__"}) for folder in folders])


def _digest(value: Any) -> str:  # noqa: ANN401 - frozen dataclasses of plain values
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _json(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value, sort_keys=True)


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
