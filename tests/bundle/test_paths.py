"""Paths that a bundle may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import paths

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "golden/again.mask_input.npy",
        "a-b_c/.d",
        "auxiliary/com10/console.txt",
        "x" * 200,
    ],
)
def test_a_path_of_a_bundle(path: str) -> None:
    assert paths.fault(path) is None


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("aux", "device"),
        ("golden/NUL.txt", "device"),
        ("com1/x", "device"),
        ("a./b", "ends a name with a dot"),
        ("a/b.", "ends a name with a dot"),
        ("a /b", "character"),
        ("b\n", "character"),
        ("\x1b[2J", "character"),
        ("é", "character"),
        ("x:stream", "outside"),
        ("a\\b", "outside"),
        ("/a", "outside"),
        ("a/../b", "outside"),
        ("..", "outside"),
        ("", "normalized"),
        (".", "normalized"),
        ("a//b", "normalized"),
        ("a/./b", "normalized"),
        ("a/", "normalized"),
        ("x" * 201, "too long"),
        ("/".join("x" * 201), "too long"),
    ],
)
def test_a_path_that_is_refused(path: str, fault: str) -> None:
    assert fault in str(paths.fault(path))


def test_paths_that_exclude_each_other() -> None:
    assert paths.faults(["a/b", "A/c", "d"]) == []
    assert paths.faults(["a", "A"]) == ["`A` occurs twice"]
    assert paths.faults(["Golden", "golden/x"]) == ["`Golden` is a file and a folder"]


def test_the_first_link_on_a_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert paths.link_in(tmp_path, "real/file") is None
    assert paths.link_in(tmp_path, "link/file") == "link"
    # The way to the bundle may have links.
    assert paths.link_in(tmp_path / "link", "file") is None
