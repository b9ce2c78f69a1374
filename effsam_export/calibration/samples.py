"""Calibration samples: inputs of a component, computed in the same way as at inference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.calibration import images as calibration_images
from effsam_export.calibration import prompts
from effsam_export.imaging.images import frame_of, prompt_to_model
from effsam_export.spec.prompts import Sample
from effsam_export.spec.slots import in_every_slot, in_one_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from effsam_export.backends import Session
    from effsam_export.calibration.images import CalibrationImages
    from effsam_export.spec.model import ComponentSpec, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration images of an INT8 export.

    Attributes:
        folder: Existing folder for the samples.
        threads: Number of PyTorch threads. It changes the order of sums and so the rounding of a
            few weights; the manifest records it.
    """

    images: CalibrationImages
    folder: Path
    threads: int

    def samples(
        self,
        model: ModelSpec,
        component: ComponentSpec,
        encoder: Callable[[], Session] | None = None,
    ) -> Path:
        """Write the samples of a component and return their folder, with `0000.npz` and so on.

        Samples that need no encoder are written once.

        Args:
            model: The model with the target's shapes.
            component: The component to quantize.
            encoder: For a decoder: opens the exported encoder, which computes its embeddings.
        """
        out = self.folder / component.name
        if encoder is None and out.is_dir():
            return out
        out.mkdir()
        source = self._with_prompts(model, encoder()) if encoder else self._without_prompts()
        for i, sample in enumerate(source):
            one = component.feeds(model.preprocess, sample)
            feeds: Mapping[str, Any] = in_every_slot(component, one)
            np.savez(out / f"{i:04}.npz", **feeds)
        return out

    def _without_prompts(self) -> Iterator[Sample]:
        for image in calibration_images.samples(self.images):
            yield Sample(image=image)

    def _with_prompts(self, model: ModelSpec, encoder: Session) -> Iterator[Sample]:
        recipe = self.images.recipe
        generator = np.random.default_rng(recipe.seed)
        spec = model.component("encoder")
        for sample in self._without_prompts():
            height, width = sample.image.shape[:2]
            frame = frame_of((height, width), model.preprocess)
            outputs = encoder.run(in_every_slot(spec, spec.feeds(model.preprocess, sample)))
            encoded = sample.encoded(in_one_slot(spec, outputs))
            random_prompts = prompts.sample(
                (height, width), model.prompts, recipe.prompts_per_sample, generator
            )
            for prompt in random_prompts:
                yield replace(encoded, prompt=prompt_to_model(prompt, frame))
