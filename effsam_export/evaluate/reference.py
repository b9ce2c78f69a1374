"""The PyTorch model of a bundle as a segmenter. Torch is imported when it is opened."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from effsam_export.imaging import instances, letterbox
from effsam_export.imaging.images import check_prompt, frame_of, prompt_to_model
from effsam_export.inference import runner
from effsam_export.pipeline.verify import obstacle
from effsam_export.spec.prompts import Sample
from effsam_export.util import installed
from effsam_export.weights.own_file import checkpoint_from_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from effsam_export.bundle.read import Bundle
    from effsam_export.imaging.images import Frame
    from effsam_export.imaging.instances import Instances
    from effsam_export.inference.runner import Prediction
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.stages import Checkpoint


def checkpoint_of(
    bundle: Bundle, file: Path, base: Path | None = None, lora: Path | None = None
) -> Checkpoint:
    """Return the checkpoint that a bundle was exported from.

    Args:
        bundle: The bundle.
        file: Its weight file.
        base: The whole checkpoint beneath it, where the export had one.
        lora: The adapter merged into it, where the export had one.

    Raises:
        CheckFailed: These are not the files of the export.
        CheckpointError: A file is no weight file.
        ToolchainMissing: PyTorch is not installed.
    """
    entry = bundle.manifest["checkpoint"]
    checkpoint = checkpoint_from_file(
        file,
        bundle.model.weights,
        key=bundle.checkpoint_key,
        base=base,
        lora=lora,
        lora_alpha=entry.get("lora", {}).get("alpha") if lora else None,
    )
    obstacle(bundle, checkpoint, required=True)
    return checkpoint


def key_of(bundle: Bundle, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return everything that the reference's masks depend on, for a JSON document.

    Bundles of one model have the same, for any target without a layout of its own.
    """
    model = bundle.model
    masks = model.masks
    return {
        "reference": checkpoint.sha256,
        "key": checkpoint.key,
        "base": None if checkpoint.base is None else checkpoint.base.sha256,
        "lora": None if checkpoint.lora is None else checkpoint.lora.sha256,
        "alpha": None if checkpoint.lora is None else checkpoint.lora.alpha,
        "model": [model.name, dict(model.options)],
        "preprocess": asdict(model.preprocess),
        "masks": [masks.multimask, masks.threshold, masks.low_res_size, masks.score, masks.upscale],
        "layout": bundle.layout,
        "torch": installed.version_of("torch"),
    }


def opened(bundle: Bundle, checkpoint: Checkpoint) -> PyTorchSegmenter:
    """Load the weights of a bundle's model into PyTorch.

    Raises:
        CheckpointError: They are not weights of the model.
    """
    from effsam_export.weights import checkpoint as loading

    return PyTorchSegmenter(bundle.model, loading.load(bundle.model, checkpoint))


class PyTorchSegmenter:
    """Segments images with the authors' PyTorch code.

    Args:
        model: Specification of the model.
        module: The model with its weights.
    """

    def __init__(self, model: ModelSpec, module: nn.Module) -> None:
        self._model, self._module = model, module
        self._frame: Frame | None = None
        self._sample: Sample | None = None
        self._instances: Instances | None = None

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode an image uint8 HxWx3 RGB."""
        model, size = self._model, (image.shape[0], image.shape[1])
        sample = Sample(image=image)
        first = model.components[0]
        outputs = first.reference(self._module, sample)
        if model.finds_instances:
            box = letterbox.fit(size, model.preprocess.image_size, square=True)
            self._instances = instances.detect(outputs, box)
        else:
            self._frame = frame_of(size, model.preprocess)
            self._sample = sample.encoded(outputs)

    def answer(self, prompt: Prompt, *, only_best: bool = False) -> Prediction:
        """Return the masks of one prompt in pixels of the original image, best score first."""
        model = self._model
        if self._instances is not None:
            return runner.select_instance(model, self._instances, prompt)
        assert self._sample is not None
        assert self._frame is not None
        check_prompt(prompt, self._frame.original, model.prompts)
        sample = replace(self._sample, prompt=prompt_to_model(prompt, self._frame))
        outputs = model.masks.of(model.component("decoder").reference(self._module, sample))
        count = 1 if only_best else None
        masks = model.masks
        return runner.select(outputs, masks.multimask, masks, self._frame, count=count)
