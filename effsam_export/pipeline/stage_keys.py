"""The inputs of the stages that exports share, by name: what `StageCache` has its results under."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from effsam_export._version import __version__
from effsam_export.spec import batches
from effsam_export.spec.sizes import text_of
from effsam_export.util import installed
from effsam_export.util.machine import cpu_name

if TYPE_CHECKING:
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.stages import LoraFile

TRACING = (
    *("torch", "onnx", "onnxscript", "onnx_ir", "onnxsim", "onnxruntime"),
    *("numpy", "pillow", "cyclonedx"),
)
"""Packages that take part in every export."""


def stage_parts(request: ExportRequest, threads: int) -> dict[str, str]:
    """Return the inputs of a model's trace and of its outputs in PyTorch: all but the target.

    Args:
        request: The request, with its checkpoint.
        threads: CPU threads, which change the last digits of sums.
    """
    tools = {f"tool.{name}": installed.version_of(name) for name in TRACING}
    return {
        "effsam-export": __version__,
        "code": code_hash(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **model_parts(request),
        "threads": str(threads),
        "cpu": cpu_name(),
        "torch": _torch_state(),
        **tools,
    }


def model_parts(request: ExportRequest) -> dict[str, str]:
    """Return the inputs that describe the model of a request and its weights."""
    return {
        "model": request.model.name,
        "model.options": json.dumps(dict(request.model.options), sort_keys=True),
        "model.image_size": text_of(request.model.preprocess.image_size),
        "model.batch": batches.text_of(request.model.batch),
        "weights": request.weights.sha256,
        "weights.key": request.weights.key or "",
        "weights.base": "" if request.weights.base is None else request.weights.base.sha256,
        "weights.lora": _lora(request.weights.lora),
    }


def form_of(value: object) -> str:
    """Return a text that two values share only if they compute the same.

    Two layouts, or two sets of target options, may have components with equal tensors and another
    `wrap`. Functions are described by their names, because the hash of the code has their text;
    partial functions and closures also by their values, and records by their fields. A value that
    cannot be described gets a random text, so its result is never shared.
    """
    if value is None or isinstance(value, (str, bytes, int, float, complex)):
        return repr(value)
    if isinstance(value, partial):
        inner = [form_of(value.func), *map(form_of, value.args), form_of(value.keywords)]
    elif isinstance(value, Mapping):
        inner = [f"{form_of(k)}: {form_of(v)}" for k, v in value.items()]
    elif isinstance(value, (tuple, list)):
        inner = [form_of(v) for v in value]
    elif isinstance(value, (set, frozenset)):
        inner = sorted(form_of(v) for v in value)
    elif isinstance(value, FunctionType):
        held = [c.cell_contents for c in value.__closure__ or ()]
        inner = [_name(value), *map(form_of, (*held, value.__defaults__, value.__kwdefaults__))]
    elif isinstance(value, type):
        inner = [_name(value)]
    elif is_dataclass(value):
        inner = [f"{f.name}={form_of(getattr(value, f.name))}" for f in fields(value)]
    else:
        return f"{type(value).__qualname__} {secrets.token_hex()}"
    return f"{type(value).__qualname__}({', '.join(inner)})"


@cache
def code_hash() -> str:
    """Return a hash of this package's files, schemas and licences too, by path and content."""
    # Targets and recipes are left out: those that an export uses are inputs of their own.
    return tree_hash(Path(__file__).resolve().parents[1], {"__pycache__", "_data"})


def tree_hash(root: Path, without: set[str]) -> str:
    """Return a hash of a folder's files by path and content.

    Args:
        root: The folder.
        without: Names of folders and files that are left out.
    """
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        if without & set(path.relative_to(root).parts):
            continue
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _torch_state() -> str:
    """Return the settings of this process by which torch computes other digits."""
    import torch

    return " ".join(
        (
            torch.backends.cpu.get_cpu_capability(),
            torch.get_float32_matmul_precision(),
            str(torch.get_default_dtype()),
            f"mkldnn={torch.backends.mkldnn.enabled}",
        )
    )


def _lora(lora: LoraFile | None) -> str:
    """Return an adapter's hash and alpha as text; empty for none."""
    return "" if lora is None else f"{lora.sha256} {lora.alpha}"


def _name(value: Any) -> str:  # noqa: ANN401 - a function or a class
    return f"{value.__module__}.{value.__qualname__}"
