"""A file, folder or bundle where a model's name belongs: the hint says what to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from effsam_export import cli
from effsam_export.errors import UnknownNameError, UsageError
from tests.bundle import fake

if TYPE_CHECKING:
    from pathlib import Path


def error_of(*arguments: str) -> UsageError:
    """Run a command that ends with an error of ours."""
    error = CliRunner().invoke(cli.app, [*arguments]).exception
    assert isinstance(error, UsageError), error
    return error


@pytest.mark.parametrize("name", ["file.pt", "my/weights.safetensors", "MODEL.PTH"])
@pytest.mark.parametrize("more", [(), ("--target", "onnx")])
def test_export_of_a_weight_file_suggests_checkpoint(name: str, more: tuple[str, ...]) -> None:
    error = error_of("export", name, *more)
    assert error.message == f"`{name}` is a file; MODEL is a name from `effsam list`"
    assert error.hint == (
        f"`effsam export MODEL --checkpoint {name}`; `effsam info --checkpoint {name}` finds the "
        "model"
    )


def test_files_and_folders_of_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert isinstance(error_of("export", "folder", "-t", "onnx"), UnknownNameError)
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"x")
    assert "`weights` is a file" in error_of("lint", "weights", "-t", "onnx").message
    assert "effsam lint MODEL --checkpoint weights" in str(error_of("lint", "weights").hint)
    assert "`folder` is a folder" in error_of("export", "folder").message
    assert error_of("info", "weights").hint == (
        "`effsam info --checkpoint weights` says which model it is"
    )
    # `fetch` takes no checkpoint.
    assert "effsam export MODEL --checkpoint weights" in str(error_of("fetch", "weights").hint)


def test_a_bundle_is_named(tmp_path: Path) -> None:
    bundle = fake.write(tmp_path / "bundle")
    error = error_of("export", str(bundle))
    assert "is a bundle, which is exported already" in error.message
    assert error.hint == f"`effsam inspect {bundle}` shows its model"
    # `bisect` takes one.
    assert "is a bundle" not in error_of("bisect", str(bundle), "-o", str(tmp_path)).message


def test_a_model_wins_over_a_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobile-sam").write_bytes(b"x")
    assert CliRunner().invoke(cli.app, ["info", "mobile-sam"]).exit_code == 0


@pytest.mark.parametrize("name", ["mobil-sam", "", "a\0b", "n" * 5000, "\ud800"])
def test_other_names_are_unknown_models(name: str) -> None:
    assert isinstance(error_of("export", name, "-t", "onnx"), UnknownNameError)
