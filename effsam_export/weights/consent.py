"""Consent to licences that are not free: asked for once a model, remembered in the cache."""

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


def require(model: ModelSpec, *, accepted: bool, cache_dir: Path) -> None:
    """Go on only if the model's licence is free, or the user consents now or did before.

    Consent is for one model and one licence: another `spdx` is asked for anew.

    Raises:
        UsageError: Consent is missing.
        OutputError: It cannot be recorded.
    """
    licence = model.licence
    if not licence.restricted or is_accepted(model, cache_dir):
        return
    if not accepted:
        raise UsageError(
            f"the licence of `{model.name}` ({licence.spdx}) needs your consent: "
            f"{licence.restricted}",
            hint=f"read {licence.source}, then add --accept-license (once)",
        )
    given = _read(cache_dir)
    given[model.name] = {
        "spdx": licence.spdx,
        "source": licence.source,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    cache_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(given, indent=2, sort_keys=True) + "\n"
    write_whole(cache_dir / FILE_NAME, text.encode())


def is_accepted(model: ModelSpec, cache_dir: Path) -> bool:
    """Whether the user consented to this licence of this model before."""
    entry = _read(cache_dir).get(model.name)
    return isinstance(entry, dict) and entry.get("spdx") == model.licence.spdx


def _read(cache_dir: Path) -> dict[str, object]:
    """What was consented to; a file that cannot be read counts as nothing."""
    try:
        content = json.loads((cache_dir / FILE_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
