"""Shell completion: commands, options and names, without heavy modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from effsam_export import cli, models
from effsam_export.cli import completion
from effsam_export.cli.commands import COMMANDS
from effsam_export.config.targets import PRECISIONS, target_names
from effsam_export.integrate import LANGUAGES
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

    Complete = Callable[[str], list[str]]

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "openvino", "PIL", "requests", "rich", "jinja2")
PROGRAM = """
import json, os, sys
from effsam_export import cli
sys.argv = ["effsam"]
for line in json.loads(os.environ["LINES"]):
    words = line.split(" ")
    os.environ.update(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    try:
        cli.main()
    except SystemExit:
        pass
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """Return what bash gets for a command line whose last word is incomplete."""

    def run(line: str) -> list[str]:
        monkeypatch.setenv("_EFFSAM_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        monkeypatch.setattr(sys, "argv", ["effsam"])
        # Typer takes the program's name from it.
        monkeypatch.setattr(sys.modules["__main__"], "__package__", "", raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out.split()

    return run


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("effsam ex", ["export"]),
        ("effsam ", list(COMMANDS)),
        ("effsam export mobile", ["mobile-sam"]),
        ("effsam info sam-vit", ["sam-vit-b", "sam-vit-l", "sam-vit-h"]),
        ("effsam export mobile-sam --target tensorrt", ["tensorrt", "tensorrt-rtx"]),
        ("effsam lint mobile-sam -t tf", ["tflite"]),
        ("effsam export mobile-sam -p fp", ["fp32", "fp16"]),
        ("effsam export mobile-sam -p b", ["bf16"]),
        ("effsam export mobile-sam -c enc", ["encoder"]),
        ("effsam export mobile-sam --fp", ["--fp32", "--fp16"]),
        ("effsam code bundle -l s", ["swift"]),
        # Nothing of ours: the shell completes file names.
        ("effsam inspect x", []),
        ("effsam export mobile-sam --checkpoint ./", []),
    ],
)
def test_bash_completes(complete: Complete, line: str, found: list[str]) -> None:
    assert sorted(complete(line)) == sorted(found)


def test_all_names_can_be_completed() -> None:
    assert completion.model_names("") == list(models.names())
    assert completion.target_names("") == list(target_names())
    assert completion.precisions("") == list(PRECISIONS)
    assert completion.languages("") == list(LANGUAGES)
    kinds = {c.name for name in models.names() for c in models.get(name).components}
    assert set(completion.components("")) == {"all", *kinds}


def test_completion_imports_nothing_heavy() -> None:
    lines = ["effsam ", "effsam export m", "effsam export x -t o", "effsam code b -l p"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "_EFFSAM_COMPLETE": "complete_bash",
            "LINES": json.dumps(lines),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    *shown, modules = done.stdout.splitlines()
    assert {"export", "mobile-sam", "openvino", "python"} <= set(shown), done
    assert not set(HEAVY) & set(json.loads(modules))


def test_a_wrong_value_before_it_does_not_stop_completion(complete: Complete) -> None:
    assert complete("effsam build --jobs x --scheduler y --tls-c") == [
        "--tls-ca-file",
        "--tls-cert",
    ]


def test_the_script_for_the_shell_is_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["effsam", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert "--install-completion" in text
    assert "--show-completion" in text
