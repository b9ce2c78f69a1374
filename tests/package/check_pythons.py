"""Install the package with several Python versions, and run and verify a bundle with each.

`python -m tests.package.check_pythons BUNDLE IMAGE PYTHON [PYTHON ...]`. A line is printed for each
interpreter; the exit code is 1 if one fails. The environments lie in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.paths import REPOSITORY


class Failed(Exception):
    """A command failed; the message holds the command and the end of its output."""


def call(command: list[str], folder: Path) -> str:
    """Run a command in a folder, without this environment's packages; all of its output.

    Raises:
        Failed: Its exit code is not 0.
    """
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def install(python: str, folder: Path) -> Path:
    """Make an environment with the package and ONNX Runtime; its scripts' folder.

    Raises:
        Failed: The environment cannot be made, or a package has no wheel for this Python.
    """
    call([python, "-m", "venv", str(folder)], folder.parent)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [str(scripts / "python"), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    # The package itself is built here.
    constraints = str(REPOSITORY / "constraints.txt")
    call([*pip, "--constraint", constraints, f"{REPOSITORY}[onnx]"], folder.parent)
    return scripts


def check(python: str, bundle: Path, image: Path, folder: Path) -> str:
    """Install with one interpreter and use a bundle with it; the version of Python.

    Raises:
        Failed: A command failed, or its output lacks what it has to show.
    """
    scripts = install(python, folder / "env")
    effsam = str(scripts / "effsam")
    overlay = folder / "overlay.png"
    commands: dict[tuple[str, ...], str] = {
        ("list",): "mobile-sam",
        ("targets",): "openvino",
        ("inspect", str(bundle)): "image_embeddings",
        ("run", str(bundle), str(image), "--point", "320,215", "--output", str(overlay)): "",
        ("verify", str(bundle), "--level", "golden"): "PASSED",
    }
    for arguments, shown in commands.items():
        output = call([effsam, *arguments], folder)
        if shown not in output:
            raise Failed(f"effsam {' '.join(arguments)}: no `{shown}` in\n{output[-3000:]}")
    if not overlay.is_file():
        raise Failed("effsam run: no overlay was written")
    version = "import sys; print('{}.{}.{}'.format(*sys.version_info))"
    return call([str(scripts / "python"), "-c", version], folder).strip()


def main(argv: list[str] | None = None) -> int:
    """Check each interpreter; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("python", nargs="+")
    args = parser.parse_args(argv)
    failed = False
    for python in args.python:
        with tempfile.TemporaryDirectory() as folder:
            try:
                version = check(
                    python, args.bundle.resolve(), args.image.resolve(), Path(folder).resolve()
                )
                print(f"Python {version}: passed", flush=True)
            except Failed as error:
                failed = True
                print(f"{python}: failed: {error}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
