"""Kotlin's compiler, and generated Kotlin called on the JVM."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.integrate.tools import generate, run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from effsam_export.spec.tensors import Float32

QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""A compiler that runs once is done before the JVM's best machine code pays off."""
SOURCES = Path(__file__).parent / "kotlin"
STUBS = sorted(SOURCES.rglob("*.java"))
DRIVERS = ("Driver.kt", "PythonGraph.kt", "Run.kt")


@dataclass(frozen=True, kw_only=True)
class Kotlin:
    """A JVM, the compiler's jars, and the standard library among them."""

    java: str
    jars: tuple[Path, ...]
    library: Path

    def compile(self, sources: Sequence[Path], output: Path) -> Path:
        """Class files of these sources, and of nothing but Java 8 and the standard library.

        Android has most of Java 8 and not all of later ones. Java files are read for their
        signatures alone.
        """
        command = [self.java, *QUICK, "-cp", os.pathsep.join(map(str, self.jars))]
        command += ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-Werror"]
        command += ["-no-stdlib", "-no-reflect", "-Xjdk-release=8", "-jvm-target", "1.8"]
        command += ["-cp", str(self.library), "-d", str(output), *map(str, sources)]
        done = run(command, output.parent)
        assert done.returncode == 0, done.stderr
        return output

    def compile_stubs(self, output: Path) -> Path:
        """Add the stubs as class files, which Kotlin's compiler only reads."""
        javac = shutil.which("javac")
        if javac is None:
            pytest.skip("javac is not installed")
        options = ["--release", "8", "-Xlint:-options", "-d", str(output)]
        done = run([javac, *options, *map(str, STUBS)], output)
        assert done.returncode == 0, done.stderr
        return output

    def command(self, main: str, *classes: Path, options: Sequence[str] = ()) -> list[str]:
        """What starts a compiled `main`."""
        path = os.pathsep.join(map(str, [*classes, self.library]))
        return [self.java, "-Xshare:auto", *options, "-cp", path, main]


def package_of(kind: str) -> str:
    return f"effsam.{kind.replace('-', '_')}"


def packaged(
    manifest: dict[str, Any], folder: Path, package: str, more: Sequence[str] = DRIVERS
) -> list[Path]:
    """Generated files in a package of their own, so that one compiler takes several contracts.

    `more` are files of `kotlin/` that call them.
    """
    generate(manifest, "kotlin", folder)
    for name in more:
        (folder / name).write_text((SOURCES / name).read_text("utf-8"), "utf-8")
    for file in folder.glob("*.kt"):
        text = file.read_text("utf-8")
        file.write_text(text.replace("package effsam\n", f"package {package}\n"), "utf-8")
    return sorted(folder.glob("*.kt"))


class Driver:
    """Functions of the generated library, called in one process."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(
        self, what: str, size: tuple[int, int], data: bytes = b"", *more: object
    ) -> dict[str, Float32]:
        """Arrays by name.

        Raises:
            ValueError: It was refused.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        (self.folder / "in.bin").write_bytes(data)
        self.process.stdin.write(f"{what} {size[0]} {size[1]} {' '.join(map(str, more))}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer or answer.startswith("refused: "):
            raise ValueError(answer or "it ended")
        values = np.fromfile(self.folder / "out.bin", np.float32)
        names = [part.split(":") for part in answer.split()]
        ends = np.cumsum([int(count) for _, count in names])
        parts = np.split(values, ends)
        return {name: part for (name, _), part in zip(names, parts, strict=False)}

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
