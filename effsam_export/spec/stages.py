"""Results of the stages of an export: checkpoint, graph, artefact."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec, KeepFp32
    from effsam_export.spec.targets import Precision


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A weight file on disk, with the hash of the bytes that were read."""

    path: Path
    sha256: str
    official: bool  # the hash is the pinned one


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A traced component: an ONNX file, and the contract it keeps.

    Attributes:
        path: The ONNX file; weights past protobuf's 2 GB lie beside it as `<name>.onnx.data`.
        program: The traced `torch.export` program in FP32 (`.pt2`), for the backends that read it.
        variants: The same with other numbers of prompt slots: (slots, `.pt2` file).
        recipe: What stays in FP32 if the graph is cast to FP16.
        fp32_nodes: The nodes of the ONNX file that `recipe` selects, by name.
        quantization: What an INT8 export does to it; None for another precision.
        rewrites: What each pass did or why it refused, in order.
        about: Facts for formats that can carry them: `title`, `licence`, `checkpoint_sha256`...
    """

    component: ComponentSpec
    path: Path
    opset: int
    program: Path | None = None
    variants: tuple[tuple[int, Path], ...] = ()
    recipe: tuple[KeepFp32, ...] = ()
    fp32_nodes: tuple[str, ...] = ()
    quantization: Quantization | None = None
    rewrites: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The ONNX file, and its weights where they lie outside."""
        data = self.path.with_name(f"{self.path.name}.data")
        return (self.path, data) if data.is_file() else (self.path,)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A lowered component: the files a runtime opens (the first is the one to open).

    Attributes:
        files: In the folder it was lowered into, or in a package folder there (`.mlpackage`).
        tensors_by_dtype: Receipt: constants of the re-opened file, elements by dtype.
        ops: Receipt: operators of the re-opened file by kind.
        versions: Toolchain package -> version that made it.
    """

    component: str
    backend: str
    precision: Precision
    files: tuple[Path, ...]
    tensors_by_dtype: Mapping[str, int]
    ops: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str]
    options: Mapping[str, str | int | float | bool]
