"""What differs between two bundles, and whether an app has to care."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from effsam_export import cli
from effsam_export.bundle import archive, compare, read
from effsam_export.errors import CheckFailed
from effsam_export.util.files import sha256_of
from tests.bundle import fake

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "other")


def found(one: Path, other: Path) -> list[compare.Difference]:
    return compare.differences(read.read(one), read.read(other))


def test_equal_bundles_do_not_differ(one: Path, other: Path) -> None:
    assert found(one, other) == []


def test_reports_with_latencies_are_not_compared(one: Path, other: Path) -> None:
    (other / "report.html").write_text("12 ms")
    manifest = fake.manifest_of(other)
    fake.save(other, manifest)
    assert found(one, other) == []
    # One of them holds none.
    del manifest["nondeterministic_files"]
    fake.save(other, manifest)
    assert "files.report.html" in [d.what for d in found(one, other)]


def test_other_weights(one: Path, other: Path) -> None:
    (other / "encoder.onnx").write_bytes(b"other weights\n")
    manifest = fake.manifest_of(other)
    manifest["checkpoint"]["sha256"] = "1" * 64
    fake.save(other, manifest)
    differences = found(one, other)
    assert [(d.part, d.what) for d in differences] == [
        ("weights", "checkpoint.sha256"),
        ("files", "files.encoder.onnx"),
    ]
    assert differences[1].after.startswith("14 bytes, ")


def test_another_contract_comes_first(one: Path, other: Path) -> None:
    manifest = fake.manifest_of(other)
    manifest["tools"]["onnx"] = "2.0"
    manifest["masks"]["threshold"] = 0.5
    manifest["components"][0]["inputs"][0]["name"] = "picture"
    manifest["components"][0]["rewrites"] = ["fold"]
    fake.save(other, manifest)
    parts = [(d.part, d.what) for d in found(one, other)]
    contract = [what for part, what in parts if part == "contract"]
    assert parts[: len(contract)] == [("contract", what) for what in contract]
    assert "masks.threshold" in contract
    assert "components.encoder.inputs.picture.dtype" in contract
    assert "components.encoder.inputs.image.dtype" in contract
    assert ("files", "components.encoder.rewrites") in parts
    assert ("tools", "tools.onnx") in parts


def test_a_tensor_called_like_a_note_is_contract() -> None:
    assert compare.part_of("components.encoder.inputs.source_image.dtype") == "contract"
    assert compare.part_of("components.encoder.source") == "files"
    assert compare.part_of("components.encoder.name") == "contract"


def test_a_file_of_only_one_bundle(one: Path, other: Path) -> None:
    (other / "extra.bin").write_bytes(b"x")
    manifest = fake.manifest_of(other)
    manifest["files"].append({"path": "extra.bin", "role": "artifact"})
    fake.save(other, manifest)
    (difference,) = found(one, other)
    assert (difference.what, difference.before) == ("files.extra.bin", None)
    (back,) = found(other, one)
    assert (back.after, back.before) == (None, difference.after)


def test_every_key_of_a_manifest_has_its_part() -> None:
    from effsam_export.bundle.manifest import schema

    assert set(schema()["properties"]) == set(compare.PARTS)


# ------------------------------------------------------------------ at the command line


def test_diff_of_equal_bundles_prints_nothing(one: Path, tmp_path: Path) -> None:
    archive.pack(one, tmp_path / "one.effsam.zip")
    result = CliRunner().invoke(cli.app, ["diff", str(one), str(tmp_path / "one.effsam.zip")])
    assert (result.exit_code, result.stdout) == (0, "")


def test_diff_reports_whether_an_app_must_change(one: Path, other: Path) -> None:
    manifest = fake.manifest_of(other)
    manifest["tools"]["onnx"] = "2.0"
    fake.save(other, manifest)
    result = CliRunner().invoke(cli.app, ["diff", str(one), str(other)])
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.message == "the bundles differ in 1 place: tools 1"
    assert result.exception.hint == "an app for the first bundle can run the second"
    assert result.stdout.splitlines()[1].split() == ["tools", "tools.onnx", "2.0"]
    manifest["contract_version"] = 3
    manifest["masks"]["threshold"] = 0.5
    fake.save(other, manifest)
    result = CliRunner().invoke(cli.app, ["diff", str(one), str(other), "--json"])
    assert isinstance(result.exception, CheckFailed)
    hint = "an app for the first bundle needs other code for the second"
    assert result.exception.hint == hint
    document = json.loads(result.stdout)
    assert document["contract"] is True
    assert document["changes"] == ["other code"]
    assert {d["part"] for d in document["differences"]} == {"contract", "tools"}


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        ({"runtime": {"name": "onnxruntime", "versions": ">=1.22"}}, ()),
        (
            {"runtime": {"name": "openvino", "versions": ">=2025.2"}},
            ("another runtime (openvino instead of onnxruntime)",),
        ),
        (
            {"runtime": {"name": "onnxruntime", "versions": ">=1.30"}},
            ("onnxruntime >=1.30 instead of >=1.22",),
        ),
        (
            {"runtime": {"name": "openvino", "versions": ">=1"}, "masks": {"threshold": 1.0}},
            ("other code", "another runtime (openvino instead of onnxruntime)"),
        ),
    ],
)
def test_what_an_app_needs(
    one: Path, other: Path, change: dict[str, Any], needs: tuple[str, ...]
) -> None:
    manifest = fake.manifest_of(other)
    manifest["runtime"] = {"name": "onnxruntime", "versions": ">=1.22"}
    fake.save(one, manifest)
    for key, values in change.items():
        manifest[key] |= values
    manifest["tools"]["onnx"] = "2.0"
    fake.save(other, manifest)
    assert compare.needed_changes(read.read(one), read.read(other)) == needs
    error = CliRunner().invoke(cli.app, ["diff", str(one), str(other)]).exception
    assert isinstance(error, CheckFailed)
    assert ("can run the second" in str(error.hint)) == (not needs)
    assert all(need in str(error.hint) for need in needs)


def test_other_file_names_need_a_change(one: Path, other: Path) -> None:
    manifest = fake.manifest_of(other)
    (other / "encoder.onnx").rename(other / "large.onnx")
    for entry in manifest["files"]:
        entry["path"] = entry["path"].replace("encoder.onnx", "large.onnx")
    manifest["components"][0]["files"] = ["large.onnx"]
    fake.save(other, manifest)
    assert compare.needed_changes(read.read(one), read.read(other)) == ("other file names",)


def test_an_old_manifest_names_only_its_backend(one: Path, other: Path) -> None:
    for path, backend in ((one, "onnx"), (other, "openvino")):
        manifest = fake.manifest_of(path)
        manifest.pop("runtime", None)
        manifest["target"]["backend"] = backend
        fake.save(path, manifest)
    assert compare.needed_changes(read.read(one), read.read(other)) == (
        "another runtime (openvino instead of onnx)",
    )


def test_a_bundle_is_packed_from_inside(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(one)
    assert CliRunner().invoke(cli.app, ["pack", "."]).exit_code == 0
    assert (tmp_path / "one.effsam.zip").is_file()


def test_pack_unpack_sign_and_inspect(one: Path, tmp_path: Path) -> None:
    run = CliRunner()
    made = run.invoke(cli.app, ["pack", str(one)])
    assert made.exit_code == 0
    file = tmp_path / "one.effsam.zip"
    assert made.stdout.split() == [sha256_of(file), str(file)]
    again = run.invoke(cli.app, ["pack", str(one)])
    assert "exists already" in str(again.exception)
    out = run.invoke(cli.app, ["unpack", str(file), "-o", str(tmp_path / "out")])
    assert out.stdout.strip() == str(tmp_path / "out")
    again = run.invoke(cli.app, ["pack", str(one), "--force", "--json"])
    document = json.loads(again.stdout)
    assert document["file"] == str(file)
    assert (document["sha256"], document["bytes"]) == (sha256_of(file), file.stat().st_size)
    out = run.invoke(cli.app, ["unpack", str(file), "-o", str(tmp_path / "again"), "--json"])
    assert json.loads(out.stdout)["bundle"] == str(tmp_path / "again")
    shown = [run.invoke(cli.app, ["inspect", str(p)]).stdout for p in (one, file)]
    assert shown[0] == shown[1] != ""
