"""Consent to licences that are not free, required once for each model and stored in the cache."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec

FILE_NAME = "accepted-licences.json"


def check(model: ModelSpec, *, accepted: bool, cache_dir: Path) -> None:
    """Check that the model's licence is free, or that the user consents now or did so before.

    Consent is for one model and one licence; a changed `spdx` needs consent again.

    Raises:
        UsageError: Consent is missing.
    """
    licence = model.licence
    if licence.restricted and not accepted and not is_accepted(model, cache_dir):
        raise UsageError(
            f"the licence of `{model.name}` ({licence.spdx}) needs your consent: "
            f"{licence.restricted}",
            hint=f"read {licence.source}, then add --accept-license (once)",
        )


def require(model: ModelSpec, *, accepted: bool, cache_dir: Path) -> None:
    """Check the consent as `check` does, and store a new one.

    Raises:
        UsageError: Consent is missing.
        OutputError: The consent cannot be stored.
    """
    check(model, accepted=accepted, cache_dir=cache_dir)
    licence = model.licence
    if not licence.restricted or is_accepted(model, cache_dir):
        return
    entries = _read(cache_dir)
    entries[model.name] = {
        "spdx": licence.spdx,
        "source": licence.source,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    cache_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=2, sort_keys=True) + "\n"
    write_whole(cache_dir / FILE_NAME, text.encode())


def is_accepted(model: ModelSpec, cache_dir: Path) -> bool:
    """Return whether the user has already consented to this licence of this model."""
    entry = _read(cache_dir).get(model.name)
    return isinstance(entry, dict) and entry.get("spdx") == model.licence.spdx


def _read(cache_dir: Path) -> dict[str, object]:
    """Return the stored consents; none if the file cannot be read."""
    try:
        content = json.loads((cache_dir / FILE_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
