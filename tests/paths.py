"""Where the repository lies, and the shared folder beside it."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EFFSAM_SHARED", REPOSITORY.parent / "shared"))
"""The authors' full outputs and their images, where a machine has them."""
