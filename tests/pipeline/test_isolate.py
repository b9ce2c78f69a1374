"""Conversions in processes of their own: what comes back, and what is said of those that die."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("onnx")
from effsam_export import backends
from effsam_export.errors import CheckFailed, ToolchainMissing, UsageError
from effsam_export.pipeline import isolate
from tests.backends.test_contract import target, write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Artifact

pytestmark = pytest.mark.backend

RAISE = """
import sys
from effsam_export import backends
from effsam_export.pipeline import isolate
from effsam_export.errors import {kind}
class Backend:
    @staticmethod
    def lower(*args):
        raise {kind}("no good:", lines=["one", "two"], hint="try another")
backends.load = lambda name: Backend
isolate.main(*sys.argv[1:])
"""


def lower(folder: Path) -> Artifact:
    """Lower the contract's graph to `folder/out` with the real backend."""
    out = folder / "out"
    out.mkdir()
    graph = write_graph(folder / "decoder.onnx")
    return isolate.lower(graph, target("onnx", "fp32"), out, folder / "lower.log")


def die_by(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> isolate.ConversionFailed:
    """The error of a conversion whose process runs other code."""
    monkeypatch.setattr(isolate, "OTHER_SIDE", code)
    with pytest.raises(isolate.ConversionFailed) as failed:
        lower(folder)
    return failed.value


def test_the_artefact_comes_back(tmp_path: Path) -> None:
    artifact = lower(tmp_path)
    assert artifact.files == (tmp_path / "out" / "decoder.onnx",)
    assert artifact.files[0].is_file()
    assert artifact.ops["MatMul"] == 1


def test_nothing_but_the_log_stays(tmp_path: Path) -> None:
    lower(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decoder.onnx", "lower.log", "out"]


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the converter was killed, most likely because"),
        ("import os; os.kill(os.getpid(), 6)", "the converter crashed with signal 6"),
        ("import os; os._exit(7)", "the converter failed with code 7"),
        ("pass", "the converter failed with code 0"),
    ],
    ids=["killed", "aborted", "exits", "says nothing"],
)
def test_the_error_names_how_the_process_ended(
    code: str, ending: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = die_by(code, monkeypatch, tmp_path)
    assert failed.message.startswith(f"decoder, onnx: {ending}")
    assert failed.exit_code == 1
    assert failed.log == tmp_path / "lower.log"


def test_a_known_message_is_translated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "import os; print('terminate called: std::bad_alloc', flush=True); os._exit(1)"
    failed = die_by(code, monkeypatch, tmp_path)
    assert "the converter failed with code 1: memory ran out" in failed.message
    assert failed.hint is not None
    assert failed.hint.startswith("close other programs")
    assert failed.hint.endswith(f"the converter's full output is in `{tmp_path / 'lower.log'}`")


def test_only_the_end_of_a_long_log_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "import os; print('\\n'.join(f'line {i}' for i in range(99)), flush=True); os._exit(1)"
    failed = die_by(code, monkeypatch, tmp_path)
    assert "line 98" in failed.message
    assert "line 95" not in failed.message
    assert "line 0\n" in failed.log.read_text("utf-8")


def test_a_traceback_of_a_converter_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = die_by("raise RuntimeError('unheard of')", monkeypatch, tmp_path)
    assert "RuntimeError: unheard of" in failed.message
    assert "Traceback" in failed.log.read_text("utf-8")


@pytest.mark.parametrize("kind", [CheckFailed, UsageError])
def test_an_effsam_error_keeps_its_class(
    kind: type[CheckFailed | UsageError], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(isolate, "OTHER_SIDE", RAISE.format(kind=kind.__name__))
    with pytest.raises(kind) as failed:
        lower(tmp_path)
    assert not isinstance(failed.value, isolate.ConversionFailed)
    assert (failed.value.message, failed.value.hint) == ("no good:\n  one\n  two", "try another")


def test_a_missing_toolchain_is_noticed_before_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setattr(isolate, "OTHER_SIDE", "raise AssertionError")
    with pytest.raises(ToolchainMissing):
        lower(tmp_path)
    assert not (tmp_path / "lower.log").exists()


def test_an_error_can_move_with_its_log(tmp_path: Path) -> None:
    log, kept = tmp_path / "a.log", tmp_path / "b.log"
    log.write_text("why\n")
    kept.write_text("why\n")
    failed = isolate.ConversionFailed("encoder, coreml", log, "the converter crashed")
    assert failed.moved(kept).hint == f"the converter's full output is in `{kept}`"
    assert failed.moved(kept).message == failed.message
