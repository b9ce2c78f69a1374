"""The prompts of an evaluation: each kind asks for an annotated object in its own way.

Sources: the box and the clicks are those of EfficientViT-SAM's evaluation (Zhang et al., 2024;
`applications/efficientvit_sam/eval_efficientvit_sam_model.py`), whose clicks are those of RITM
(Sofiiuk et al., 2021); NanoSAM has the same box. Points at random are those on which SAM was
trained (Kirillov et al., 2023, appendix A).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

import numpy as np

from effsam_export.errors import UsageError, joined, shown
from effsam_export.evaluate.innermost import innermost
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from effsam_export.evaluate.dataset import AnnotatedObject
    from effsam_export.inference.runner import Prediction
    from effsam_export.spec.prompts import PromptSupport

FORMS = "box, point, Npoints or Nclicks, where N is 2 to 9"


@dataclass(frozen=True, kw_only=True)
class PromptKind:
    """A way to ask for an object.

    Attributes:
        name: As it is written: `box`, `point`, `3points`, `3clicks`.
        form: `box`: the object's box. `points`: one at the innermost pixel of the mask, or several
            at random pixels of it. `clicks`: the first is the innermost pixel, each further one the
            innermost pixel of the larger error so far.
        count: Number of points or clicks.
    """

    name: str
    form: Literal["box", "points", "clicks"]
    count: int = 0

    def fault(self, support: PromptSupport) -> str:
        """Return why a model cannot be asked in this way, as a sentence; empty if it can."""
        if self.form == "box":
            return "" if support.box else "this model takes no box"
        if support.max_points is not None and self.count > support.max_points:
            return f"this model takes {support.max_points} points, not {self.count}"
        if self.form == "clicks" and not support.negative_points:
            return "this model takes no background points, which later clicks may be"
        return ""


def parse_kinds(text: str) -> tuple[PromptKind, ...]:
    """Return the kinds in a list with commas, each once.

    Raises:
        UsageError: There is none, or one is unknown; the message names all of these.
    """
    kinds, problems = [], []
    for name in dict.fromkeys(part.strip() for part in text.split(",")):
        several = re.fullmatch(r"([2-9])(points|clicks)", name)
        if name == "box":
            kinds.append(PromptKind(name=name, form="box"))
        elif name == "point":
            kinds.append(PromptKind(name=name, form="points", count=1))
        elif several is not None:
            form: Literal["points", "clicks"] = "points" if several[2] == "points" else "clicks"
            kinds.append(PromptKind(name=name, form=form, count=int(several[1])))
        else:
            problems.append(f"unknown kind of prompt `{shown(name)}`")
    if problems:
        raise UsageError(joined(problems), hint=f"--prompts takes {FORMS}")
    return tuple(kinds)


def predict(
    kind: PromptKind,
    target: AnnotatedObject,
    mask: NDArray[np.bool_],
    seed: int,
    answer: Callable[[Prompt], Prediction],
) -> Prediction:
    """Ask for an object, and return the last prediction.

    Args:
        kind: The way to ask.
        target: The object.
        mask: Its mask, bool HxW with at least one pixel.
        seed: Chooses the random points, together with the id of the annotation.
        answer: Returns the prediction of one prompt, its best mask first.
    """
    if kind.form == "box":
        return answer(Prompt(box=target.box))
    if kind.form == "points" and kind.count > 1:
        return answer(Prompt(points=random_points(mask, kind.count, f"{seed} {target.id}")))
    points = [_point(innermost(mask)[1])]
    prediction = answer(Prompt(points=tuple(points)))
    while len(points) < kind.count:
        points.append(next_click(mask, prediction.masks[0], points))
        prediction = answer(Prompt(points=tuple(points)))
    return prediction


def random_points(mask: NDArray[np.bool_], count: int, seed: str) -> tuple[Point, ...]:
    """Return points on different pixels of a mask, all equally likely; fewer if it is smaller."""
    rows, columns = np.nonzero(mask)
    chosen = Random(seed).sample(range(len(rows)), min(count, len(rows)))
    return tuple(_point((int(rows[i]), int(columns[i]))) for i in chosen)


def next_click(mask: NDArray[np.bool_], predicted: NDArray[np.bool_], before: list[Point]) -> Point:
    """Return the next click: the innermost pixel of what is missing, or of what is too much.

    It is on the object if the missing region is wider. Pixels with an earlier click are passed
    over.
    """
    clicked = [(round(p.y), round(p.x)) for p in before]
    missing, place = innermost(mask & ~predicted, clicked)
    excess, other = innermost(predicted & ~mask, clicked)
    return _point(place) if missing > excess else _point(other, label=0)


def _point(pixel: tuple[int, int], label: int = 1) -> Point:
    row, column = pixel
    return Point(x=float(column), y=float(row), label=label)
