"""The generated C++, compiled as its comments say, and the runtimes that it can be linked to.

OpenVINO's package for Python brings headers. Those of the others bring libraries alone: headers of
ONNX Runtime are in a package for another ecosystem, which tests fetch, those of LiteRT in none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integrate.tools import run

LIBRARY = ("effsam_segmenter.cpp", "effsam_graph.cpp")
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
QUICK = (*FLAGS, "-O0")
"""For a further contract of code that is also compiled with optimization: half the time."""
ORT_PACKAGE = "com.github.asus4.onnxruntime@0.4.9"
"""On the npm registry, 150 MB: a plugin for Unity, whose framework for iOS has the C++ headers."""
ORT_HEADERS = re.compile(r".*/ios-arm64/onnxruntime\.framework/Headers/(\w+\.h)")
ORT_VARIABLE, LITERT_VARIABLE = "EFFSAM_ONNXRUNTIME_INCLUDE", "EFFSAM_LITERT_INCLUDE"
"""Of the environment: folders that are given to the compiler with -I."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where its headers are, and its library under the name that it is loaded by."""

    include: Path
    library: Path


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """g++, and a folder for what it has compiled: an equal source is not compiled again."""

    program: str
    objects: Path

    def compile(
        self, folder: Path, main: str, runtime: Runtime | None, *, quick: bool = False
    ) -> Path:
        """A program of a file and the library beside it; `quick` is without optimization."""
        objects = []
        for source in (*LIBRARY, main):
            # The binding is the same for most contracts: its optimized object is there already.
            flags = QUICK if quick and source != LIBRARY[1] else FLAGS
            content = f"{flags}{runtime}{texts(folder, source)}"
            target = self.objects / f"{hashlib.sha256(content.encode()).hexdigest()}.o"
            if not target.exists():
                self(folder, *flags, *includes(runtime), "-c", source, "-o", str(target))
            objects.append(str(target))
        output = folder / Path(main).stem
        linked = []
        if runtime is not None:
            linked = [str(runtime.library), f"-Wl,-rpath,{runtime.library.parent}"]
        self(folder, *objects, *linked, "-lz", "-o", output.name)
        return output

    def check(self, folder: Path, *sources: str) -> None:
        """Read sources without a runtime's headers, and write nothing."""
        self(folder, *FLAGS, "-fsyntax-only", *sources)

    def __call__(self, folder: Path, *arguments: str) -> None:
        done = run([self.program, *arguments], folder)
        assert done.returncode == 0, done.stderr


def texts(folder: Path, name: str) -> str:
    """A file with the files of its folder that it includes."""
    text = (folder / name).read_text("utf-8")
    found = re.findall(r'^#include "(.*)"$', text, re.MULTILINE)
    return text + "".join(texts(folder, n) for n in found)


def includes(runtime: Runtime | None) -> list[str]:
    """Headers of others are not held to our warnings."""
    return [] if runtime is None else ["-isystem", str(runtime.include)]


def find_compiler(objects: Path) -> Compiler:
    """g++, and the headers of zlib, which the self-test reads a picture with."""
    program = shutil.which("g++")
    if program is None:
        pytest.skip("g++ is not installed")
    if not Path("/usr/include/zlib.h").is_file():
        pytest.skip("the headers of zlib are not installed")
    return Compiler(program=program, objects=objects)


def find_openvino() -> Runtime:
    """What its package for Python has."""
    package = package_of("openvino")
    return Runtime(
        include=with_header(package / "include", "openvino/openvino.hpp", "the openvino package"),
        library=library_of(package / "libs", "libopenvino.so.*"),
    )


def find_onnxruntime(folder: Path) -> Runtime:
    """The library of its package for Python, and headers that are not newer.

    Args:
        folder: For headers that are fetched, and links by which the library is found.
    """
    library = library_of(package_of("onnxruntime") / "capi", "libonnxruntime.so.*")
    given = os.environ.get(ORT_VARIABLE)
    include = with_header(
        Path(given) if given else fetch_ort_headers(folder), "onnxruntime_cxx_api.h", ORT_VARIABLE
    )
    api = re.search(r"ORT_API_VERSION (\d+)", (include / "onnxruntime_c_api.h").read_text("utf-8"))
    has = int(library.name.split(".so.")[1].split(".")[1])
    if api is None or int(api[1]) > has:
        pytest.skip(f"the headers are of ONNX Runtime 1.{api and api[1]}, the library of 1.{has}")
    # The package has it under its full version alone, and it wants to be loaded by another name.
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        (folder / name).symlink_to(library)
    return Runtime(include=include, library=folder / "libonnxruntime.so")


def fetch_ort_headers(folder: Path) -> Path:
    """The headers out of a package of the npm registry, and nothing else of it."""
    how = f"set {ORT_VARIABLE} to a folder with onnxruntime_cxx_api.h"
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"npm, which fetches ONNX Runtime's headers, is not installed: {how}")
    done = run([npm, "pack", "--silent", "--prefer-offline", ORT_PACKAGE], folder)
    packed = next(folder.glob("*.tgz"), None)
    if done.returncode or packed is None:
        pytest.skip(
            f"ONNX Runtime's headers cannot be fetched: {how}: {done.stderr.strip()[-200:]}"
        )
    headers = folder / "include"
    headers.mkdir()
    with tarfile.open(packed) as archive:
        for member in archive:
            found = ORT_HEADERS.fullmatch(member.name)
            content = archive.extractfile(member) if found else None
            if found and content:
                (headers / found[1]).write_bytes(content.read())
    packed.unlink()
    return headers


def find_litert() -> Runtime:
    """The library of its package for Python, with headers that somebody has to give."""
    library = library_of(package_of("ai_edge_litert"), "libLiteRt.so")
    given = os.environ.get(LITERT_VARIABLE)
    if not given:
        pytest.skip(
            "no package has litert/c/litert_compiled_model.h: set "
            f"{LITERT_VARIABLE} to a folder with LiteRT's headers, 2.1.6 or newer"
        )
    # The second is written by LiteRT's own build, and not in its sources.
    for header in ("litert/c/litert_compiled_model.h", "litert/build_common/build_config.h"):
        with_header(Path(given), header, LITERT_VARIABLE)
    return Runtime(include=Path(given), library=library)


def package_of(name: str) -> Path:
    """Where a package for Python is, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(spec.origin).parent


def library_of(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        pytest.skip(f"{folder} has no {pattern}")
    return found[0]


def with_header(folder: Path, header: str, origin: str) -> Path:
    if not (folder / header).is_file():
        pytest.skip(f"{origin} has no {header}: {folder}")
    return folder
