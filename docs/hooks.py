"""MkDocs hook: fills the tables that come from the package's code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    # MkDocs runs this file by its path, where `docs` is no package yet.
    sys.path.insert(0, str(ROOT))


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401 - MkDocs' own objects
    """Return a page's Markdown with its tables."""
    from docs.from_code import fill

    return fill(markdown)
