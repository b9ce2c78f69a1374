"""Check what the schema of a manifest cannot express: its paths, names, options and text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export.bundle import paths
from effsam_export.errors import shown
from effsam_export.parity.confidence import MIN_MASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

UNLISTED = ("manifest.json", "manifest.json.sig")
"""Files of a bundle that its manifest cannot list."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tab and line feed; a terminal would obey them."""


def problems(manifest: dict[str, Any]) -> list[str]:
    """Return a sentence for each contradiction in a manifest of the current version.

    Args:
        manifest: Valid against its schema.
    """
    listed = [e["path"] for e in manifest["files"]]
    used = set(used_files(manifest))
    found = paths.faults(listed)
    found += [f"`{shown(p)}` {f}" for p in sorted(used - {*listed}) if (f := paths.fault(p))]
    found += [f"`{p}` lists itself" for p in UNLISTED if p in map(str.casefold, {*listed, *used})]
    names = [c["name"] for c in manifest["components"]]
    found += [f"there are two components `{n}`" for n in sorted({*names}) if names.count(n) > 1]
    for component in manifest["components"]:
        for key in ("inputs", "outputs"):
            tensors = [t["name"] for t in component[key]]
            if len({*tensors}) != len(tensors):
                found.append(f"the {component['name']} has two {key} of one name")
    found += [
        f"precision.{key} lacks the {name}"
        for key in ("elements_by_dtype", "ops_by_type")
        for name in names
        if name not in manifest["precision"][key]
    ]
    found += [
        f"`{shown(a['file'])}` of an attestation is not in `attestations`"
        for a in manifest.get("attestations", [])
        if not a["file"].startswith("attestations/")
    ]
    found += option_problems(manifest["target"])
    parity = manifest["parity"]
    if parity["cases"] and None in parity.values():
        found.append(f"parity has {parity['cases']} prompts and lacks their figures")
    confident = parity.get("confident_masks", 0)
    if parity.get("decided_by") == "confident masks" and confident < MIN_MASKS:
        found.append(f"{confident} confident masks decided, and {MIN_MASKS} are needed")
    if any(CONTROL.search(text) for text in texts(manifest)):
        found.append("a text holds control characters")
    return found


def used_files(manifest: dict[str, Any]) -> Iterator[str]:
    """Return the path of every file that a manifest refers to outside `files`."""
    for component in manifest["components"]:
        yield from component["files"]
        yield component["source"]
    yield manifest["parity"]["file"]
    yield manifest["model"]["licence"]["file"]
    yield from (a["file"] for a in manifest.get("attestations", []))
    if manifest["golden"] is not None:
        yield manifest["golden"]


def option_problems(target: dict[str, Any]) -> list[str]:
    """Return a sentence for each target option whose type is not that of its backend's table.

    An option of another backend has the type of that backend: `slots` changes the model of any.
    """
    entry = backends.BACKENDS.get(target["backend"])
    if entry is None:
        return []
    others = {name: kind for e in backends.BACKENDS.values() for name, kind in e.options.items()}
    types = {**others, **entry.options}
    return [
        f"target.options.{name} is not of type {types[name].__name__}"
        for name, value in target["options"].items()
        # `type` and not `isinstance`, because in Python `True` is an `int`.
        if name in types and type(value) is not types[name]
    ]


def texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    """Return every key and string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
