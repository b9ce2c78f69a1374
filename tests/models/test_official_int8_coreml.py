"""The official MobileSAM in INT8 for Core ML: the same mask of the set has the best score.

In a file of its own beside `test_official_int8_desktop.py`, so that workers share the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from tests.models import official_int8

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint
    from tests.models.official_int8 import Asked

pytestmark = [pytest.mark.backend, pytest.mark.shared, pytest.mark.weights]


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory,
    official: Checkpoint,
    shared: Path,
    stage_root: Path,
) -> dict[str, Asked]:
    """By photograph."""
    output = tmp_path_factory.mktemp("int8") / "coreml"
    return official_int8.answers("coreml", official, shared, output, stage_root)


def test_the_best_scoring_mask_is_the_one_in_pytorch(asked: dict[str, Asked]) -> None:
    official_int8.assert_best_masks_are_pytorchs(asked)


@pytest.mark.parametrize("modes", [("multi",), ("multi", "single")])
def test_masks_are_the_authors(asked: dict[str, Asked], modes: tuple[str, ...]) -> None:
    """The mask that wins, alone and with the single mask beside it."""
    official_int8.assert_masks_are_the_authors(asked, modes)
