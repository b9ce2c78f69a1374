"""Folders with a build file of a small model, and what tests do with them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from effsam_export import cli
from effsam_export.config.targets import load_target
from effsam_export.pipeline.request import ExportRequest
from tests.stages import export

if TYPE_CHECKING:
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

PRECISIONS = ("fp32", "fp16")
FILE = """
models = ["{model}"]
targets = ["onnx"]
precisions = ["fp32", "fp16"]
parity = "parity.toml"
checkpoints = {{ {model} = "{weights}" }}
"""


def write_build(folder: Path, model: str, checkpoint: Checkpoint, parity_file: Path) -> Path:
    """A folder with a build file for one model, and its photograph and prompts."""
    for file in (parity_file, parity_file.with_name("photo.png")):
        (folder / file.name).write_bytes(file.read_bytes())
    text = FILE.format(model=model, weights=checkpoint.path)
    (folder / "effsam.toml").write_text(text, "utf-8")
    return folder


def export_cells(
    model: ModelSpec, checkpoint: Checkpoint, parity_file: Path, stages: Path, output: Path
) -> None:
    """Export the cells of that build file in this process, through a stage cache."""
    for precision in PRECISIONS:
        request = ExportRequest(
            model=model,
            target=load_target("onnx", precision),
            checkpoint=checkpoint,
            output=output / precision,
            parity_file=parity_file,
        )
        export(request, stages)


def link_stages(stages: Path, cache: Path, model: str) -> None:
    """Link a model's stages, and all outputs of PyTorch, into the cache of a build."""
    own = cache / "build" / "stages"
    (own / "answers").mkdir(parents=True)
    for record in stages.glob("*/made.json"):
        if json.loads(record.read_text("utf-8"))["parts"]["model"] == model:
            shutil.copytree(record.parent, own / record.parent.name, copy_function=os.link)
    for path in stages.glob("answers/[!.]*.npz"):
        os.link(path, own / "answers" / path.name)


def build(place: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Run `effsam build --json`; return its exit code, document and messages."""
    result = CliRunner().invoke(cli.app, ["build", str(place / "effsam.toml"), "--json", *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout), result.stderr


def children_of(parent: int, word: str) -> list[int]:
    """Processes started by one whose command line holds a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        if int(status[1]) == parent and word in command:
            found.append(int(entry.name))
    return found
