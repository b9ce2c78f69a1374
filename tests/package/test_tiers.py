"""Every test on disk is collected, and each is run by exactly one of `make`'s test targets."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import COLLECTED, SKIPPED_FILES
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

TIERS = ("test", "test-code", "test-weights", "test-slow", "test-fuzz")
COLLECT = """
import json, sys
import pytest

class Report:
    tests, skipped = {}, []

    def pytest_collectreport(self, report):
        if report.skipped:
            self.skipped.append(report.nodeid)

    def pytest_collection_finish(self, session):
        for item in session.items:
            self.tests[item.nodeid] = [m.name for m in item.iter_markers()]

code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider"], plugins=[Report()])
with open(sys.argv[1], "w") as file:
    json.dump([int(code), Report.tests, Report.skipped], file)
"""


def collect(root: Path, report: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Collect as pytest without arguments does.

    Returns:
        The names of each test's marks by its id, and the files that are skipped as a whole
        because a package is absent.
    """
    command = [sys.executable, "-c", COLLECT, str(report)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert report.exists(), done.stderr
    code, tests, skipped = json.loads(report.read_text("utf-8"))
    assert code == 0, done.stdout
    return tests, skipped


def on_disk(root: Path) -> set[str]:
    """Test functions, and methods of test classes, of every Python file under `tests`."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for path in sorted((root / "tests").rglob("*.py")):
        file = path.relative_to(root).as_posix()
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, functions) and node.name.startswith("test_"):
                found.add(f"{file}::{node.name}")
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                methods = (m for m in node.body if isinstance(m, functions))
                names = (m.name for m in methods if m.name.startswith("test_"))
                found |= {f"{file}::{node.name}::{name}" for name in names}
    return found


def left_out(root: Path, tests: dict[str, Any], skipped: list[str]) -> set[str]:
    """Test functions on disk that pytest does not collect."""
    collected = {name.split("[")[0] for name in tests}
    return {t for t in on_disk(root) - collected if t.split("::")[0] not in skipped}


def expressions() -> dict[str, str]:
    """What each test target of the Makefile selects by."""
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    found = {}
    for target in TIERS:
        (recipe,) = re.findall(rf"^{target}: install\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        (found[target],) = re.findall(r'-m "([a-z ]+)"', recipe)
    return found


def collected_here(config: pytest.Config) -> bool:
    """Whether this session was started without paths, and so has collected every test."""
    fewer = ("ignore", "ignore_glob", "lf")
    started = config.args_source is config.ArgsSource.TESTPATHS
    return started and not any(config.getoption(name, None) for name in fewer)


def test_each_test_is_collected_and_in_one_tier(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if collected_here(request.config):
        tests, skipped = request.config.stash[COLLECTED], SKIPPED_FILES
    else:
        tests, skipped = collect(REPOSITORY, tmp_path / "report.json")
    assert left_out(REPOSITORY, tests, skipped) == set()
    counts = dict.fromkeys(TIERS, 0)
    for name, marks in tests.items():
        # The expressions are of words, `and` and `not`: Python's own.
        words = {name: name in marks for name in ("compiler", "weights", "slow", "fuzz")}
        (tier,) = [t for t, text in expressions().items() if eval(text, {}, words)]
        counts[tier] += 1
        assert ("weights" in marks) == (tier == "test-weights"), name
    print(counts)
    assert min(counts.values()) > 0


def test_a_test_in_a_folder_that_pytest_skips_is_found(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for folder in ("build", "matrix"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        text = "def test_one(): pass\nclass TestOther:\n    def test_two(self): pass\n"
        (tmp_path / "tests" / folder / f"test_{folder}.py").write_text(text, "utf-8")
    tests, skipped = collect(tmp_path, tmp_path / "report.json")
    assert left_out(tmp_path, tests, skipped) == {
        "tests/build/test_build.py::test_one",
        "tests/build/test_build.py::TestOther::test_two",
    }


def test_options_select_nothing_by_default() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    (options,) = re.findall(r"^addopts = (\[.*\])$", text, re.MULTILINE)
    assert not {"-m", "-k"} & set(json.loads(options))


def test_ci_runs_each_tier() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text("utf-8")
    lines = [line for line in script.splitlines() if not line.startswith("#")]
    for target in ("lint", "docs", "test", "test-code", "test-weights"):
        assert f"make {target}" in lines
    assert any("-m slow" in line for line in lines)


@pytest.mark.parametrize(
    ("marks", "fault"),
    [
        ("@pytest.mark.weights\n@pytest.mark.slow\n", "is marked both `weights` and `slow`"),
        (
            "@pytest.mark.usefixtures('official')\n",
            "uses `official` and is marked neither `weights` nor `slow`",
        ),
    ],
)
def test_a_test_in_two_tiers_is_refused(tmp_path: Path, marks: str, fault: str) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    hook = "from tests.conftest import pytest_collection_modifyitems\n"
    (tmp_path / "conftest.py").write_text(hook, "utf-8")
    text = f"import pytest\n@pytest.fixture\ndef official(): pass\n{marks}def test_x(): pass\n"
    (tmp_path / "test_x.py").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "test_x.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert fault in done.stdout + done.stderr
