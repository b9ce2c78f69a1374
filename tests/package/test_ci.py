"""What CI and pre-commit run exists, and their versions are those that are pinned."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.package.test_pythons import VERSIONS
from tests.paths import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
CI: dict[str, Any] = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text("utf-8"))
HOOKS: list[dict[str, Any]] = yaml.safe_load(
    (REPOSITORY / ".pre-commit-config.yaml").read_text("utf-8")
)["repos"][0]["hooks"]


def targets(text: str) -> set[str]:
    """The targets of `make` in a text."""
    return set(re.findall(r"\bmake ([a-z-]+)", text))


def commands(job: str) -> str:
    """The commands of a job, one a line."""
    return "\n".join(step["run"] for step in CI["jobs"][job]["steps"] if "run" in step)


def test_the_workflow_runs_linters_and_tests() -> None:
    assert targets(commands("lint")) == {"lint-fast"}
    assert {"lint", "docs", "test"} <= targets(commands("test"))
    assert "tests/package/test_pythons.py" in commands("pythons")


def test_every_target_of_make_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    used = targets((REPOSITORY / ".ci" / "run").read_text("utf-8"))
    used |= {target for job in CI["jobs"] for target in targets(commands(job))}
    assert len(used) >= 5
    assert used <= known


def test_every_supported_python_is_set_up() -> None:
    (setup,) = [s for s in CI["jobs"]["pythons"]["steps"] if "setup-python" in s.get("uses", "")]
    assert set(setup["with"]["python-version"].split()) == set(VERSIONS)


def test_actions_are_pinned_and_permissions_are_minimal() -> None:
    assert len(WORKFLOWS) >= 2
    for path in WORKFLOWS:
        text = path.read_text("utf-8")
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
        for used in re.findall(r"uses: (\S+)", text):
            assert used.startswith("./") or re.search(r"@[0-9a-f]{40}$", used), used


def test_hooks_have_the_pinned_versions() -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text("utf-8")
    (ruff,) = re.findall(r"^ruff==\S+$", constraints, re.MULTILINE)
    by_id = {hook["id"]: hook for hook in HOOKS}
    for name in ("ruff", "ruff-format"):
        assert by_id[name]["additional_dependencies"] == [ruff]
    for hook in HOOKS:
        assert all("==" in dependency for dependency in hook["additional_dependencies"])
