"""Inputs of a component for its quantizer, made from photographs as the runner makes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.calibration import images as calibration_images
from effsam_export.calibration import prompts
from effsam_export.imaging.images import frame_of, prompt_to_model
from effsam_export.spec.prompts import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from effsam_export.backends import Session
    from effsam_export.calibration.images import CalibrationImages
    from effsam_export.spec.model import ComponentSpec, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The photographs of an INT8 export, and a folder for what is made of them.

    Attributes:
        threads: With which PyTorch computes: in another number sums have another order and other
            last digits, by which a few weights are rounded otherwise.
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
        """Write the samples of a component; the folder of `0000.npz`, ....

        Args:
            model: As the target gets it.
            component: One of its components.
            encoder: For a decoder: opens the encoder as deployed, whose embeddings it will get.
        """
        out = self.folder / component.name
        out.mkdir()
        made = self._prompted(model, encoder()) if encoder else self._plain()
        for i, sample in enumerate(made):
            feeds: Mapping[str, Any] = component.feeds(model.preprocess, sample)
            np.savez(out / f"{i:04}.npz", **feeds)
        return out

    def _plain(self) -> Iterator[Sample]:
        for picture in calibration_images.samples(self.images):
            yield Sample(image=picture)

    def _prompted(self, model: ModelSpec, encoder: Session) -> Iterator[Sample]:
        recipe = self.images.recipe
        generator = np.random.default_rng(recipe.seed)
        spec = model.component("encoder")
        for sample in self._plain():
            height, width = sample.image.shape[:2]
            frame = frame_of((height, width), model.preprocess)
            embeddings = encoder.run(spec.feeds(model.preprocess, sample))["image_embeddings"]
            asked = prompts.sample(
                (height, width), model.prompts, recipe.prompts_per_sample, generator
            )
            for prompt in asked:
                yield replace(sample, embeddings=embeddings, prompt=prompt_to_model(prompt, frame))
