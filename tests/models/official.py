"""What the authors' code answers on two photographs, and how any route is asked the same.

The prompts are asked through `runner`, as an app does; prompt `refine` feeds back the best logits
of `pane`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export import models
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import frame_of, prompt_to_model
from effsam_export.inference import runner
from effsam_export.inference.runner import Embedded, Prediction
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.spec.tensors import Feeds
from effsam_export.weights import checkpoint as loading

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

MODEL = models.get("mobile-sam")
PROMPTS = {
    "truck": ("pane", "body3", "tyre", "tyre_hole", "truck_box", "refine"),
    "groceries": ("centre", "box", "two"),
}

Encode = Callable[["NDArray[np.uint8]"], Embedded]
Decode = Callable[[Embedded, Prompt], Feeds]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the authors' code answered on one photograph."""

    facts: dict[str, Any]
    figures: dict[str, NDArray[Any]]
    image: NDArray[np.uint8]

    def masks(self, prompt: str, mode: str) -> NDArray[np.bool_]:
        """Their masks, best first."""
        h, w = self.image.shape[:2]
        bits = np.unpackbits(self.figures[f"{prompt}/{mode}/bits"], axis=1, count=h * w)
        return bits.reshape(-1, h, w).astype(np.bool_)

    def prompt(self, name: str) -> Prompt:
        entry = self.facts["prompts"][name]
        box = entry.get("box")
        pairs = zip(entry.get("points", ()), entry.get("labels", ()), strict=True)
        return Prompt(
            points=tuple(Point(x=x, y=y, label=label) for (x, y), label in pairs),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
        )


def read_case(shared: Path, photo: str) -> Case:
    folder = shared / "golden" / "mobile_sam_official" / photo
    facts = json.loads((folder / "case.json").read_text("utf-8"))
    with np.load(folder / "golden.npz") as content:
        figures = {k: content[k] for k in content}
    return Case(facts=facts, figures=figures, image=load_image(shared / "images" / facts["image"]))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one route answers on one photograph, by prompt and mode."""

    embedding: NDArray[np.float32]
    answers: dict[tuple[str, str], Prediction]


def reference(checkpoint: Checkpoint, *, model: ModelSpec = MODEL) -> tuple[Encode, Decode]:
    """The authors' path through the PyTorch modules."""
    module = loading.load(model, checkpoint)

    def encode(image: NDArray[np.uint8]) -> Embedded:
        frame = frame_of((image.shape[0], image.shape[1]), model.preprocess)
        sample = Sample(image=image)
        outputs = model.component("encoder").reference(module, sample)
        return Embedded(frame=frame, sample=replace(sample, embeddings=outputs["image_embeddings"]))

    def decode(embedded: Embedded, prompt: Prompt) -> Feeds:
        moved = prompt_to_model(prompt, embedded.frame)
        sample = replace(embedded.sample, prompt=moved)
        return model.component("decoder").reference(module, sample)

    return encode, decode


def through(
    encoder: Session, decoder: Session, *, model: ModelSpec = MODEL
) -> tuple[Encode, Decode]:
    """An app's path through a pair of opened graphs of a model in the form its target takes."""

    def decode(embedded: Embedded, prompt: Prompt) -> Feeds:
        return decoder.run(runner.decoder_feeds(model, embedded, prompt))

    return lambda image: runner.embed(model, encoder, image), decode


def ask(case: Case, encode: Encode, decode: Decode) -> Outcome:
    embedded = encode(case.image)
    assert embedded.sample.embeddings is not None
    answers: dict[tuple[str, str], Prediction] = {}
    for name, entry in case.facts["prompts"].items():
        prompt = case.prompt(name)
        if "mask_from" in entry:
            earlier = answers[entry["mask_from"], "multi"]
            assert earlier.low_res_masks is not None
            prompt = replace(prompt, mask_input=earlier.low_res_masks[0])
        outputs = decode(embedded, prompt)
        for mode, indices in (("single", MODEL.masks.single), ("multi", MODEL.masks.multimask)):
            answer = runner.select(outputs, indices, MODEL.masks, embedded.frame)
            answers[name, mode] = answer
    return Outcome(embedding=embedded.sample.embeddings, answers=answers)
