"""A disk that is really full: a small file system of its own, filled by the build, then grown."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.bundle import read
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
"""Where a file system may be mounted without rights, seen by nobody else and gone at the end."""
SCRIPT = """
mount -t tmpfs -o size=$SIZE tmpfs "$DISK"
"$PYTHON" -m effsam_export build "$FILE" --json > first.json 2> first.txt; echo $? > first.code
find "$DISK" -name bundle -type d > first.bundles
mount -o remount,size=1g "$DISK"
"$PYTHON" -m effsam_export build "$FILE" --json > second.json 2> second.txt; echo $? > second.code
find "$DISK" > second.files
cp -r "$DISK"/dist "$KEEP" 2> /dev/null || true
"""


def may_mount() -> bool:
    """Whether this machine lets a process have file systems of its own."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False)
    return tried.returncode == 0


@pytest.fixture(scope="module", autouse=True)
def mounting() -> None:
    if not may_mount():
        pytest.skip("no file system can be mounted here without rights (unshare --user --mount)")


def full_then_grown(place: Path, size: str, *, cache: bool) -> dict[str, Any]:
    """Two builds with the cache, or the output, on a disk of this size, which grows in between."""
    disk = place / "disk"
    disk.mkdir()
    file = place / "effsam.toml"
    if not cache:
        text = file.read_text("utf-8")
        file.write_text(f'output = "disk/dist"\n{text}', "utf-8")
    subprocess.run(
        [*NAMESPACE, "sh", "-c", SCRIPT],
        cwd=place,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(place / "startup"), str(REPOSITORY)]),
            "EFFSAM_CACHE_DIR": str(disk / "cache" if cache else place / "cache"),
            "PYTHON": sys.executable,
            "DISK": str(disk),
            "FILE": str(file),
            "SIZE": size,
            "KEEP": str(place / "kept"),
        },
    )
    found: dict[str, Any] = {}
    for name in ("first", "second"):
        found[name] = json.loads((place / f"{name}.json").read_text("utf-8"))
        found[f"{name}.code"] = int((place / f"{name}.code").read_text("utf-8"))
        assert "Traceback" not in (place / f"{name}.txt").read_text("utf-8")
    return found


# The encoder's trace takes 2.4 MB, both 24; what is lowered and the first bundle come after.
@pytest.mark.slow
@pytest.mark.parametrize("size", ["1m", "12m", "27m", "40m"])
def test_a_full_cache_fails_its_cells_and_is_gone_on_with(untraced: Path, size: str) -> None:
    place = untraced
    found = full_then_grown(place, size, cache=True)
    # As `effsam export` has it for a place that cannot be written, or for a check that fails.
    assert found["first.code"] in (1, 2)
    failed = [c for c in found["first"]["cells"] if c["state"] in ("failed", "refused")]
    assert failed
    for cell in failed:
        assert "no space left on device" in cell["message"].lower(), cell["message"]
        assert cell["bundle"] is None
    good = [c["name"] for c in found["first"]["cells"] if c["state"] == "verified"]
    bundles = (place / "first.bundles").read_text("utf-8").split()
    assert len([b for b in bundles if "/bundles/" in b]) == len(good)

    assert found["second.code"] == 0
    assert found["second"]["converted"] == len(failed)
    for name in ("small-sam-onnx-fp32", "small-sam-onnx-fp16"):
        assert read.integrity(read.read(place / "dist" / name)) == ()
    left = (place / "second.files").read_text("utf-8").splitlines()
    assert [f for f in left if ".partial" in f] == []
    assert [f for f in left if "/build/work/" in f] == []


@pytest.mark.slow
def test_a_full_output_fails_its_cells_and_converts_nothing_again(place: Path) -> None:
    found = full_then_grown(place, "8m", cache=False)
    assert found["first.code"] == 1
    for cell in found["first"]["cells"]:
        assert cell["state"] == "failed"
        assert "no space left on device" in cell["message"].lower(), cell["message"]
    # The bundles were whole in the cache: they only had no room where they were wanted.
    assert (found["second.code"], found["second"]["converted"]) == (0, 0)
    for name in ("small-sam-onnx-fp32", "small-sam-onnx-fp16"):
        assert read.integrity(read.read(place / "kept" / name)) == ()
    assert [p for p in (place / "kept").iterdir() if p.name.startswith(".")] == []
