"""Compare two bundles by their manifests.

Each difference belongs to a part, which shows who is affected: a difference of the contract needs
other code in the app; new versions of tools may give other bytes of the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from effsam_export.bundle.readme import shipped_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from effsam_export.bundle.read import Bundle

Part = Literal["contract", "model", "weights", "target", "precision", "parity", "tools", "files"]
PARTS: dict[str, Part] = {
    "contract_version": "contract",
    "preprocess": "contract",
    "prompts": "contract",
    "masks": "contract",
    "components": "contract",
    "model": "model",
    "checkpoint": "weights",
    "target": "target",
    "runtime": "target",
    "precision": "precision",
    "int8": "precision",
    "parity": "parity",
    "gates": "parity",
    "state": "parity",
    "simulator": "parity",
    "golden": "parity",
    "attestations": "parity",
    "evaluated": "parity",
    "tools": "tools",
    "files": "files",
    "nondeterministic_files": "files",
    "manifest_version": "tools",
}
"""Top-level key of the manifest -> part."""
NOT_CONTRACT = ("rewrites", "source", "files")
"""Keys of a component that do not change the code of an app."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value that differs.

    Attributes:
        what: Dotted path in the manifest, or `files.` and the path of a file.
        before, after: Value in the first and the second bundle; None if absent.
    """

    part: Part
    what: str
    before: Any
    after: Any


def differences(first: Bundle, second: Bundle) -> list[Difference]:
    """Return all differences, sorted by part; files are compared by the hashes in the manifests.

    A report that both manifests name in `nondeterministic_files` is not compared: it holds the
    latencies of its export, and `parity` is compared by itself.
    """
    timed = _timed_reports(first.manifest) & _timed_reports(second.manifest)
    before, after = (
        flat({**bundle.manifest, "manifest_version": bundle.manifest_version})
        for bundle in (first, second)
    )
    found = [
        Difference(part=part_of(what), what=what, before=before.get(what), after=after.get(what))
        for what in dict.fromkeys([*before, *after])
        if before.get(what) != after.get(what) and what not in timed
    ]
    order = list(dict.fromkeys(PARTS.values()))
    return sorted(found, key=lambda d: (order.index(d.part), d.what))


def _timed_reports(manifest: Mapping[str, Any]) -> set[str]:
    """Return the dotted paths of the reports with latencies."""
    named = {entry["file"] for entry in manifest.get("nondeterministic_files", ())}
    return {
        f"files.{entry['path']}"
        for entry in manifest["files"]
        if entry["role"] == "report" and entry["path"] in named
    }


def needed_changes(first: Bundle, second: Bundle) -> tuple[str, ...]:
    """Return what an app for the first bundle needs for the second, as objects of `needs`.

    Empty if it can run the second as it is.
    """
    changes = []
    if any(d.part == "contract" for d in differences(first, second)):
        changes.append("other code")
    before, after = _runtime(first), _runtime(second)
    if before[0] != after[0]:
        changes.append(f"another runtime ({after[0]} instead of {before[0]})")
        return tuple(changes)
    if before[1] != after[1]:
        changes.append(f"{after[0]} {after[1]} instead of {before[1]}")
    names, others = _files(first), _files(second)
    if any(names[component] != others[component] for component in names.keys() & others.keys()):
        changes.append("other file names")
    return tuple(changes)


def _runtime(bundle: Bundle) -> tuple[str, str]:
    """Return the runtime of a bundle and its versions; old manifests only name the backend."""
    entry = bundle.manifest.get("runtime", {"name": bundle.manifest["target"]["backend"]})
    return entry["name"], entry.get("versions", "any version")


def _files(bundle: Bundle) -> dict[str, list[str]]:
    return {c["name"]: shipped_paths(c["files"]) for c in bundle.manifest["components"]}


def part_of(what: str) -> Part:
    """Return the part that a dotted path in the manifest belongs to."""
    first, *rest = what.split(".")
    # The path is `components.NAME.KEY`, as in `components.encoder.files`.
    if first == "components" and rest[1] in NOT_CONTRACT:
        return "files"
    return PARTS[first]


def flat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest as dotted path -> value; list items with a name are found by it."""
    return dict(_flat(manifest, ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON
    if path == "files":
        for entry in value:
            yield f"files.{entry['path']}", f"{entry['size']} bytes, {entry['sha256'][:12]}"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{inner.get('name', i)}")
    else:
        yield path, value
