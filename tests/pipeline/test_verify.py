"""`verify`: files, golden vectors, comparisons; as a library and as a command."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from effsam_export import cli
from effsam_export.bundle import write
from effsam_export.errors import CheckFailed, ToolchainMissing
from effsam_export.pipeline import verify
from effsam_export.spec.stages import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend


def relist(bundle: Path) -> None:
    """Make the manifest list the files as they are now, as somebody who hides a change would."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").unlink()
    manifest["files"] = write.list_files(bundle)
    write.write_json(bundle / "manifest.json", manifest)


def swap_decoder(bundle: Path) -> None:
    """Negate the last weights of the decoder, and list the new file as if it were the right one."""
    import numpy as np
    import onnx

    path = bundle / "decoder.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda t: int(np.prod(t.dims)))
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(model, path)
    relist(bundle)


def test_golden_only_where_there_is_no_checkpoint(bundle: Path) -> None:
    found = verify.verify(bundle)
    assert found.passed
    assert found.report is None
    assert found.not_run == "the checkpoint `tiny.pt` is not here"
    assert [g.case for g in found.golden] == ["point", "both", "again"]


def test_all_comparisons_with_the_checkpoint(
    bundle: Path, tiny_checkpoint: Checkpoint, parity_file: Path
) -> None:
    found = verify.verify(bundle, checkpoint=tiny_checkpoint, level="full", parity_file=parity_file)
    assert found.passed
    assert found.not_run is None
    assert found.report is not None
    assert found.report.target == "onnx"
    assert len(found.report.cases) == 3


def test_golden_level_stops_there(bundle: Path, tiny_checkpoint: Checkpoint) -> None:
    found = verify.verify(bundle, checkpoint=tiny_checkpoint, level="golden")
    assert found.report is None
    assert found.not_run == "only the golden vectors were requested"


def test_a_changed_file_is_not_even_opened(bundle: Path) -> None:
    (bundle / "decoder.onnx").write_bytes(b"not a graph")
    found = verify.verify(bundle)
    assert not found.passed
    assert found.golden == ()
    assert found.failures[0].startswith("`decoder.onnx` has 11 bytes, want")


def test_golden_vectors_catch_a_graph_that_was_swapped(bundle: Path) -> None:
    swap_decoder(bundle)
    found = verify.verify(bundle)
    assert not found.passed
    assert any(f.startswith("golden point: ") for f in found.failures)


def test_comparisons_catch_it_too(
    bundle: Path, tiny_checkpoint: Checkpoint, parity_file: Path
) -> None:
    swap_decoder(bundle)
    found = verify.verify(bundle, checkpoint=tiny_checkpoint, parity_file=parity_file)
    # The source and the artefact are one file here: the first comparison sees it.
    assert any(f.startswith("PyTorch -> ONNX, decoder") for f in found.failures)


def test_full_without_the_checkpoint_fails(bundle: Path) -> None:
    with pytest.raises(CheckFailed, match=r"the checkpoint `tiny.pt` is not here"):
        verify.verify(bundle, level="full")


def test_another_checkpoint_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = Checkpoint(path=tmp_path / "other.pt", sha256="0" * 64, official=False)
    with pytest.raises(CheckFailed, match="is not the checkpoint this bundle was exported from"):
        verify.verify(bundle, checkpoint=other)


def test_without_torch_the_golden_vectors_still_run(
    bundle: Path, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "find_spec", lambda name: None if name == "torch" else name)
    found = verify.verify(bundle, checkpoint=tiny_checkpoint)
    assert found.passed
    assert found.not_run == "`torch` is not installed"
    with pytest.raises(ToolchainMissing, match="the comparison with PyTorch"):
        verify.verify(bundle, checkpoint=tiny_checkpoint, level="full")


def effsam(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["effsam", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def test_the_command_passes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert effsam(monkeypatch, "verify", bundle) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("golden vector  mask IoU  score error\npoint")
    assert "✓ golden vectors" in shown.err
    assert "not compared with PyTorch: the checkpoint `tiny.pt` is not here" in shown.err
    assert shown.err.splitlines()[-1].startswith(f"PASSED  {bundle}")


def test_the_command_fails_with_1(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "parity.json").unlink()
    assert effsam(monkeypatch, "verify", bundle, "--json") == 1
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["schema_version"] == 2
    assert document["passed"] is False
    assert document["failures"] == ["`parity.json` is missing"]
    assert "✗ files" in shown.err
    assert "FAILED" in shown.err
    assert "error: the bundle failed:\n  `parity.json` is missing" in shown.err


def test_placement_is_reported_where_core_ml_runs(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coremltools")
    from effsam_export.backends.coreml import backend as coreml
    from effsam_export.backends.coreml import package as coreml_package
    from effsam_export.backends.coreml import placement
    from effsam_export.bundle import read
    from effsam_export.pipeline import verify

    found = read.read(bundle)
    assert verify.placement(found) == ()
    found.manifest["target"].update(backend="coreml", options={"slots": 8})
    monkeypatch.setattr(coreml, "simulator", lambda options: "a simulator")
    assert verify.placement(found) == ()
    monkeypatch.setattr(coreml, "simulator", lambda options: "")
    monkeypatch.setattr(coreml_package, "package_of", lambda files: files[0].parent)
    counted = placement.Placement(
        preferred={"cpu": 3, "neural engine": 40},
        supported={"neural engine": 41},
        work={},
        elsewhere={"gather": 3},
    )
    monkeypatch.setattr(placement, "placement", lambda package, units: {"main": counted})
    assert verify.placement(found) == tuple(
        f"{c}, main: 3 on the cpu, 40 on the neural engine; the neural engine supports 41"
        for c in ("encoder", "decoder")
    )
