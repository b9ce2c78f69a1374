"""A bundle whose files are a few bytes: for what reads manifests and hashes, and runs nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
GOLDEN = FOLDER / "manifest-v4.json"
"""The manifest of the tiny model's bundle in the current version."""


def write(path: Path, version: int = 4) -> Path:
    """Write a bundle: every file that the golden manifest lists has its own name as contents.

    Args:
        path: Directory of the bundle.
        version: Of the manifest.
    """
    manifest = json.loads((FOLDER / f"manifest-v{version}.json").read_text("utf-8"))
    for entry in manifest["files"]:
        file = path / entry["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"contents of {entry['path']}\n".encode())
    save(path, manifest)
    return path


def save(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, with the sizes and hashes of the files that it lists."""
    for entry in manifest["files"]:
        content = (path / entry["path"]).read_bytes()
        entry.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    (path / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True), "utf-8")


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest, to change it."""
    found: dict[str, Any] = json.loads((path / "manifest.json").read_text("utf-8"))
    return found
