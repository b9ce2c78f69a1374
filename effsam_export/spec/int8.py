"""INT8 recipes as data: how each layer of a component is quantized. Readable without torch.

A recipe gives each layer with weights (convolution, linear layer) a treatment by its module path:

* `w8a8`: weights and input activations are INT8, and the product is computed in INT8;
* `weight_only`: weights are stored in INT8, activations and arithmetic are floating point;
* `keep_float`: not quantized; the weights are stored in FP16.

Products of two activations (attention) are not quantized unless the recipe sets
`quantize_activation_products`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from effsam_export.spec.tensors import Feeds

Treatment = Literal["w8a8", "weight_only", "keep_float"]
Scheme = Literal["w8a8", "weight_only", "fp16", "fp32"]
Method = Literal["minmax", "percentile", "mse"]
Rounding = Literal["nearest", "coordinate-descent"]
Optimize = Literal["size", "latency", "accuracy"]
"""What a search for a recipe prefers among the recipes that meet its aim."""
TREATMENTS: tuple[Treatment, ...] = get_args(Treatment)
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
METHODS: tuple[Method, ...] = get_args(Method)
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
OPTIMIZE: tuple[Optimize, ...] = get_args(Optimize)


@dataclass(frozen=True, kw_only=True)
class LayerOverride:
    """Modules with another treatment than the recipe's scheme, and the reason.

    Attributes:
        modules: Patterns (`fnmatch`) of module paths in the export form. A module includes the
            modules inside it.
        recursive: False: only layers called by these modules themselves, not by modules inside.
        treatment: Replaces the recipe's scheme for these modules.
        reason: One sentence.
        source: A measurement or a publication.
    """

    modules: tuple[str, ...]
    treatment: Treatment
    reason: str
    source: str = ""
    recursive: bool = True

    def matches(self, modules: Sequence[str]) -> bool:
        """Whether a layer is selected, by the modules it was called in, outermost first."""
        paths = modules if self.recursive else modules[-1:]
        return any(fnmatchcase(path, p) for path in paths for p in self.modules)


@dataclass(frozen=True, kw_only=True)
class Equalization:
    """Layers whose input channels are scaled and shifted before quantization (SmoothQuant).

    Attributes:
        norm, layer: Paths inside a block: a layer norm, and the linear layer that reads its
            output. Applies to every block that has both.
        values: Instead of `norm`: path of the linear layer that computes query, key and value, head
            after head, of an attention whose output projection is `layer`.
        alpha: From 0 (equal ranges of the weights) to 1 (equal ranges of the activations).
    """

    layer: str
    alpha: float
    norm: str = ""
    values: str = ""


@dataclass(frozen=True, kw_only=True)
class Int8Recipe:
    """How one component is quantized for one backend.

    Attributes:
        scheme: Treatment of every layer with weights that no override matches; `fp16` and `fp32`
            do not quantize the component.
        method: How the range of an activation is computed from its values on the samples: minimum
            and maximum, the 1e-5 quantiles, or the range of the smallest squared rounding error.
        rounding: To the nearest INT8 weight, or by coordinate descent on the output error over the
            samples (`quantize.rounding`).
        equalize: Channels that are equalized before rounding (`quantize.equalize`).
        quantize_activation_products: Quantize products of two activations too.
        overrides: The first that matches a layer decides.
    """

    scheme: Scheme
    method: Method = "minmax"
    rounding: Rounding = "nearest"
    equalize: tuple[Equalization, ...] = ()
    quantize_activation_products: bool = False
    overrides: tuple[LayerOverride, ...] = ()

    @property
    def quantizes(self) -> bool:
        """Whether anything becomes INT8."""
        return self.scheme in ("w8a8", "weight_only")

    @property
    def prepares_weights(self) -> bool:
        """Whether weights change before the toolchain quantizes them."""
        return self.quantizes and (bool(self.equalize) or self.rounding != "nearest")

    def treatment(self, modules: Sequence[str]) -> Treatment:
        """Return the treatment of a layer with weights.

        Args:
            modules: Paths of the modules it was called in, as in `precision.select.ModuleScope`.
        """
        for override in self.overrides:
            if override.matches(modules):
                return override.treatment
        if self.scheme == "w8a8":
            return "w8a8"
        return "weight_only" if self.scheme == "weight_only" else "keep_float"

    def unmatched_patterns(self, layers: Iterable[Sequence[str]]) -> list[str]:
        """Return the patterns of the overrides that match no layer: outdated names, or typos."""
        scopes = list(layers)
        return [
            p
            for override in self.overrides
            for p in override.modules
            if not any(replace(override, modules=(p,)).matches(modules) for modules in scopes)
        ]


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What a backend needs beside the graph to quantize it.

    Attributes:
        recipe: For this component and backend.
        samples: Folder of `0000.npz`, ...: inputs of the component by their contract names.
        treatments: Node of the ONNX graph -> its treatment, for every node with a weight.
    """

    recipe: Int8Recipe
    samples: Path
    treatments: Mapping[str, Treatment] = field(default_factory=dict)

    def feeds(self) -> Iterator[Feeds]:
        """Yield the calibration samples, one at a time, in the order of their file names."""
        import numpy as np

        for path in sorted(self.samples.glob("*.npz")):
            with np.load(path) as arrays:
                yield dict(arrays)
