"""The workflow, the action and the Dockerfile: checked as files, and their scripts run here.

No CI of that kind and no Docker are here: what they do around the scripts is not tried.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from effsam_export.bundle import read
from effsam_export.config.toml import read_toml
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKFLOW = REPOSITORY / ".github" / "workflows" / "bundles.yml"
CI = REPOSITORY / ".github" / "workflows" / "ci.yml"
ACTION = REPOSITORY / ".github" / "actions" / "build" / "action.yml"
DOCKERFILE = REPOSITORY / "Dockerfile"
SCRIPTS = Path(sysconfig.get_path("scripts"))


def run(command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(c) for c in command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


# ------------------------------------------------------------------ the files


@pytest.mark.parametrize(
    ("schema", "files"),
    [("vendor.github-workflows", (WORKFLOW, CI)), ("vendor.github-actions", (ACTION,))],
)
def test_github_takes_the_files(schema: str, files: tuple[Path, ...], tmp_path: Path) -> None:
    check = [SCRIPTS / "check-jsonschema", "--builtin-schema", schema]
    done = run([*check, *files])
    assert done.returncode == 0, done.stdout + done.stderr
    (wrong := tmp_path / files[0].name).write_text(
        files[0].read_text("utf-8").replace("runs", "rnus")
    )
    assert run([*check, wrong]).returncode == 1


def test_a_security_linter_finds_nothing(tmp_path: Path) -> None:
    check = [SCRIPTS / "zizmor", "--offline", "--quiet"]
    done = run([*check, REPOSITORY / ".github"])
    assert done.returncode == 0, done.stdout + done.stderr
    # It reads what it is given: an input of the caller in a script is found.
    text = ACTION.read_text("utf-8").replace("for name in $ONLY", "for name in ${{ inputs.only }}")
    (tmp_path / "action.yml").write_text(text, "utf-8")
    done = run([*check, tmp_path / "action.yml"])
    assert done.returncode != 0
    assert "template-injection" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint's wheel is for Linux")
def test_a_linter_of_dockerfiles_finds_nothing() -> None:
    done = run([SCRIPTS / "hadolint", DOCKERFILE])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_has_all_that_the_package_is_built_of(tmp_path: Path) -> None:
    """Only what the Dockerfile copies: the same wheel as from the whole repository."""
    copied = re.findall(r"^COPY (.+) (\S+)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    for sources, to in copied:
        for source in sources.split():
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, tmp_path / to)
            else:
                shutil.copyfile(REPOSITORY / source, tmp_path / to / source)
    names = []
    for folder in (tmp_path, REPOSITORY):
        out = tmp_path / "out" / folder.name
        done = run([sys.executable, "-m", "build", "-w", "-n", "-o", out, folder])
        assert done.returncode == 0, done.stderr
        (wheel,) = out.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            # Compiled files that lie about are in neither.
            names.append({(n, archive.read(n)) for n in archive.namelist() if "RECORD" not in n})
    assert names[0] == names[1]


def test_every_extra_of_the_image_is_one_of_the_package() -> None:
    project = read_toml(REPOSITORY / "pyproject.toml")["project"]
    (asked,) = re.findall(r'"\.\[(.+)\]"', DOCKERFILE.read_text("utf-8"))
    known = set(project["optional-dependencies"]) - {"all", "dev", "docs"}
    assert set(asked.split(",")) == known


# ------------------------------------------------------------------ their scripts


def script(file: Path, *keys: str | int) -> str:
    """A step's `run`, with no expression in it that only GitHub knows."""
    step: Any = yaml.safe_load(file.read_text("utf-8"))
    for key in keys:
        step = step[key]
    assert "${{" not in step["run"]
    return str(step["run"])


def shell(text: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the runner does it, where the build file is."""
    path = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    python_path = os.pathsep.join([str(place / "startup"), str(REPOSITORY)])
    own = {"PATH": path, "PYTHONPATH": python_path, "GITHUB_OUTPUT": str(place / "output")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
        cwd=place,
        env={**os.environ, **own, "GITHUB_STEP_SUMMARY": str(place / "summary"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def planned(place: Path) -> dict[str, str]:
    """What the workflow's plan hands on."""
    (place / "output").unlink(missing_ok=True)
    steps = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]["plan"]["steps"]
    (number,) = (i for i, step in enumerate(steps) if step.get("id") == "plan")
    done = shell(script(WORKFLOW, "jobs", "plan", "steps", number), place)
    assert done.returncode == 0, done.stderr
    lines = (place / "output").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def act(place: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """The action's script with its inputs' defaults, or others."""
    action = yaml.safe_load(ACTION.read_text("utf-8"))
    (number,) = (i for i, step in enumerate(action["runs"]["steps"]) if "run" in step)
    inputs = {k: str(v["default"]) for k, v in action["inputs"].items()}
    inputs.update(given)
    names = action["runs"]["steps"][number]["env"]
    environment = {k: inputs[v.split("inputs.")[1].split()[0]] for k, v in names.items()}
    return shell(script(ACTION, "runs", "steps", number), place, **environment)


def test_a_plan_and_a_cell_in_a_job_of_its_own(place: Path) -> None:
    found = planned(place)
    assert found["any"] == "true"
    cells = [cell["name"] for cell in json.loads(found["matrix"])["include"]]
    assert cells == ["small-sam-onnx-fp32", "small-sam-onnx-fp16"]
    done = act(place, only=cells[1])
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (place / "dist").iterdir()] == cells[1:]
    assert read.integrity(read.read(place / "dist" / cells[1])) == ()
    assert f'name="{cells[1]}"' in (place / "effsam-junit.xml").read_text("utf-8")
    assert "1 cells: 1 built" in (place / "summary").read_text("utf-8")
    # With the cache that the job left, the other cell alone is planned; without it, no job is.
    left = json.loads(planned(place)["matrix"])["include"]
    assert [cell["name"] for cell in left] == cells[:1]
    file = place / "effsam.toml"
    file.write_text(file.read_text("utf-8").replace('"fp32", ', ""), "utf-8")
    assert planned(place) == {"any": "false", "matrix": '{"include": []}'}


def test_a_cell_that_fails_fails_the_job_with_a_summary(place: Path) -> None:
    file = place / "effsam.toml"
    file.write_text(file.read_text("utf-8").replace(".pt", ".none"), "utf-8")
    done = act(place)
    assert done.returncode != 0
    assert "error:" in done.stderr


def test_a_name_that_no_cell_has_fails_the_job(place: Path) -> None:
    done = act(place, only="small-sam-onnx-fp32 small-sam-onnx-int9")
    assert done.returncode == 2
    assert "small-sam-onnx-int9" in done.stderr
    assert not (place / "dist").exists()
