"""What a bundle follows from: each thing changes the digest, and is named as the reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from effsam_export import models
from effsam_export.config import calibration, int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.matrix import keys
from effsam_export.models import batching, image_sizes
from effsam_export.pipeline import stage_keys
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.spec.stages import Checkpoint, LoraFile
from effsam_export.util import installed


def request(
    model: str = "mobile-sam",
    target: str = "openvino",
    precision: str = "fp32",
    options: dict[str, str] | None = None,
) -> ExportRequest:
    quantizing = None
    if precision == "int8":
        quantizing = Int8Request(calibration=calibration.load(), plan=int8_recipe.load(model))
    return ExportRequest(
        model=models.get(model),
        target=profiles.load_target(target, precision, options),
        checkpoint=Checkpoint(path=Path("x.pt"), sha256="1" * 64, official=True),
        output=Path("unused"),
        int8=quantizing,
    )


def changed(before: ExportRequest, after: ExportRequest) -> list[str]:
    """Names of the parts that differ."""
    one, other = keys.parts(before), keys.parts(after)
    assert (keys.digest(one) == keys.digest(other)) == (one == other)
    return sorted(n for n in {*one, *other} if one.get(n) != other.get(n))


def test_the_same_request_has_the_same_digest() -> None:
    one = request()
    elsewhere = replace(
        one,
        output=Path("other"),
        force=True,
        checkpoint=Checkpoint(path=Path("moved/x.pt"), sha256="1" * 64, official=True),
    )
    assert changed(one, elsewhere) == []


def test_another_image_size() -> None:
    one = request()
    other = replace(one, model=image_sizes.resized(one.model, 512))
    assert changed(one, other) == ["model.image_size"]
    stages = [stage_keys.stage_parts(r, threads=1) for r in (one, other)]
    assert keys.digest(stages[0]) != keys.digest(stages[1])


def test_another_batch() -> None:
    one = request()
    other = replace(one, model=batching.with_batch(one.model, 4))
    assert changed(one, other) == ["model.batch"]


def test_one_weight() -> None:
    one = request()
    other = replace(one, checkpoint=replace(one.weights, sha256="2" * 64))
    assert changed(one, other) == ["weights"]


def test_the_parts_of_a_checkpoint() -> None:
    one = request()
    base = Checkpoint(path=Path("b.pt"), sha256="3" * 64, official=False)
    lora = LoraFile(path=Path("a.bin"), sha256="4" * 64)
    for name, other in (
        ("key", replace(one.weights, key="student")),
        ("base", replace(one.weights, base=base)),
        ("lora", replace(one.weights, lora=lora)),
    ):
        assert changed(one, replace(one, checkpoint=other)) == [f"weights.{name}"]
    merged = replace(one, checkpoint=replace(one.weights, lora=lora))
    scaled = replace(one, checkpoint=replace(one.weights, lora=replace(lora, alpha=2.0)))
    assert changed(merged, scaled) == ["weights.lora"]


def test_names_that_the_manifest_repeats() -> None:
    one = request()
    renamed = replace(one, checkpoint=replace(one.weights, path=Path("other.pt")))
    assert changed(one, renamed) == ["weights.name"]
    copied = replace(one, target=replace(one.target, name="copy"))
    assert changed(one, copied) == ["target"]


def test_one_option_of_the_target() -> None:
    assert changed(
        request(target="coreml", precision="fp16"),
        request(target="coreml", precision="fp16", options={"slots": "4"}),
    ) == ["target.options"]


def test_the_targets_file() -> None:
    one = request()
    other = replace(one, target=replace(one.target, source=one.target.source + b"\n"))
    assert changed(one, other) == ["target.profile"]


def test_a_setting_of_the_model() -> None:
    one = request("expedit-sam-vit-b")
    options = {**one.model.options, "location": 8.0}
    other = replace(one, model=models.configured(one.model, options))
    assert changed(one, other) == ["model.options"]


def test_the_precision_brings_its_recipe() -> None:
    assert changed(request(), request(precision="fp16")) == ["precision", "precision.recipe"]


def test_the_calibration_is_an_input_of_the_key(tmp_path: Path) -> None:
    one = request(precision="int8")
    assert one.int8 is not None
    more = replace(one, int8=replace(one.int8, calibration=calibration.load(num_samples=21)))
    assert changed(one, more) == ["int8.calibration"]
    recipe = one.int8.plan.recipe("encoder", "openvino")
    plan = replace(
        one.int8.plan, recipes={("encoder", "default"): replace(recipe, method="percentile")}
    )
    assert changed(one, replace(one, int8=replace(one.int8, plan=plan))) == ["int8.recipe"]


def test_an_evaluation_image_is_an_input_of_the_key(tmp_path: Path) -> None:
    def parity(content: bytes, point: str) -> ExportRequest:
        (tmp_path / "a.png").write_bytes(content)
        file = tmp_path / "parity.toml"
        prompts = f'[{{ name = "p", points = [[{point}, 1]] }}]'
        file.write_text(f'[[images]]\nfile = "a.png"\nprompts = {prompts}\n', "utf-8")
        return replace(request(), parity_file=file)

    def digest(content: bytes, point: str) -> str:
        return keys.digest(keys.parts(parity(content, point)))

    same = digest(b"x", "1, 2")
    assert digest(b"x", "1, 2") == same
    assert digest(b"y", "1, 2") != same
    assert digest(b"x", "2, 2") != same


@pytest.mark.parametrize(
    ("tool", "hit"),
    [
        ("openvino", {"openvino"}),
        ("onnx", {"onnx", "openvino"}),
        ("torch", {"onnx", "openvino"}),
    ],
)
def test_another_version_of_a_tool_concerns_those_that_use_it(
    monkeypatch: pytest.MonkeyPatch, tool: str, hit: set[str]
) -> None:
    targets = ("onnx", "openvino")
    before = {t: keys.parts(request(target=t)) for t in targets}
    real = installed.version_of
    monkeypatch.setattr(installed, "version_of", lambda name: "99" if name == tool else real(name))
    after = {t: keys.parts(request(target=t)) for t in targets}
    assert {t for t in targets if before[t] != after[t]} == hit
    for name in hit:
        (why,) = keys.reasons(before[name], after[name])
        assert why.startswith(f"tool.{tool} ")
        assert why.endswith("-> 99")


def test_the_quantizer_concerns_int8_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: keys.parts(request(precision=p)) for p in ("fp32", "int8")}
    real = installed.version_of
    monkeypatch.setattr(
        installed, "version_of", lambda name: "99" if name == "nncf" else real(name)
    )
    assert keys.parts(request(precision="fp32")) == before["fp32"]
    assert keys.parts(request(precision="int8")) != before["int8"]


def test_reasons_are_sentences() -> None:
    before = {"weights": "a" * 64, "tool.onnx": "1.0", "gone": "x", "same": "s"}
    now = {"weights": "b" * 64, "tool.onnx": "1.1", "new": "y", "same": "s"}
    assert keys.reasons(before, now) == [
        f"weights {'a' * 12} -> {'b' * 12}",
        "tool.onnx 1.0 -> 1.1",
        "new is new",
        "gone was removed",
    ]


def test_the_code_is_hashed_by_path_and_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "effsam_export"
    (package / "build").mkdir(parents=True)
    monkeypatch.setattr(stage_keys, "__file__", str(package / "pipeline" / "stage_keys.py"))

    def code_with(name: str, content: str) -> str:
        for old in package.rglob("*.py"):
            old.unlink()
        (package / name).write_text(content)
        return stage_keys.code_hash.__wrapped__()

    assert code_with("a.py", "x = 1") == code_with("a.py", "x = 1")
    assert len({code_with("a.py", "x = 1"), code_with("b.py", "x = 1"), code_with("a.py", "")}) == 3
    (package / "schema.json").write_text("{}")
    with_schema = code_with("a.py", "x = 1")
    (package / "schema.json").write_text("[]")
    assert code_with("a.py", "x = 1") != with_schema
    assert code_with("a.py", "x") != hashlib.sha256(b"").hexdigest()


def shared(one: ExportRequest, threads: int = 2) -> str:
    return keys.digest(stage_keys.stage_parts(one, threads))


def test_stage_inputs_do_not_include_the_target() -> None:
    one = request()
    for other in (
        request(target="coreml"),
        request(precision="fp16"),
        request(precision="int8"),
        request(target="coreml", precision="fp16", options={"slots": "4"}),
        replace(one, target=replace(one.target, source=one.target.source + b"\n")),
    ):
        assert shared(one) == shared(other)


def test_stage_inputs_are_weights_code_and_tracing_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = request()
    before = shared(one)
    assert before != shared(one, threads=1)
    assert before != shared(replace(one, checkpoint=replace(one.weights, sha256="2" * 64)))
    assert before != shared(request(model="edge-sam"))
    clustered = request("expedit-sam-vit-b")
    options = {**clustered.model.options, "location": 8.0}
    other = replace(clustered, model=models.configured(clustered.model, options))
    assert shared(clustered) != shared(other)
    versions = installed.version_of

    def with_newer(name: str) -> None:
        monkeypatch.setattr(installed, "version_of", lambda t: "99.0" if t == name else versions(t))

    for tool in stage_keys.TRACING:
        with_newer(tool)
        assert before != shared(one), tool
    # A converter's version is no concern of a trace.
    with_newer("openvino")
    assert before == shared(one)
    monkeypatch.setattr(stage_keys, "code_hash", lambda: "other")
    assert before != shared(one)
