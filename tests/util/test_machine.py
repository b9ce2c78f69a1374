"""The machine of a measurement, and the memory of this process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from effsam_export.util import cpu, machine

if TYPE_CHECKING:
    from pathlib import Path


def test_the_processor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A  CPU @ 2 GHz\nmodel name\t: B\n")
    monkeypatch.setattr(cpu, "INFO", info)
    assert machine.cpu_name() == "A CPU @ 2 GHz"
    info.write_text("processor\t: 0\nFeatures\t: asimd\n")
    assert machine.cpu_name()


def test_a_sentence_about_this_machine() -> None:
    found = machine.describe()
    assert found.cores >= 1
    assert found.sentence().startswith(f"{found.cpu}, {found.cores} core")
    assert found.sentence().endswith(f"Python {sys.version.split()[0]}")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no `resource` module")
def test_peak_memory_is_of_this_process() -> None:
    peak = machine.peak_bytes()
    assert peak is not None
    assert 10**6 < peak < 10**12
