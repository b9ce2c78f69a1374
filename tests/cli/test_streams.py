"""Standard streams that are full, closed, or cannot show a character."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export.cli import console, streams
from effsam_export.util.progress import StageEvent
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

EFFSAM = f"{sys.executable} -m effsam_export"
NOBODY = 65534
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


def shell(
    line: str, folder: Path, variables: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a line of shell and return exit code, stdout and stderr."""
    done = subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(variables or {})},
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@full
def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    code, _, err = shell(f"{EFFSAM} list >/dev/full", tmp_path)
    assert (code, err) == (
        2,
        "error: standard output cannot be written: no space left on device\n",
    )


@full
def test_messages_that_cannot_be_written_change_nothing(tmp_path: Path) -> None:
    code, out, _ = shell(f"{EFFSAM} info mobile-sam 2>/dev/full", tmp_path)
    assert code == 0
    assert "mobile-sam" in out
    assert shell(f"{EFFSAM} info mobil 2>/dev/full", tmp_path)[0] == 2


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    code, _, err = shell(f"({EFFSAM} list; echo $? >code) | true", tmp_path)
    assert (code, err) == (0, "")
    assert (tmp_path / "code").read_text() == "0\n"


def test_closed_streams(tmp_path: Path) -> None:
    code, _, err = shell(f"{EFFSAM} list >&-", tmp_path)
    assert (code, err) == (2, "error: standard output cannot be written: bad file descriptor\n")
    code, out, _ = shell(f"{EFFSAM} info mobil 2>&-", tmp_path)
    assert (code, out) == (2, "")


def test_a_terminal_of_ascii(tmp_path: Path) -> None:
    code, out, err = shell(f"{EFFSAM} cache --json --cache-dir größe", tmp_path, ASCII)
    assert (code, err) == (0, "")
    assert json.loads(out)["path"].endswith("build")
    code, out, err = shell(f"{EFFSAM} cache --cache-dir größe", tmp_path, ASCII)
    assert (code, err) == (0, "")
    code, _, err = shell(f"{EFFSAM} inspect größe", tmp_path, ASCII)
    assert code == 2
    assert err.startswith("error: bundle `gr")


@pytest.mark.parametrize(("encoding", "mark"), [("ascii", "ok"), ("utf-8", "✓"), ("latin-1", "ok")])
def test_marks_that_the_terminal_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str, mark: str
) -> None:
    path = tmp_path / "err"
    with path.open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        console.Console().on_event(StageEvent(kind="finished", stage="load"))
    assert path.read_text(encoding).startswith(f"{mark} load")


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.data("a\x1b[2J\tb\nc\u202e")
    console.document({"name": "\x9b2J"})
    console.Console().message("\x07")
    shown = capsys.readouterr()
    first, second, *document = shown.out.split("\n")
    assert (first, second) == ("a\\x1b[2J\tb", "c\\u202e")
    assert json.loads("\n".join(document))["name"] == "\x9b2J"
    assert shown.err == "\\x07\n"


def test_an_ordinary_user_without_permission(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    (folder / "file.toml").write_text("")
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / "mine.toml").chmod(0o000)
    # Imported before, because the other user may not read the packages.
    program = (
        "import os, sys; from effsam_export import cli; "
        "from effsam_export.cli import build, cache, export, bundles; "
        "from effsam_export.matrix import cleaning, config, run, summary, cluster; "
        "from effsam_export.bundle import archive; "
        "from effsam_export.pipeline import export_model, run; "
        f"os.setuid({NOBODY}); sys.argv[0] = 'effsam'; cli.main()"
    )
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path.name.startswith("pytest-"):
            path.chmod(0o755)
    tmp_path.chmod(0o755)
    for arguments in (
        f"build --plan {folder}/file.toml",
        f"build --plan {tmp_path}/mine.toml",
        f"inspect {folder}/bundle",
        f"cache --cache-dir {folder}",
        f"export mobile-sam -t {tmp_path}/mine.toml --dry-run",
        f"export mobile-sam -t onnx -o {tmp_path}/new",
        f"export mobile-sam -t onnx --dry-run --int8 --calib {folder}",
    ):
        code, out, err = shell(f'{sys.executable} -c "{program}" {arguments}', tmp_path)
        assert (code, out) == (2, ""), (arguments, err)
        assert err.lower().count("error: ") == 1, (arguments, err)
        assert any(w in err for w in ("permission denied", "not writable", "not readable")), err


def test_a_failing_stream_is_discarded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        """A stream whose reader has left."""

        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    streams.write_data("text")
