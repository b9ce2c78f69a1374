"""What `verify` proves of gates, targets, checkpoints and files, and how the command says it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from effsam_export import cli, models
from effsam_export.config.toml import data_dir
from effsam_export.errors import UsageError
from effsam_export.pipeline import verify, verify_claims
from effsam_export.spec.targets import Gates
from tests.pipeline import lying_manifests as lying
from tests.tiny_instances import TINY_INSTANCES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend
PINNED = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"


@pytest.fixture
def honest(tiny_models: None, tmp_path: Path) -> Path:
    """An honest bundle of one graph."""
    return lying.honest("tiny-instances-onnx", tmp_path)


def change(bundle: Path, *keys: str | int, to: object, where: str = "manifest") -> None:
    """Change one value of a bundle."""
    lie = lying.Lie(where=where, keys=keys, value=to, named="")
    lying.write(bundle, lying.with_lies(lying.read(bundle), lie))


@pytest.fixture
def own(honest: Path) -> Path:
    """The bundle as if it were made for a target file of one's own."""
    change(honest, "target", "name", to="mine")
    return honest


def target_file(folder: Path, **gates: float) -> str:
    """The file of that target, with other gates than the package's in FP32."""
    text = (data_dir("targets") / "onnx.toml").read_text("utf-8")
    values = {"mask_iou": 0.999, "score_error": 0.001, "cosine": 0.99999, **gates}
    words = ", ".join(f"{k} = {v}" for k, v in values.items())
    lines = [f"fp32 = {{ {words} }}" if s.startswith("fp32 =") else s for s in text.splitlines()]
    (folder / "mine.toml").write_text("\n".join(lines), "utf-8")
    return str(folder / "mine.toml")


def effsam(*arguments: object) -> tuple[int, str, str]:
    """Run a command; its exit code, standard output and standard error."""
    found = CliRunner().invoke(cli.app, [str(a) for a in arguments], standalone_mode=False)
    if found.exception is not None and not hasattr(found.exception, "exit_code"):
        raise found.exception
    code = getattr(found.exception, "exit_code", found.exit_code)
    return code, found.stdout, found.stderr + str(found.exception or "")


# ------------------------------------------------------------------ gates


def test_gates_of_an_own_target_are_unproved(own: Path) -> None:
    found = verify.verify(own)
    assert (found.passed, found.verdict) == (True, "gates unproved")
    assert found.unproved["gates"].startswith("target `mine` is not one of this package")
    code, _, told = effsam("verify", own)
    assert code == 0
    assert "gates unproved: target `mine` is not one of this package; give its file with" in told
    assert told.splitlines()[-1].startswith(f"GATES UNPROVED  {own}")
    assert "PASSED" not in told
    code, out, _ = effsam("verify", own, "--json")
    document = json.loads(out)
    assert (code, document["passed"], document["verdict"]) == (0, True, "gates unproved")
    assert set(document["unproved"]) == {"gates", "checkpoint"}


def test_the_target_file_proves_them(own: Path, tmp_path: Path) -> None:
    file = target_file(tmp_path)
    found = verify.verify(own, target_file=file)
    assert (found.verdict, set(found.unproved)) == ("passed", {"checkpoint"})
    code, _, told = effsam("verify", own, "--target", file)
    assert code == 0
    assert told.splitlines()[-1].startswith(f"PASSED  {own}, checkpoint not proved  ")


def test_a_target_file_with_stricter_gates(own: Path, tmp_path: Path) -> None:
    file = target_file(tmp_path, mask_iou=1.0, score_error=1e-9)
    failures = verify.verify(own, target_file=file).failures
    golden = "golden/golden.json"
    assert failures[:4] == (
        "`gates.mask_iou` is 0.999, looser than 1 (target `mine`)",
        "`gates.score_error` is 0.001, looser than 1e-09 (target `mine`)",
        f"`{golden}`: `tolerances.mask_iou` is 0.999, looser than 1 (target `mine`)",
        f"`{golden}`: `tolerances.score_error` is 0.001, looser than 1e-09 (target `mine`)",
    )
    # The golden vectors are held to the target's gates too.
    assert failures[4].endswith("want at most 1e-09")


def test_a_target_file_with_looser_gates(own: Path, tmp_path: Path) -> None:
    file = target_file(tmp_path, mask_iou=0.5, score_error=0.5, cosine=0.5)
    assert verify.verify(own, target_file=file).passed


def test_a_target_file_of_another_backend(own: Path) -> None:
    found = verify.verify(own, target_file="openvino")
    assert found.failures == ('`target.backend` is "onnx", want "openvino" (target `openvino`)',)


@pytest.mark.parametrize("file", ["missing.toml", "nothing", "iphone-ane"])
def test_a_target_file_that_cannot_be_used(own: Path, file: str) -> None:
    with pytest.raises(UsageError):
        verify.verify(own, target_file=file)
    assert effsam("verify", own, "--target", file)[0] == 2


def test_tolerances_of_an_own_target_follow_its_gates(own: Path) -> None:
    change(own, "tolerances", "mask_iou", to=0.2, where="golden")
    found = verify.verify(own)
    assert found.failures == (
        "`golden/golden.json`: `tolerances.mask_iou` is 0.2, looser than 0.999 "
        "(the manifest's `gates`)",
    )


def test_a_target_without_the_bundles_precision(honest: Path) -> None:
    change(honest, "target", "name", to="iphone-ane")
    assert verify.verify(honest).failures == (
        "`precision.requested`: target `iphone-ane` does not support precision `fp32`",
        '`target.backend` is "onnx", want "coreml" (target `iphone-ane`)',
    )


def test_the_name_of_a_target_is_never_a_path(own: Path, tmp_path: Path) -> None:
    change(own, "target", "name", to=target_file(tmp_path, mask_iou=0.0))
    assert verify.verify(own).verdict == "gates unproved"


def test_stricter_gates_than_the_packages_are_kept(honest: Path) -> None:
    change(honest, "gates", "score_error", to=1e-9)
    failures = verify.verify(honest).failures
    assert failures
    assert all(f.startswith("golden ") for f in failures)
    assert all(f.endswith("want at most 1e-09") for f in failures)


def test_a_gate_that_is_no_number_is_looser() -> None:
    gates = Gates(mask_iou=0.9, score_error=0.1, cosine=0.9, mean_iou=0.95)
    for name in ("mask_iou", "score_error", "cosine", "mean_iou"):
        stated = replace(gates, **{name: float("nan")})
        (failure,) = verify_claims.looser_gates("", "", stated, gates, "target `x`")
        assert failure == f"{name} is nan, looser than {getattr(gates, name):g} (target `x`)"


# ------------------------------------------------------------------ the checkpoint


def checkpoint(sha256: str, *, official: bool) -> dict[str, Any]:
    return {"checkpoint": {"file_name": "a.pt", "sha256": sha256, "official": official}}


def test_the_pinned_checkpoint() -> None:
    model = models.get("mobile-sam")
    assert verify_claims.checkpoint_failures(checkpoint(PINNED, official=True), model) == []
    other = checkpoint(lying.OTHER_HASH, official=False)
    assert verify_claims.checkpoint_failures(other, model) == []


def test_a_checkpoint_that_is_not_the_official_one() -> None:
    model = models.get("mobile-sam")
    other = checkpoint(lying.OTHER_HASH, official=True)
    assert verify_claims.checkpoint_failures(other, model) == [
        f"`checkpoint.official` is true, but the official one of model `mobile-sam` has sha256 "
        f"{PINNED}"
    ]
    (failure,) = verify_claims.checkpoint_failures(other, TINY_INSTANCES)
    assert failure.endswith("this package pins no checkpoint for model `tiny-instances`")


@pytest.mark.parametrize(
    "sha256", ["0" * 64, "a" * 64, "", "12", PINNED.upper(), f"{PINNED}0", "g" * 63 + "0"]
)
def test_what_is_no_hash(sha256: str) -> None:
    manifest = checkpoint(sha256, official=False)
    assert len(verify_claims.checkpoint_failures(manifest, None)) == 1


# ------------------------------------------------------------------ files and models


def test_all_failures_come_in_one_error(honest: Path) -> None:
    change(honest, "masks", "threshold", to=3.5)
    change(honest, "gates", "mask_iou", to=0.0)
    change(honest, "checkpoint", "sha256", to="0" * 64)
    code, out, told = effsam("verify", honest, "--json", "--level", "full")
    assert code == 1
    document = json.loads(out)
    assert (document["passed"], document["verdict"]) == (False, "failed")
    assert [f.split(" is ")[0] for f in document["failures"]] == [
        "`masks.threshold`",
        "`checkpoint.sha256`",
        "`gates.mask_iou`",
        "the checkpoint `tinyi.pt`",
    ]
    assert "FAILED" in told


@pytest.mark.parametrize("options", [{}, {"k": 3}])
def test_a_model_that_does_not_exist(honest: Path, options: dict[str, float]) -> None:
    if not options:
        change(honest, "model", "name", to="mobile-sam-9")
    change(honest, "model", "options", to=options)
    change(honest, "checkpoint", "sha256", to="0" * 64)
    code, out, _ = effsam("verify", honest, "--json")
    failures = json.loads(out)["failures"]
    assert code == 1
    assert failures[0].startswith("`model` and `target.options` name a model that does not exist: ")
    assert any(f.startswith("`checkpoint.sha256`") for f in failures)


@pytest.mark.parametrize("asked", ["CUDAExecutionProvider", "nonsense"])
def test_a_provider_that_is_not_here(honest: Path, asked: str) -> None:
    change(honest, "target", "options", "provider", to=asked)
    found = verify.verify(honest)
    assert not found.passed
    assert f"asks ONNX Runtime for `{asked}`" in found.failures[0]
    assert found.golden == ()


def test_graphs_in_each_others_place(tiny_models: None, tmp_path: Path) -> None:
    bundle = lying.honest("tiny-sam-onnx", tmp_path)
    (bundle / "encoder.onnx").rename(bundle / "held")
    (bundle / "decoder.onnx").rename(bundle / "encoder.onnx")
    (bundle / "held").rename(bundle / "decoder.onnx")
    lying.write(bundle, lying.read(bundle))
    found = verify.verify(bundle)
    assert found.golden == ()
    assert "encoder: the graph has no `image` among its inputs" in found.failures
    assert "decoder: the graph has no `low_res_masks` among its outputs" in found.failures


def test_a_source_that_is_another_graph(honest: Path) -> None:
    """Only the comparisons with PyTorch read the source otherwise."""
    manifest = lying.read(honest)["manifest"]
    (component,) = manifest["components"]
    shutil.copyfile(honest / component["source"], honest / "source.onnx")
    import onnx

    graph = onnx.load(honest / "source.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128
    onnx.save(graph, honest / "source.onnx")
    component["source"] = "source.onnx"
    manifest["files"].append({"path": "source.onnx", "sha256": "", "size": 0, "role": "source"})
    lying.write(honest, {**lying.read(honest), "manifest": manifest})
    (failure,) = verify.verify(honest).failures
    assert failure == (
        "`components.segmenter.inputs.image.shape` is [1, 3, 256, 256], want [1, 3, 128, 256] "
        "(the source ONNX)"
    )


def test_texts_of_another_version_are_not_held_to_this_one(honest: Path) -> None:
    change(honest, "model", "title", to="another title")
    assert not verify.verify(honest).passed
    change(honest, "tools", "effsam-export", to="0.0.9")
    found = verify.verify(honest)
    assert found.passed
    assert found.unproved["texts"] == "another effsam-export wrote them, version 0.0.9"
    change(honest, "model", "licence", "spdx", to="CC0-1.0")
    assert not verify.verify(honest).passed
