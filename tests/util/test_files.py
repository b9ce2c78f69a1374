"""The reason that the operating system gives for a file error."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from effsam_export.util.files import reason_of

if TYPE_CHECKING:
    from pathlib import Path

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "no space left on device"),
        (OSError("Weird"), "weird"),
        (shutil.Error([("a", "b", str(FULL)), ("c", "d", "x")]), "no space left on device"),
        (
            shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
            "no space left on device",
        ),
        (shutil.Error([("a", "b", "Something else")]), "something else"),
        (shutil.SameFileError("'a' and 'a' are the same file"), "'a' and 'a' are the same file"),
    ],
)
def test_reason(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_reason_of_a_folder_that_cannot_be_copied(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "from" / name).mkdir(parents=True)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a").write_text("a file")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is the question
        shutil.copytree(tmp_path / "from", tmp_path / "to", dirs_exist_ok=True)
    assert reason_of(caught.value) == os.strerror(errno.EEXIST).lower()
