"""What an INT8 export does to each module of a component: plain data, readable without torch.

A recipe sorts the layers with weights (convolutions, linear layers) by the module they lie in. Each
gets one treatment:

* `w8a8`: weights and input activations are INT8, and the product is computed in INT8;
* `w8`: weights are stored in INT8, activations and arithmetic stay floating;
* `float`: untouched; its weights are stored in FP16.

Products of two activations (attention) stay floating unless the recipe says `everything`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from effsam_export.spec.tensors import Feeds

Treatment = Literal["w8a8", "w8", "float"]
Scheme = Literal["w8a8", "w8", "fp16", "fp32"]
Method = Literal["minmax", "percentile", "mse"]
Rounding = Literal["nearest", "descent"]
TREATMENTS: tuple[Treatment, ...] = get_args(Treatment)
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
METHODS: tuple[Method, ...] = get_args(Method)
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)


@dataclass(frozen=True, kw_only=True)
class Exception8:
    """Modules that are treated otherwise than the rest, and why.

    Attributes:
        modules: Patterns (`fnmatch`) of module paths of the export form; a module includes all
            that is inside it.
        alone: Without what lies in modules inside these.
        treatment: What they get instead of the recipe's scheme.
        reason: Why, as a sentence.
        source: Where it was measured or published.
    """

    modules: tuple[str, ...]
    treatment: Treatment
    reason: str
    source: str = ""
    alone: bool = False

    def names(self, modules: Sequence[str]) -> bool:
        """Whether a layer that was called in these modules, outermost first, is one of them."""
        paths = modules[-1:] if self.alone else modules
        return any(fnmatchcase(path, p) for path in paths for p in self.modules)


@dataclass(frozen=True, kw_only=True)
class Equalization:
    """Channels whose outliers and one-sided ranges are moved into the layer that reads them.

    Attributes:
        norm, layer: Paths inside a block of a layer norm and a linear layer; every block that has
            both takes part.
        values: In place of `norm`: path of the linear layer that makes query, key and value of one
            head after another, for an attention whose projection is `layer`.
        strength: From 0 (the weights' ranges become equal) to 1 (the activations' do).
    """

    layer: str
    strength: float
    norm: str = ""
    values: str = ""


@dataclass(frozen=True, kw_only=True)
class Int8Recipe:
    """How one component is quantized for one backend.

    Attributes:
        scheme: Treatment of every layer with weights that no exception names; `fp16` and `fp32`
            do not quantize the component at all.
        method: How the range of an activation is found from its values on the samples: their least
            and largest, the 1e-5 quantiles, or the range with the least squared rounding error.
        rounding: To the nearest INT8 weight, or to those that move the output least on the samples
            (`quantize.rounding`).
        equalize: What is equalized before anything is rounded (`quantize.equalize`).
        everything: Quantize products of two activations too.
        exceptions: The first that matches a module decides.
    """

    scheme: Scheme
    method: Method = "minmax"
    rounding: Rounding = "nearest"
    equalize: tuple[Equalization, ...] = ()
    everything: bool = False
    exceptions: tuple[Exception8, ...] = ()

    @property
    def quantizes(self) -> bool:
        """Whether anything becomes INT8."""
        return self.scheme in ("w8a8", "w8")

    @property
    def prepares(self) -> bool:
        """Whether weights change before the toolchain quantizes them."""
        return self.quantizes and (bool(self.equalize) or self.rounding != "nearest")

    def treatment(self, modules: Sequence[str]) -> Treatment:
        """Treatment of a layer with weights.

        Args:
            modules: Paths of the modules it was called in, as `precision.select.Place` has them.
        """
        for entry in self.exceptions:
            if entry.names(modules):
                return entry.treatment
        if self.scheme == "w8a8":
            return "w8a8"
        return "w8" if self.scheme == "w8" else "float"

    def idle_patterns(self, layers: Iterable[Sequence[str]]) -> list[str]:
        """Patterns of the exceptions that match no layer: names that have rotted, or typos."""
        places = list(layers)
        return [
            p
            for entry in self.exceptions
            for p in entry.modules
            if not any(replace(entry, modules=(p,)).names(modules) for modules in places)
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
        """The calibration samples, one at a time, always in the same order."""
        import numpy as np

        for path in sorted(self.samples.glob("*.npz")):
            with np.load(path) as arrays:
                yield dict(arrays)
