"""A bundle as a predictor, with the calls of segment-anything's `SamPredictor`. No torch.

Source of the calls: segment-anything (dca509f), `segment_anything/predictor.py`.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from effsam_export.bundle import archive, read
from effsam_export.errors import PromptError, UsageError
from effsam_export.imaging.images import check_prompt, frame_of, upscale_masks
from effsam_export.inference import automatic_masks, runner
from effsam_export.inference.arguments import to_pixels, to_prompt, to_prompts
from effsam_export.inference.automatic_masks import GridSettings
from effsam_export.spec.prompts import EMBEDDINGS, POSITIONS, Sample
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from effsam_export.backends import Session
    from effsam_export.imaging.instances import Instances
    from effsam_export.imaging.pixels import ValueRange
    from effsam_export.inference.mask_records import MaskRecord
    from effsam_export.inference.runner import Embedded, Prediction
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.tensors import Feeds, Float32
    from effsam_export.util.progress import OnProgress


class Masks(NamedTuple):
    """The masks of one prompt, which unpack as `masks, scores, low_res_masks`.

    Attributes:
        masks: Bool KxHxW at original size; logits float32 with `return_logits`.
        scores: float32 K, the model's own estimates of quality.
        low_res_masks: Logits float32 KxSxS; the next prompt's `mask_input` is one of them with its
            first axis, 1xSxS. None for a model that segments instances.
    """

    masks: NDArray[Any]
    scores: Float32
    low_res_masks: Float32 | None


class BatchMasks(NamedTuple):
    """The masks of B prompts: as `Masks`, with a first axis B.

    `masks` is None with `low_res_only`.
    """

    masks: NDArray[np.bool_] | None
    scores: Float32
    low_res_masks: Float32 | None


class Predictor:
    """Segments images with a bundle. Not for use by several threads at once.

    Args:
        path: A bundle's directory, or its `.effsam.zip` file.
        encoder: False leaves the encoder closed. Only images with a saved embedding can be set.

    Raises:
        BundleError: There is no intact bundle at `path`, or a component is missing.
        ToolchainMissing: The bundle's runtime is not installed.
    """

    def __init__(self, path: str | Path, *, encoder: bool = True) -> None:
        self._stack = ExitStack()
        try:
            bundle = read.read(self._stack.enter_context(archive.opened(Path(path))))
            self._model: ModelSpec = bundle.model
            self._sessions: dict[str, Session] = {
                c.name: read.open_session(bundle, c.name)
                for c in self._model.components
                if encoder or c.name != "encoder"
            }
        except BaseException:
            self._stack.close()
            raise
        self._image: Embedded | Instances | None = None
        self._closed = False

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the runtime and the files of a packed bundle. May be called again."""
        self._sessions, self._image, self._closed = {}, None, True
        self._stack.close()

    @property
    def model_name(self) -> str:
        """Name of the bundle's model."""
        return self._model.name

    @property
    def finds_instances(self) -> bool:
        """Whether the model segments all instances first, and has no embedding."""
        return self._model.finds_instances

    @property
    def is_image_set(self) -> bool:
        """Whether there is an image to prompt."""
        return self._image is not None

    def set_image(
        self,
        image: NDArray[np.uint8] | str | Path | Any,  # noqa: ANN401 - a PIL image
        image_format: str = "RGB",
        value_range: ValueRange = "auto",
    ) -> None:
        """Encode an image once, for any number of prompts. The image before it is dropped.

        Args:
            image: Array uint8 HxWx3, a path, or a PIL image. The EXIF rotation of a file is
                applied, that of a PIL image is not.
            image_format: Order of an array's channels, `RGB` or `BGR`.
            value_range: Which values of a file with more than 8 bits become black and white.

        Raises:
            ImageError: It is no such image, or the file cannot be read.
            UsageError: The predictor is closed.
        """
        self.reset_image()
        pixels = to_pixels(image, image_format, value_range)
        if self._closed:
            raise UsageError("the predictor is closed", hint="load the bundle again")
        if self._model.finds_instances:
            session = self._sessions["segmenter"]
            self._image = runner.find_instances(self._model, session, pixels)
        else:
            self._image = runner.embed(self._model, self._session("encoder"), pixels)

    def set_embedding(self, image: NDArray[np.uint8], embedding: Feeds) -> None:
        """Set an image whose embedding was kept. The image before it is dropped.

        Args:
            image: uint8 HxWx3 RGB.
            embedding: What `get_embedding` returned for this image and bundle.

        Raises:
            UsageError: The model has no encoder, or the predictor is closed.
        """
        self.reset_image()
        self._require_encoder()
        if self._closed:
            raise UsageError("the predictor is closed", hint="load the bundle again")
        frame = frame_of((image.shape[0], image.shape[1]), self._model.preprocess)
        self._image = runner.Embedded(frame=frame, sample=Sample(image=image).encoded(embedding))

    def get_embedding(self) -> Feeds:
        """Return the encoder's outputs for the image by name, among them `image_embeddings`.

        Raises:
            UsageError: No image is set, or the model has no encoder.
        """
        self._require_encoder()
        image = self._encoded()
        assert isinstance(image, runner.Embedded)
        given = {EMBEDDINGS: image.sample.embeddings, POSITIONS: image.sample.positions}
        return {name: value for name, value in given.items() if value is not None}

    def _require_encoder(self) -> None:
        if self._model.finds_instances:
            raise UsageError(f"`{self.model_name}` finds instances, and has no embedding")

    def reset_image(self) -> None:
        """Drop the image and what was computed for it."""
        self._image = None

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Masks:
        """Return the masks of one prompt, in the model's order of the set.

        Args:
            point_coords: Nx2 (x, y) in pixels of the original image.
            point_labels: N: 1 on the object, 0 off it.
            box: (x0, y0, x1, y1) in pixels of the original image.
            mask_input: Logits 1xhxw of an earlier answer's `low_res_masks`.
            multimask_output: The set of masks for an ambiguous prompt; else one mask. A model
                without a single mask then gives the best of its set.
            return_logits: Return the masks before they are cut at the threshold.

        Raises:
            PromptError: The prompt is malformed, outside the image, or not supported by the model.
            UsageError: No image is set.
        """
        low_res = sides(self._model.masks.low_res_size)
        prompt = to_prompt(point_coords, point_labels, box, mask_input, low_res)
        image = self._encoded()
        if not isinstance(image, runner.Embedded):
            if return_logits:
                raise PromptError(
                    f"`{self.model_name}` has no logits of a mask", hint="leave out return_logits"
                )
            found = runner.select_instance(self._model, image, prompt)
            return Masks(found.masks, found.scores, None)
        check_prompt(prompt, image.frame.original, self._model.prompts)
        feeds = runner.decoder_feeds(self._model, image, prompt)
        outputs = self._model.masks.of(self._sessions["decoder"].run(feeds))
        scores, chosen = self._chosen(outputs, 0, multimask=multimask_output)
        logits = upscale_masks(chosen, image.frame, self._model.masks)
        masks = logits if return_logits else logits > self._model.masks.threshold
        return Masks(masks, scores, chosen)

    def predict_batch(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        multimask_output: bool = True,
        low_res_only: bool = False,
    ) -> BatchMasks:
        """Return the masks of B prompts with the same number of points.

        Args:
            point_coords: BxNx2 (x, y) in pixels of the original image.
            point_labels: BxN: 1 on the object, 0 off it.
            boxes: Bx4 (x0, y0, x1, y1).
            multimask_output: As in `predict`.
            low_res_only: Leave out the masks at original size, which take most of the time.

        Raises:
            PromptError: A prompt is malformed, outside the image, or not supported by the model.
            UsageError: No image is set.
        """
        prompts = to_prompts(point_coords, point_labels, boxes)
        image = self._encoded()
        if not isinstance(image, runner.Embedded):
            found = [runner.select_instance(self._model, image, p) for p in prompts]
            scores = np.stack([f.scores for f in found])
            return BatchMasks(
                None if low_res_only else np.stack([f.masks for f in found]), scores, None
            )
        for prompt in prompts:
            check_prompt(prompt, image.frame.original, self._model.prompts)
        chosen = [
            self._chosen(outputs, i, multimask=multimask_output)
            for outputs, count in self._decoded(image, prompts)
            for i in range(count)
        ]
        masks = None
        if not low_res_only:
            masks = np.stack(
                [
                    upscale_masks(low_res, image.frame, self._model.masks)
                    > self._model.masks.threshold
                    for _, low_res in chosen
                ]
            )
        return BatchMasks(
            masks, np.stack([s for s, _ in chosen]), np.stack([low for _, low in chosen])
        )

    def answer(
        self, prompt: Prompt, *, single_mask: bool = False, only_best: bool = False
    ) -> Prediction:
        """Return the masks of one prompt by descending score, as `effsam run` prints them.

        Args:
            prompt: In pixels of the original image.
            single_mask: Use the single-mask output instead of the multimask outputs.
            only_best: Return the mask with the best score alone.

        Raises:
            PromptError: The prompt is outside the image, or not supported by the model.
            UsageError: No image is set.
        """
        image = self._encoded()
        if not isinstance(image, runner.Embedded):
            if single_mask:
                runner.require_single_mask(self._model)
            return runner.select_instance(self._model, image, prompt)
        return runner.predict(
            self._model,
            self._sessions["decoder"],
            image,
            prompt,
            single_mask=single_mask,
            only_best=only_best,
        )

    def generate(
        self,
        settings: GridSettings | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[dict[str, Any]]:
        """Return all masks of the image, as segment-anything's mask generator does.

        Args:
            settings: Grid and thresholds; the authors' by default.
            on_progress: Called with (finished points, all points).

        Returns:
            A dictionary for each mask: `segmentation` bool HxW, `area` in pixels, `bbox`
            (x, y, width, height), `predicted_iou`, `stability_score`, `point_coords` and
            `crop_box` (x, y, width, height). Stability and point are None for a model that
            segments instances.

        Raises:
            UsageError: No image is set.
        """
        records = self.records(settings, on_progress)
        return [automatic_masks.as_dictionary(record) for record in records]

    def records(
        self,
        settings: GridSettings | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[MaskRecord, ...]:
        """Return all masks of the image run-length encoded, by descending score.

        Arguments and errors are those of `generate`.
        """
        image, settings = self._encoded(), settings or GridSettings()
        if not isinstance(image, runner.Embedded):
            return automatic_masks.from_instances(image, settings)
        decoder = self._sessions["decoder"]
        embed = None
        if settings.crop_layers:
            embed = partial(runner.embed, self._model, self._session("encoder"))
        return automatic_masks.generate(self._model, decoder, image, settings, on_progress, embed)

    def _session(self, component: str) -> Session:
        if component not in self._sessions:
            raise UsageError(
                f"the predictor was opened without its {component}", hint="load the bundle again"
            )
        return self._sessions[component]

    def _encoded(self) -> Embedded | Instances:
        if self._image is None:
            closed = "the predictor is closed" if self._closed else "no image is set"
            raise UsageError(closed, hint="call set_image first")
        return self._image

    def _decoded(self, image: Embedded, prompts: Sequence[Prompt]) -> list[tuple[Feeds, int]]:
        """Return the decoder's outputs for all prompts, with the number of prompts of each call."""
        decoder, model = self._sessions["decoder"], self._model
        feeds = [runner.decoder_feeds(model, image, prompt) for prompt in prompts]
        spec = model.component("decoder")
        if not any("prompts" in t.shape for t in spec.inputs):
            return [(model.masks.of(decoder.run(f)), 1) for f in feeds]
        outputs = decoder.run(automatic_masks.stacked(model, feeds))
        return [(model.masks.of(outputs), len(feeds))]

    def _chosen(self, outputs: Feeds, i: int, *, multimask: bool) -> tuple[Float32, Float32]:
        """Return scores K and logits KxSxS of prompt `i`, in the model's order of the set."""
        masks = self._model.masks
        scores = np.asarray(outputs[masks.score][i], dtype=np.float32)
        indices = list(masks.multimask)
        if not multimask:
            best = max(masks.multimask, key=lambda k: float(scores[k]))
            indices = list(masks.single) or [best]
        low_res = np.ascontiguousarray(outputs["low_res_masks"][i, indices], dtype=np.float32)
        return scores[indices], low_res


def load(path: str | Path) -> Predictor:
    """Open a bundle, a directory or an `.effsam.zip` file. See `Predictor` for the errors."""
    return Predictor(path)
