"""Hostile checkpoints: one error each, nothing run, written or changed, bounded time and memory."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch

from effsam_export.errors import CheckpointError
from effsam_export.weights import checkpoint
from tests.weights import hostile_checkpoints as hostile

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend

SEEDS = 12
HONEST = {"a.weight": torch.arange(4.0).reshape(2, 2)}
BOUNDED = """
import random, resource, sys, time, pathlib
import torch
from effsam_export.errors import CheckpointError
from effsam_export.weights import checkpoint
from tests.weights import hostile_checkpoints as hostile

count, path = int(sys.argv[1]), pathlib.Path(sys.argv[2])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]),) * 2)
for name, make in hostile.KINDS.items():
    slowest = 0.0
    for seed in range(count):
        path.write_bytes(make(random.Random(seed)))
        start = time.perf_counter()
        try:
            checkpoint.read_state_dict(path)
        except CheckpointError:
            pass
        slowest = max(slowest, time.perf_counter() - start)
    print(f"{name}: {count} cases, slowest {slowest:.2f} s", flush=True)
"""


@pytest.mark.parametrize("kind", hostile.REFUSED)
def test_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says nothing with control characters, and nothing was made in the folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    for seed in range(SEEDS):
        path.write_bytes(hostile.REFUSED[kind](random.Random(seed)))
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read_state_dict(path)
        assert all(c.isprintable() for c in caught.value.message), seed
        assert len(caught.value.message) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_honest_files_are_read(tmp_path: Path) -> None:
    """The generators' own honest files, or the kinds of damage would say nothing."""
    path = tmp_path / "weights.pt"
    for seed in range(40):
        path.write_bytes(hostile.honest(random.Random(seed)))
        state = checkpoint.read_state_dict(path)
        assert {tuple(v.shape) for v in state.values()} <= {(2, 2), (4,)}
        assert all(v.isfinite().all() for v in state.values())


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_changes_nothing_for_the_next_file(kind: str, tmp_path: Path) -> None:
    rebuild = torch._utils._rebuild_tensor_v2
    before = dict(vars(rebuild)), rebuild.__defaults__, rebuild.__name__, rebuild.__code__
    path, next_path = tmp_path / "weights.pt", tmp_path / "honest.pt"
    torch.save(HONEST, next_path)
    for seed in range(SEEDS):
        path.write_bytes(hostile.KINDS[kind](random.Random(seed)))
        with contextlib.suppress(CheckpointError):
            checkpoint.read_state_dict(path)
    after = dict(vars(rebuild)), rebuild.__defaults__, rebuild.__name__, rebuild.__code__
    assert before == after
    assert torch.equal(checkpoint.read_state_dict(next_path)["a.weight"], HONEST["a.weight"])


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process's memory")
def test_memory_and_time_are_bounded(tmp_path: Path) -> None:
    """Within 1 GB over what the process had before."""
    command = [sys.executable, "-c", BOUNDED, "12", str(tmp_path / "weights.pt"), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 cases") == len(hostile.KINDS)


@pytest.mark.parametrize("special", ["fifo", "device", "directory"])
def test_only_regular_files_are_opened(special: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    if special == "fifo":
        os.mkfifo(path)
    elif special == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_state_dict(path)
    assert caught.value.message == f"`{path}` is not a regular file"
