"""Write `manifest-v4.json` anew: `python -m tests.bundle.make_manifest_golden BUNDLE`.

Only for a change of the format that was meant; then it is a new version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.bundle.test_manifest import GOLDEN, stable

if __name__ == "__main__":
    manifest = json.loads((Path(sys.argv[1]) / "manifest.json").read_text("utf-8"))
    GOLDEN.write_text(json.dumps(stable(manifest), indent=2, sort_keys=True) + "\n", "utf-8")
