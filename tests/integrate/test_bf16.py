"""A bundle in BF16: its manifest, `verify`, its README and the self-test of its code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("openvino")
from effsam_export.pipeline import verify
from effsam_export.util import cpu
from tests.bundle.fake import manifest_of
from tests.integrate.conftest import exported
from tests.integrate.test_python import selftest
from tests.integrate.tools import generate
from tests.pipeline import lying_manifests as lying

if TYPE_CHECKING:
    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend
needs_bf16 = pytest.mark.skipif(not cpu.has_bf16(), reason="this CPU has no BF16")
STATE = "verified" if cpu.has_bf16() else "simulated"


@pytest.fixture(scope="module")
def in_bf16(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> Path:
    """The small model in BF16; tests that change it copy it."""
    output = tmp_path_factory.mktemp("bundles") / "small-bf16"
    return exported("openvino", output, small_checkpoint, parity_file, stage_root, precision="bf16")


@pytest.fixture
def other_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A CPU without BF16, by what this package reads of it."""
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2\n", "utf-8")
    monkeypatch.setattr(cpu, "INFO", tmp_path / "cpuinfo")


def test_the_manifest_says_what_the_compiled_model_runs(in_bf16: Path) -> None:
    manifest = manifest_of(in_bf16)
    precision = manifest["precision"]
    assert (manifest["state"], precision["requested"]) == (STATE, "bf16")
    assert manifest["target"]["options"]["inference_precision"] == "bf16"
    assert precision["keep_fp32"] == []
    assert set(precision["executed"]) == {"encoder", "decoder"}
    for counts in precision["elements_by_dtype"].values():
        assert counts["bfloat16"] > 0
    if cpu.has_bf16():
        assert all(counts["bf16"] > 0 for counts in precision["executed"].values())


def test_it_is_verified_where_it_was_made(in_bf16: Path, small: None) -> None:
    found = verify.verify(in_bf16, level="golden")
    assert found.failures == ()
    assert found.verdict == ("passed" if cpu.has_bf16() else "gates unproved")


def test_gates_do_not_count_on_a_cpu_without_bf16(
    in_bf16: Path, small: None, small_checkpoint: Checkpoint, parity_file: Path, other_cpu: None
) -> None:
    found = verify.verify(in_bf16, checkpoint=small_checkpoint, parity_file=parity_file)
    assert (found.failures, found.verdict) == ((), "gates unproved")
    assert found.unproved["gates"].startswith("OpenVINO on a CPU without BF16 computed the masks")
    assert found.report is not None
    assert found.report.state == "simulated"
    assert found.report.decided_by.endswith(
        "The gates do not count: OpenVINO on a CPU without BF16 computed the masks."
    )


@pytest.mark.slow
def test_an_export_on_a_cpu_without_bf16_is_simulated(
    tmp_path: Path,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
    other_cpu: None,
) -> None:
    output = tmp_path / "bundle"
    exported("openvino", output, small_checkpoint, parity_file, stage_root, precision="bf16")
    manifest = manifest_of(output)
    assert manifest["state"] == "simulated"
    assert manifest["simulator"] == "OpenVINO on a CPU without BF16"
    readme = (output / "README.md").read_text("utf-8")
    assert "State: **simulated, by OpenVINO on a CPU without BF16**" in readme


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("target", "options", "inference_precision"), "f32", "`target.options.inference_prec"),
        (("precision", "requested"), "fp16", "`precision.requested`"),
    ],
)
def test_a_manifest_that_lies_about_it(
    in_bf16: Path, small: None, tmp_path: Path, keys: tuple[str, ...], value: str, named: str
) -> None:
    bundle = Path(shutil.copytree(in_bf16, tmp_path / "bundle"))
    lie = lying.Lie(where="manifest", keys=keys, value=value, named=named)
    lying.write(bundle, lying.with_lies(lying.read(bundle), lie))
    assert any(f.startswith(named) for f in verify.verify(bundle).failures)


def test_an_fp32_bundle_cannot_take_the_gates_of_bf16(openvino_bundle: Path) -> None:
    lie = lying.Lie(where="manifest", keys=("precision", "requested"), value="bf16", named="")
    lying.write(openvino_bundle, lying.with_lies(lying.read(openvino_bundle), lie))
    failures = verify.verify(openvino_bundle).failures
    assert any("no component holds constants of bfloat16" in f for f in failures)
    assert any(f.startswith('`target.options.inference_precision` is "f32"') for f in failures)


def test_the_readme_names_the_property(in_bf16: Path, exported_openvino: Path) -> None:
    pages = {p: (p / "README.md").read_text("utf-8") for p in (in_bf16, exported_openvino)}
    assert "Open the graphs with `INFERENCE_PRECISION_HINT` = `bf16`" in pages[in_bf16]
    assert 'precision = {"INFERENCE_PRECISION_HINT": "bf16"}' in pages[in_bf16]
    full = pages[exported_openvino]
    assert "Open the graphs with `INFERENCE_PRECISION_HINT` = `f32`" in full
    assert "With OpenVINO's default properties such a CPU computes in BF16" in full


@needs_bf16
def test_the_selftest_passes(in_bf16: Path, tmp_path: Path) -> None:
    folder = generate(manifest_of(in_bf16), "python", tmp_path / "code")
    assert 'PRECISION = "bf16"' in (folder / "segmenter.py").read_text("utf-8")
    done = selftest(folder, in_bf16, runtime="openvino")
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr


@needs_bf16
@pytest.mark.parametrize("asked", ["f32", "bf16"])
def test_the_selftest_notices_another_precision(
    in_bf16: Path, exported_openvino: Path, tmp_path: Path, asked: str
) -> None:
    """Of code that loses the property in FP32, and of a runtime that ignores it in BF16."""
    bundle = {"f32": exported_openvino, "bf16": in_bf16}[asked]
    folder = generate(manifest_of(bundle), "python", tmp_path / "code")
    code = folder / "segmenter.py"
    text = code.read_text("utf-8")
    line = '{"INFERENCE_PRECISION_HINT": self.PRECISION}'
    assert line in text
    lost = "{}" if asked == "f32" else '{"INFERENCE_PRECISION_HINT": "f32"}'
    code.write_text(text.replace(line, lost), "utf-8")
    done = selftest(folder, bundle, runtime="openvino")
    assert f"OpenVINO does not compute in {asked} here\n" in done.stdout
    assert done.stdout.endswith("FAILED\n")
