"""The process of a bundle of a test's model: `worker.main` with the tiny models in the table."""

from __future__ import annotations

import sys

from effsam_export import models
from effsam_export.bench import worker


def main() -> None:
    """Register the models, and answer calls."""
    models.MODELS["tiny-sam"] = ("tests.tiny", "TINY_SAM")
    models.MODELS["tiny-instances"] = ("tests.tiny_instances", "TINY_INSTANCES")
    worker.main(*sys.argv[1:])
