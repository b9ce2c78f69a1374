"""Results of the stages of an export: checkpoint, graph and artefact."""

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
class LoraFile:
    """A LoRA adapter on disk.

    Attributes:
        path: Its weight file.
        sha256: See `own_file.lora_from_file`.
        alpha: The scale is alpha / rank; None takes that of `adapter_config.json` beside the file,
            or 1 for Sam_LoRA, which has no alpha.
    """

    path: Path
    sha256: str
    alpha: float | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A weight file on disk and the SHA-256 of its bytes.

    Attributes:
        path: The file; for weights in shards, their index.
        sha256: Of the file; for an index, see `fetch.sha256_of_weights`.
        official: The hash is the pinned one, and nothing is taken from another file.
        key: Which weights of a file with several (`--checkpoint-key`); None chooses.
        base: The whole checkpoint that supplies the parts which `path` lacks (`--base`).
        lora: The adapter that is merged into the weights (`--lora`).
    """

    path: Path
    sha256: str
    official: bool
    key: str | None = None
    base: Checkpoint | None = None
    lora: LoraFile | None = None


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A traced component as an ONNX file.

    Attributes:
        component: Its inputs and outputs.
        path: The ONNX file; weights past protobuf's 2 GB lie beside it as `<name>.onnx.data`.
        program: The traced `torch.export` program in FP32 (`.pt2`), for the backends that read it.
        variants: The same program with other numbers of prompt slots: (slots, `.pt2` file).
        recipe: Operators that stay in FP32 when the graph is cast to FP16.
        fp32_nodes: Names of the ONNX nodes that `recipe` selects.
        quantization: The INT8 recipe and calibration samples; None for another precision.
        rewrites: Result of each graph pass, in order.
        about: Metadata for formats that support it: `title`, `licence`, `checkpoint_sha256`, ...
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
        """The ONNX file and its external weight file, if it has one."""
        data = self.path.with_name(f"{self.path.name}.data")
        return (self.path, data) if data.is_file() else (self.path,)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A component lowered to a target's format.

    Attributes:
        files: Files in the output folder or in a package folder there (`.mlpackage`). A runtime
            opens the first one.
        tensors_by_dtype: Number of constant elements by dtype, read back from the written file.
        ops: Number of operators by kind, read back from the written file.
        executed: Number of operators by type of their arithmetic, as the compiled model states it;
            empty where the files alone decide it.
        versions: Version of each toolchain package that wrote the files.
        options: The backend's options with which it was lowered.
    """

    component: str
    backend: str
    precision: Precision
    files: tuple[Path, ...]
    tensors_by_dtype: Mapping[str, int]
    ops: Mapping[str, int] = field(default_factory=dict)
    executed: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str]
    options: Mapping[str, str | int | float | bool]
