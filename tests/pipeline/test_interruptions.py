"""Commands that are stopped at some moment: nothing is left, or the next start removes it."""

from __future__ import annotations

import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import read
from tests.interruptions import Workplace, forget

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

pytestmark = [pytest.mark.backend, pytest.mark.slow]


@pytest.fixture
def place(tmp_path: Path, small_checkpoint: Checkpoint, photo: Path) -> Workplace:
    shutil.copyfile(small_checkpoint.path, tmp_path / "small.pt")
    shutil.copyfile(photo, tmp_path / "photo.png")
    return Workplace(tmp_path)


@pytest.mark.parametrize("name", ["export", "build"])
def test_what_is_left_is_removed(place: Workplace, small: None, name: str) -> None:
    arguments = place.export() if name == "export" else place.build()
    first = place.run(arguments)
    assert first.code == 0, first.messages
    bundle = place.dist / ("out" if name == "export" else "small-sam-onnx-fp32")
    chance = random.Random(26)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for _ in range(2):
            forget(place)
            ending = place.stopped(arguments, number, chance.uniform(2, 8))
            assert ending.processes == ()
            # The bundle of the first run is replaced as a whole, or not at all.
            assert read.integrity(read.read(bundle)) == ()
            if ending.code == 0:
                continue
            if number == signal.SIGKILL:
                assert ending.code == -signal.SIGKILL
                continue
            assert ending.left == first.left
            assert ending.seconds < 5
            if ending.code == -number:
                # The command had ended already, and Python was freeing its modules.
                assert ending.messages == ""
                continue
            assert ending.code == 128 + number
            assert ending.messages == f"stopped by {number.name}\n"
    last = place.run(arguments)
    assert (last.code, last.left) == (0, first.left)
