"""The whole flow on the small model: what is written when it passes, and when it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from effsam_export.bundle import read, write
from effsam_export.config import targets as profiles
from effsam_export.errors import CheckpointError, OutputError, UsageError
from effsam_export.models.sam.module import Sam
from effsam_export.pipeline import isolate
from effsam_export.pipeline import run as pipeline
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.request import ExportRequest
from effsam_export.pipeline.stage_cache import StageCache
from effsam_export.spec.stages import Checkpoint
from effsam_export.spec.targets import Gates
from tests.small import SMALL_SAM
from tests.stages import sharing

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import StageEvent

pytestmark = pytest.mark.backend


@pytest.fixture
def request_(
    tmp_path: Path,
    small: None,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> ExportRequest:
    """An export of the small encoder alone, its trace from the session's cache."""
    request = ExportRequest(
        model=SMALL_SAM,
        target=profiles.load_target("onnx", "fp32"),
        checkpoint=small_checkpoint,
        output=tmp_path / "out",
        components=("encoder",),
        parity_file=parity_file,
    )
    return sharing(request, stage_root)


def with_gates(target: TargetProfile, gates: Gates) -> TargetProfile:
    return replace(target, gates=gates)


def test_stage_events_are_in_order(request_: ExportRequest) -> None:
    events: list[StageEvent] = []
    report = pipeline.export(request_, events.append)
    assert report.passed
    finished = [e.stage for e in events if e.kind == "finished"]
    assert finished == ["load", "trace encoder", "lower encoder", "parity", "bundle"]
    assert all(e.detail for e in events if e.kind == "finished")
    assert [e.done for e in events if e.kind == "advanced"] == [1, 2, 3]


def test_how_deep_images_were_read_is_said_and_kept(
    request_: ExportRequest, tmp_path: Path
) -> None:
    Image.fromarray(np.arange(5600, dtype=np.uint16).reshape(70, 80) % 4096).save(
        tmp_path / "d.png"
    )
    file = tmp_path / "parity.toml"
    file.write_text(
        '[[images]]\nfile = "d.png"\nprompts = [{ name = "p", box = [9, 9, 50, 60] }]\n'
    )
    events: list[StageEvent] = []
    report = pipeline.export(replace(request_, parity_file=file), events.append)
    notes = [e.detail for e in events if (e.kind, e.stage) == ("note", "parity")]
    assert notes == [
        "image `d.png` has 16-bit values from 0 to 4095, read as 0 to 4095 (12 bits) "
        "by the range `auto`"
    ]
    assert pipeline.figures(report)["notes"] == notes
    assert json.loads((request_.output / "parity.json").read_text("utf-8"))["notes"] == notes
    assert notes[0] in (request_.output / "report.html").read_text("utf-8")


def test_a_bundle_of_one_component(request_: ExportRequest) -> None:
    pipeline.export(request_)
    bundle = read.read(request_.output)
    assert bundle.components == ("encoder",)
    assert bundle.manifest["golden"] is None
    assert read.integrity(bundle) == ()


def test_two_exports_are_equal_to_the_byte(request_: ExportRequest, tmp_path: Path) -> None:
    outputs = (tmp_path / "first", tmp_path / "second")
    for output in outputs:
        pipeline.export(replace(request_, output=output, stage_cache=None))
    first, second = map(lasting, outputs)
    assert first == second


def lasting(bundle: Path) -> tuple[Any, Any]:
    """Files and manifest of a bundle without its report, which holds latencies."""
    manifest = read.read(bundle).manifest
    assert [e["file"] for e in manifest["nondeterministic_files"]] == ["report.html"]
    files = [e for e in write.list_files(bundle) if e["role"] != "report"]
    manifest["files"] = [e for e in manifest["files"] if e["role"] != "report"]
    return [e for e in files if e["path"] != "manifest.json"], manifest


def shared(events: list[StageEvent]) -> dict[str, bool]:
    """Traces, roundings and conversions -> whether the cache had them."""
    return {
        e.stage: "from the cache" in e.detail
        for e in events
        if e.kind == "finished" and e.stage.startswith(("trace", "round", "lower"))
    }


def test_exports_that_share_stages_are_equal_to_those_that_do_not(
    request_: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(request_, components=(), stage_cache=None)
    pipeline.export(whole)
    cached = replace(
        whole, stage_cache=StageCache(root=tmp_path / "stages", parts={"weights": "1"})
    )
    first, second = (replace(cached, output=tmp_path / name) for name in ("first", "second"))
    events: list[StageEvent] = []
    pipeline.export(first, events.append)
    assert set(shared(events).values()) == {False}

    def never(*_: object) -> NoReturn:
        raise AssertionError("PyTorch is asked again")

    monkeypatch.setattr(Sam, "encode", never)
    monkeypatch.setattr(Sam, "decode", never)
    events.clear()
    pipeline.export(second, events.append)
    assert shared(events) == dict.fromkeys(
        ("trace encoder", "lower encoder", "trace decoder", "lower decoder"), True
    )
    assert lasting(whole.output) == lasting(first.output) == lasting(second.output)


def test_another_precision_shares_the_trace_and_another_opset_does_not(
    request_: ExportRequest, tmp_path: Path
) -> None:
    stages = StageCache(root=tmp_path / "stages", parts={"weights": "1"})
    found = []
    for number, target in enumerate(
        (
            request_.target,
            profiles.load_target("onnx", "fp16"),
            replace(request_.target, opset=request_.target.opset + 1),
        )
    ):
        events: list[StageEvent] = []
        each = replace(request_, target=target, stage_cache=stages, output=tmp_path / str(number))
        pipeline.export(each, events.append)
        found.append(shared(events)["trace encoder"])
    assert found == [False, True, False]


def test_no_path_of_this_machine_is_in_a_bundle(exported_tiny: Path) -> None:
    for file in exported_tiny.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for trace in (str(exported_tiny.parent).encode(), b"site-packages", b"/tests/"):
                assert trace not in content, f"{trace!r} in {file.name}"


def test_below_a_gate_nothing_is_written_but_the_evidence(
    request_: ExportRequest,
) -> None:
    strict = replace(
        request_, target=with_gates(request_.target, Gates(mask_iou=1, score_error=0, cosine=1.1))
    )
    events: list[StageEvent] = []
    with pytest.raises(pipeline.ParityFailed) as failed:
        pipeline.export(strict, events.append)
    assert failed.value.exit_code == 1
    assert "PyTorch -> ONNX, encoder, photo: `image_embeddings` has cosine" in failed.value.message
    assert "would have passed" in failed.value.message
    assert not strict.output.exists()
    evidence = strict.output.with_name("out.failed")
    assert sorted(p.name for p in evidence.glob("[!.]*")) == ["parity.json", "report.html"]
    assert json.loads((evidence / "parity.json").read_text())["passed"] is False
    assert sorted(p.name for p in strict.output.parent.iterdir()) == ["out.failed"]
    assert [e.stage for e in events if e.kind == "failed"] == ["parity"]


def test_a_converter_that_dies_leaves_its_log_and_nothing_else(
    request_: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os; print('something odd', flush=True); os.kill(os.getpid(), 11)"
    monkeypatch.setattr(isolate, "OTHER_SIDE", crash)
    with pytest.raises(isolate.ConversionFailed) as failed:
        pipeline.export(replace(request_, stage_cache=None))
    evidence = request_.output.with_name("out.failed")
    log = evidence / "lower-encoder.log"
    assert failed.value.message == (
        "encoder, onnx: the converter crashed with signal 11\n  something odd"
    )
    assert failed.value.hint == f"the converter's full output is in `{log}`"
    assert log.read_text("utf-8") == "something odd\n"
    assert list(evidence.glob("[!.]*")) == [log]
    assert list(request_.output.parent.iterdir()) == [evidence]


def test_a_full_disk_is_one_error_and_leaves_nothing(
    request_: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_json", full)
    with pytest.raises(OutputError, match="cannot be written: no space left on device"):
        pipeline.export(request_)
    assert list(request_.output.parent.iterdir()) == []


def test_missing_images_are_an_error_before_any_work(
    request_: ExportRequest, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[images]]\nfile = "no.jpg"\nprompts = [{ name = "a", points = [[1, 1, 1]] }]\n'
    )
    with pytest.raises(UsageError) as refused:
        resolve(replace(request_, parity_file=file))
    assert refused.value.message == (f"evaluation images do not exist: `{tmp_path / 'no.jpg'}`")


def test_a_file_that_is_no_checkpoint_stops_before_any_work(
    request_: ExportRequest, tmp_path: Path
) -> None:
    text = tmp_path / "weights.pt"
    text.write_text("hello")
    wrong = replace(request_, checkpoint=Checkpoint(path=text, sha256="0" * 64, official=False))
    with pytest.raises(CheckpointError, match="it is not a PyTorch weight file"):
        pipeline.export(wrong)
    assert not wrong.output.exists()


def test_force_replaces_a_bundle_only_when_the_new_one_is_complete(
    request_: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.export(request_)
    before, files = lasting(request_.output), write.list_files(request_.output)
    with pytest.raises(OutputError, match="exists already"):
        pipeline.export(request_)
    forced = replace(request_, force=True)
    strict = replace(
        forced, target=with_gates(forced.target, Gates(mask_iou=1, score_error=0, cosine=1.1))
    )
    with pytest.raises(pipeline.ParityFailed):
        pipeline.export(strict)
    assert write.list_files(request_.output) == files
    (request_.output / "stale.txt").write_text("from an older export")
    pipeline.export(forced)
    assert lasting(request_.output) == before
