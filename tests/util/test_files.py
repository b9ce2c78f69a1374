"""Atomic writes of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from effsam_export.errors import OutputError
from effsam_export.util.files import write_whole


def test_write_whole_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError) as failed:
        write_whole(path, b"new")
    assert failed.value.message == f"cannot write `{path}`: no space left on device"
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
