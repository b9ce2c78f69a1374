"""Hold what a bundle says of its checkpoint, precision and gates to this package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export.config import targets
from effsam_export.errors import UsageError
from effsam_export.pipeline.manifest_values import differences
from effsam_export.spec.targets import Gates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.bundle.golden import Golden
    from effsam_export.bundle.read import Bundle
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import TargetProfile

EMPTY_FILE = hashlib.sha256().hexdigest()
QUANTIZED = ("w8a8", "weight_only")
CONSTANTS = {
    "fp32": ("float32",),
    "fp16": ("float16",),
    "bf16": ("bfloat16",),
    "int8": ("int8", "uint8"),
}
"""Precision -> dtypes of which a bundle holds at least some constants."""
MAXIMA = {"score_error"}
"""Gates that a value may not exceed; the others it has to reach."""


@dataclass(frozen=True, kw_only=True)
class HeldGates:
    """The gates that a bundle is held to.

    Attributes:
        gates: The stricter of the bundle's and the target's.
        failures: Sentences: gates and tolerances of the bundle that are looser than the target's.
        unproved: Why the target's gates are not known; empty if they are.
    """

    gates: Gates
    failures: tuple[str, ...] = ()
    unproved: str = ""


def held_gates(bundle: Bundle, vectors: Golden | None, target_file: str | None) -> HeldGates:
    """Return the gates of a bundle's target, and where the bundle has looser ones.

    The gates of a target that ships are this package's. Those of another target are in its file.

    Args:
        bundle: The bundle.
        vectors: Its golden vectors with their tolerances.
        target_file: Name or TOML file of the target, as the user gives it.

    Raises:
        UsageError: The target that the user gives does not exist or has faults.
    """
    entry = bundle.manifest["target"]
    stated = Gates(**bundle.manifest["gates"])
    precision = bundle.manifest["precision"]["requested"]
    failures: list[str] = []
    if target_file is not None:
        profile = targets.load_target(target_file, precision)
    elif entry["name"] in targets.target_names():
        try:
            profile = targets.load_target(entry["name"], precision)
        except UsageError as error:
            failures.append(f"`precision.requested`: {error.message}")
            failures += target_differences(entry, targets.load_target(entry["name"]))
            return HeldGates(gates=stated, failures=tuple(failures))
    else:
        failures += looser_tolerances(bundle, vectors, stated, "the manifest's `gates`")
        return HeldGates(
            gates=stated,
            failures=tuple(failures),
            unproved=f"target `{entry['name']}` is not one of this package; give its file with "
            "--target FILE",
        )
    source = f"target `{profile.name}`"
    failures += target_differences(entry, profile)
    failures += looser_gates("`gates.", "`", stated, profile.gates, source)
    failures += looser_tolerances(bundle, vectors, profile.gates, source)
    return HeldGates(gates=stricter(stated, profile.gates), failures=tuple(failures))


def target_differences(entry: Mapping[str, Any], profile: TargetProfile) -> list[str]:
    """Return a sentence if the manifest's target has another backend or layout than the profile."""
    found = [
        *differences("target.backend", entry["backend"], profile.backend),
        *differences("target.layout", entry.get("layout"), profile.layout),
    ]
    return [d.sentence(f"target `{profile.name}`") for d in found]


def looser_gates(before: str, after: str, stated: Gates, wanted: Gates, source: str) -> list[str]:
    """Return a sentence for each gate that lets through what the wanted ones do not; NaN too."""
    failures = []
    for field in fields(Gates):
        ours, theirs = getattr(stated, field.name), getattr(wanted, field.name)
        strict = ours <= theirs if field.name in MAXIMA else ours >= theirs
        if not strict:
            failures.append(
                f"{before}{field.name}{after} is {ours:g}, looser than {theirs:g} ({source})"
            )
    return failures


def looser_tolerances(
    bundle: Bundle, vectors: Golden | None, wanted: Gates, source: str
) -> list[str]:
    """Return a sentence for each tolerance of the golden vectors that is looser than the gate."""
    if vectors is None:
        return []
    stated = replace(wanted, mask_iou=vectors.mask_iou, score_error=vectors.score_error)
    name = bundle.manifest["golden"]
    return looser_gates(f"`{name}`: `tolerances.", "`", stated, wanted, source)


def stricter(one: Gates, other: Gates) -> Gates:
    """Return the gates that let through only what both let through."""
    chosen = {}
    for field in fields(Gates):
        values = getattr(one, field.name), getattr(other, field.name)
        chosen[field.name] = min(values) if field.name in MAXIMA else max(values)
    return Gates(**chosen)


def checkpoint_failures(manifest: Mapping[str, Any], model: ModelSpec | None) -> list[str]:
    """Return a sentence for each statement about the checkpoint that cannot be true.

    Args:
        manifest: The manifest.
        model: The registered model; None if it is unknown.
    """
    entry = manifest["checkpoint"]
    sha256 = str(entry["sha256"])
    failures = []
    if not is_hash_of_a_file(sha256):
        failures.append(f"`checkpoint.sha256` is {sha256[:80]}, which is no hash of a checkpoint")
    if entry["official"] and model is not None:
        pinned = None if model.weights is None else model.weights.sha256
        if pinned != sha256:
            failures.append(
                "`checkpoint.official` is true, but "
                + (
                    f"this package pins no checkpoint for model `{model.name}`"
                    if pinned is None
                    else f"the official one of model `{model.name}` has sha256 {pinned}"
                )
            )
    return failures


def is_hash_of_a_file(sha256: str) -> bool:
    """Return whether this may be the SHA-256 of a file: 64 digits, and not one digit repeated."""
    digits = set(sha256)
    return (
        len(sha256) == 64
        and digits <= set("0123456789abcdef")
        and len(digits) > 1
        and sha256 != EMPTY_FILE
    )


def precision_failures(bundle: Bundle) -> list[str]:
    """Return a sentence for each count of constants or operators that is not the files'.

    Only ONNX files are counted again: other toolchains may count otherwise in another version. A
    bundle of any target has to hold constants of its precision, which selects its gates.
    """
    manifest = bundle.manifest
    entry = manifest["precision"]
    failures = []
    if manifest["target"]["backend"] == "onnx" and find_spec("onnx") is not None:
        from effsam_export.backends.onnx.backend import count_constants, count_ops

        for key, count in (("elements_by_dtype", count_constants), ("ops_by_type", count_ops)):
            counted = {c: count(bundle.artifact(c).files[0]) for c in bundle.components}
            found = differences(f"precision.{key}", entry[key], counted)
            failures += [d.sentence("the artefacts") for d in found]
    requested = entry["requested"]
    backend = backends.BACKENDS.get(manifest["target"]["backend"])
    needed = {} if backend is None else backend.precision_options.get(requested, {})
    for name, value in needed.items():
        stated = manifest["target"]["options"].get(name)
        found = differences(f"target.options.{name}", stated, value)
        failures += [d.sentence(f"precision {requested}") for d in found]
    recipes = manifest.get("int8", {}).get("components", {}).values()
    if requested == "int8" and not any(r["scheme"] in QUANTIZED for r in recipes):
        # Every component may be left in floating point, if the recipes say so.
        return failures if recipes else [*failures, "`precision.requested` is int8 without `int8`"]
    dtypes = CONSTANTS[requested]
    counts = entry["elements_by_dtype"].values()
    if not any(n for by_dtype in counts for dtype, n in by_dtype.items() if dtype in dtypes):
        failures.append(
            f"`precision.requested` is {requested}, but no component holds constants of "
            f"{' or '.join(dtypes)}"
        )
    return failures
