"""Train an encoder of EdgeSAM's shape to give MobileSAM's embeddings: a distilled substitute.

`python -m benchmarks.distil --checkpoint mobile_sam.pt --output substitute.pt` trains for
`--minutes` on crops of the images that ship, and of those in `--images` folders. The result is a
checkpoint of `edge-sam` with MobileSAM's decoder. Its masks are not good. Its activations are those
of a trained network, which generated weights do not have, so that INT8 and FP16 can be measured.

It prints a JSON document: steps, loss, and the error of the embeddings on images of
`--held-out` folders, which must not be among those of `--images`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import describe
from effsam_export import models
from effsam_export.imaging.decode import load_image
from effsam_export.models.image_sizes import resized
from effsam_export.models.sam.components import as_sam
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import own_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.sizes import Size

TEACHER, STUDENT = "mobile-sam", "edge-sam"
SHIPPED = Path("calibration/images")
SUFFIXES = (".jpg", ".jpeg", ".png")
LEAST_AREA = 0.1
"""Of a crop, as a share of its image."""
NORM_STEPS = 40
"""Batches from which the means and variances of the batch norms are taken at the end."""


def images_in(folders: Iterable[Path]) -> list[NDArray[np.uint8]]:
    """Return the images of folders, uint8 HxWx3 RGB, in the order of their names."""
    files = (f for folder in folders for f in sorted(folder.iterdir()))
    return [load_image(f) for f in files if f.suffix.lower() in SUFFIXES]


def crops(
    images: Sequence[NDArray[np.uint8]], size: int, batch: int, seed: int
) -> Iterator[Tensor]:
    """Yield batches Bx3xSxS (RGB, 0-255): random squares of random images, half mirrored."""
    generator = np.random.default_rng(seed)
    while True:
        chosen = generator.integers(len(images), size=batch)
        yield torch.cat([crop(images[int(i)], size, generator) for i in chosen])


def crop(image: NDArray[np.uint8], size: int, generator: np.random.Generator) -> Tensor:
    """Return a random square of an image as 1x3xSxS (RGB, 0-255)."""
    height, width = image.shape[:2]
    largest = min(height, width)
    side = int(largest * math.sqrt(generator.uniform(LEAST_AREA, 1.0)))
    top, left = (int(generator.integers(n - side + 1)) for n in (height, width))
    square = torch.from_numpy(image[top : top + side, left : left + side].copy())
    planes = square.permute(2, 0, 1)[None].float()
    if generator.random() < 0.5:
        planes = planes.flip(-1)
    return nn.functional.interpolate(planes, (size, size), mode="bilinear", antialias=True)


def student_of(teacher: nn.Module, size: Size) -> nn.Module:
    """Return the student with the teacher's prompt encoder and mask decoder.

    Raises:
        RuntimeError: The decoders differ in names or shapes.
    """
    student = resized(models.get(STUDENT), size).build()
    kept = {k: v for k, v in teacher.state_dict().items() if not k.startswith("image_encoder.")}
    missing, unexpected = student.load_state_dict(kept, strict=False)
    others = [name for name in missing if not name.startswith("image_encoder.")]
    if others or unexpected:
        raise RuntimeError(f"the decoders differ: {others} {unexpected}")
    return student


def train(
    teacher: Sam,
    student: Sam,
    batches: Iterator[Tensor],
    *,
    seconds: float,
    rate: float,
    bf16: bool,
) -> list[float]:
    """Train the student's encoder for some time, and return the loss of each step.

    The loss is the mean squared error of the embeddings, divided by the teacher's mean square. The
    learning rate falls along a cosine to zero at the end of the time.
    """
    encoder = student.image_encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=0.01)
    losses: list[float] = []
    start = time.monotonic()
    while (done := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
        images = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                wanted = teacher.encode(images).float()
            found = student.encode(images).float()
        loss = ((found - wanted) ** 2).mean() / (wanted**2).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) % 50 == 0:
            print(f"{len(losses)} steps, loss {np.mean(losses[-50:]):.3f}", flush=True)
    return losses


def settle_norms(student: Sam, batches: Iterator[Tensor]) -> None:
    """Take the statistics of the batch norms from crops, with the weights after training."""
    norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for _ in range(NORM_STEPS):
            student.encode(next(batches))
    student.eval()


def errors(
    teacher: Sam, student: Sam, images: Sequence[NDArray[np.uint8]], size: int
) -> dict[str, float]:
    """Return SQNR in dB and cosine similarity of the embeddings, means over central squares."""
    sqnr, cosine = [], []
    for image in images:
        side = min(image.shape[:2])
        top, left = ((n - side) // 2 for n in image.shape[:2])
        square = torch.from_numpy(image[top : top + side, left : left + side].copy())
        planes = square.permute(2, 0, 1)[None].float()
        planes = nn.functional.interpolate(planes, (size, size), mode="bilinear", antialias=True)
        with torch.inference_mode():
            wanted, found = teacher.encode(planes), student.encode(planes)
        noise = float(((found - wanted) ** 2).mean() / (wanted**2).mean())
        sqnr.append(-10 * math.log10(noise))
        cosine.append(float(nn.functional.cosine_similarity(found.ravel(), wanted.ravel(), dim=0)))
    return {"sqnr_db": float(np.mean(sqnr)), "cosine": float(np.mean(cosine))}


def main() -> None:
    """Train, write the checkpoint, and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="MobileSAM's weights")
    parser.add_argument("--output", type=Path, required=True, help="file for the substitute")
    parser.add_argument("--images", type=Path, action="append", default=[], help="a folder")
    parser.add_argument("--held-out", type=Path, action="append", default=[], help="a folder")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    model = resized(models.get(TEACHER), given.size)
    module = loading.load(model, own_file.checkpoint_from_file(given.checkpoint, model.weights))
    whole = student_of(module, given.size)
    teacher, student = as_sam(module), as_sam(whole)
    batches = crops(images_in([SHIPPED, *given.images]), given.size, given.batch, given.seed)
    # BF16 halves the time of a step where the processor has it.
    bf16 = "amx_bf16" in describe()["flags"]
    losses = train(
        teacher, student, batches, seconds=60 * given.minutes, rate=given.rate, bf16=bf16
    )
    settle_norms(student, batches)
    torch.save(whole.state_dict(), given.output)
    held_out = images_in(given.held_out)
    document: dict[str, Any] = {
        "minutes": given.minutes,
        "size": given.size,
        "batch": given.batch,
        "steps": len(losses),
        "bf16": bf16,
        "loss": [round(float(np.mean(part)), 4) for part in np.array_split(losses, 10)],
        "held_out": {"images": len(held_out), **errors(teacher, student, held_out, given.size)}
        if held_out
        else None,
        "machine": describe(),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
