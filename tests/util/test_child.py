"""A process ends with the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = """
import os, time
from effsam_export.util.child import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(120)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
time.sleep(120)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_child_does_not_outlive_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        assert child.is_dir()
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while child.is_dir() and "Z" not in state(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    # Where nobody reaps it a zombie is left, which holds nothing.
    assert not child.is_dir() or "Z" in state(child)


def test_a_process_whose_parent_died_before_it_began_ends_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    for parent, code in ((gone.pid, 1), (os.getpid(), 0)):
        text = f"from effsam_export.util.child import end_with_parent as e; e({parent})"
        assert subprocess.run([sys.executable, "-c", text], check=False).returncode == code


def state(process: Path) -> str:
    """The letter that the system has for it; Z for one that is gone already."""
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
