"""What differs between two bundles, and whom it concerns.

The contract is what an app was written for; the weights are pinned by their bytes, the tools by
their versions: a new version of a tool may give other bytes of the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
    "tools": "tools",
    "files": "files",
    "nondeterministic_files": "files",
    "manifest_version": "tools",
}
"""First key of the manifest -> what it belongs to."""
NOT_CONTRACT = ("rewrites", "source", "files")
"""Of a component: how it was made, and the names of its files, which an app reads here."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not the same.

    Attributes:
        what: Where it is in the manifest, or the path of a file.
        before, after: Of the first and the second bundle; None where it has none.
    """

    part: Part
    what: str
    before: Any
    after: Any


def differences(first: Bundle, second: Bundle) -> list[Difference]:
    """Everything that differs, by parts; files by what the manifests list, nothing is opened."""
    before, after = (
        flat({**bundle.manifest, "manifest_version": bundle.manifest_version})
        for bundle in (first, second)
    )
    found = [
        Difference(part=part_of(what), what=what, before=before.get(what), after=after.get(what))
        for what in dict.fromkeys([*before, *after])
        if before.get(what) != after.get(what)
    ]
    order = list(dict.fromkeys(PARTS.values()))
    return sorted(found, key=lambda d: (order.index(d.part), d.what))


def part_of(what: str) -> Part:
    """The part that a place in the manifest belongs to."""
    first, *rest = what.split(".")
    # `components.encoder.files`: after the name of the component.
    if first == "components" and rest[1] in NOT_CONTRACT:
        return "files"
    return PARTS[first]


def flat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest as values by dotted path; components, tensors and files by their names."""
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
