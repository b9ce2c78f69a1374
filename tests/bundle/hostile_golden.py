"""Generators of hostile golden documents, beside those of any JSON: masks, prompts and files."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tests.bundle import hostile_json
from tests.bundle.hostile_manifests import NAMES

if TYPE_CHECKING:
    from random import Random

SIDES: tuple[Any, ...] = (0, 1, -1, 0.5, True, None, "8", 13_000, 1 << 31, 1 << 62, 10**40)
NUMBERS: tuple[Any, ...] = (-1, 0, 0.5, 1e30, 10**90, -(10**90), True, None, "1", [], 1e-320)


def masks(random: Random, document: dict[str, Any]) -> bytes:
    """Run lengths that do not fit their size, or sizes that do not fit the image."""
    changed = deepcopy(document)
    for case in changed["cases"]:
        height, width = case["masks"][0]["size"]
        side = random.choice(SIDES)
        area = side * side if isinstance(side, int) else 1
        mask: dict[str, Any] = random.choice(
            (
                {"size": [side, side], "counts": [area]},
                {"size": [height, width], "counts": [height * width, 0, 0]},
                {"size": [height, width], "counts": [height * width * 2, -height * width]},
                {"size": [height, width], "counts": [1] * (height * width)},
                {"size": [height, width], "counts": [0] * 1000},
                {"size": [width, height], "counts": [height * width]},
                {"size": [height, width, 1], "counts": [height * width]},
                {"size": [height, width], "counts": "abc"},
                {"size": [height, width], "counts": [10**90, -(10**90), height * width]},
                {"size": [height, width], "counts": [float(height * width)]},
                {"counts": []},
            )
        )
        case["masks"] = random.choice(([mask], [mask] * len(case["masks"]), [mask] * 300))
        if random.random() < 0.7:
            case["scores"] = [0.5] * len(case["masks"])
    return hostile_json.text_of(changed)


def prompts(random: Random, document: dict[str, Any]) -> bytes:
    """Points, boxes, answers, scores and tolerances of other types, numbers or sizes."""
    changed = deepcopy(document)
    case = random.choice(changed["cases"])
    number = random.choice(NUMBERS)
    match random.randrange(8):
        case 0:
            case["points"] = random.choice(
                ([[number, 1, 1]], [[1, 1, number]], [[]], [[1]], number)
            )
        case 1:
            case["box"] = random.choice(([number] * 4, [1, 1, 2], [5, 5, 1, 1], {}, "abcd", number))
        case 2:
            case["answers"] = random.choice(([], [number], [99], [-1], number, [0] * 100_000))
        case 3:
            case["scores"] = random.choice(([number], [number] * 4, [], number, [[1, 2], [3, 4]]))
        case 4:
            changed["tolerances"]["mask_iou"] = number
        case 5:
            changed["tolerances"]["score_error"] = number
        case 6:
            case["points"] = [[1, 1, 1]] * random.choice((0, 1, 1000, 10_000))
        case _:
            changed["cases"] = random.choice(([case, case], [], [case] * 1000, {}, None, [number]))
    return hostile_json.text_of(changed)


def marks(random: Random, document: dict[str, Any]) -> bytes:
    """Lists of compared masks and stabilities of other types, numbers or sizes."""
    changed = deepcopy(document)
    number = random.choice(NUMBERS)
    for case in changed["cases"]:
        found = {"compared": [0], "best_may_change": False, "stability": [0.5, 0.9, 0.9, 0.9]}
        key = random.choice(list(found))
        found[key] = random.choice((number, [number], [number] * 4, [], "abcd", {}, [0] * 10_000))
        if random.random() < 0.2:
            del found[random.choice(list(found))]
        case.update(found)
    return hostile_json.text_of(changed)


def files(random: Random, document: dict[str, Any]) -> bytes:
    """Names of files that lie elsewhere, are links, or are none."""
    changed = deepcopy(document)
    name = random.choice(
        (*NAMES, "golden.json", "link.png", "/dev/zero", "../manifest.json", 5, None)
    )
    if random.random() < 0.5:
        changed["image"] = name
    else:
        random.choice(changed["cases"])["mask_input"] = name
    return hostile_json.text_of(changed)


KINDS: dict[str, hostile_json.Kind] = {
    **hostile_json.KINDS,
    "masks": masks,
    "prompts": prompts,
    "marks": marks,
    "files": files,
}
