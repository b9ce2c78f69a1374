"""Precision recipes as files: read back as written, and every fault in one error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from effsam_export import cli, models
from effsam_export.cli.options import with_fp16_recipe
from effsam_export.config import fp16_recipe
from effsam_export.errors import EffsamError, UsageError
from effsam_export.spec.model import KeepFp32

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES = (
    KeepFp32(component="encoder", modules=("neck.*", "a"), reason='it "overflows"', source="seen"),
    KeepFp32(
        component="decoder",
        modules=("up",),
        ops=("div", "add"),
        recursive=False,
        reason="r",
        source="s",
    ),
)
BOTH = ("encoder", "decoder")


def write(folder: Path, text: str) -> Path:
    path = folder / "keep.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_written_recipe_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, fp16_recipe.to_toml("found", ENTRIES))
    assert fp16_recipe.load(path, BOTH) == ENTRIES


def test_a_file_may_keep_nothing(tmp_path: Path) -> None:
    assert fp16_recipe.load(write(tmp_path, "# nothing\n"), BOTH) == ()


def test_an_entry_without_a_source_has_its_file(tmp_path: Path) -> None:
    text = '[[keep]]\ncomponent = "encoder"\nmodules = ["a"]\nreason = "r"\n'
    (entry,) = fp16_recipe.load(write(tmp_path, text), BOTH)
    assert (entry.ops, entry.source) == ((), "keep.toml")


def test_every_fault_is_in_one_error(tmp_path: Path) -> None:
    text = (
        "other = 1\n"
        '[[keep]]\ncomponent = "segmenter"\nmodules = []\nreason = "r"\n'
        '[[keep]]\ncomponent = "encoder"\nmodules = ["a"]\n'
        '[[keep]]\ncomponent = "encoder"\nmodules = ["a"]\nreason = "r"\nops = [1]\n'
    )
    with pytest.raises(UsageError) as caught:
        fp16_recipe.load(write(tmp_path, text), BOTH)
    said = caught.value.message
    for part in (
        "precision recipe `keep.toml`: unknown key `other`",
        "`keep.component` is `segmenter`, the model has encoder, decoder",
        "`keep.modules` wants names, at least one",
        "`keep.reason` is missing",
        "`keep.ops` wants names, at least one",
    ):
        assert part in said
    assert caught.value.hint is not None
    assert "[[keep]]" in caught.value.hint


def test_the_old_key_is_named_with_the_new_one(tmp_path: Path) -> None:
    text = '[[keep]]\ncomponent = "encoder"\nmodules = ["a"]\nreason = "r"\nalone = true\n'
    with pytest.raises(UsageError, match=r"`keep\.alone = true` is now `recursive = false`"):
        fp16_recipe.load(write(tmp_path, text), BOTH)


@pytest.mark.parametrize("text", ["keep = 1\n", '[keep]\ncomponent = "encoder"\n'])
def test_a_table_instead_of_a_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="`keep` is not a list of tables"):
        fp16_recipe.load(write(tmp_path, text), BOTH)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        fp16_recipe.load(tmp_path / "none.toml", BOTH)


# ------------------------------------------------------------------ taking the place of the model's


def test_a_file_takes_the_place_of_the_models_recipe(tmp_path: Path) -> None:
    spec = models.get("sam-vit-b")
    assert spec.precision
    assert with_fp16_recipe(spec, "fp16", None) is spec
    path = write(tmp_path, fp16_recipe.to_toml("found", ENTRIES))
    assert with_fp16_recipe(spec, "fp16", path).precision == ENTRIES
    assert with_fp16_recipe(spec, "int8", path).precision == ENTRIES


@pytest.mark.parametrize(
    ("target", "more", "precision"), [("onnx", [], "fp32"), ("openvino", ["--bf16"], "bf16")]
)
def test_it_is_refused_where_nothing_is_in_fp16(
    tmp_path: Path, target: str, more: list[str], precision: str
) -> None:
    path = write(tmp_path, fp16_recipe.to_toml("found", ENTRIES))
    asked = ["export", "mobile-sam", "-t", target, "--keep-fp32", str(path), "--dry-run", *more]
    result = CliRunner().invoke(cli.app, asked)
    assert isinstance(result.exception, EffsamError)
    assert result.exception.message == f"--keep-fp32 does not apply to {precision}"
    assert result.exception.hint == "use --fp16"
